"""Quadratics of any spectrum and rotation, with the matrix at hand."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from thalweg.errors import OptionError
from thalweg.randomness import streams
from thalweg.test_problems.surfaces.base import (
    Surface,
    at_least,
    constants,
    limit,
    minimum,
    other,
    registered,
)

__all__ = ["Quadratic", "quadratic"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Quadratic(Surface):
    """``(x - centre)' A (x - centre) / 2``; see :func:`quadratic`.

    Attributes:
        matrix: A, symmetric, float64 ``[n, n]``.
        eigenvalues: of A, ascending, float64 ``[n]``.
        eigenvectors: orthonormal columns in the same order, float64 ``[n, n]``.
        centre: the stationary point.
    """

    matrix: npt.NDArray[np.float64] = field(repr=False)
    eigenvalues: npt.NDArray[np.float64] = field(repr=False)
    eigenvectors: npt.NDArray[np.float64] = field(repr=False)
    centre: tuple[float, ...]

    @property
    def condition(self) -> float:
        """Largest over smallest magnitude of an eigenvalue.

        >>> quadratic(condition=50).condition
        50.0
        """
        sizes = np.abs(self.eigenvalues)
        return float(sizes.max() / sizes.min())


@registered
def quadratic(
    n: int = 2,
    condition: float = 10.0,
    seed: int | None = 0,
    *,
    eigenvalues: Sequence[float] | None = None,
    centre: float | Sequence[float] = 0.0,
) -> Quadratic:
    """Return ``(x - centre)' A (x - centre) / 2`` with ``A = Q diag(eigenvalues) Q'``.

    Args:
        n: dimensions, from 1; left aside where eigenvalues are given.
        condition: largest over smallest eigenvalue, at least 1: they are 1 to this, evenly spaced in
            their logarithms.
        seed: decides Q, uniform among the rotations and reflections; ``None`` is the identity.
        eigenvalues: given themselves, none of them zero; where some are negative there is no minimum.
        centre: the stationary point, one number for all coordinates or each of them.

    Raises:
        OptionError: an argument out of its range.

    >>> bowl = quadratic(eigenvalues=(1, 100), seed=None, centre=3)
    >>> bowl.matrix.tolist(), bowl.minima[0].x
    ([[1.0, 0.0], [0.0, 100.0]], (3.0, 3.0))
    >>> bowl(torch.tensor([4.0, 3.0]))
    tensor(0.5000)

    Source: C s45-65 (quadratics and their condition), O16.
    """
    values = _spectrum(n, condition) if eigenvalues is None else _given(eigenvalues)
    n = len(values)
    middle = _centre(centre, n)
    rotation = _rotation(n, seed)
    matrix = (rotation * values) @ rotation.T
    matrix = (matrix + matrix.T) / 2
    held, origin = constants(matrix), constants(middle)

    def value(x: Tensor) -> Tensor:
        d = x - origin(x)
        return ((d @ held(x)) * d).sum(-1) / 2

    negative = int((values < 0).sum())
    downhill = np.where(rotation[:, 0] == 0, math.nan, np.copysign(math.inf, rotation[:, 0]))
    return Quadratic(
        name="quadratic", title="Quadratic", family="quadratic",
        summary="half of x'Ax with any eigenvalues and any rotation",
        source="C s45-65, O16", n=n,
        start=tuple((middle + rotation @ (1 / np.sqrt(np.abs(values)))).tolist()),
        bounds=_bounds(middle) if n == 2 else None,
        function=value,
        minima=() if negative else (minimum(middle),),
        stationary=(other("maximum" if negative == n else "saddle", middle, 0.0),) if negative else (),
        limits=(limit(downhill, -math.inf), limit(-downhill, -math.inf)) if negative else (),
        complete=True,
        matrix=matrix, eigenvalues=values, eigenvectors=rotation, centre=tuple(middle.tolist()),
    )  # fmt: skip


def _spectrum(n: int, condition: float) -> npt.NDArray[np.float64]:
    at_least(1, n, "quadratic")
    if not (condition >= 1 and math.isfinite(condition)):
        raise OptionError(
            f"the surface 'quadratic' can't have condition = {condition!r}; give a number from 1 on"
        )
    values = np.geomspace(1.0, condition, n) if n > 1 else np.ones(1)
    return np.asarray(values, dtype=np.float64)


def _given(eigenvalues: Sequence[float]) -> npt.NDArray[np.float64]:
    values = np.sort(np.asarray(eigenvalues, dtype=np.float64).reshape(-1))
    if not len(values) or not np.isfinite(values).all() or (values == 0).any():
        raise OptionError(
            f"the surface 'quadratic' can't have eigenvalues = {eigenvalues!r}; "
            "give at least one, all of them finite and none of them zero"
        )
    return values


def _centre(centre: float | Sequence[float], n: int) -> npt.NDArray[np.float64]:
    middle = np.asarray(centre, dtype=np.float64)
    if middle.shape not in ((), (n,)) or not np.isfinite(middle).all():
        raise OptionError(
            f"the surface 'quadratic' can't have centre = {centre!r}; give a finite number, or {n} of them"
        )
    return np.broadcast_to(middle, (n,)).copy()


def _rotation(n: int, seed: int | None) -> npt.NDArray[np.float64]:
    if seed is None:
        return np.eye(n)
    draws = streams.normal((n, n), seed=seed, stream="quadratic", dtype=torch.float64).numpy()
    q, r = np.linalg.qr(draws)
    # with the signs of R's diagonal undone, Q is uniform over the orthogonal matrices (Mezzadri 2007)
    return np.asarray(q * np.sign(np.diag(r)), dtype=np.float64)


def _bounds(middle: npt.NDArray[np.float64]) -> tuple[tuple[float, float], tuple[float, float]]:
    a, b = middle.tolist()
    return (a - 1.5, a + 1.5), (b - 1.5, b + 1.5)
