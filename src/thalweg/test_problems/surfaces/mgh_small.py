"""More, Garbow and Hillstrom's problems of two to six dimensions: systems of equations and small sums."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from thalweg.test_problems.surfaces.base import (
    LeastSquares,
    at_least,
    constants,
    limit,
    minimum,
    other,
    registered,
)
from thalweg.test_problems.surfaces.mgh_points import limits_of, minima_of, stationary_of

__all__ = [
    "beale",
    "biggs_exp6",
    "box_3d",
    "brown_badly_scaled",
    "brown_dennis",
    "freudenstein_roth",
    "gulf",
    "helical_valley",
    "jennrich_sampson",
    "powell_badly_scaled",
    "powell_blocks",
    "powell_singular",
    "rosenbrock",
    "wood",
]


@registered
def rosenbrock() -> LeastSquares:
    """``(10 * (x2 - x1**2))**2 + (1 - x1)**2``."""

    def residuals(x: Tensor) -> Tensor:
        a, b = x.unbind(-1)
        return torch.stack((10 * (b - a.square()), 1 - a), -1)

    return LeastSquares(
        name="rosenbrock", title="Rosenbrock", family="more-garbow-hillstrom", number=1,
        summary="the banana: a curved valley with a flat floor",
        source="Rosenbrock 1960", n=2, m=2, start=(-1.2, 1.0), bounds=((-2.0, 2.0), (-1.0, 3.0)),
        residual_function=residuals,
        minima=(minimum((1, 1)),), complete=True,
    )  # fmt: skip


@registered
def freudenstein_roth() -> LeastSquares:
    """``r1 = -13 + x1 + ((5 - x2)*x2 - 2)*x2``, ``r2 = -29 + x1 + ((x2 + 1)*x2 - 14)*x2``."""

    def residuals(x: Tensor) -> Tensor:
        a, b = x.unbind(-1)
        return torch.stack((-13 + a + ((5 - b) * b - 2) * b, -29 + a + ((b + 1) * b - 14) * b), -1)

    # where the gradient is zero and the residuals aren't, r1 = -r2 and 3*x2**2 - 4*x2 - 6 = 0
    root = math.sqrt(22)
    low, high = ((53 + 4 * sign * root) / 3 for sign in (-1, 1))
    return LeastSquares(
        name="freudenstein-roth", title="Freudenstein and Roth", family="more-garbow-hillstrom", number=2,
        summary="a local minimum, to which descent from the standard start goes, far from the global one",
        source="Freudenstein and Roth 1963", n=2, m=2, start=(0.5, -2.0), bounds=((-5.0, 30.0), (-3.0, 6.0)),
        residual_function=residuals,
        minima=(minimum((5, 4)), minimum((low, (2 - root) / 3), _freudenstein(-root))),
        stationary=(other("saddle", (high, (2 + root) / 3), _freudenstein(root)),), complete=True,
    )  # fmt: skip


def _freudenstein(root: float) -> float:
    b = (2 + root) / 3
    a = 21 - 3 * b * b + 8 * b
    return 2 * (-13 + a + ((5 - b) * b - 2) * b) ** 2


@registered
def powell_badly_scaled() -> LeastSquares:
    """``r1 = 1e4*x1*x2 - 1``, ``r2 = exp(-x1) + exp(-x2) - 1.0001``."""

    def residuals(x: Tensor) -> Tensor:
        a, b = x.unbind(-1)
        return torch.stack((1e4 * a * b - 1, torch.exp(-a) + torch.exp(-b) - 1.0001), -1)

    return LeastSquares(
        name="powell-badly-scaled", title="Powell badly scaled", family="more-garbow-hillstrom", number=3,
        summary="coordinates of the minimum differ by a factor of a million",
        source="Powell 1970", n=2, m=2, start=(0.0, 1.0), bounds=((-0.5, 10.0), (-0.5, 10.0)),
        residual_function=residuals,
        minima=minima_of("powell-badly-scaled"),
    )  # fmt: skip


@registered
def brown_badly_scaled() -> LeastSquares:
    """``r = (x1 - 1e6, x2 - 2e-6, x1*x2 - 2)``."""

    def residuals(x: Tensor) -> Tensor:
        a, b = x.unbind(-1)
        return torch.stack((a - 1e6, b - 2e-6, a * b - 2), -1)

    return LeastSquares(
        name="brown-badly-scaled", title="Brown badly scaled", family="more-garbow-hillstrom", number=4,
        summary="coordinates of the minimum differ by a factor of 5e11",
        source="Brown, unpublished; More, Garbow and Hillstrom 1981",
        n=2, m=3, start=(1.0, 1.0), bounds=((-2e5, 1.2e6), (-1.0, 2.0)),
        residual_function=residuals,
        minima=(minimum((1e6, 2e-6)),),
    )  # fmt: skip


@registered
def beale() -> LeastSquares:
    """``r_i = y_i - x1*(1 - x2**i)`` with ``y = (1.5, 2.25, 2.625)``."""
    y = constants((1.5, 2.25, 2.625))

    def residuals(x: Tensor) -> Tensor:
        a, b = x.unbind(-1)
        return y(x) - a.unsqueeze(-1) * (1 - torch.stack((b, b.square(), b**3), -1))

    return LeastSquares(
        name="beale", title="Beale", family="more-garbow-hillstrom", number=5,
        summary="a flat valley along x2 = 1 that leads away to infinity on one side",
        source="Beale 1958", n=2, m=3, start=(1.0, 1.0), bounds=((-4.5, 4.5), (-4.5, 4.5)),
        residual_function=residuals,
        minima=(minimum((3, 0.5)),),
        # along x2 = 1 - c/x1 residual i tends to y_i - i*c, whose squares are least at c = 13.875/14
        limits=(limit((-math.inf, 1), 14.203125 - 13.875**2 / 14, "x1 * (1 - x2) tends to 111/112"),),
    )  # fmt: skip


@registered
def jennrich_sampson(m: int = 10) -> LeastSquares:
    """``r_i = 2 + 2*i - (exp(i*x1) + exp(i*x2))``; minima are listed for m = 10."""
    at_least(2, m, "jennrich-sampson", what="m")
    i = constants(np.arange(1, m + 1))

    def residuals(x: Tensor) -> Tensor:
        a, b = x.unsqueeze(-1).unbind(-2)
        return 2 + 2 * i(x) - (torch.exp(i(x) * a) + torch.exp(i(x) * b))

    return LeastSquares(
        name="jennrich-sampson", title="Jennrich and Sampson", family="more-garbow-hillstrom", number=6,
        summary="sums of exponentials that overflow after a bold step",
        source="Jennrich and Sampson 1968", n=2, m=m, start=(0.3, 0.4), bounds=((-0.5, 0.5), (-0.5, 0.5)),
        residual_function=residuals,
        minima=minima_of("jennrich-sampson", m),
        limits=limits_of("jennrich-sampson", m),
    )  # fmt: skip


@registered
def helical_valley() -> LeastSquares:
    """``r = (10*(x3 - 10*theta), 10*(sqrt(x1**2 + x2**2) - 1), x3)``, theta the angle of (x1, x2) in turns.

    The angle is from -1/4 to 3/4, so that it jumps across the half line ``x1 = 0, x2 < 0``.
    """

    def residuals(x: Tensor) -> Tensor:
        a, b, c = x.unbind(-1)
        turn = torch.atan2(-a, b) / (2 * math.pi) + 0.25
        return torch.stack((10 * (c - 10 * turn), 10 * (torch.hypot(a, b) - 1), c), -1)

    return LeastSquares(
        name="helical-valley", title="Helical valley", family="more-garbow-hillstrom", number=7,
        summary="a steep valley along a helix, with a jump across a half plane",
        source="Fletcher and Powell 1963", n=3, m=3, start=(-1.0, 0.0, 0.0),
        residual_function=residuals,
        minima=(minimum((1, 0, 0)),),
    )  # fmt: skip


@registered
def gulf(m: int = 99) -> LeastSquares:
    """``r_i = exp(-abs(y_i - x2)**x3 / x1) - t_i``, ``t_i = i/100``, ``y_i = 25 + (-50*log(t_i))**(2/3)``.

    The paper prints ``y_i m i x2`` where ``y_i - x2`` is meant; m is from 3 to 99, since with m = 100 the
    minimum is at a kink.
    """
    at_least(3, m, "gulf", most=99, what="m")
    times = np.arange(1, m + 1) / 100
    t, y = constants(times), constants(25 + (-50 * np.log(times)) ** (2 / 3))

    def residuals(x: Tensor) -> Tensor:
        a, b, c = x.unsqueeze(-1).unbind(-2)
        return torch.exp(-((y(x) - b).abs() ** c) / a) - t(x)

    return LeastSquares(
        name="gulf", title="Gulf research and development", family="more-garbow-hillstrom", number=11,
        summary="a distribution's shape, with regions that are flat to the last digit",
        source="Cox 1969", n=3, m=m, start=(5.0, 2.5, 0.15),
        residual_function=residuals,
        minima=(minimum((50, 25, 1.5)),),
    )  # fmt: skip


@registered
def box_3d(m: int = 10) -> LeastSquares:
    """``r_i = exp(-t_i*x1) - exp(-t_i*x2) - x3*(exp(-t_i) - exp(-10*t_i))`` with ``t_i = i/10``."""
    at_least(3, m, "box-3d", what="m")
    times = np.arange(1, m + 1) / 10
    t, shape = constants(times), constants(np.exp(-times) - np.exp(-10 * times))

    def residuals(x: Tensor) -> Tensor:
        a, b, c = x.unsqueeze(-1).unbind(-2)
        return torch.exp(-t(x) * a) - torch.exp(-t(x) * b) - c * shape(x)

    return LeastSquares(
        name="box-3d", title="Box three-dimensional", family="more-garbow-hillstrom", number=12,
        summary="two isolated minima and a line of minima",
        source="Box 1966", n=3, m=m, start=(0.0, 10.0, 20.0),
        residual_function=residuals,
        minima=(
            minimum((1, 10, 1)),
            minimum((10, 1, -1)),
            minimum((1, 1, 0), note="and every point with x1 = x2 and x3 = 0"),
        ),
    )  # fmt: skip


@registered
def powell_singular() -> LeastSquares:
    """``r = (x1 + 10*x2, sqrt(5)*(x3 - x4), (x2 - 2*x3)**2, sqrt(10)*(x1 - x4)**2)``."""
    return LeastSquares(
        name="powell-singular", title="Powell singular", family="more-garbow-hillstrom", number=13,
        summary="the Hessian is singular at the minimum: Newton converges linearly",
        source="Powell 1962", n=4, m=4, start=(3.0, -1.0, 0.0, 1.0),
        residual_function=powell_blocks,
        minima=(minimum(np.zeros(4)),), complete=True,
    )  # fmt: skip


def powell_blocks(x: Tensor) -> Tensor:
    """Return the four residuals of each block of four coordinates, one block after another."""
    a, b, c, d = x.reshape(*x.shape[:-1], x.shape[-1] // 4, 4).unbind(-1)
    parts = (a + 10 * b, math.sqrt(5) * (c - d), (b - 2 * c).square(), math.sqrt(10) * (a - d).square())
    return torch.stack(parts, -1).flatten(-2)


@registered
def wood() -> LeastSquares:
    """Two Rosenbrock valleys, coupled: ``r`` has six entries; see the paper."""

    def residuals(x: Tensor) -> Tensor:
        a, b, c, d = x.unbind(-1)
        parts = (
            10 * (b - a.square()),
            1 - a,
            math.sqrt(90) * (d - c.square()),
            1 - c,
            math.sqrt(10) * (b + d - 2),
            (b - d) / math.sqrt(10),
        )
        return torch.stack(parts, -1)

    return LeastSquares(
        name="wood", title="Wood", family="more-garbow-hillstrom", number=14,
        summary="four dimensions with a saddle on the way, where the gradient is small for long",
        source="Colville 1968", n=4, m=6, start=(-3.0, -1.0, -3.0, -1.0),
        residual_function=residuals,
        minima=(minimum(np.ones(4)),),
        stationary=stationary_of("wood"),
    )  # fmt: skip


@registered
def brown_dennis(m: int = 20) -> LeastSquares:
    """``r_i = (x1 + t*x2 - exp(t))**2 + (x3 + x4*sin(t) - cos(t))**2`` with ``t = i/5``."""
    at_least(4, m, "brown-dennis", what="m")
    times = np.arange(1, m + 1) / 5
    t, e, s, k = (constants(f) for f in (times, np.exp(times), np.sin(times), np.cos(times)))

    def residuals(x: Tensor) -> Tensor:
        a, b, c, d = x.unsqueeze(-1).unbind(-2)
        return (a + t(x) * b - e(x)).square() + (c + d * s(x) - k(x)).square()

    return LeastSquares(
        name="brown-dennis", title="Brown and Dennis", family="more-garbow-hillstrom", number=16,
        summary="large residuals at the minimum: Gauss-Newton's matrix is far from the Hessian",
        source="Brown and Dennis 1971", n=4, m=m, start=(25.0, 5.0, -5.0, -1.0),
        residual_function=residuals,
        minima=minima_of("brown-dennis", m),
    )  # fmt: skip


@registered
def biggs_exp6(m: int = 13) -> LeastSquares:
    """``r_i = x3*exp(-t*x1) - x4*exp(-t*x2) + x6*exp(-t*x5) - y_i`` with ``t = i/10``.

    Here ``y_i = exp(-t) - 5*exp(-10*t) + 3*exp(-4*t)``.
    """
    at_least(6, m, "biggs-exp6", what="m")
    times = np.arange(1, m + 1) / 10
    t, y = constants(times), constants(np.exp(-times) - 5 * np.exp(-10 * times) + 3 * np.exp(-4 * times))

    def residuals(x: Tensor) -> Tensor:
        a, b, c, d, e, f = x.unsqueeze(-1).unbind(-2)
        return c * torch.exp(-t(x) * a) - d * torch.exp(-t(x) * b) + f * torch.exp(-t(x) * e) - y(x)

    return LeastSquares(
        name="biggs-exp6", title="Biggs EXP6", family="more-garbow-hillstrom", number=18,
        summary="three exponentials, interchangeable, with stationary points beside the minima",
        source="Biggs 1971", n=6, m=m, start=(1.0, 2.0, 1.0, 1.0, 1.0, 1.0),
        residual_function=residuals,
        minima=minima_of("biggs-exp6", m) or (minimum((1, 10, 1, 5, 4, 3)),),
        stationary=stationary_of("biggs-exp6", m),
    )  # fmt: skip
