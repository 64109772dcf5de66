"""The starting points that a race may search: schemes of initial weights, and the ranges of their numbers.

``"default"`` leaves the weights as the model makes them. Scale and sparsity of the others are hyperparameters
like any: chosen on the validation split (I9, K).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from thalweg.catalogue.entry import Hyperparameter
from thalweg.errors import OptionError, nearest, option
from thalweg.initial import SCHEMES
from thalweg.initial.schemes import options_of

__all__ = ["DEFAULT", "SEARCHED", "chosen", "describe", "words"]

DEFAULT = "default"
"""The name of no scheme: weights as the model makes them."""


def _number(scheme: str, name: str, low: float, high: float) -> Hyperparameter:
    default = options_of(SCHEMES[scheme])[name]
    if isinstance(default, int):
        return Hyperparameter(
            name=name, default=default, low=low, high=high, searched=True, whole=True, least=1
        )
    return Hyperparameter(name=name, default=default, low=low, high=high, searched=True, above=0.0)


_RANGES: Mapping[str, tuple[Hyperparameter, ...]] = {
    "uniform": (_number("uniform", "scale", 1e-3, 1.0),),
    "gaussian": (_number("gaussian", "scale", 1e-3, 1.0),),
    "normalized": (_number("normalized", "gain", 0.1, 3.0),),
    "orthogonal": (_number("orthogonal", "gain", 0.1, 3.0),),
    "sparse": (_number("sparse", "k", 3, 60), _number("sparse", "scale", 0.03, 3.0)),
}
assert set(_RANGES) <= set(SCHEMES)

SEARCHED: Mapping[str, tuple[Hyperparameter, ...]] = MappingProxyType(
    {DEFAULT: (), **{name: _RANGES.get(name, ()) for name in SCHEMES}}
)
"""The numbers of each scheme and their ranges. The ends are ours: from weights that hardly pass anything
on to such as saturate; k around the 15 of Martens 2010."""


def describe() -> list[dict[str, object]]:
    """Return each starting point: its name, one line, and the numbers that a race searches."""
    said = {DEFAULT: "as the model makes them"} | {name: _summary(scheme) for name, scheme in SCHEMES.items()}
    return [{"name": name, "summary": said[name], "hyperparameters": of} for name, of in SEARCHED.items()]


def _summary(scheme: Callable[..., Any]) -> str:
    """The first sentence of its docstring."""
    return (scheme.__doc__ or "").partition("\n")[0].replace("``", "").removesuffix(".")


def words(initialization: Mapping[str, Any]) -> list[str]:
    """Say how a setting's weights begin, in one piece of a list; nothing where they are the model's own.

    >>> words({"scheme": "sparse", "k": 15, "scale": 0.5}), words({})
    (['sparse weights (k 15, scale 0.5)'], [])
    """
    if not initialization:
        return []
    numbers = ", ".join(f"{name} {value:.3g}" for name, value in initialization.items() if name != "scheme")
    return [f"{initialization['scheme']} weights" + (f" ({numbers})" if numbers else "")]


def chosen(given: Sequence[str] | None) -> tuple[str, ...]:
    """Check names of starting points; none given means :data:`DEFAULT` alone.

    Raises:
        OptionError: an unknown name, or an empty list.
    """
    names = (DEFAULT,) if given is None else tuple(given)
    if not names:
        raise OptionError(f"{option('initializations')} is empty; name at least one, such as default")
    for name in names:
        if name not in SEARCHED:
            raise OptionError(f"there is no initialization {name!r}; {nearest(name, SEARCHED)}")
    return tuple(dict.fromkeys(names))
