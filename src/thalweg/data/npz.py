"""NumPy archives."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from thalweg.data.arrays import ArraySource, from_arrays
from thalweg.data.files import check_file, looks_like
from thalweg.errors import DataError, nearest

__all__ = ["read_npz"]

_Array = npt.NDArray[Any]


def read_npz(
    path: Path, *, spec: str, target: str | None, task: str | None, missing: str | None
) -> ArraySource:
    """Read a NumPy archive: ``x_train, y_train, x_test, y_test``, or ``x, y``, or its first two arrays.

    Args:
        path: of the archive.
        spec: as given.
        target: name of the array with the targets.
        task, missing: what the user asked for.

    Raises:
        DataError: it can't be read, or its arrays can't be used.
    """
    check_file(path)
    with path.open("rb") as file:
        first = file.read(16)
    if not first.startswith((b"PK", b"\x93NUMPY")):
        looks = looks_like(first)
        raise DataError(
            f"{path} isn't the NumPy archive that its name says"
            + (f" (it looks like {looks})" if looks else "")
            + "; save the arrays with np.savez, or rename it"
        )
    try:
        # Opened here, since NumPy leaves a file open that it can't read.
        with path.open("rb") as file:
            archive = np.load(file, allow_pickle=False)
            if isinstance(archive, np.ndarray):
                raise DataError(
                    f"{path} holds one array, but inputs and targets are needed; save both with np.savez"
                )
            with archive:
                arrays = {name: archive[name] for name in archive.files}
    except DataError:
        raise
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error) as problem:
        raise DataError(
            f"{path} can't be read as a NumPy archive ({' '.join(str(problem).split())}); "
            "save it again with np.savez"
        ) from problem
    names, has_test = _choose(arrays, path, target)
    chosen = [arrays[name] for name in names]
    lines = [f"archive = np.load({spec!r})"]
    listed = [f"archive[{name!r}]" for name in names]
    lines.append(f"x, y = {listed[0]}, {listed[1]}")
    if has_test:
        lines.append(f"x_fixed, y_fixed = {listed[2]}, {listed[3]}")
    note = f"inputs are the array {names[0]!r}, targets {names[1]!r}"
    return from_arrays(
        *chosen, spec=spec, name=path.stem, task=task, missing=missing, reading=tuple(lines),
        notes=(note,),
    )  # fmt: skip


def _choose(arrays: Mapping[str, _Array], path: Path, target: str | None) -> tuple[list[str], bool]:
    known = list(arrays)
    if target is not None:
        if target not in arrays:
            raise DataError(f"{path} has no array {target!r}; {nearest(target, known)}")
        others = [name for name in known if name != target]
        if not others:
            raise DataError(f"{path} holds the array {target!r} alone, but inputs are needed too")
        return ["x" if "x" in others else others[0], target], False
    lower = {name.lower(): name for name in known}
    for wanted in (("x_train", "y_train", "x_test", "y_test"), ("x", "y"), ("x_train", "y_train")):
        if all(name in lower for name in wanted):
            return [lower[name] for name in wanted], len(wanted) == 4
    if len(known) < 2:
        raise DataError(f"{path} holds {len(known)} arrays, but inputs and targets are needed: save x and y")
    return known[:2], False
