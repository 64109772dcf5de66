"""Zeros of the banded systems of the collection, for any dimension: Newton's method in float64."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from scipy.linalg import solve_banded

__all__ = ["boundary_value_zero", "broyden_banded_zero", "broyden_tridiagonal_zero"]

Array = npt.NDArray[np.float64]
_MOST = 60


def boundary_value_zero(n: int) -> Array:
    """Return the zero of both discrete forms of the boundary value problem, ``[n]``.

    >>> boundary_value_zero(1).round(6)
    array([-0.152814])
    """
    h = 1 / (n + 1)
    t = np.arange(1, n + 1) * h

    def equations(x: Array) -> tuple[Array, Array]:
        padded = np.pad(x, 1)
        residuals = 2 * x - padded[:-2] - padded[2:] + h * h * (x + t + 1) ** 3 / 2
        return residuals, _bands(2 + 1.5 * h * h * (x + t + 1) ** 2, {-1: -np.ones(n), 1: -np.ones(n)})

    return _newton(equations, t * (t - 1), (1, 1))


def broyden_tridiagonal_zero(n: int) -> Array:
    """Return the zero of Broyden's tridiagonal system that Newton's method finds from the standard start."""

    def equations(x: Array) -> tuple[Array, Array]:
        padded = np.pad(x, 1)
        residuals = (3 - 2 * x) * x - padded[:-2] - 2 * padded[2:] + 1
        return residuals, _bands(3 - 4 * x, {-1: -np.ones(n), 1: np.full(n, -2.0)})

    return _newton(equations, -np.ones(n), (1, 1))


def broyden_banded_zero(n: int) -> Array:
    """Return the zero of Broyden's banded system that Newton's method finds from the standard start."""

    def equations(x: Array) -> tuple[Array, Array]:
        terms = np.pad(x * (1 + x), (5, 1))
        near = sum(terms[5 + k : 5 + k + n] for k in (-5, -4, -3, -2, -1, 1))
        slopes = -(1 + 2 * x)
        bands = _bands(2 + 15 * x * x, dict.fromkeys((-5, -4, -3, -2, -1, 1), slopes))
        return x * (2 + 5 * x * x) + 1 - near, bands

    return _newton(equations, -np.ones(n), (5, 1))


def _bands(diagonal: Array, beside: dict[int, Array]) -> Array:
    """Return scipy's form of a banded matrix; ``beside[k][j]`` stands in row ``j - k``, column ``j``."""
    above = max(beside)
    return np.stack([diagonal if k == 0 else beside[k] for k in range(above, min(beside) - 1, -1)])


def _newton(equations: Callable[[Array], tuple[Array, Array]], x: Array, bands: tuple[int, int]) -> Array:
    best, length = x, np.inf
    for _ in range(_MOST):
        residuals, jacobian = equations(x)
        step = solve_banded(bands, jacobian, residuals)
        if np.abs(step).max() >= length:
            break
        best, length = x, np.abs(step).max()
        x = x - step
    return best
