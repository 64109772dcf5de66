"""Ways of learning by name, as recipes have them: functions that return stages."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from thalweg.errors import OptionError, nearest
from thalweg.stages.auxiliary import auxiliary_heads
from thalweg.stages.continuation import continuation
from thalweg.stages.curriculum import curriculum
from thalweg.stages.diffusion import diffusion
from thalweg.stages.greedy import greedy
from thalweg.stages.growing import growing
from thalweg.stages.hints import hints
from thalweg.stages.homotopy import from_linear, homotopy
from thalweg.stages.stage import Stage
from thalweg.stages.transfer import transfer
from thalweg.stages.unsupervised import unsupervised

__all__ = ["METHODS", "describe", "get", "names"]

METHODS: Mapping[str, tuple[Callable[..., list[Stage]], str]] = {
    "greedy": (greedy, "one block at a time with labels, then all together"),
    "unsupervised": (unsupervised, "reconstruct the inputs, without labels"),
    "grow": (growing, "begin a deeper net from the layers of a trained one"),
    "transfer": (transfer, "begin from the first blocks of a net that was trained on another task"),
    "hints": (hints, "learn from a teacher: its middle layers, its outputs"),
    "auxiliary-heads": (auxiliary_heads, "heads for the same task on inner layers, dropped at the end"),
    "curriculum": (curriculum, "easy examples first"),
    "continuation": (continuation, "from a loss blurred by noise on the parameters to the loss itself"),
    "diffusion": (diffusion, "a recurrent net under noise on its weights, in closed form, less and less"),
    "homotopy": (homotopy, "from one loss to another"),
    "from-linear": (from_linear, "a net that begins linear"),
}
"""Function and summary of each; ``[[stage]]`` in a recipe calls them by ``method``."""


def names() -> tuple[str, ...]:
    """Return the names of all methods.

    >>> names()[:3]
    ('greedy', 'unsupervised', 'grow')
    """
    return tuple(METHODS)


def describe() -> dict[str, str]:
    """Return a summary of each."""
    return {name: summary for name, (_, summary) in METHODS.items()}


def get(name: str) -> Callable[..., Any]:
    """Return a method's function.

    Raises:
        OptionError: an unknown name.

    >>> get("gredy")
    Traceback (most recent call last):
    thalweg.errors.OptionError: there is no method 'gredy'; did you mean 'greedy'?
    """
    if name not in METHODS:
        raise OptionError(f"there is no method {name!r}; {nearest(name, METHODS)}")
    return METHODS[name][0]
