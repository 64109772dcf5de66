"""Folders of images: a folder for each class."""

from __future__ import annotations

import re
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from thalweg.data.arrays import ArraySource, from_arrays
from thalweg.data.files import check_folder
from thalweg.errors import DataError

__all__ = ["read_images"]

_ENDINGS = (".png", ".jpg", ".jpeg")
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
    folder, size = _parse(place)
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
    grey = {_mode(path) for found in files for path in found} <= {"1", "L", "LA"}
    arrays: list[npt.NDArray[Any]] = []
    for found in files:
        pixels = _pixels(found, "L" if grey else "RGB", size, spec)
        arrays += [pixels, np.array([path.parent.name for path in found])]
    others = sum(
        1 for part in parts for path in part.glob("[!.]*/[!.]*") if path.suffix.lower() not in _ENDINGS
    )
    notes = (f"{others} files are no {', '.join(_ENDINGS)} images and are left out",) if others else ()
    return from_arrays(
        *arrays,
        spec=spec,
        name=folder.resolve().name,
        task=task,
        reading=_reading(parts, grey, size),
        imports=("from pathlib import Path", "from PIL import Image"),
        notes=notes,
    )


def _parse(place: str) -> tuple[Path, tuple[int, int] | None]:
    match = re.fullmatch(r"(.+)@([1-9]\d{0,4})x([1-9]\d{0,4})", place)
    return (Path(match[1]), (int(match[2]), int(match[3]))) if match else (Path(place), None)


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("[!.]*/[!.]*") if path.suffix.lower() in _ENDINGS)


def _open(path: Path) -> Image.Image:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            return Image.open(path)
    except (OSError, ValueError, Image.DecompressionBombWarning, Image.DecompressionBombError) as problem:
        empty = path.stat().st_size == 0
        why = "it is empty" if empty else type(problem).__name__
        raise DataError(f"the image {path} can't be read ({why}); replace it or leave it out") from problem


def _mode(path: Path) -> str:
    with _open(path) as image:
        if image.mode not in _PLAIN:
            raise DataError(
                f"the image {path} has pixels of the kind {image.mode!r}, of which 8 bits would be left; "
                "convert it, or read it in a function of your own"
            )
        return image.mode


def _pixels(paths: list[Path], mode: str, size: tuple[int, int] | None, spec: str) -> npt.NDArray[np.uint8]:
    images = []
    for path in paths:
        with _open(path) as image:
            try:
                converted = image.convert(mode)
            except (OSError, SyntaxError, ValueError) as problem:
                raise DataError(
                    f"the image {path} is damaged ({problem}); replace it or leave it out"
                ) from problem
            images.append(np.asarray(converted.resize((size[1], size[0])) if size else converted))
    sizes = Counter(image.shape[:2] for image in images)
    if len(sizes) > 1:
        usual, other = (found for found, _ in sizes.most_common(2))
        first = next(path for path, image in zip(paths, images, strict=True) if image.shape[:2] == other)
        raise DataError(
            f"images differ in size: most are {usual[0]}x{usual[1]} (height x width), but {first} is "
            f"{other[0]}x{other[1]}; write {spec}@{usual[0]}x{usual[1]} to bring all to one size"
        )
    stacked = np.stack(images)
    return stacked[:, None] if mode == "L" else stacked.transpose(0, 3, 1, 2)


def _reading(parts: list[Path], grey: bool, size: tuple[int, int] | None) -> tuple[str, ...]:
    resized = f".resize({(size[1], size[0])})" if size else ""
    channels = "[:, None]" if grey else ".transpose(0, 3, 1, 2)"
    lines = [
        "",
        "def read(folder):",
        f"    files = [f for f in Path(folder).glob('[!.]*/[!.]*') if f.suffix.lower() in {_ENDINGS}]",
        "    files = sorted(files)",
        f"    images = [Image.open(f).convert('{'L' if grey else 'RGB'}'){resized} for f in files]",
        f"    x = np.stack([np.asarray(image) for image in images]){channels}",
        "    return x, np.array([f.parent.name for f in files])",
        "",
        "",
    ]
    names = ("x, y", "x_fixed, y_fixed")
    return (*lines, *(f"{name} = read({str(part)!r})" for name, part in zip(names, parts, strict=False)))
