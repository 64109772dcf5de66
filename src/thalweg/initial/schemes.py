"""Schemes of starting weights: what each unit's weights are drawn from.

Each is a function of a weight and its draws to a matrix ``[units, per_unit]``; :func:`draw` calls one by name
and gives the parameter. Which distribution is drawn from hardly matters, the texts say, but its scale does.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Literal

import torch
from torch import Tensor

from thalweg.errors import OptionError, nearest
from thalweg.initial.weights import Numbers, Weight, dense

__all__ = [
    "SCHEMES",
    "check_options",
    "draw",
    "gaussian",
    "he",
    "inverse_root",
    "normalized",
    "options_of",
    "orthogonal",
    "sparse",
    "uniform",
]

Distribution = Literal["uniform", "normal"]


def uniform(weight: Weight, numbers: Numbers, *, scale: float = 0.05) -> Tensor:
    """Draw from ``Uniform(-scale, scale)``.

    Args:
        scale: positive.

    Source: I1 (K, U).
    """
    return _uniform(weight, numbers, _positive("scale", scale))


def gaussian(weight: Weight, numbers: Numbers, *, scale: float = 0.01) -> Tensor:
    """Draw from the normal distribution with mean 0 and standard deviation ``scale``.

    Args:
        scale: positive.

    Source: I1 (K, U).
    """
    return _normal(weight, numbers, _positive("scale", scale))


def inverse_root(weight: Weight, numbers: Numbers) -> Tensor:
    """Draw from ``Uniform(-1/sqrt(N), 1/sqrt(N))`` for N inputs: variance ``1/(3*N)``.

    Source: I2 (U). Torch's layers begin so.
    """
    return _uniform(weight, numbers, 1 / math.sqrt(weight.fan_in))


def normalized(
    weight: Weight, numbers: Numbers, *, gain: float = 1.0, distribution: Distribution = "uniform"
) -> Tensor:
    """Draw with variance ``2 * gain**2 / (m + n)`` for m inputs and n outputs.

    Uniformly that is ``Uniform(-r, r)`` with ``r = gain * sqrt(6 / (m + n))``: a compromise between keeping
    the variance of activations and that of gradients from layer to layer, exact where units are linear.

    Args:
        gain: positive; 5/3 under tanh makes up for its bend.
        distribution: ``"uniform"``, as in the texts, or ``"normal"``.

    Source: I3 (K, U); Glorot and Bengio 2010.
    """
    deviation = _positive("gain", gain) * math.sqrt(2 / (weight.fan_in + weight.fan_out))
    return _with_deviation(weight, numbers, deviation, distribution)


def he(
    weight: Weight,
    numbers: Numbers,
    *,
    mode: Literal["fan-in", "fan-out"] = "fan-in",
    slope: float = 0.0,
    distribution: Distribution = "normal",
) -> Tensor:
    """Draw with variance ``2 / ((1 + slope**2) * N)``, which keeps activations' mean square under ReLU.

    Args:
        mode: N inputs, which keeps activations, or N outputs, which keeps gradients.
        slope: of the leaky ReLU below zero.
        distribution: ``"normal"``, as in the paper, or ``"uniform"``.

    Source: He, Zhang, Ren and Sun 2015.
    """
    _one_of("mode", mode, ("fan-in", "fan-out"))
    fan = weight.fan_in if mode == "fan-in" else weight.fan_out
    return _with_deviation(weight, numbers, math.sqrt(2 / ((1 + slope**2) * fan)), distribution)


def orthogonal(weight: Weight, numbers: Numbers, *, gain: float = 1.0) -> Tensor:
    """Draw each matrix uniformly from those with orthonormal rows, or columns where there are fewer.

    ``gain * Q`` for the QR decomposition of a Gaussian matrix, with the signs that make R's diagonal
    positive; in float64. Each group of a convolution and each gate is a matrix by itself.

    Args:
        gain: positive.

    Source: Saxe, McClelland and Ganguli 2014; Mezzadri 2007 for the signs.
    """
    _positive("gain", gain)
    rows, columns = weight.units // weight.blocks, weight.per_unit
    drawn = numbers.normal((weight.blocks, rows, columns)).to("cpu", torch.float64)
    q, r = torch.linalg.qr(drawn if rows >= columns else drawn.mT)
    q = q * torch.sign(torch.diagonal(r, dim1=-2, dim2=-1)).unsqueeze(-2)
    q = q if rows >= columns else q.mT
    matrix: Tensor = (gain * q).reshape(weight.units, columns)
    return matrix.to(numbers.device, numbers.dtype)


def sparse(weight: Weight, numbers: Numbers, *, k: int = 15, scale: float = 1.0) -> Tensor:
    """Give each unit exactly ``k`` nonzero weights, at random places, normal with deviation ``scale``.

    The scale of a unit's input doesn't depend on the layer's width, and units differ by where they look.

    Args:
        k: in ``[1, weights into a unit]``.
        scale: positive.

    Raises:
        OptionError: a unit has fewer weights than ``k``.

    Source: I4 (K); Martens 2010. Torch's ``sparse_`` counts zeros over the inputs of a layer instead: per
    column, so that a unit may have any number.
    """
    _positive("scale", scale)
    if not 1 <= k <= weight.per_unit:
        raise OptionError(
            f"k = {k} nonzero weights don't fit a unit with {weight.per_unit}: take 1 to {weight.per_unit}"
        )
    size = (weight.units, weight.per_unit)
    # the k smallest of as many draws are k places, each subset as likely
    places = torch.argsort(numbers.uniform(size), dim=-1, stable=True)[:, :k]
    values = numbers.normal((weight.units, k)) * scale
    # zero has a chance of 2**-32 to be drawn; it must count as drawn
    values = torch.where(values == 0, scale, values)
    return torch.zeros(size, dtype=values.dtype, device=values.device).scatter_(1, places, values)


SCHEMES: Mapping[str, Callable[..., Tensor]] = MappingProxyType(
    {
        "uniform": uniform,
        "gaussian": gaussian,
        "inverse-root": inverse_root,
        "normalized": normalized,
        "he": he,
        "orthogonal": orthogonal,
        "sparse": sparse,
    }
)
"""Schemes by name."""


def draw(
    weight: Weight | Sequence[int],
    scheme: str,
    *,
    seed: int,
    name: str = "weight",
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    **options: Any,
) -> Tensor:
    """Draw a weight by the name of a scheme.

    Args:
        weight: what is known of it, or its shape ``[outputs, inputs, *kernel]``.
        scheme: one of :data:`SCHEMES`.
        seed: any int.
        name: of the parameter; other names draw independently.
        dtype: floating; half precision is drawn in float32.
        device: where it lies; the numbers don't depend on it.
        **options: the scheme's own.

    Returns:
        Tensor of the weight's shape.

    Raises:
        OptionError: an unknown scheme or option, or a value that isn't allowed.

    >>> drawn = draw((4, 100), "sparse", k=15, seed=0)
    >>> drawn.shape, (drawn != 0).sum(1).tolist()
    (torch.Size([4, 100]), [15, 15, 15, 15])
    """
    check_options(scheme, options)
    known = weight if isinstance(weight, Weight) else dense(weight)
    precise = dtype if dtype in (torch.float32, torch.float64) else torch.float32
    matrix = SCHEMES[scheme](known, Numbers(seed, name, precise, device), **options)
    drawn = matrix.to(dtype)
    if scheme == "sparse" and dtype != precise:  # what rounds to zero must still count
        drawn = torch.where((drawn == 0) & (matrix != 0), options.get("scale", 1.0), drawn)
    return known.arrange(drawn)


def check_options(scheme: str, options: Mapping[str, object]) -> None:
    """Raise OptionError where there is no such scheme, or it has no such option."""
    if scheme not in SCHEMES:
        raise OptionError(f"there is no scheme {scheme!r} of initial weights; {nearest(scheme, SCHEMES)}")
    known = options_of(SCHEMES[scheme])
    for option in options:
        if option not in known:
            raise OptionError(f"the scheme {scheme!r} has no option {option!r}; {nearest(option, known)}")


def options_of(scheme: Callable[..., Tensor]) -> dict[str, Any]:
    """Return the options of a scheme, and the default of each.

    >>> options_of(sparse)
    {'k': 15, 'scale': 1.0}
    """
    parameters = inspect.signature(scheme).parameters.values()
    return {one.name: one.default for one in parameters if one.kind is one.KEYWORD_ONLY}


def _positive(name: str, value: float) -> float:
    if not (0 < value < math.inf):
        raise OptionError(f"{name} = {value} isn't allowed: give a positive number")
    return value


def _one_of(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise OptionError(f"{name} = {value!r} isn't known; {nearest(value, known)}")


def _with_deviation(weight: Weight, numbers: Numbers, deviation: float, distribution: str) -> Tensor:
    _one_of("distribution", distribution, ("uniform", "normal"))
    if distribution == "normal":
        return _normal(weight, numbers, deviation)
    return _uniform(weight, numbers, math.sqrt(3) * deviation)


def _uniform(weight: Weight, numbers: Numbers, bound: float) -> Tensor:
    return numbers.uniform((weight.units, weight.per_unit)).mul_(2 * bound).sub_(bound)


def _normal(weight: Weight, numbers: Numbers, deviation: float) -> Tensor:
    return numbers.normal((weight.units, weight.per_unit)).mul_(deviation)
