"""Lanczos iteration with thick restarts, on what each process has of the vectors.

A basis Q is kept with its products ``W = AQ``: Ritz values are the eigenvalues of ``Q'W``, and a residual is
``W y - theta * Q y``, which is computed and not estimated. Vectors lie side by side in rows.

Source: Wu and Simon, Thick-restart Lanczos method for large symmetric eigenvalue problems, 2000.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from thalweg.curvature.parameter_vectors import ParameterVectors
from thalweg.randomness import streams

__all__ = ["Found", "Krylov", "Wanted", "error_of", "joined"]

# Rows are rotated in place, so many columns at once.
_COLUMNS = 65536
# What is below this share of the largest is rounding.
_NOTHING = 1e-13
# Residuals between two eigenvalues that stand apart.
_APART = 2.0
# How sure a search beside others is that it has missed nothing: that a random start has so little of it.
_MISSED = 0.01


@dataclass(frozen=True)
class Wanted:
    """What a search looks for.

    Attributes:
        high, low: how many at either end.
        tolerance: of errors, relative to the largest magnitude.
        beyond: lower and upper bound, of which only what lies beyond matters; None: everything does.
    """

    high: int
    low: int
    tolerance: float
    beyond: tuple[float, float] | None = None

    def indices(self, length: int) -> list[int]:
        """The positions among rising eigenvalues."""
        return sorted(set(range(min(self.low, length))) | set(range(max(0, length - self.high), length)))


@dataclass(frozen=True)
class Found:
    """Ritz values, rising, with their vectors ``rows`` and the ``products`` of these, ``[k, local]``.

    ``gaps`` are the distances to the nearest other Ritz value, less what that one may be wrong by.
    """

    values: list[float]
    rows: Tensor
    products: Tensor
    gaps: list[float]

    def __len__(self) -> int:
        return len(self.values)

    def extremes(self, wanted: Wanted) -> Found:
        """Return those at the ends."""
        kept = wanted.indices(len(self))
        values, gaps = ([of[i] for i in kept] for of in (self.values, self.gaps))
        return Found(values, self.rows[kept], self.products[kept], gaps)

    def bounds(self, wanted: Wanted) -> tuple[float, float]:
        """Return what another has to be below or above of to belong among those wanted."""
        low = self.values[wanted.low - 1] if wanted.low else -math.inf
        return low, self.values[-wanted.high] if wanted.high else math.inf

    def residuals(self, vectors: ParameterVectors) -> list[float]:
        """Return ``|A v - value * v|`` of each."""
        return [
            vectors.length(product - value * row)
            for value, row, product in zip(self.values, self.rows, self.products, strict=True)
        ]


def error_of(residual: float, gap: float) -> float:
    """Return what an eigenvalue may be wrong by: the residual, or its square over the gap if that is less.

    Source: Kato, On the upper and lower bounds of eigenvalues, 1949; Temple 1928.
    """
    # an eigenvalue that isn't well apart may not be the one that was taken for the next
    return residual * residual / gap if gap > _APART * residual else residual


def joined(parts: Sequence[Found], vectors: ParameterVectors) -> Found:
    """Return the Ritz pairs of all vectors together, which are orthogonal."""
    rows = torch.cat([part.rows for part in parts])
    products = torch.cat([part.products for part in parts])
    matrix = np.array([vectors.dots(products.to(rows.dtype), row).tolist() for row in rows])
    values, rotation = np.linalg.eigh((matrix + matrix.T) / 2)
    y = torch.as_tensor(rotation, device=rows.device)
    return Found(values.tolist(), y.T @ rows, y.T.to(products.dtype) @ products, [0.0] * len(rows))


class Krylov:
    """Searches that share a count of products.

    Args:
        product: with A, of a local vector in float64.
        vectors: for inner products over processes.
        capacity: vectors that are kept at once.
        most: products of all searches together.
        seed: of vectors that are drawn where a search has seen all that its start leads to.
        gaps: whether gaps between Ritz values count in errors, which they can't of repeated eigenvalues.

    Attributes:
        products: taken so far.
        reached: whether the last search found what it looked for.
        scale: the largest magnitude of any Ritz value.
    """

    def __init__(
        self,
        product: Callable[[Tensor], Tensor],
        vectors: ParameterVectors,
        capacity: int,
        most: int,
        seed: int,
        *,
        gaps: bool,
    ) -> None:
        self.product, self.vectors = product, vectors
        self._capacity, self._most, self._seed, self._gaps = capacity, most, seed, gaps
        self.products, self.reached, self.scale = 0, False, 0.0
        small = {torch.float32, torch.bfloat16, torch.float16}
        self._type = torch.float32 if {p.dtype for p in vectors.leaves} <= small else torch.float64

    def search(self, wanted: Wanted, first: Tensor, *, fewest: int = 1, beside: Found | None = None) -> Found:
        """Look for Ritz pairs within the tolerance, orthogonal to others.

        Args:
            wanted: which.
            first: vector to begin with.
            fewest: products to take at least.
            beside: vectors to be orthogonal to.
        """
        self._rows = first.new_empty((self._capacity, len(first)))
        self._products = first.new_empty((self._capacity, len(first)), dtype=self._type)
        self._matrix = np.zeros((self._capacity, self._capacity))
        self.reached = False
        others = None if beside is None else beside.rows
        room = self.vectors.size - (0 if others is None else len(others))
        j = taken = 0
        unit, length = self._next(first, 0, others)
        while self.products < self._most:
            self._rows[j] = unit
            w = self.product(unit)
            self._products[j] = w
            self.products, taken = self.products + 1, taken + 1
            column = self.vectors.dots(self._rows[: j + 1], w).cpu().numpy()
            self._matrix[: j + 1, j] = self._matrix[j, : j + 1] = column
            j += 1
            values, rotation = np.linalg.eigh(self._matrix[:j, :j])
            scale = float(np.abs(values).max())
            self.scale = max(self.scale, scale)
            unit, length = self._next(w, j, others)
            spent = length <= _NOTHING * scale or j == room
            length = 0.0 if spent else length
            estimates = length * np.abs(rotation[-1])
            enough = (j >= wanted.high + wanted.low and (taken >= fewest or spent)) or j == room
            if (enough and self._within(wanted, values, rotation, estimates, scale)) or self._none_beyond(
                wanted, values, taken
            ):
                self.reached = True
                break
            if j == room:
                break
            if spent:
                # all that the start leads to has been seen, but not yet enough
                unit, length = self._next(self._drawn(), j, others)
            if j == self._capacity and self.products < self._most:
                j = self._restart(wanted, values, rotation)
        kept = Wanted(max(1, wanted.high), max(1, wanted.low), wanted.tolerance).indices(j)
        return self._ritz(kept, values, rotation, estimates)

    def belongs(self, found: Found, wanted: Wanted) -> bool:
        """Whether what a search beside others has found belongs among them."""
        if wanted.beyond is None or not len(found):
            return False
        low, high = wanted.beyond
        near = wanted.tolerance * self.scale
        above = wanted.high and found.values[-1] > high + near
        return bool(above or (wanted.low and found.values[0] < low - near))

    def _next(self, w: Tensor, j: int, others: Tensor | None) -> tuple[Tensor, float]:
        """The part of a vector that is orthogonal to all, of length 1, and its length."""
        # the second time takes away what rounding has left
        for _ in range(2):
            for rows in (self._rows[:j], others):
                if rows is not None and len(rows):
                    w = w - rows.T @ self.vectors.dots(rows, w)
        length = self.vectors.length(w)
        return w / (length or 1.0), length

    def _drawn(self) -> Tensor:
        whole = streams.normal(
            (self.vectors.size,),
            seed=self._seed,
            stream="curvature/another",
            step=self.products,
            dtype=torch.float64,
            device=self.vectors.device,
        )
        return self.vectors.local_of(whole)

    def _within(
        self,
        wanted: Wanted,
        values: npt.NDArray[np.float64],
        rotation: npt.NDArray[np.float64],
        estimates: npt.NDArray[np.float64],
        scale: float,
    ) -> bool:
        """Whether those wanted are within the tolerance: by estimate, then by their residuals."""
        least = wanted.tolerance * scale
        kept = wanted.indices(len(values))
        gaps = self._apart(values, estimates)
        if any(error_of(estimates[i], gaps[i]) > least for i in kept):
            return False
        found = self._ritz(kept, values, rotation, estimates)
        errors = map(error_of, found.residuals(self.vectors), found.gaps)
        return all(error <= least for error in errors)

    def _apart(self, values: npt.NDArray[np.float64], estimates: npt.NDArray[np.float64]) -> list[float]:
        """How far from each Ritz value the nearest other eigenvalue lies at least, as far as is known."""
        if len(values) < 2 or not self._gaps:
            return [0.0] * len(values)
        apart = np.abs(values[:, None] - values) - estimates
        np.fill_diagonal(apart, np.inf)
        found: list[float] = apart.min(1).tolist()
        return found

    def _none_beyond(self, wanted: Wanted, values: npt.NDArray[np.float64], taken: int) -> bool:
        """Whether nothing lies beyond, by all but a hundredth of random starts.

        After j products from a random start, of a matrix whose eigenvalues span s, the largest Ritz value
        falls short by more than ``e * s`` in a share of at most ``1.648 sqrt(n) exp(-sqrt(e) (2j - 1))``.
        """
        if wanted.beyond is None:
            return False
        root = math.log(1.648 * math.sqrt(self.vectors.size) / _MISSED) / (2 * taken - 1)
        share = root * root
        if share >= 1:
            return False
        bottom, top = float(values[0]), float(values[-1])
        near = wanted.tolerance * self.scale
        low, high = wanted.beyond[0] - near, wanted.beyond[1] + near
        # what eigenvalues would span if there were one
        span = max(top, high if wanted.high else top) - min(bottom, low if wanted.low else bottom)
        return (not wanted.high or top < high - share * span) and (
            not wanted.low or bottom > low + share * span
        )

    def _restart(
        self, wanted: Wanted, values: npt.NDArray[np.float64], rotation: npt.NDArray[np.float64]
    ) -> int:
        """Keep the best Ritz vectors alone, and return how many."""
        j = len(values)
        spare = max(0, (j - wanted.high - wanted.low) // 2 - 1)
        both = bool(wanted.high) and bool(wanted.low)
        high = wanted.high + (spare // 2 if both else spare) if wanted.high else 0
        low = wanted.low + (spare // 2 if both else spare) if wanted.low else 0
        kept = Wanted(high, low, wanted.tolerance).indices(j)[: j - 1]
        y = torch.as_tensor(rotation[:, kept], device=self._rows.device)
        for rows in (self._rows, self._products):
            for begin in range(0, rows.shape[1], _COLUMNS):
                part = rows[:j, begin : begin + _COLUMNS]
                rows[: len(kept), begin : begin + _COLUMNS] = y.T.to(rows.dtype) @ part
        self._matrix[:] = 0.0
        np.fill_diagonal(self._matrix[: len(kept), : len(kept)], values[kept])
        return len(kept)

    def _ritz(
        self,
        kept: Sequence[int],
        values: npt.NDArray[np.float64],
        rotation: npt.NDArray[np.float64],
        estimates: npt.NDArray[np.float64],
    ) -> Found:
        j, gaps = len(rotation), self._apart(values, estimates)
        y = torch.as_tensor(rotation[:, kept], device=self._rows.device).T
        rows, products = y @ self._rows[:j], y.to(self._type) @ self._products[:j]
        return Found([float(values[i]) for i in kept], rows, products, [gaps[i] for i in kept])
