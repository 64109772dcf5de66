"""What is to be predicted, and functions of a person's own kept under names."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from torch import nn

from thalweg.errors import OptionError
from thalweg.plugins import load_object

__all__ = ["Kind", "Task", "found", "one_of", "remembered", "usable"]

Kind = Literal["classification", "regression", "custom"]


@dataclass(frozen=True, kw_only=True)
class Task:
    """What is to be predicted.

    Attributes:
        kind: ``custom`` where targets are neither one class nor one number an example.
        classes: names of the classes, in the order of the outputs.
        target: name of the column, where there is one.
        spread: standard deviation of a regression target over all rows, in its own units.
        columns: numbers to be predicted of an example; with several, regression's metrics are over all.
        center, scale: a regression target is ``center + scale * prepared``; of one split's training part,
            and 0 and 1 before there is a split and where the targets are taken as they are.
    """

    kind: Kind
    classes: tuple[str, ...] = ()
    target: str | None = None
    spread: float = 1.0
    center: float = 0.0
    scale: float = 1.0
    columns: int = 1


# What runs are described by has to be text, so functions given as Python objects are kept under a name.
_GIVEN: dict[str, Callable[..., Any]] = {}


def remembered(function: Callable[..., Any]) -> str:
    """Keep a function, and return the name that finds it again."""
    name = f"python:{getattr(function, '__name__', type(function).__name__)}"
    spec, count = name, 1
    while _GIVEN.setdefault(spec, function) is not function:
        count += 1
        spec = f"{name}-{count}"
    return spec


def found(spec: str, what: str) -> Callable[..., Any]:
    """Return the function of a name, kept or to be loaded."""
    return _GIVEN[spec] if spec in _GIVEN else usable(load_object(spec, what, OptionError), what)


def usable(thing: object, what: str) -> Callable[..., Any]:
    """Return what can be called with outputs and targets; a class of modules is made."""
    if isinstance(thing, type) and issubclass(thing, nn.Module):
        thing = thing()
    if not callable(thing):
        raise OptionError(f"the {what} {thing!r} isn't a function of (outputs, targets)")
    return thing


def one_of(choices: tuple[str, ...]) -> str:
    """Return choices as words."""
    return " or ".join(repr(choice) for choice in choices)
