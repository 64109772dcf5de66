"""More, Garbow and Hillstrom's problems with measured data: nonlinear regressions."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from thalweg.test_problems.surfaces.base import LeastSquares, constants, registered
from thalweg.test_problems.surfaces.mgh_points import limits_of, minima_of

__all__ = ["bard", "gaussian", "kowalik_osborne", "meyer", "osborne_1", "osborne_2"]

_BARD = (0.14, 0.18, 0.22, 0.25, 0.29, 0.32, 0.35, 0.39, 0.37, 0.58, 0.73, 0.96, 1.34, 2.10, 4.39)
_GAUSSIAN = (0.0009, 0.0044, 0.0175, 0.0540, 0.1295, 0.2420, 0.3521, 0.3989)
_MEYER = (
    34780, 28610, 23650, 19630, 16370, 13720, 11540, 9744, 8261, 7030, 6005, 5147, 4427, 3820, 3307, 2872,
)  # fmt: skip
_KOWALIK_Y = (0.1957, 0.1947, 0.1735, 0.1600, 0.0844, 0.0627, 0.0456, 0.0342, 0.0323, 0.0235, 0.0246)
_KOWALIK_U = (4.0, 2.0, 1.0, 0.5, 0.25, 0.167, 0.125, 0.1, 0.0833, 0.0714, 0.0625)
_OSBORNE_1 = (
    0.844, 0.908, 0.932, 0.936, 0.925, 0.908, 0.881, 0.850, 0.818, 0.784, 0.751, 0.718, 0.685, 0.658, 0.628,
    0.603, 0.580, 0.558, 0.538, 0.522, 0.506, 0.490, 0.478, 0.467, 0.457, 0.448, 0.438, 0.431, 0.424, 0.420,
    0.414, 0.411, 0.406,
)  # fmt: skip
_OSBORNE_2 = (
    1.366, 1.191, 1.112, 1.013, 0.991, 0.885, 0.831, 0.847, 0.786, 0.725, 0.746, 0.679, 0.608, 0.655, 0.616,
    0.606, 0.602, 0.626, 0.651, 0.724, 0.649, 0.649, 0.694, 0.644, 0.624, 0.661, 0.612, 0.558, 0.533, 0.495,
    0.500, 0.423, 0.395, 0.375, 0.372, 0.391, 0.396, 0.405, 0.428, 0.429, 0.523, 0.562, 0.607, 0.653, 0.672,
    0.708, 0.633, 0.668, 0.645, 0.632, 0.591, 0.559, 0.597, 0.625, 0.739, 0.710, 0.729, 0.720, 0.636, 0.581,
    0.428, 0.292, 0.162, 0.098, 0.054,
)  # fmt: skip


@registered
def bard() -> LeastSquares:
    """``r_i = y_i - (x1 + u_i / (v_i*x2 + w_i*x3))`` with ``u_i = i, v_i = 16 - i, w_i = min(u_i, v_i)``."""
    i = np.arange(1, 16)
    y, u, v, w = constants(_BARD), constants(i), constants(16 - i), constants(np.minimum(i, 16 - i))

    def residuals(x: Tensor) -> Tensor:
        a, b, c = x.unsqueeze(-1).unbind(-2)
        return y(x) - (a + u(x) / (v(x) * b + w(x) * c))

    return LeastSquares(
        name="bard", title="Bard", family="more-garbow-hillstrom", number=8,
        summary="a rational model with poles, and a way to infinity",
        source="Bard 1970", n=3, m=15, start=(1.0, 1.0, 1.0),
        residual_function=residuals,
        minima=minima_of("bard"),
        limits=limits_of("bard"),
    )  # fmt: skip


@registered
def gaussian() -> LeastSquares:
    """``r_i = x1 * exp(-x2 * (t_i - x3)**2 / 2) - y_i`` with ``t_i = (8 - i)/2``."""
    y, t = constants((*_GAUSSIAN, *_GAUSSIAN[-2::-1])), constants((8 - np.arange(1, 16)) / 2)

    def residuals(x: Tensor) -> Tensor:
        a, b, c = x.unsqueeze(-1).unbind(-2)
        return a * torch.exp(-b * (t(x) - c).square() / 2) - y(x)

    return LeastSquares(
        name="gaussian", title="Gaussian", family="more-garbow-hillstrom", number=9,
        summary="a bell curve through rounded values: a start near the end, and tiny residuals",
        source="More, Garbow and Hillstrom 1981", n=3, m=15, start=(0.4, 1.0, 0.0),
        residual_function=residuals,
        minima=minima_of("gaussian"),
    )  # fmt: skip


@registered
def meyer() -> LeastSquares:
    """``r_i = x1 * exp(x2 / (t_i + x3)) - y_i`` with ``t_i = 45 + 5*i``."""
    y, t = constants(_MEYER), constants(45 + 5 * np.arange(1, 17))

    def residuals(x: Tensor) -> Tensor:
        a, b, c = x.unsqueeze(-1).unbind(-2)
        return a * torch.exp(b / (t(x) + c)) - y(x)

    return LeastSquares(
        name="meyer", title="Meyer", family="more-garbow-hillstrom", number=10,
        summary="resistance of a thermistor: so badly scaled that gradients at the minimum never look small",
        source="Meyer 1970; NIST StRD as MGH10", n=3, m=16, start=(0.02, 4000.0, 250.0),
        residual_function=residuals,
        minima=minima_of("meyer"),
    )  # fmt: skip


@registered
def kowalik_osborne() -> LeastSquares:
    """``r_i = y_i - x1*(u_i**2 + u_i*x2) / (u_i**2 + u_i*x3 + x4)``."""
    y, u = constants(_KOWALIK_Y), constants(_KOWALIK_U)

    def residuals(x: Tensor) -> Tensor:
        a, b, c, d = x.unsqueeze(-1).unbind(-2)
        square = u(x).square()
        return y(x) - a * (square + u(x) * b) / (square + u(x) * c + d)

    return LeastSquares(
        name="kowalik-osborne", title="Kowalik and Osborne", family="more-garbow-hillstrom", number=15,
        summary="enzyme kinetics: a rational model with a way to infinity",
        source="Kowalik and Osborne 1968; NIST StRD as MGH09", n=4, m=11, start=(0.25, 0.39, 0.415, 0.39),
        residual_function=residuals,
        minima=minima_of("kowalik-osborne"),
        limits=limits_of("kowalik-osborne"),
    )  # fmt: skip


@registered
def osborne_1() -> LeastSquares:
    """``r_i = y_i - (x1 + x2*exp(-t_i*x4) + x3*exp(-t_i*x5))`` with ``t_i = 10*(i - 1)``."""
    y, t = constants(_OSBORNE_1), constants(10 * np.arange(33))

    def residuals(x: Tensor) -> Tensor:
        a, b, c, d, e = x.unsqueeze(-1).unbind(-2)
        return y(x) - (a + b * torch.exp(-t(x) * d) + c * torch.exp(-t(x) * e))

    return LeastSquares(
        name="osborne-1", title="Osborne 1", family="more-garbow-hillstrom", number=17,
        summary="two exponentials and a constant, nearly interchangeable",
        source="Osborne 1972; NIST StRD as MGH17", n=5, m=33, start=(0.5, 1.5, -1.0, 0.01, 0.02),
        residual_function=residuals,
        minima=minima_of("osborne-1"),
    )  # fmt: skip


@registered
def osborne_2() -> LeastSquares:
    """``r_i = y_i - x1*exp(-t*x5) - sum_k x_k * exp(-x_{4+k} * (t - x_{7+k})**2)``, k = 2, 3, 4.

    Here ``t = (i - 1)/10``.
    """
    y, t = constants(_OSBORNE_2), constants(np.arange(65) / 10)

    def residuals(x: Tensor) -> Tensor:
        x = x.unsqueeze(-1)
        decay = x[..., 0, :] * torch.exp(-t(x) * x[..., 4, :])
        bells = x[..., 1:4, :] * torch.exp(-(t(x) - x[..., 8:11, :]).square() * x[..., 5:8, :])
        return y(x) - decay - bells.sum(-2)

    return LeastSquares(
        name="osborne-2", title="Osborne 2", family="more-garbow-hillstrom", number=19,
        summary="an exponential and three bells through 65 measurements",
        source="Osborne 1972", n=11, m=65, start=(1.3, 0.65, 0.65, 0.7, 0.6, 3.0, 5.0, 7.0, 2.0, 4.5, 5.5),
        residual_function=residuals,
        minima=minima_of("osborne-2"),
    )  # fmt: skip
