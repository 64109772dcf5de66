"""Folders of images: a folder for each class."""

from __future__ import annotations

import math
import os
import re
import stat
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from thalweg.data.arrays import ArraySource, from_arrays
from thalweg.data.files import check_file, check_folder, kind_of
from thalweg.data.held import room_for
from thalweg.errors import DataError

__all__ = ["is_images", "read_images", "read_new_images"]

_ENDINGS = (".png", ".jpg", ".jpeg")
_FORMATS = ("PNG", "JPEG")
_PREFIX = "images:"
_GREY = frozenset({"1", "L", "LA"})
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
    mode = "L" if {look.mode for found in looks for look in found} <= _GREY else "RGB"
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
    notes = (_left_out(others),) if others else ()
    source = from_arrays(
        *arrays,
        spec=spec,
        name=folder.resolve().name,
        task=task,
        reading=_reading(parts, mode, size),
        imports=("from pathlib import Path", "from PIL import Image"),
        notes=notes,
    )
    return replace(source, images="resized" if size else "one size")


def is_images(data: str | Path) -> bool:
    """Whether new data are images: a folder, an image, or a place written as training's."""
    text = str(data)
    return text.startswith(_PREFIX) or text.lower().endswith(_ENDINGS) or os.path.isdir(data)


def read_new_images(
    data: str | Path, shape: Sequence[int], *, resized: bool
) -> tuple[npt.NDArray[np.uint8], list[str], list[str]]:
    """Read images to predict for, as :func:`read_images` read those of training.

    Args:
        data: an image, or a folder with images in it and in folders of any depth below it, hidden ones aside;
            a place as training's, ``images:DIR@HEIGHTxWIDTH``, too.
        shape: ``[channels, height, width]`` of training's images.
        resized: whether those were brought to this size.

    Returns:
        ``[N, channels, height, width]``; the name of each file, relative to the folder; what is worth saying.

    Raises:
        DataError: no images, one that can't be read, or another size where training's weren't resized.
    """
    channels, height, width = shape
    text = str(data).removeprefix(_PREFIX)
    place, asked = _parse(text, str(data)) if str(data).startswith(_PREFIX) else (Path(text), None)
    if asked not in (None, (height, width)):
        raise DataError(f"training had images of {height}x{width} (height x width); write images:{place}")
    if os.path.isdir(place):
        check_folder(place, str(data))
        files, others = _below(place)
        names = [file.relative_to(place).as_posix() for file in files]
    else:
        check_file(place)
        files, others, names = [place], 0, [place.name]
    if not files:
        raise DataError(
            f"the folder {place} has no images: give one with {', '.join(_ENDINGS)} files in it or below it"
        )
    for file, name in zip(files, names, strict=True):
        _refuse_what_is_no_text(name, f"the image {os.fsencode(file)!r}")
    looks = [_look(file) for file in files]
    for file, look in zip(files, looks, strict=True):
        if not resized and (look.height, look.width) != (height, width):
            raise DataError(
                f"the image {file} is {look.height}x{look.width} (height x width), but training had images "
                f"of {height}x{width} and resized none; bring it to that size, or train on "
                f"images:DIR@{height}x{width}, which resizes all"
            )
    mode = "L" if channels == 1 else "RGB"
    room_for(len(files) * channels * height * width, f"{place} with {len(files)} images")
    pixels = np.empty((len(files), height, width, channels), np.uint8)
    for number, file in enumerate(files):
        pixels[number] = _pixels(file, mode, (height, width) if resized else None).reshape(pixels.shape[1:])
    notes = [_left_out(others)] if others else []
    coloured = sum(look.mode not in _GREY for look in looks) if mode == "L" else 0
    if coloured:
        notes.append(
            f"{coloured} of {len(files)} images have colours and are made grey, as all of training were"
        )
    return pixels.transpose(0, 3, 1, 2), names, notes


def _below(folder: Path) -> tuple[list[Path], int]:
    """Images in a folder and below it, in the order of their paths, and how many other files there are."""
    files, others = [], 0
    seen = set()
    for root, folders, names in os.walk(folder, followlinks=True):
        found = os.stat(root)
        # a link to a folder above it would go on for ever
        if (found.st_dev, found.st_ino) in seen:
            folders.clear()
            continue
        seen.add((found.st_dev, found.st_ino))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in names:
            if name.lower().endswith(_ENDINGS) and not name.startswith("."):
                files.append(Path(root, name))
            elif not name.startswith("."):
                others += 1
    return sorted(files), others


def _left_out(others: int) -> str:
    are, their = ("file is", "it is") if others == 1 else ("files are", "they are")
    return f"{others} {are} no {', '.join(_ENDINGS)} image{'s' * (others > 1)}: {their} left out"


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
        _refuse_what_is_no_text(name, f"the class folder {os.fsencode(name)!r} in {folder}")
    return found


def _refuse_what_is_no_text(name: str, called: str) -> None:
    try:
        name.encode()
    except UnicodeEncodeError as problem:
        raise DataError(f"{called} isn't named by text in UTF-8; rename it") from problem


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
