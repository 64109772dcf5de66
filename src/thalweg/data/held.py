"""Arrays as they are held: in memory, or mapped from a file; parts of them, block by block."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from thalweg.errors import DataError
from thalweg.settings.free_memory import free_bytes

__all__ = ["BLOCK", "CACHED", "Held", "blocks", "mapped", "read_into", "room_for"]

Array = npt.NDArray[Any]

BLOCK = 2**22
"""Bytes that are worked on at a time."""

CACHED = 2**18
"""Bytes that stay in a processor's cache, where many passes over them are cheap."""


@dataclass(frozen=True, eq=False)
class Held:
    """An array that is sent to another process as a place in its file, where it is mapped from one."""

    array: Array

    def __reduce__(self) -> tuple[Any, ...]:
        root = self.array.base
        while isinstance(root, np.ndarray) and not (isinstance(root, np.memmap) and _owns(root)):
            root = root.base
        if not isinstance(root, np.memmap) or root.filename is None:
            return Held, (self.array,)
        path = Path(root.filename)
        begin = root.offset + _address(self.array) - _address(root)
        found = os.stat(path)
        return _found_again, (
            path, found.st_size, found.st_mtime_ns, begin, self.array.dtype.str, self.array.shape,
            self.array.strides,
        )  # fmt: skip


def _owns(array: np.memmap[Any, Any]) -> bool:
    return not isinstance(array.base, np.ndarray)


def _address(array: Array) -> int:
    return int(array.__array_interface__["data"][0])


def _found_again(
    path: Path,
    size: int,
    changed: int,
    begin: int,
    dtype: str,
    shape: tuple[int, ...],
    strides: tuple[int, ...],
) -> Held:
    found = os.stat(path)
    if (found.st_size, found.st_mtime_ns) != (size, changed):
        raise DataError(f"{path} has changed while it was in use; leave it unchanged, and start again")
    root = np.memmap(path, np.uint8, mode="c")
    # a plain view, as mapped() gives
    return Held(np.ndarray(shape, np.dtype(dtype), root, begin, strides))


def mapped(
    path: Path, dtype: np.dtype[Any], shape: tuple[int, ...], begin: int, *, order: str = "C"
) -> Array:
    """Map an array that lies in a file as it is; what is written to it stays in this process.

    Args:
        path: of the file, which must not change as long as the array is used.
        dtype, shape: of the array.
        begin: at which byte it begins.
        order: ``"C"``, or ``"F"`` for columns first.
    """
    return np.memmap(path, dtype, "c", begin, shape, order).view(np.ndarray)  # type: ignore[call-overload,no-any-return]


def blocks(
    array: Array,
    rows: npt.NDArray[np.int64] | None = None,
    *,
    size: int | None = None,
    native: bool = True,
) -> Iterator[tuple[int, Array]]:
    """Give an array, or some of its rows, in parts of about :data:`BLOCK` bytes, with where each begins.

    Args:
        array: ``[N, ...]``.
        rows: which, in their order; by default all.
        size: of a part, in bytes.
        native: whether parts are brought to the machine's byte order.

    >>> [(begin, part.shape) for begin, part in blocks(np.zeros((5, 4)), size=64)]
    [(0, (2, 4)), (2, (2, 4)), (4, (1, 4))]
    """
    count = len(array) if rows is None else len(rows)
    row = math.prod(array.shape[1:]) * array.itemsize
    step = max(1, (BLOCK if size is None else size) // max(row, 1))
    for begin in range(0, count, step):
        end = min(begin + step, count)
        part = array[begin:end] if rows is None else array[rows[begin:end]]
        yield begin, part if part.dtype.isnative or not native else part.astype(part.dtype.newbyteorder("="))


def room_for(size: int, what: str) -> None:
    """Refuse what doesn't fit into memory before it is asked for.

    Raises:
        DataError: it doesn't.
    """
    free = free_bytes()
    if size > free:
        raise DataError(
            f"{what} takes {_spoken(size)} of memory, and {_spoken(free)} are free; give less data, or read "
            "them batch by batch with a Dataset of your own and a collate function"
        )


def read_into(source: BinaryIO | Any, size: int) -> tuple[bytearray, bool]:
    """Read at most ``size`` bytes, and say whether there are more; memory is taken as they come."""
    content = bytearray()
    while len(content) < size:
        part = source.read(min(size - len(content), BLOCK))
        if not part:
            return content, False
        content += part
    return content, bool(source.read(1))


def _spoken(size: int) -> str:
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000  # type: ignore[assignment]
    return f"{size:,.3g} TB"
