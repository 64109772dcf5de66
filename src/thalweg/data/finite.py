"""Which value in somebody's data isn't finite, or too large: split, column and row."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from thalweg.errors import DataError

__all__ = ["as_float32", "largest", "not_finite"]

# Beyond it squares of sums of some inputs overflow float32.
_LARGE = 1e8
_BLOCK = 1 << 20


def not_finite(
    batches: Iterable[tuple[Any, Any]], split: str, rows: Sequence[int] | npt.NDArray[np.int64] | None = None
) -> str | None:
    """Return a sentence about the first value that isn't finite, and how many there are; ``None``: all are.

    Args:
        batches: of inputs, any nest of tensors, and targets.
        split: what they are, such as ``"validation"``.
        rows: the numbers that the examples have in the whole data; by default from 0 on.

    >>> x = torch.tensor([[1.0, 2.0], [3.0, float("nan")]])
    >>> not_finite([(x, torch.zeros(2))], "validation")
    'the validation inputs hold nan in row 1, column 1 (counted from 0; the only such value)'
    """
    first, count, begin = None, 0, 0
    for inputs, targets in batches:
        count_here = 0
        for called, values in [*_parts(inputs, "inputs"), *_parts(targets, "targets")]:
            count_here = max(count_here, len(values) if values.ndim else 0)
            if not (values.is_floating_point() or values.is_complex()):
                continue
            bad = ~values.isfinite()
            here = int(bad.sum())
            if here and first is None:
                first = f"the {split} {called} hold {_at(values, bad, begin, rows)}"
            count += here
        begin += count_here
    if first is None:
        return None
    return f"{first} (counted from 0; {'the only such value' if count == 1 else f'{count} values in all'})"


def largest(batches: Iterable[tuple[Any, Any]], split: str) -> str | None:
    """Return a sentence about the largest input, where that is so large that sums of squares overflow.

    >>> largest([(torch.tensor([[1.0, -1e20]]), torch.zeros(1))], "training")
    'the training inputs reach -1e+20 in row 0, column 1 (counted from 0)'
    """
    found, said, begin = _LARGE, None, 0
    for inputs, targets in batches:
        rows = len(targets) if isinstance(targets, Tensor) and targets.ndim else 0
        for called, values in _parts(inputs, "inputs"):
            if not values.is_floating_point() or not values.numel():
                continue
            size = values.abs()
            top = float(size.max())
            if top > found and math.isfinite(top):
                found = top
                said = f"the {split} {called} reach {_at(values, size == top, begin)} (counted from 0)"
        begin += rows
    return said


def as_float32(values: np.ndarray[Any, Any], called: str) -> None:
    """Refuse finite numbers that float32, in which training computes, doesn't hold.

    Raises:
        DataError: there is one.

    >>> as_float32(np.array([[1.0, 1e30]]), "inputs")
    """
    if values.dtype.kind != "f" or values.dtype.itemsize <= 4 or not values.size:
        return
    most, rows = float(torch.finfo(torch.float32).max), max(1, _BLOCK * len(values) // values.size)
    # row by row, since the whole may be larger than half of the memory
    for begin in range(0, len(values), rows):
        part = values[begin : begin + rows]
        beyond = np.isfinite(part) & (np.abs(part) > most)
        if not beyond.any():
            continue
        first = tuple(int(axis[0]) for axis in np.nonzero(beyond))
        place = (first[0] + begin, *first[1:])
        raise DataError(
            f"the {called} hold {values[place]:g} in {_place(place, 0)} (counted from 0), beyond the largest "
            f"number of float32, 3.4e+38; scale {'that column' if values.ndim > 1 else 'them'} down"
        )


def _parts(value: Any, called: str) -> list[tuple[str, Tensor]]:
    """Tensors of a nest, and what they are called."""
    if isinstance(value, Tensor):
        return [(called, value)]
    if isinstance(value, Mapping):
        return [part for key, each in value.items() for part in _parts(each, f"{called}[{key!r}]")]
    if isinstance(value, (tuple, list)):
        return [part for n, each in enumerate(value) for part in _parts(each, f"{called}[{n}]")]
    return []


def _at(
    values: Tensor,
    chosen: Tensor,
    begin: int,
    rows: Sequence[int] | npt.NDArray[np.int64] | None = None,
) -> str:
    place = tuple(int(each) for each in chosen.nonzero()[0]) if values.ndim else ()
    if rows is not None and place:
        value = values[place].item()
        return f"{value:g} in {_place((int(rows[place[0] + begin]), *place[1:]), 0)}"
    return f"{values[place].item():g} in {_place(place, begin)}" if place else f"{values.item():g}"


def _place(place: tuple[int, ...], begin: int) -> str:
    row, rest = place[0] + begin, place[1:]
    if not rest:
        return f"row {row}"
    return f"row {row}, {'column' if len(rest) == 1 else 'position'} {', '.join(map(str, rest))}"
