"""What a surface is: a function of a point, with everything that is known about it."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, ParamSpec, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from thalweg.errors import OptionError
from thalweg.settings.tables import as_whole, plain_numbers

__all__ = [
    "FACTORIES",
    "LeastSquares",
    "Point",
    "Surface",
    "at_least",
    "constants",
    "limit",
    "minimum",
    "other",
    "registered",
]

Kind = Literal["minimum", "saddle", "maximum", "limit"]
Family = Literal["plane", "valley", "quadratic", "more-garbow-hillstrom"]


@dataclass(frozen=True, kw_only=True)
class Point:
    """A point where the gradient is zero, or vanishes on the way to it.

    Attributes:
        x: coordinates; of a limit some are infinite, and those that may be anything are NaN.
        value: of the function there; of a limit what it tends to, ``-inf`` where there is no lower bound.
        kind: ``minimum`` (global or local), ``saddle`` (neither minimum nor maximum, inflections included),
            ``maximum``, or ``limit``: a value approached at infinity, from above unless the note says
            otherwise, so that descent may go there and never arrive.
        note: what else is worth knowing.
    """

    x: tuple[float, ...]
    value: float
    kind: Kind
    note: str = ""


def minimum(x: npt.ArrayLike, value: float = 0.0, note: str = "") -> Point:
    """Return a minimum; coordinates are anything that NumPy makes a vector of.

    >>> minimum([1, 1])
    Point(x=(1.0, 1.0), value=0.0, kind='minimum', note='')
    """
    return _point(x, value, "minimum", note)


def limit(x: npt.ArrayLike, value: float, note: str = "") -> Point:
    """Return a value approached at infinity."""
    return _point(x, value, "limit", note)


def other(kind: Literal["saddle", "maximum"], x: npt.ArrayLike, value: float, note: str = "") -> Point:
    """Return a stationary point that is no minimum."""
    return _point(x, value, kind, note)


def _point(x: npt.ArrayLike, value: float, kind: Kind, note: str) -> Point:
    return Point(x=tuple(np.asarray(x, dtype=float).tolist()), value=float(value), kind=kind, note=note)


@dataclass(frozen=True, kw_only=True, eq=False)
class Surface:
    """A function of ``n`` numbers with known minima: ``surface(x [..., n]) -> [...]``.

    It works on any leading dimensions, floating dtype and device, and can be differentiated twice.

    Attributes:
        name: as :func:`thalweg.test_problems.surfaces.get` knows it.
        title: for people.
        summary: one line.
        source: where it comes from.
        family: ``plane`` (pictures in two dimensions), ``valley`` (more than two), ``quadratic``, or
            ``more-garbow-hillstrom``.
        number: in the collection of More, Garbow and Hillstrom, 1 to 35, or ``None``.
        n: dimensions.
        start: the standard starting point.
        minima: global and local ones, lowest first. Empty where there is none, and where those for this ``n``
            aren't known.
        stationary: other points where the gradient is zero. Complete only where ``complete`` says so.
        limits: what is approached at infinity, as far as it is known.
        complete: whether every stationary point is listed.
        bounds: ``((low, high), (low, high))``, a part of the plane worth a picture, for surfaces of two
            dimensions; ``None`` for those of any dimension.
        options: what it was built with, beside its name.
        function: ``x [..., n]`` to values ``[...]``, unchecked.
    """

    name: str
    title: str
    summary: str
    source: str
    family: Family
    n: int
    start: tuple[float, ...]
    function: Callable[[Tensor], Tensor] = field(repr=False)
    minima: tuple[Point, ...] = ()
    stationary: tuple[Point, ...] = ()
    limits: tuple[Point, ...] = ()
    complete: bool = False
    bounds: tuple[tuple[float, float], tuple[float, float]] | None = None
    number: int | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    def __call__(self, x: Tensor) -> Tensor:
        """Return the values ``[...]`` at the points ``x [..., n]``.

        Raises:
            OptionError: the last dimension of ``x`` isn't ``n``, or ``x`` isn't floating point.
        """
        return self.function(self._checked(x))

    def initial(
        self, *, dtype: torch.dtype = torch.float64, device: torch.device | str | None = None
    ) -> Tensor:
        """Return the standard starting point as a new tensor ``[n]``."""
        return torch.tensor(self.start, dtype=dtype, device=device)

    @property
    def lowest(self) -> float | None:
        """The greatest lower bound of all values, as far as it is known; ``-inf`` where there is none.

        >>> from thalweg.test_problems import surfaces
        >>> surfaces.get("freudenstein-roth").lowest, surfaces.get("saddle").lowest
        (0.0, -inf)
        """
        return min((point.value for point in (*self.minima, *self.limits)), default=None)

    def _checked(self, x: Tensor) -> Tensor:
        if not x.is_floating_point():
            raise OptionError(
                f"the surface {self.name!r} was given {x.dtype}; give it a floating-point tensor"
            )
        if x.ndim == 0 or x.shape[-1] != self.n:
            raise OptionError(
                f"the surface {self.name!r} takes points of shape [..., {self.n}], not {list(x.shape)}; "
                "choose its dimension with n= or reshape the points"
            )
        return x

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle what it was built with: formulas are made anew."""
        return _again, (self.name, dict(self.options))


@dataclass(frozen=True, kw_only=True, eq=False)
class LeastSquares(Surface):
    """A sum of squares: ``surface(x) = sum(surface.residuals(x)**2)``, without a factor of one half.

    Attributes:
        m: number of residuals.
        residual_function: ``x [..., n]`` to ``[..., m]``, unchecked.

    >>> from thalweg.test_problems import surfaces
    >>> rosenbrock = surfaces.get("rosenbrock")
    >>> x = rosenbrock.initial()
    >>> rosenbrock.residuals(x), rosenbrock(x)
    (tensor([-4.4000,  2.2000], dtype=torch.float64), tensor(24.2000, dtype=torch.float64))
    """

    m: int
    residual_function: Callable[[Tensor], Tensor] = field(repr=False)
    function: Callable[[Tensor], Tensor] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        residuals = self.residual_function
        object.__setattr__(self, "function", lambda x: residuals(x).square().sum(-1))

    def residuals(self, x: Tensor) -> Tensor:
        """Return the residuals ``[..., m]`` at the points ``x [..., n]``; errors as for a call."""
        return self.residual_function(self._checked(x))


_F = TypeVar("_F", bound=Surface)
_P = ParamSpec("_P")
FACTORIES: dict[str, Callable[..., Surface]] = {}


def registered(factory: Callable[_P, _F]) -> Callable[_P, _F]:
    """Enter a factory under its name, with dashes; ``options`` will say what it was called with."""

    @functools.wraps(factory)
    def build(*args: _P.args, **kwargs: _P.kwargs) -> _F:
        bound = inspect.signature(factory).bind(*args, **kwargs)
        bound.arguments.update(plain_numbers(dict(bound.arguments)))
        return replace(factory(*bound.args, **bound.kwargs), options=dict(bound.arguments))

    FACTORIES[factory.__name__.replace("_", "-")] = build
    return build


def constants(values: npt.ArrayLike) -> Callable[[Tensor], Tensor]:
    """Keep numbers in float64, and hand them out with the dtype and device of a tensor.

    >>> constants([1, 2])(torch.zeros(1)).dtype
    torch.float32
    """
    kept = torch.tensor(np.asarray(values, dtype=np.float64))
    return lambda x: kept.to(dtype=x.dtype, device=x.device)


def at_least(
    least: int, n: int, surface: str, *, multiple: int = 1, most: int | None = None, what: str = "n"
) -> int:
    """Return ``n`` where a surface can have that many dimensions (or residuals, as ``what`` says).

    Raises:
        OptionError: it is no whole number, too small, too large, or no multiple of what it has to be.

    >>> at_least(2, 5, "extended-rosenbrock", multiple=2)
    Traceback (most recent call last):
    thalweg.errors.OptionError: the surface 'extended-rosenbrock' can't have n = 5; give a multiple of 2 ...
    """
    whole = as_whole(n)
    if whole is None or whole < least or whole % multiple or (most is not None and whole > most):
        numbers = "a whole number" if multiple == 1 else f"a multiple of {multiple}"
        span = f"from {least} on" if most is None else f"from {least} to {most}"
        raise OptionError(f"the surface {surface!r} can't have {what} = {n!r}; give {numbers} {span}")
    return whole


def _again(name: str, options: Mapping[str, Any]) -> Surface:
    return FACTORIES[name](**options)
