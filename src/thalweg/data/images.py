"""Folders of images: a folder for each class."""

from __future__ import annotations

import math
import os
import re
import stat
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from thalweg.data.arrays import ArraySource, from_arrays
from thalweg.data.files import check_folder, kind_of
from thalweg.data.held import room_for
from thalweg.errors import DataError

__all__ = ["read_images"]

_ENDINGS = (".png", ".jpg", ".jpeg")
_FORMATS = ("PNG", "JPEG")
# PIL's own limit, half of what it refuses
_MOST_PIXELS = Image.MAX_IMAGE_PIXELS or 2**26
_PLAIN = frozenset({"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "LAB", "HSV"})


def read_images(place: str, *, spec: str, task: str | None = None) -> ArraySource:
    """Read PNG and JPEG images; the folder that an image lies in is its class.

    Where the folder holds just ``train`` and ``test``, with folders of classes in each, ``test`` is the test
    part. Images are grey where all are, else of three colours. They must have one size, unless the place
    ends in ``@HEIGHTxWIDTH``, to which all are brought (bicubic).

    Args:
        place: the folder.
        spec: as given, for messages.
        task: what the user asked for.

    Raises:
        DataError: no images, one that can't be read, or sizes that differ.
    """
    folder, size = _parse(place, spec)
    check_folder(folder, spec)
    inside = {path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")}
    split = inside == {"train", "test"}
    parts = [folder / "train", folder / "test"] if split else [folder]
    files = [_files(part) for part in parts]
    for part, found in zip(parts, files, strict=True):
        if not found:
            raise DataError(
                f"the folder {part} has no images; images: needs a folder for each class with "
                f"{', '.join(_ENDINGS)} files in it"
            )
    looks = [[_look(path) for path in found] for found in files]
    mode = "L" if {look.mode for found in looks for look in found} <= {"1", "L", "LA"} else "RGB"
    arrays: list[npt.NDArray[Any]] = []
    for found, seen in zip(files, looks, strict=True):
        height, width = size or _one_size(found, seen, spec)
        shape = (len(found), height, width, 1 if mode == "L" else 3)
        room_for(math.prod(shape), f"{spec!r} with {len(found)} images of {height}x{width} pixels")
        pixels = np.empty(shape, np.uint8)
        for number, path in enumerate(found):
            pixels[number] = _pixels(path, mode, size).reshape(shape[1:])
        arrays += [pixels.transpose(0, 3, 1, 2), np.array([path.parent.name for path in found])]
    others = sum(
        1 for part in parts for path in part.glob("[!.]*/[!.]*") if path.suffix.lower() not in _ENDINGS
    )
    notes = (f"{others} files are no {', '.join(_ENDINGS)} images and are left out",) if others else ()
    return from_arrays(
        *arrays,
        spec=spec,
        name=folder.resolve().name,
        task=task,
        reading=_reading(parts, mode, size),
        imports=("from pathlib import Path", "from PIL import Image"),
        notes=notes,
    )


def _parse(place: str, spec: str) -> tuple[Path, tuple[int, int] | None]:
    match = re.fullmatch(r"(.+)@(\d+)x(\d+)", place, re.ASCII)
    if match is None:
        return Path(place), None
    # longer numbers aren't worth reading
    height, width = (int(match[part][:12]) for part in (2, 3))
    if not 0 < height * width <= _MOST_PIXELS:
        raise DataError(
            f"{spec!r} asks for images of {match[2][:20]}x{match[3][:20]}, but they can have 1 to "
            f"{_MOST_PIXELS:,} pixels; give another size, such as images:DIR@32x32"
        )
    return Path(match[1]), (height, width)


def _files(folder: Path) -> list[Path]:
    found = sorted(path for path in folder.glob("[!.]*/[!.]*") if path.suffix.lower() in _ENDINGS)
    for name in {path.parent.name for path in found}:
        try:
            name.encode()
        except UnicodeEncodeError as problem:
            raise DataError(
                f"the class folder {os.fsencode(name)!r} in {folder} isn't named by text in UTF-8; rename it"
            ) from problem
    return found


@dataclass(frozen=True)
class _Look:
    """What an image's first bytes say."""

    mode: str
    height: int
    width: int


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """Open a PNG or JPEG image, whatever its name says; every way it can fail is one sentence."""
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):
            # opening a FIFO would wait for ever
            raise DataError(f"the image {path} is {kind_of(found.st_mode)}, not a file; leave it out")
        if not found.st_size:
            raise DataError(f"the image {path} can't be read (it is empty); replace it or leave it out")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            # PIL only warns of what is between one and two times its limit
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            # the named formats alone: others run programs (EPS), or read what they like
            with Image.open(path, formats=_FORMATS) as image:
                yield image
    except (DataError, MemoryError):
        raise
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as problem:
        raise DataError(
            f"the image {path} has more than {_MOST_PIXELS:,} pixels; make it smaller or leave it out"
        ) from problem
    except UnidentifiedImageError as problem:
        seems = "is damaged" if _seems(path) else "is neither PNG nor JPEG, whatever its name says"
        raise DataError(f"the image {path} {seems}; convert it or leave it out") from problem
    # PIL's readers stumble over damaged content in many ways
    except Exception as problem:
        said = (" ".join(str(problem).split()) or type(problem).__name__)[:200]
        if isinstance(problem, OSError) and problem.strerror:
            raise DataError(
                f"the image {path} can't be read ({problem.strerror}); check it, or leave it out"
            ) from problem
        raise DataError(f"the image {path} is damaged ({said}); replace it or leave it out") from problem


def _seems(path: Path) -> bool:
    """Whether a file begins as a PNG or JPEG image does."""
    with path.open("rb") as file:
        return file.read(8).startswith((b"\x89PNG", b"\xff\xd8\xff"))


def _look(path: Path) -> _Look:
    with _opened(path) as image:
        if image.mode not in _PLAIN:
            raise DataError(
                f"the image {path} has pixels of the kind {image.mode!r}, of which 8 bits would be left; "
                "convert it, or read it in a function of your own"
            )
        return _Look(image.mode, image.height, image.width)


def _one_size(paths: list[Path], looks: list[_Look], spec: str) -> tuple[int, int]:
    sizes = Counter((look.height, look.width) for look in looks)
    if len(sizes) > 1:
        usual, other = (found for found, _ in sizes.most_common(2))
        first = next(
            path for path, look in zip(paths, looks, strict=True) if (look.height, look.width) == other
        )
        raise DataError(
            f"images differ in size: most are {usual[0]}x{usual[1]} (height x width), but {first} is "
            f"{other[0]}x{other[1]}; write {spec}@{usual[0]}x{usual[1]} to bring all to one size"
        )
    return next(iter(sizes))


def _pixels(path: Path, mode: str, size: tuple[int, int] | None) -> npt.NDArray[np.uint8]:
    with _opened(path) as image:
        converted = image.convert(mode)
        return np.asarray(converted.resize((size[1], size[0])) if size else converted)


def _reading(parts: list[Path], mode: str, size: tuple[int, int] | None) -> tuple[str, ...]:
    resized = f".resize({(size[1], size[0])})" if size else ""
    channels = "[:, None]" if mode == "L" else ".transpose(0, 3, 1, 2)"
    lines = [
        "",
        "def read(folder):",
        f"    files = [f for f in Path(folder).glob('[!.]*/[!.]*') if f.suffix.lower() in {_ENDINGS}]",
        "    files, images = sorted(files), []",
        "    for file in files:",
        f"        with Image.open(file, formats={_FORMATS}) as image:",
        f"            images.append(np.asarray(image.convert({mode!r}){resized}))",
        f"    x = np.stack(images){channels}",
        "    return x, np.array([f.parent.name for f in files])",
        "",
        "",
    ]
    names = ("x, y", "x_fixed, y_fixed")
    return (*lines, *(f"{name} = read({str(part)!r})" for name, part in zip(names, parts, strict=False)))
