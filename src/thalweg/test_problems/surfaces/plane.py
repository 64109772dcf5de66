"""Surfaces with a picture: two dimensions, and the few of them that go on to n."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from thalweg.errors import OptionError
from thalweg.test_problems.surfaces.base import (
    LeastSquares,
    Surface,
    at_least,
    limit,
    minimum,
    other,
    registered,
)

__all__ = [
    "booth",
    "chained_rosenbrock",
    "cliff",
    "himmelblau",
    "matyas",
    "monkey_saddle",
    "rastrigin",
    "ravine",
    "saddle",
]


@registered
def chained_rosenbrock(n: int = 10) -> LeastSquares:
    """Rosenbrock's valley through n dimensions: ``sum_i 100 * (x_{i+1} - x_i**2)**2 + (1 - x_i)**2``.

    From n = 4 on there is a local minimum near ``(-1, 1, ..., 1)``; it is listed for n = 4 and n = 10.
    """
    at_least(2, n, "chained-rosenbrock")

    def residuals(x: Tensor) -> Tensor:
        a, b = x[..., :-1], x[..., 1:]
        return torch.cat((10 * (b - a.square()), 1 - a), -1)

    return LeastSquares(
        name="chained-rosenbrock", title="Chained Rosenbrock", family="valley",
        summary="one curved valley through all dimensions, with a local minimum from n = 4 on",
        source="Rosenbrock 1960; Toint 1978; Shang and Qiu 2006 on the local minimum",
        n=n, m=2 * n - 2, start=(-1.2, *(1.0,) * (n - 1)),
        residual_function=residuals,
        minima=(minimum(np.ones(n)), *_CHAINED_LOCAL.get(n, ())),
    )  # fmt: skip


_CHAINED_LOCAL = {
    4: (
        minimum(
            (-0.7756592265653527, 0.6130933654850436, 0.38206284633839327, 0.14597201855219472),
            3.7014286104300176,
        ),
    ),
    10: (
        minimum(
            (
                -0.993263372856369, 0.9966060394434353, 0.9982406113911125, 0.9989884337678007,
                0.999226153439665, 0.9990736481633443, 0.9984541774029088, 0.9970562516630377,
                0.9941793752280662, 0.988392630128868,
            ),
            3.986579112347139,
        ),
    ),
}  # fmt: skip


@registered
def himmelblau() -> LeastSquares:
    """``(x**2 + y - 11)**2 + (x + y**2 - 7)**2``."""

    def residuals(x: Tensor) -> Tensor:
        a, b = x.unbind(-1)
        return torch.stack((a.square() + b - 11, a + b.square() - 7), -1)

    return LeastSquares(
        name="himmelblau", title="Himmelblau", family="plane",
        summary="four minima of equal value around a hill",
        source="Himmelblau 1972", n=2, m=2, start=(0.0, 0.0), bounds=((-5.5, 5.5), (-5.5, 5.5)),
        residual_function=residuals,
        minima=(
            minimum((3, 2)),
            minimum((-2.805118086952745, 3.131312518250573)),
            minimum((-3.779310253377747, -3.283185991286169)),
            minimum((3.5844283403304917, -1.8481265269644034)),
        ),
        stationary=(
            other("saddle", (3.385154183607021, 0.0738518798377493), 13.311926270405587),
            other("saddle", (0.08667750455539634, 2.884254701174776), 67.71915008752613),
            other("saddle", (-3.0730257507643897, -0.08135304428796751), 104.01516291755811),
            other("saddle", (-0.12796134673068005, -1.9537149802445766), 178.33723920192745),
            other("maximum", (-0.27084459066734756, -0.9230385564799816), 181.6165215225827),
        ),
        complete=True,
    )  # fmt: skip


@registered
def booth() -> LeastSquares:
    """``(x + 2*y - 7)**2 + (2*x + y - 5)**2``."""

    def residuals(x: Tensor) -> Tensor:
        a, b = x.unbind(-1)
        return torch.stack((a + 2 * b - 7, 2 * a + b - 5), -1)

    return LeastSquares(
        name="booth", title="Booth", family="plane",
        summary="a mild bowl: a quadratic with condition number 9",
        source="Booth 1949", n=2, m=2, start=(-5.0, -5.0), bounds=((-10.0, 10.0), (-10.0, 10.0)),
        residual_function=residuals,
        minima=(minimum((1, 3)),), complete=True,
    )  # fmt: skip


@registered
def matyas() -> Surface:
    """``0.26 * (x**2 + y**2) - 0.48 * x * y``."""

    def value(x: Tensor) -> Tensor:
        a, b = x.unbind(-1)
        return 0.26 * (a.square() + b.square()) - 0.48 * a * b

    return Surface(
        name="matyas", title="Matyas", family="plane",
        summary="a quadratic along the diagonal with condition number 25",
        source="Matyas 1965", n=2, start=(-5.0, 8.0), bounds=((-10.0, 10.0), (-10.0, 10.0)),
        function=value,
        minima=(minimum((0, 0)),), complete=True,
    )  # fmt: skip


@registered
def rastrigin(n: int = 2) -> Surface:
    """``sum_i x_i**2 + 10 * (1 - cos(2*pi*x_i))``.

    Near every whole point, up to about 31 either way, is a local minimum; those beside the global one on
    the axes are listed.
    """
    at_least(1, n, "rastrigin")

    def value(x: Tensor) -> Tensor:
        return (x.square() + 10 * (1 - torch.cos(2 * math.pi * x))).sum(-1)

    near, height = _RASTRIGIN_NEAR
    ring = [minimum(sign * near * row, height, "one of many") for row in np.eye(n) for sign in (1, -1)]
    return Surface(
        name="rastrigin", title="Rastrigin", family="plane" if n == 2 else "valley",
        summary="a bowl full of dents: a local minimum near every whole point",
        source="Rastrigin 1974; Muehlenbein et al. 1991 for n dimensions",
        n=n, start=(*(3.4, -2.7) * (n // 2), *(3.4,) * (n % 2)),
        bounds=((-5.12, 5.12), (-5.12, 5.12)) if n == 2 else None,
        function=value,
        minima=(minimum(np.zeros(n)), *ring),
    )  # fmt: skip


# the first local minimum of x**2 + 10 * (1 - cos(2*pi*x)) beside zero, and its value
_RASTRIGIN_NEAR = (0.9949586376523348, 0.9949590570932914)


@registered
def saddle() -> Surface:
    """``x**2 - y**2``."""

    def value(x: Tensor) -> Tensor:
        a, b = x.unbind(-1)
        return a.square() - b.square()

    return Surface(
        name="saddle", title="Saddle", family="plane",
        summary="no minimum: Newton goes to the saddle, descent from beside it falls for ever",
        source="X3 (K, C s33)", n=2, start=(1.0, 1e-3), bounds=((-1.5, 1.5), (-1.5, 1.5)),
        function=value,
        stationary=(other("saddle", (0, 0), 0.0),), complete=True,
        limits=(limit((math.nan, math.inf), -math.inf), limit((math.nan, -math.inf), -math.inf)),
    )  # fmt: skip


@registered
def monkey_saddle() -> Surface:
    """``x**3 - 3*x*y**2``: three ways down and a Hessian that is zero at the saddle."""

    def value(x: Tensor) -> Tensor:
        a, b = x.unbind(-1)
        return a * (a.square() - 3 * b.square())

    return Surface(
        name="monkey-saddle", title="Monkey saddle", family="plane",
        summary="a degenerate saddle, whose Hessian is zero: three ways down",
        source="X3; Hilbert and Cohn-Vossen 1932", n=2, start=(0.9, 0.05),
        bounds=((-1.5, 1.5), (-1.5, 1.5)),
        function=value,
        stationary=(other("saddle", (0, 0), 0.0, "the Hessian is zero"),), complete=True,
        limits=(
            limit((-math.inf, math.nan), -math.inf),
            limit((math.inf, math.inf), -math.inf, "beyond |y| = x / sqrt(3)"),
            limit((math.inf, -math.inf), -math.inf, "beyond |y| = x / sqrt(3)"),
        ),
    )  # fmt: skip


_STEPS = 9


@registered
def cliff() -> LeastSquares:
    """``(b * w**9 - 1)**2 + (b - 1)**2`` of (w, b).

    A recurrent network ``h' = w*h`` starts at b and has to end at 1 after nine steps. Multiplying by w
    again and again makes a plateau where ``|w| < 1`` and a wall where ``|w| > 1``: gradients vanish and
    explode within a short way.
    """

    def residuals(x: Tensor) -> Tensor:
        w, b = x.unbind(-1)
        return torch.stack((b * w**_STEPS - 1, b - 1), -1)

    return LeastSquares(
        name="cliff", title="Cliff", family="plane",
        summary="a plateau before a wall: nine steps of a linear recurrent network",
        source="X4, X5 (K); after Pascanu, Mikolov and Bengio 2013",
        n=2, m=2, start=(1.5, 0.5), bounds=((-1.4, 1.7), (-1.0, 2.5)),
        residual_function=residuals,
        minima=(minimum((1, 1)),),
        stationary=(
            other("saddle", (0, 1), 1.0, "on the plateau, flat to the eighth order along w"),
            other("saddle", (-1, 0), 2.0),
        ),
        limits=(limit((-math.inf, 0), 1.0, "b * w**9 tends to 1 while b is negative"),),
        complete=True,
    )  # fmt: skip


@registered
def ravine(steepness: float = 100.0) -> LeastSquares:
    """``x**2 / 100 + steepness * (y - sin(x))**2``.

    A winding valley with steep walls and a floor almost flat. The Hessian's condition number at the
    minimum is about ``400 * steepness``.

    Args:
        steepness: positive.

    Raises:
        OptionError: it isn't.
    """
    if not (steepness > 0 and math.isfinite(steepness)):
        raise OptionError(
            f"the surface 'ravine' can't have steepness = {steepness!r}; give a positive number"
        )
    root = math.sqrt(steepness)

    def residuals(x: Tensor) -> Tensor:
        a, b = x.unbind(-1)
        return torch.stack((a / 10, root * (b - torch.sin(a))), -1)

    return LeastSquares(
        name="ravine", title="Ravine", family="plane",
        summary="a winding valley between steep walls, with a single stationary point",
        source="X1 (K); this project", n=2, m=2, start=(-8.0, 1.0), bounds=((-10.0, 10.0), (-3.0, 3.0)),
        residual_function=residuals,
        minima=(minimum((0, 0)),), complete=True,
    )  # fmt: skip
