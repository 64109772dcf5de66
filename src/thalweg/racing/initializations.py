"""The starting points that a race may search: schemes of initial weights, and the ranges of their numbers.

``"default"`` leaves the weights as the model makes them. Scale and sparsity of the others are hyperparameters
like any: chosen on the validation split (I9, K).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from thalweg.catalogue.entry import Hyperparameter
from thalweg.errors import OptionError, nearest, option
from thalweg.initial import SCHEMES

__all__ = ["DEFAULT", "SEARCHED", "chosen", "describe", "words"]

DEFAULT = "default"
"""The name of no scheme: weights as the model makes them."""


def _scale(default: float) -> tuple[Hyperparameter, ...]:
    return (Hyperparameter(name="scale", default=default, low=1e-3, high=1.0, searched=True, above=0.0),)


_GAIN = Hyperparameter(name="gain", default=1.0, low=0.1, high=3.0, searched=True, above=0.0)

SEARCHED: Mapping[str, tuple[Hyperparameter, ...]] = MappingProxyType(
    {
        DEFAULT: (),
        "uniform": _scale(0.05),
        "gaussian": _scale(0.01),
        "inverse-root": (),
        "normalized": (_GAIN,),
        "he": (),
        "orthogonal": (_GAIN,),
        "sparse": (
            Hyperparameter(name="k", default=15, low=3, high=60, searched=True, whole=True, least=1),
            Hyperparameter(name="scale", default=1.0, low=0.03, high=3.0, searched=True, above=0.0),
        ),
    }
)
"""The numbers of each scheme and their ranges. The ends are ours: from weights that hardly pass anything
on to such as saturate; k around the 15 of Martens 2010."""

_SUMMARIES: Mapping[str, str] = {
    DEFAULT: "as the model makes them",
    "uniform": "Uniform(-scale, scale)",
    "gaussian": "normal with deviation scale",
    "inverse-root": "Uniform(-1/sqrt(N), 1/sqrt(N)) for N inputs",
    "normalized": "uniform with variance 2 gain^2 / (inputs + outputs)",
    "he": "normal with variance 2/N for N inputs",
    "orthogonal": "gain times a matrix with orthonormal rows or columns",
    "sparse": "exactly k weights into each unit, normal with deviation scale",
}
assert {*SEARCHED} == {*_SUMMARIES} == {DEFAULT, *SCHEMES}


def describe() -> list[dict[str, object]]:
    """Return each starting point: its name, one line, and the numbers that a race searches."""
    return [
        {"name": name, "summary": _SUMMARIES[name], "hyperparameters": numbers}
        for name, numbers in SEARCHED.items()
    ]


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
