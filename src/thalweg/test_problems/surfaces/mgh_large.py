"""More, Garbow and Hillstrom's problems of any dimension."""

from __future__ import annotations

import math

import numpy as np
import torch
from scipy.optimize import brentq
from torch import Tensor

from thalweg.test_problems.surfaces.base import LeastSquares, at_least, constants, minimum, other, registered
from thalweg.test_problems.surfaces.mgh_points import minima_of
from thalweg.test_problems.surfaces.mgh_small import powell_blocks
from thalweg.test_problems.surfaces.zeros import (
    boundary_value_zero,
    broyden_banded_zero,
    broyden_tridiagonal_zero,
)

__all__ = [
    "brown_almost_linear",
    "broyden_banded",
    "broyden_tridiagonal",
    "chebyquad",
    "discrete_boundary_value",
    "discrete_integral",
    "extended_powell_singular",
    "extended_rosenbrock",
    "linear_full_rank",
    "linear_rank_1",
    "linear_rank_1_zero",
    "penalty_1",
    "penalty_2",
    "trigonometric",
    "variably_dimensioned",
    "watson",
]


@registered
def watson(n: int = 6) -> LeastSquares:
    """``r_i = sum_j (j-1)*x_j*t**(j-2) - (sum_j x_j*t**(j-1))**2 - 1`` with ``t = i/29``, i = 1 to 29.

    Two more are ``x1`` and ``x2 - x1**2 - 1``: a polynomial is to solve a differential equation. Minima are
    listed for n = 6, 9 and 12.
    """
    at_least(2, n, "watson", most=31)
    t = np.arange(1, 30)[:, None] / 29
    powers = constants(t ** np.arange(n))
    slopes = constants(np.arange(1, n) * t ** np.arange(n - 1))

    def residuals(x: Tensor) -> Tensor:
        fit = (powers(x) @ x.unsqueeze(-1)).squeeze(-1)
        slope = (slopes(x) @ x[..., 1:].unsqueeze(-1)).squeeze(-1)
        last = torch.stack((x[..., 0], x[..., 1] - x[..., 0].square() - 1), -1)
        return torch.cat((slope - fit.square() - 1, last), -1)

    return LeastSquares(
        name="watson", title="Watson", family="more-garbow-hillstrom", number=20,
        summary="a polynomial fit whose Hessian becomes singular as n grows",
        source="Kowalik and Osborne 1968", n=n, m=31, start=(0.0,) * n,
        residual_function=residuals,
        minima=minima_of("watson", n),
    )  # fmt: skip


@registered
def extended_rosenbrock(n: int = 10) -> LeastSquares:
    """Rosenbrock's function in each pair of coordinates: ``10*(x_{2i} - x_{2i-1}**2)``, ``1 - x_{2i-1}``."""
    at_least(2, n, "extended-rosenbrock", multiple=2)

    def residuals(x: Tensor) -> Tensor:
        a, b = x[..., 0::2], x[..., 1::2]
        return torch.stack((10 * (b - a.square()), 1 - a), -1).flatten(-2)

    return LeastSquares(
        name="extended-rosenbrock", title="Extended Rosenbrock", family="more-garbow-hillstrom", number=21,
        summary="n/2 separate valleys",
        source="Spedicato 1975", n=n, m=n, start=(-1.2, 1.0) * (n // 2),
        residual_function=residuals,
        minima=(minimum(np.ones(n)),), complete=True,
    )  # fmt: skip


@registered
def extended_powell_singular(n: int = 8) -> LeastSquares:
    """Powell's singular function in each four coordinates."""
    at_least(4, n, "extended-powell-singular", multiple=4)
    return LeastSquares(
        name="extended-powell-singular", title="Extended Powell singular", number=22,
        family="more-garbow-hillstrom", summary="the Hessian at the minimum has half the full rank",
        source="Spedicato 1975", n=n, m=n, start=(3.0, -1.0, 0.0, 1.0) * (n // 4),
        residual_function=powell_blocks,
        minima=(minimum(np.zeros(n)),), complete=True,
    )  # fmt: skip


@registered
def penalty_1(n: int = 4) -> LeastSquares:
    """``r_i = sqrt(1e-5)*(x_i - 1)`` for i to n, ``r_{n+1} = sum_j x_j**2 - 1/4``."""
    at_least(1, n, "penalty-1", most=10**6)
    weight = math.sqrt(1e-5)

    def residuals(x: Tensor) -> Tensor:
        return torch.cat((weight * (x - 1), x.square().sum(-1, keepdim=True) - 0.25), -1)

    # all coordinates of a stationary point are equal: 2*n*c**3 + (a - 1/2)*c - a = 0
    roots = np.roots((2.0 * n, 0.0, 1e-5 - 0.5, -1e-5)).real
    points = [(np.full(n, c), n * 1e-5 * (c - 1) ** 2 + (n * c * c - 0.25) ** 2) for c in np.sort(roots)]
    low, hill, high = points
    return LeastSquares(
        name="penalty-1", title="Penalty function I", family="more-garbow-hillstrom", number=23,
        summary="a weak pull beside a stiff sphere",
        source="Gill, Murray and Pitfield 1972", n=n, m=n + 1, start=tuple(map(float, range(1, n + 1))),
        residual_function=residuals,
        minima=(minimum(*high), minimum(*low)) if n == 1 else (minimum(*high),),
        stationary=(other("maximum", *hill), *((other("saddle", *low),) if n > 1 else ())), complete=True,
    )  # fmt: skip


@registered
def penalty_2(n: int = 4) -> LeastSquares:
    """``x1 - 0.2``, pairs and single terms of ``exp(x_i / 10)`` weighted with sqrt(1e-5), and a sphere.

    ``sqrt(1e-5)*(exp(x_i/10) + exp(x_{i-1}/10) - exp(i/10) - exp((i-1)/10))``, i = 2 to n;
    ``sqrt(1e-5)*(exp(x_i/10) - exp(-1/10))``, i = 2 to n; ``sum_j (n-j+1)*x_j**2 - 1``. Minima are listed
    for n = 4 and 10.
    """
    at_least(2, n, "penalty-2")
    weight, i = math.sqrt(1e-5), np.arange(2, n + 1)
    y, counts = constants(np.exp(i / 10) + np.exp((i - 1) / 10)), constants(np.arange(n, 0, -1))

    def residuals(x: Tensor) -> Tensor:
        e = torch.exp(x / 10)
        pairs = weight * (e[..., 1:] + e[..., :-1] - y(x))
        single = weight * (e[..., 1:] - math.exp(-0.1))
        sphere = (counts(x) * x.square()).sum(-1, keepdim=True) - 1
        return torch.cat((x[..., :1] - 0.2, pairs, single, sphere), -1)

    return LeastSquares(
        name="penalty-2", title="Penalty function II", family="more-garbow-hillstrom", number=24,
        summary="a minimum so flat that its coordinates are hard to find",
        source="Gill, Murray and Pitfield 1972", n=n, m=2 * n, start=(0.5,) * n,
        residual_function=residuals,
        minima=minima_of("penalty-2", n),
    )  # fmt: skip


@registered
def variably_dimensioned(n: int = 10) -> LeastSquares:
    """``r_i = x_i - 1`` for i to n, then ``s = sum_j j*(x_j - 1)`` and ``s**2``."""
    at_least(1, n, "variably-dimensioned")
    j = constants(np.arange(1, n + 1))

    def residuals(x: Tensor) -> Tensor:
        s = (j(x) * (x - 1)).sum(-1, keepdim=True)
        return torch.cat((x - 1, s, s.square()), -1)

    return LeastSquares(
        name="variably-dimensioned", title="Variably dimensioned", family="more-garbow-hillstrom", number=25,
        summary="a quartic that is steep in a single direction",
        source="More, Garbow and Hillstrom 1981", n=n, m=n + 2,
        start=tuple((1 - np.arange(1, n + 1) / n).tolist()),
        residual_function=residuals,
        minima=(minimum(np.ones(n)),), complete=True,
    )  # fmt: skip


@registered
def trigonometric(n: int = 10) -> LeastSquares:
    """``r_i = n - sum_j cos(x_j) + i*(1 - cos(x_i)) - sin(x_i)``; a local minimum is listed for n = 10."""
    at_least(1, n, "trigonometric")
    i = constants(np.arange(1, n + 1))

    def residuals(x: Tensor) -> Tensor:
        c = 1 - torch.cos(x)
        return c.sum(-1, keepdim=True) + i(x) * c - torch.sin(x)

    return LeastSquares(
        name="trigonometric", title="Trigonometric", family="more-garbow-hillstrom", number=26,
        summary="periodic, with low local minima beside the global one",
        source="Spedicato 1975", n=n, m=n, start=(1 / n,) * n,
        residual_function=residuals,
        minima=(
            minimum(np.zeros(n), note="and wherever multiples of 2*pi are added"),
            *minima_of("trigonometric", n),
        ),
    )  # fmt: skip


@registered
def brown_almost_linear(n: int = 10) -> LeastSquares:
    """``r_i = x_i + sum_j x_j - (n + 1)`` for i below n, ``r_n = prod_j x_j - 1``."""
    at_least(2, n, "brown-almost-linear")

    def residuals(x: Tensor) -> Tensor:
        linear = x[..., :-1] + x.sum(-1, keepdim=True) - (n + 1)
        return torch.cat((linear, x.prod(-1, keepdim=True) - 1), -1)

    # zeros are (c, ..., c, c**(1-n)) with n*c**n - (n+1)*c**(n-1) + 1 = 0, which is least at 1 - 1/n**2
    def polynomial(c: float) -> float:
        return (n * c - (n + 1)) * c ** (n - 1) + 1

    brackets = [(0.0, 1 - 1 / n**2), *(((-1.0, 0.0),) if n % 2 else ())]
    found = [brentq(polynomial, a, b, xtol=1e-16, rtol=1e-15) for a, b in brackets]
    zeros = [np.append(np.full(n - 1, c), c ** (1.0 - n)) for c in (1.0, *found)]
    flat = np.append(np.zeros(n - 1), n + 1.0)
    return LeastSquares(
        name="brown-almost-linear", title="Brown almost-linear", family="more-garbow-hillstrom", number=27,
        summary="linear but for a product, with a saddle so flat that methods stop there",
        source="Brown 1969", n=n, m=n, start=(0.5,) * n,
        residual_function=residuals,
        minima=tuple(minimum(zero) for zero in zeros),
        stationary=(other("saddle", flat, 1.0, "flat to a high order"),) if n > 2 else (),
    )  # fmt: skip


@registered
def discrete_boundary_value(n: int = 10) -> LeastSquares:
    """``r_i = 2*x_i - x_{i-1} - x_{i+1} + h**2 * (x_i + t_i + 1)**3 / 2``, ``h = 1/(n+1)``, ``t_i = i*h``."""
    at_least(1, n, "discrete-boundary-value")
    h = 1 / (n + 1)
    times = np.arange(1, n + 1) * h
    t = constants(times)

    def residuals(x: Tensor) -> Tensor:
        end = torch.zeros_like(x[..., :1])
        left, right = torch.cat((end, x[..., :-1]), -1), torch.cat((x[..., 1:], end), -1)
        return 2 * x - left - right + h * h * (x + t(x) + 1) ** 3 / 2

    return LeastSquares(
        name="discrete-boundary-value", title="Discrete boundary value", number=28,
        family="more-garbow-hillstrom", summary="a differential equation on a grid: condition grows as n**4",
        source="More and Cosnard 1979", n=n, m=n, start=tuple((times * (times - 1)).tolist()),
        residual_function=residuals,
        minima=(minimum(boundary_value_zero(n)),),
    )  # fmt: skip


@registered
def discrete_integral(n: int = 10) -> LeastSquares:
    """The same equation as an integral: well conditioned, every residual depends on every coordinate.

    ``r_i = x_i + h/2 * ((1 - t_i) * sum_{j<=i} t_j*c_j + t_i * sum_{j>i} (1 - t_j)*c_j)``, where
    ``c_j = (x_j + t_j + 1)**3``, ``h = 1/(n+1)``, ``t_i = i*h``.
    """
    at_least(1, n, "discrete-integral")
    h = 1 / (n + 1)
    times = np.arange(1, n + 1) * h
    t, rest = constants(times), constants(1 - times)

    def residuals(x: Tensor) -> Tensor:
        cubes = (x + t(x) + 1) ** 3
        until = (t(x) * cubes).cumsum(-1)
        ahead = rest(x) * cubes
        beyond = ahead.flip(-1).cumsum(-1).flip(-1) - ahead
        return x + h / 2 * (rest(x) * until + t(x) * beyond)

    return LeastSquares(
        name="discrete-integral", title="Discrete integral equation", number=29,
        family="more-garbow-hillstrom", summary="the boundary value problem as an integral: dense and easy",
        source="More and Cosnard 1979", n=n, m=n, start=tuple((times * (times - 1)).tolist()),
        residual_function=residuals,
        minima=(minimum(boundary_value_zero(n)),),
    )  # fmt: skip


@registered
def broyden_tridiagonal(n: int = 10) -> LeastSquares:
    """``r_i = (3 - 2*x_i)*x_i - x_{i-1} - 2*x_{i+1} + 1``, with zeros beyond the ends."""
    at_least(1, n, "broyden-tridiagonal")

    def residuals(x: Tensor) -> Tensor:
        end = torch.zeros_like(x[..., :1])
        left, right = torch.cat((end, x[..., :-1]), -1), torch.cat((x[..., 1:], end), -1)
        return (3 - 2 * x) * x - left - 2 * right + 1

    return LeastSquares(
        name="broyden-tridiagonal", title="Broyden tridiagonal", family="more-garbow-hillstrom", number=30,
        summary="quadratic equations, each with its neighbours",
        source="Broyden 1965", n=n, m=n, start=(-1.0,) * n,
        residual_function=residuals,
        minima=(minimum(broyden_tridiagonal_zero(n)), *minima_of("broyden-tridiagonal", n)),
    )  # fmt: skip


@registered
def broyden_banded(n: int = 10) -> LeastSquares:
    """``r_i = x_i*(2 + 5*x_i**2) + 1 - sum_j x_j*(1 + x_j)`` over j from i-5 to i+1 without i."""
    at_least(1, n, "broyden-banded")

    def residuals(x: Tensor) -> Tensor:
        terms = torch.nn.functional.pad(x * (1 + x), (5, 1))
        near = sum(terms[..., 5 + k : 5 + k + n] for k in (-5, -4, -3, -2, -1, 1))
        return x * (2 + 5 * x.square()) + 1 - near

    return LeastSquares(
        name="broyden-banded", title="Broyden banded", family="more-garbow-hillstrom", number=31,
        summary="cubic equations, each with seven neighbours at most",
        source="Broyden 1971", n=n, m=n, start=(-1.0,) * n,
        residual_function=residuals,
        minima=(minimum(broyden_banded_zero(n)),),
    )  # fmt: skip


@registered
def linear_full_rank(n: int = 5, m: int = 10) -> LeastSquares:
    """``r_i = x_i - 2/m * sum_j x_j - 1`` for i to n, without ``x_i`` for i beyond n."""
    _enough("linear-full-rank", n, m, 1)

    def residuals(x: Tensor) -> Tensor:
        shared = (-2 / m * x.sum(-1, keepdim=True) - 1).expand(*x.shape[:-1], m)
        return torch.cat((shared[..., :n] + x, shared[..., n:]), -1)

    return LeastSquares(
        name="linear-full-rank", title="Linear, full rank", family="more-garbow-hillstrom", number=32,
        summary="a linear least-squares problem: Gauss-Newton ends in one step",
        source="More, Garbow and Hillstrom 1981", n=n, m=m, start=(1.0,) * n, residual_function=residuals,
        minima=(minimum(-np.ones(n), m - n),), complete=True,
    )  # fmt: skip


@registered
def linear_rank_1(n: int = 5, m: int = 10) -> LeastSquares:
    """``r_i = i * sum_j j*x_j - 1``."""
    _enough("linear-rank-1", n, m, 1)
    i, j = constants(np.arange(1, m + 1)), constants(np.arange(1, n + 1))

    def residuals(x: Tensor) -> Tensor:
        return i(x) * (j(x) * x).sum(-1, keepdim=True) - 1

    # of all points with the same sum, the one of least norm
    row = np.arange(1, n + 1)
    point = 3 / (2 * m + 1) * row / (row @ row)
    return LeastSquares(
        name="linear-rank-1", title="Linear, rank 1", family="more-garbow-hillstrom", number=33,
        summary="linear, with a Jacobian of rank one: a hyperplane of minima",
        source="More, Garbow and Hillstrom 1981", n=n, m=m, start=(1.0,) * n, residual_function=residuals,
        minima=(minimum(point, m * (m - 1) / (2 * (2 * m + 1)), "where sum_j j*x_j = 3 / (2*m + 1)"),),
        complete=True,
    )  # fmt: skip


@registered
def linear_rank_1_zero(n: int = 5, m: int = 10) -> LeastSquares:
    """``r_1 = r_m = -1``, else ``r_i = (i - 1) * sum_j j*x_j - 1`` over j from 2 to n - 1."""
    _enough("linear-rank-1-zero", n, m, 3)
    rows, row = np.arange(m), np.arange(1, n + 1)
    rows[-1] = 0
    row[[0, -1]] = 0
    i, j = constants(rows), constants(row)

    def residuals(x: Tensor) -> Tensor:
        return i(x) * (j(x) * x).sum(-1, keepdim=True) - 1

    point = 3 / (2 * m - 3) * row / (row @ row)
    value = (m * m + 3 * m - 6) / (2 * (2 * m - 3))
    return LeastSquares(
        name="linear-rank-1-zero", title="Linear, rank 1, zero columns and rows", number=34,
        family="more-garbow-hillstrom", summary="linear, of rank one, and blind to two coordinates",
        source="More, Garbow and Hillstrom 1981", n=n, m=m, start=(1.0,) * n, residual_function=residuals,
        minima=(minimum(point, value, "where sum_j j*x_j = 3 / (2*m - 3) over j from 2 to n - 1"),),
        complete=True,
    )  # fmt: skip


@registered
def chebyquad(n: int = 8, m: int | None = None) -> LeastSquares:
    """``r_i = mean_j T_i(x_j) - integral of T_i``, T_i the Chebyshev polynomial shifted to [0, 1].

    The integral is 0 for odd i and ``-1/(i**2 - 1)`` for even i; m is n unless given. Minima are listed for
    m = n up to 10.
    """
    at_least(1, n, "chebyquad")
    m = at_least(n, n if m is None else m, "chebyquad", what="m")
    i = np.arange(1, m + 1)
    integral = constants([0.0 if k % 2 else -1 / (k * k - 1) for k in i.tolist()])

    def residuals(x: Tensor) -> Tensor:
        y = 2 * x - 1
        before, now = torch.ones_like(y), y
        means = [now.mean(-1)]
        for _ in range(m - 1):
            before, now = now, 2 * y * now - before
            means.append(now.mean(-1))
        return torch.stack(means, -1) - integral(x)

    return LeastSquares(
        name="chebyquad", title="Chebyquad", family="more-garbow-hillstrom", number=35,
        summary="nodes for integration with equal weights, in any order: n! minima of each kind",
        source="Fletcher 1965", n=n, m=m, start=tuple((np.arange(1, n + 1) / (n + 1)).tolist()),
        residual_function=residuals,
        minima=minima_of("chebyquad", n) if m == n else (),
    )  # fmt: skip


def _enough(surface: str, n: int, m: int, least: int) -> None:
    at_least(least, n, surface)
    at_least(n, m, surface, what="m")
