"""Files in MNIST's format: a folder of four, plain or gzipped."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from thalweg.data.arrays import ArraySource, from_arrays
from thalweg.data.files import check_folder, looks_like, read_whole
from thalweg.errors import DataError

__all__ = ["read_idx"]

_TYPES = {8: "u1", 9: "i1", 11: ">i2", 12: ">i4", 13: ">f4", 14: ">f8"}
_STEMS = {
    "x": ("train-images-idx3-ubyte", "train-images.idx3-ubyte"),
    "y": ("train-labels-idx1-ubyte", "train-labels.idx1-ubyte"),
    "x_fixed": ("t10k-images-idx3-ubyte", "t10k-images.idx3-ubyte"),
    "y_fixed": ("t10k-labels-idx1-ubyte", "t10k-labels.idx1-ubyte"),
}
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
    arrays = {part: _read(path) for part, path in found.items()}
    for part, array in arrays.items():
        if part.startswith("y"):
            arrays[part] = array.astype(np.int64)
        elif array.ndim == 3:
            arrays[part] = array[:, None]
    zipped = {path.suffix == ".gz" for path in found.values()}
    reading = ["def read(name):", *_opener(zipped)]
    reading += ["    shape = np.frombuffer(data, '>u4', data[3], offset=4)"]
    kind = _TYPES[8] if all(a.dtype in (np.uint8, np.int64) for a in arrays.values()) else None
    reading += [f"    return np.frombuffer(data, {kind!r}, offset=4 + 4 * data[3]).reshape(shape)", "", ""]
    for names in (("x", "y"), ("x_fixed", "y_fixed")):
        if names[0] in found:
            image = "[:, None]" if arrays[names[0]].ndim == 4 else ""
            reading.append(f"{names[0]} = read({str(found[names[0]])!r}){image}")
            reading.append(f"{names[1]} = read({str(found[names[1]])!r}).astype('int64')")
    return from_arrays(
        arrays["x"],
        arrays["y"],
        arrays.get("x_fixed"),
        arrays.get("y_fixed"),
        spec=spec,
        name=folder.resolve().name,
        task=task,
        reading=tuple(reading) if kind and len(zipped) == 1 else None,
        imports=("import gzip",) if zipped == {True} else ("from pathlib import Path",),
    )


def _opener(zipped: set[bool]) -> list[str]:
    return [_OPENERS[True in zipped]]


def _find(folder: Path, stems: tuple[str, ...]) -> Path | None:
    candidates = [folder / f"{stem}{ending}" for stem in stems for ending in ("", ".gz")]
    return next((path for path in candidates if path.exists()), None)


def _read(path: Path) -> npt.NDArray[Any]:
    content = read_whole(path)
    if len(content) < 4 or content[:2] != b"\0\0" or content[2] not in _TYPES or not 1 <= content[3] <= 4:
        seems = looks_like(content)
        raise DataError(
            f"{path} isn't in MNIST's IDX format" + (f": it looks like {seems}" if seems else "")
            + "; idx: needs files as MNIST's are"
        )  # fmt: skip
    start = 4 + 4 * content[3]
    if len(content) < start:
        raise DataError(f"{path} ends within its header; copy it again")
    shape = struct.unpack(f">{content[3]}I", content[4:start])
    dtype = np.dtype(_TYPES[content[2]])
    size = int(np.prod(shape)) * dtype.itemsize
    if len(content) - start != size:
        raise DataError(
            f"{path} has {len(content) - start} bytes of values, but its header says {size}; copy it again"
        )
    return np.frombuffer(content, dtype, offset=start).reshape(shape)
