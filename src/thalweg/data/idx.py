"""Files in MNIST's format: a folder of four, plain or gzipped."""

from __future__ import annotations

import gzip
import math
import os
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from thalweg.data.arrays import ArraySource, from_arrays
from thalweg.data.files import check_file, check_folder, looks_like
from thalweg.data.held import mapped, read_into, room_for
from thalweg.errors import DataError

__all__ = ["read_idx"]

_TYPES = {8: "u1", 9: "i1", 11: ">i2", 12: ">i4", 13: ">f4", 14: ">f8"}
_STEMS = {
    "x": ("train-images-idx3-ubyte", "train-images.idx3-ubyte"),
    "y": ("train-labels-idx1-ubyte", "train-labels.idx1-ubyte"),
    "x_fixed": ("t10k-images-idx3-ubyte", "t10k-images.idx3-ubyte"),
    "y_fixed": ("t10k-labels-idx1-ubyte", "t10k-labels.idx1-ubyte"),
}
# Smaller files are read: what is mapped from a file changes and vanishes with it.
_MAPPED = 2**26
_OPENERS = {
    True: "    data = gzip.open(name).read()",
    False: "    data = Path(name).read_bytes()",
}


def read_idx(folder: Path, *, spec: str, task: str | None = None) -> ArraySource:
    """Read a folder of files named as MNIST's are, such as Fashion-MNIST.

    The training files are needed; the files named ``t10k-...`` are the test part where they are there.
    Debian's package dataset-fashion-mnist installs such a folder, ``/usr/share/datasets/fashion-mnist``.

    Raises:
        DataError: a file is missing, truncated, or not in the format.

    Plain files of 64 MB or more aren't read into memory but mapped: leave them as they are while in use.
    """
    check_folder(folder, spec)
    paths = {part: _find(folder, stems) for part, stems in _STEMS.items()}
    for part in ("x", "y"):
        if paths[part] is None:
            raise DataError(
                f"the folder {folder} has no {_STEMS[part][0]} (or .gz); "
                "idx: needs files named as MNIST's are"
            )
    has_test = paths["x_fixed"] is not None and paths["y_fixed"] is not None
    found = {part: path for part, path in paths.items() if path is not None and (has_test or "_" not in part)}
    notes = [
        f"{path.name} is left out, since the test part needs images and labels"
        for part, path in paths.items()
        if path is not None and part not in found
    ]
    read = {part: _read(path) for part, path in found.items()}
    arrays = {
        part: _labels(array) if part.startswith("y") else array[:, None] if array.ndim == 3 else array
        for part, array in read.items()
    }
    zipped = {path.suffix == ".gz" for path in found.values()}
    reading = ["def read(name):", *_opener(zipped)]
    reading += ["    shape = np.frombuffer(data, '>u4', data[3], offset=4)"]
    types = {array.dtype.str for array in read.values()}
    kind = repr(_TYPES[8]) if types == {"|u1"} else f"{_TYPES}[data[2]]"
    reading += [f"    return np.frombuffer(data, {kind}, offset=4 + 4 * data[3]).reshape(shape)", "", ""]
    for names in (("x", "y"), ("x_fixed", "y_fixed")):
        if names[0] in found:
            image = "[:, None]" if arrays[names[0]].ndim == 4 and read[names[0]].ndim == 3 else ""
            whole = ".astype('int64')" if arrays[names[1]].dtype == np.int64 else ""
            reading.append(f"{names[0]} = read({str(found[names[0]])!r}){image}")
            reading.append(f"{names[1]} = read({str(found[names[1]])!r}){whole}")
    return from_arrays(
        arrays["x"],
        arrays["y"],
        arrays.get("x_fixed"),
        arrays.get("y_fixed"),
        spec=spec,
        name=folder.resolve().name,
        task=task,
        reading=tuple(reading) if len(zipped) == 1 else None,
        imports=("import gzip",) if zipped == {True} else ("from pathlib import Path",),
        notes=tuple(notes),
    )


def _opener(zipped: set[bool]) -> list[str]:
    return [_OPENERS[True in zipped]]


def _find(folder: Path, stems: tuple[str, ...]) -> Path | None:
    candidates = [folder / f"{stem}{ending}" for stem in stems for ending in ("", ".gz")]
    # a link that leads nowhere is there, and is said to be what it is
    return next((path for path in candidates if os.path.lexists(path)), None)


def _labels(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Whole numbers as int64; fractions stay, for a regression, and so does what is no number at all."""
    if array.dtype.kind == "f" and not (np.isfinite(array).all() and (array == np.round(array)).all()):
        return array
    if array.dtype.kind == "f" and np.abs(array).max(initial=0) >= 2**63:
        return array
    return array.astype(np.int64)


def _read(path: Path) -> npt.NDArray[Any]:
    """Read a file, whose header is compared with its size before memory is taken."""
    check_file(path)
    size = path.stat().st_size
    packed = path.suffix == ".gz"
    with path.open("rb") as file:
        if packed and file.read(2) != b"\x1f\x8b":
            raise DataError(f"{path} isn't a gzip file, though its name says so; rename it to {path.stem}")
        file.seek(0)
        try:
            with gzip.open(file) if packed else file as content:
                header = content.read(4)
                shape, dtype, needed = _header(path, header, content)
                # gzip makes of one byte no more than this
                if not packed or needed > 1032 * size:
                    _check_size(path, size - 4 - 4 * header[3], needed, packed)
                room_for(needed, str(path))
                if not packed and needed >= _MAPPED:
                    return mapped(path, dtype, shape, 4 + 4 * header[3])
                values, more = read_into(content, needed)
        except EOFError:
            raise DataError(f"{path} ends too early: the gzip file is truncated; copy it again") from None
        except (OSError, zlib.error) as problem:
            raise DataError(f"{path} is damaged and can't be read ({problem}); copy it again") from problem
    if more:
        raise DataError(
            f"{path} has more than the {needed} bytes of values that its header says; copy it again"
        )
    _check_size(path, len(values), needed, packed=False)
    array: npt.NDArray[Any] = np.frombuffer(values, dtype).reshape(shape)
    return array


def _header(path: Path, header: bytes, content: Any) -> tuple[tuple[int, ...], np.dtype[Any], int]:
    """The shape, the type, and how many bytes they come to."""
    if len(header) < 4 or header[:2] != b"\0\0" or header[2] not in _TYPES or not 1 <= header[3] <= 4:
        seems = looks_like(header + content.read(16))
        raise DataError(
            f"{path} isn't in MNIST's IDX format" + (f": it looks like {seems}" if seems else "")
            + "; idx: needs files as MNIST's are"
        )  # fmt: skip
    sizes = content.read(4 * header[3])
    if len(sizes) < 4 * header[3]:
        raise DataError(f"{path} ends within its header; copy it again")
    shape = struct.unpack(f">{header[3]}I", sizes)
    dtype = np.dtype(_TYPES[header[2]])
    return shape, dtype, math.prod(shape) * dtype.itemsize


def _check_size(path: Path, there: int, needed: int, packed: bool) -> None:
    if there != needed:
        has = f"is {there} bytes, too few to unpack to that" if packed else f"has {there} bytes of values"
        raise DataError(f"{path} {has}, but its header says {needed}; copy it again")
