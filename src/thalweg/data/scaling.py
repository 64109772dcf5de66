"""Standardizing arrays: statistics of the training part, and what makes inputs of rows by them.

Statistics are summed block by block, so that the data need not fit into memory twice, and in NumPy's own
order of summation, so that they are to the bit those of ``x[train].mean(...)``, ``.std(...)`` and
scikit-learn's ``StandardScaler``, with which a race's ``winner.py`` computes them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from thalweg.data import held
from thalweg.data.held import blocks
from thalweg.data.labelled import as_given
from thalweg.errors import DataError

# scikit-learn takes a second to import, which processes that only train needn't wait for
if TYPE_CHECKING:
    from sklearn.impute import SimpleImputer
    from sklearn.pipeline import Pipeline
    from sklearn.preprocessing import StandardScaler

__all__ = ["AsGiven", "Broadcast", "ColumnScaling", "Scaling", "Standardized", "axes_of", "fitted"]

# beneath it, squares of float64 lose digits and soon are 0
_VANISHED = 1e-280

Array = npt.NDArray[Any]
Rows = npt.NDArray[np.int64]
# Up to so many bytes NumPy and scikit-learn are asked as they are.
_WHOLE = 2**24
Scaling = Literal["columns", "channels", "whole", "as given"]


@dataclass(frozen=True)
class AsGiven:
    """Rows as they are: float32 for fractions, whole numbers and booleans as such."""

    def __call__(self, part: Array) -> Tensor:
        return as_given(part)


@dataclass(frozen=True, eq=False)
class ColumnScaling:
    """Each column standardized, by scikit-learn; missing values replaced before, where ``medians`` are given.

    Attributes:
        medians: of each column, or ``None``.
        scaler: with mean and scale of each column.
        quick: whether plain arithmetic gives scikit-learn's bits, whose checks take as long as a small step.
    """

    medians: SimpleImputer | None
    scaler: StandardScaler
    quick: bool = False

    def __call__(self, part: Array) -> Tensor:
        made = self.quickly(part) if self.quick else self.pipeline.transform(part)
        return torch.from_numpy(np.ascontiguousarray(made, dtype=np.float32))

    def quickly(self, part: Array) -> Array:
        """What scikit-learn gives, as of the versions that round so."""
        kept = part.dtype if part.dtype in (np.float32, np.float64) else np.dtype(np.float64)
        made = part.astype(kept)
        if self.medians is not None:
            made = np.where(np.isnan(made), self.medians.statistics_.astype(kept), made)
        made -= self.scaler.mean_.astype(kept)
        made /= self.scaler.scale_.astype(kept)
        return made

    @property
    def pipeline(self) -> Pipeline | StandardScaler:
        """As scikit-learn's own."""
        from sklearn.pipeline import make_pipeline

        return self.scaler if self.medians is None else make_pipeline(self.medians, self.scaler)


@dataclass(frozen=True, eq=False)
class Broadcast:
    """``(x - mean) / std`` with float32 arrays that broadcast: of each channel, or of everything."""

    mean: Array
    std: Array

    def __call__(self, part: Array) -> Tensor:
        made = part - self.mean
        made /= self.std
        return torch.from_numpy(np.ascontiguousarray(made, dtype=np.float32))


Standardized = AsGiven | ColumnScaling | Broadcast


def axes_of(scaling: Scaling) -> tuple[int, ...] | None:
    """Over which axes statistics are taken."""
    return (0, 2, 3) if scaling == "channels" else None


def fitted(x: Array, rows: Rows, scaling: Scaling, *, impute: bool) -> Standardized:
    """Take the statistics of some rows.

    Args:
        x: ``[N, ...]``.
        rows: of the training part.
        scaling: each of the ``"columns"`` of ``[N, F]``, of the ``"channels"`` of ``[N, C, H, W]``, or the
            ``"whole"``.
        impute: whether missing values are replaced by the median of their column.

    Raises:
        DataError: values so large or so small that they have no standard deviation.

    >>> x = np.array([[1.0, 5.0], [3.0, 5.0], [9.0, 7.0]])
    >>> fitted(x, np.array([0, 1]), "columns", impute=False)(x)
    tensor([[-1.,  0.],
            [ 1.,  0.],
            [ 7.,  2.]])
    """
    if scaling == "as given":
        return AsGiven()
    # what overflows or vanishes is said below
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        if scaling == "columns":
            medians = _medians(x, rows) if impute else None
            scaler = _scaler(x, rows, medians)
            _refuse_ends(x, rows, scaler.mean_, scaler.scale_, np.asarray(scaler.var_) < _VANISHED, (0,))
            made = ColumnScaling(medians, scaler)
            few = x[rows[:1000]]
            same = np.array_equal(made.quickly(few), made.pipeline.transform(few))
            return replace(made, quick=same)
        mean, std = _mean_and_std(x, rows, scaling)
        _refuse_ends(x, rows, mean, std, std == 0, axes_of(scaling))
        std[std == 0] = 1
        return Broadcast(mean, std)


def _refuse_ends(
    x: Array, rows: Rows, mean: Array, scale: Array, still: Array, axes: tuple[int, ...] | None
) -> None:
    """Refuse numbers so near an end of their range that statistics of them overflow, or vanish.

    Args:
        x, rows: what was standardized.
        mean, scale: of it.
        still: where there seems to be no spread: of constants, and of numbers whose squares vanish.
        axes: over which statistics were taken.

    Raises:
        DataError: nothing would be left of what the numbers say.
    """
    if not (np.isfinite(mean).all() and np.isfinite(scale).all()):
        raise DataError(
            "the inputs are so large that their squares overflow, and can't be standardized; give them in "
            "another unit"
        )
    if not still.any():
        return
    first = x[rows[:1]]
    differs = np.zeros(still.shape, dtype=np.bool_)
    for _, part in blocks(x, rows):
        # missing values differ from everything, and say nothing here
        found = (part != first) & (part == part) & (first == first)
        differs |= found.any(axes, keepdims=still.ndim == x.ndim).reshape(still.shape)
        if (differs & still).any():
            raise DataError(
                "the inputs differ by so little that their squares vanish, and can't be standardized; give "
                "them in another unit"
            )


# Columns ------------------------------------------------------------------------------------------------


def _medians(x: Array, rows: Rows) -> SimpleImputer:
    from sklearn.impute import SimpleImputer

    width = max(1, _WHOLE // max(1, len(rows) * x.itemsize))
    if width >= x.shape[1]:
        return SimpleImputer(strategy="median").fit(x[rows])
    found = [
        SimpleImputer(strategy="median").fit(x[rows, begin : begin + width]).statistics_
        for begin in range(0, x.shape[1], width)
    ]
    made = SimpleImputer(strategy="median").fit(np.zeros((1, x.shape[1]), x.dtype))
    made.statistics_ = np.concatenate(found)
    return made


def _scaler(x: Array, rows: Rows, medians: SimpleImputer | None) -> StandardScaler:
    from sklearn.preprocessing import StandardScaler

    fill: Callable[[Array], Array] = (lambda part: part) if medians is None else medians.transform
    whole = len(rows) * x.shape[1] * x.itemsize
    # one column alone is summed in pairs, which blocks can't do after it was cast
    if whole <= _WHOLE or x.shape[1] == 1:
        return StandardScaler().fit(fill(x[rows]))
    kept = x.dtype if x.dtype in (np.float32, np.float64) else np.dtype(np.float64)

    def total(change: Callable[[Array], Array]) -> Array:
        return _in_turn(
            change(fill(part).astype(kept, copy=False)).astype(np.float64, copy=False)
            for _, part in blocks(x, rows, size=held.BLOCK)
        )

    # as scikit-learn does it: Youngs and Cramer's two passes
    count = np.float64(len(rows))
    mean = total(lambda part: part) / count
    correction = total(lambda part: part - mean)
    variance = (total(lambda part: (part - mean) ** 2) - correction**2 / count) / count
    scale = np.sqrt(variance)
    eps = np.finfo(np.float64).eps
    scale[variance <= count * eps * variance + (count * mean * eps) ** 2] = 1.0
    made = StandardScaler().fit(np.zeros((1, x.shape[1]), kept))
    made.mean_, made.var_, made.scale_, made.n_samples_seen_ = mean, variance, scale, np.int64(len(rows))
    return made


# Channels, and the whole --------------------------------------------------------------------------------


def _mean_and_std(x: Array, rows: Rows, scaling: Scaling) -> tuple[Array, Array]:
    axes = axes_of(scaling)
    size = math.prod(x.shape[1:])
    # statistics of what isn't float32 or float64 are taken in float64
    if len(rows) * size * max(x.itemsize, 8 if x.dtype.kind != "f" else 0) <= _WHOLE:
        part = x[rows]
        mean, std = part.mean(axes, keepdims=True), part.std(axes, keepdims=True)
        return mean.astype("float32"), std.astype("float32")
    working = x.dtype.newbyteorder("=") if x.dtype.kind == "f" and x.itemsize >= 4 else np.dtype(np.float64)
    shape = (1, x.shape[1], 1, 1) if scaling == "channels" else (1,) * x.ndim
    count = np.intp(len(rows) * size // math.prod(shape))
    if x.dtype.kind in "biu" and x.itemsize <= 2:
        # the sum of whole numbers is exact in any order
        sums: Array = sum(
            (part.sum(axes, keepdims=True, dtype=np.int64) for _, part in blocks(x, rows)),
            np.zeros(shape, np.int64),
        ).astype(np.float64)
    else:
        sums = _sum(x, rows, shape, lambda part: part.astype(working, copy=False))
    mean = np.true_divide(sums, count, out=sums, casting="unsafe")
    squares = _sum(x, rows, shape, lambda part: np.square(part - mean))
    variance = np.true_divide(squares, count, out=squares, casting="unsafe")
    return mean.astype("float32"), np.sqrt(variance).astype("float32")


def _sum(x: Array, rows: Rows, shape: tuple[int, ...], change: Callable[[Array], Array]) -> Array:
    """``change(x[rows]).sum(axes, keepdims=True)`` in the same order of additions, block by block."""
    if math.prod(shape) == 1:
        return np.asarray(_in_pairs(x, rows, change)).reshape(shape)
    first = x[rows[:2]]
    if first.flags.c_contiguous:
        # in pairs within each example's channel, then example after example
        found = _in_turn(change(part).sum((2, 3)) for _, part in blocks(x, rows))
    else:
        # channels lie innermost: pixel after pixel
        width = shape[1]
        found = _in_turn(change(part).transpose(0, 2, 3, 1).reshape(-1, width) for _, part in blocks(x, rows))
    return found.reshape(shape)


def _in_turn(parts: Any) -> Array:
    """Add up rows ``[n, F]`` one after another, as NumPy's sum over the first axis where F is above 1."""
    found: Array | None = None
    for part in parts:
        found = np.add.reduce(part if found is None else np.concatenate([found[None], part]), axis=0)
    assert found is not None
    return found


def _in_pairs(x: Array, rows: Rows, change: Callable[[Array], Array]) -> Any:
    """Add up everything in pairs of halves, as NumPy's sum of contiguous numbers."""
    row = math.prod(x.shape[1:])
    leaf = max(1024, held.BLOCK // x.itemsize)

    def between(begin: int, end: int) -> Any:
        if end - begin <= leaf:
            first = begin // row
            part = change(np.ascontiguousarray(x[rows[first : -(-end // row)]]))
            return np.add.reduce(part.reshape(-1)[begin - first * row : end - first * row])
        half = (end - begin) // 2
        half -= half % 8
        return between(begin, begin + half) + between(begin + half, end)

    return between(0, len(rows) * row)
