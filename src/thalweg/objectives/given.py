"""What is to be predicted, and functions of a person's own kept under names."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from torch import nn

from thalweg.errors import OptionError, option
from thalweg.settings.choices import TaskKind
from thalweg.settings.plugins import load_object

__all__ = ["KINDS", "Kind", "Task", "What", "default", "found", "names", "one_of", "remembered", "usable"]

Kind = TaskKind
What = Literal["loss", "metric"]

KINDS: dict[What, dict[str, tuple[Kind, ...]]] = {
    "loss": {
        "cross-entropy": ("classification", "custom"),
        "bce": ("classification",),
        "mse": ("regression", "custom"),
        "mae": ("regression", "custom"),
        "huber": ("regression", "custom"),
    },
    "metric": {
        "accuracy": ("classification",),
        "balanced-accuracy": ("classification",),
        "log-loss": ("classification",),
        "auc": ("classification",),
        "rmse": ("regression",),
        "r2": ("regression",),
        "mae": ("regression",),
    },
}
"""Losses and metrics by name, and the tasks that each is for."""

_OF_TWO_CLASSES = ("bce", "auc")
_DEFAULTS: dict[What, dict[Kind, str]] = {
    "loss": {"classification": "cross-entropy", "regression": "mse"},
    "metric": {"classification": "accuracy", "regression": "rmse"},
}


@dataclass(frozen=True, kw_only=True)
class Task:
    """What is to be predicted.

    Attributes:
        kind: ``custom`` where targets are neither one class nor one number an example.
        classes: names of the classes, in the order of the outputs.
        target: name of the column, where there is one.
        spread: standard deviation of a regression target over all rows, in its own units.
        columns: numbers to be predicted of an example; with several, regression's metrics are over all.
        by_position: whether an example has a class at each of several positions, such as tokens or pixels.
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
    by_position: bool = False


def names(what: What, task: Task | None = None) -> tuple[str, ...]:
    """Return the names of the losses or metrics that fit ``task``, or of all.

    >>> names("metric", Task(kind="regression"))
    ('rmse', 'r2', 'mae')
    """
    two = task is None or len(task.classes) == 2
    return tuple(
        name
        for name, kinds in KINDS[what].items()
        if (task is None or task.kind in kinds) and (two or name not in _OF_TWO_CLASSES)
    )


def default(what: What, task: Task) -> str:
    """Return the loss or metric that a task has unless told.

    Raises:
        OptionError: the task is custom.

    >>> default("loss", Task(kind="regression")), default("metric", Task(kind="classification"))
    ('mse', 'accuracy')
    """
    if task.kind == "custom":
        raise OptionError(
            f"this data doesn't settle the {what}; give one, as {option(what, 'file.py:function')}"
        )
    return _DEFAULTS[what][task.kind]


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
