"""What settings are: frozen, typed, the tables of recipes; and what is said of wrong ones."""

from __future__ import annotations

import inspect
import numbers
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Concatenate, ParamSpec, TypeGuard, TypeVar

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from thalweg.errors import OptionError, nearest, option

__all__ = [
    "MOST",
    "Settings",
    "as_whole",
    "check_length",
    "is_number",
    "one_of",
    "plain_numbers",
    "refusal",
    "settle",
    "takes",
    "whole_number",
]

MOST: Mapping[str, int] = {
    "seed": 2**63 - 1,
    "trials": 100_000,
    "splits": 1_000,
    "confirm": 1_000,
    "epochs": 1_000_000,
    "batch_size": 2**31 - 1,
    "evaluations": 100_000,
    "samples": 10_000,
    "cycles": 100_000,
    "steps": 100_000_000,
}
"""What whole numbers may be at most: far beyond what is of use, and short of what no machine can hold."""


def as_whole(value: object) -> int | None:
    """Return a whole number of any type, NumPy's included, as an int; ``None`` for anything else.

    >>> as_whole(np.int64(3)), as_whole(3.0), as_whole(True)
    (3, None, None)
    """
    # truth values have an index too, and a tensor or an array of one element may be such a value
    if isinstance(value, bool) or str(getattr(value, "dtype", "")).endswith("bool"):
        return None
    with suppress(TypeError):
        return operator.index(value)  # type: ignore[arg-type]
    return None


def whole_number(name: str, value: object, *, least: int = 1, most: int | None = None) -> int:
    """Return a setting as an int, whichever type its whole number is of, NumPy's included.

    Raises:
        OptionError: it isn't a whole number, or is too small or too large.

    >>> whole_number("epochs", np.int64(3))
    3
    """
    number = as_whole(value)
    if number is None or number < least:
        shown = repr(value) if number is None else _short(number)
        raise OptionError(f"{option(name)} is {shown}, but must be a whole number of at least {least}")
    if most is not None and number > most:
        raise OptionError(
            f"{option(name)} is {_short(number)}, but must be a whole number from {least} to {most}"
        )
    return number


def one_of(name: str, value: object, known: Sequence[str]) -> None:
    """Refuse what is none of a few words.

    Raises:
        OptionError: naming them.

    >>> one_of("engine", "fast", ["auto", "lanes", "loop"])
    Traceback (most recent call last):
    thalweg.errors.OptionError: engine is 'fast', but must be auto, lanes or loop
    """
    if value not in known:
        words = " or ".join([", ".join(known[:-1]), known[-1]])
        raise OptionError(f"{option(name)} is {value!r}, but must be {words}")


def _short(value: int) -> str:
    return repr(value) if abs(value) < 10**20 else f"beyond {'-' if value < 0 else ''}10^20"


def is_number(value: object) -> TypeGuard[float]:
    """Whether a value is a real number of any type, NumPy's included; truth values are none.

    >>> is_number(np.float32(0.1)), is_number(True), is_number("1")
    (True, False, False)
    """
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def plain_numbers(value: Any) -> Any:
    """Return a setting with NumPy's numbers as Python's, at any depth of lists, tuples and mappings.

    What is written to files, compared and printed is then the same, whichever library a number came from.

    >>> plain_numbers({"lr": np.float32(0.5), "betas": (np.float64(0.9), np.int8(1)), "name": "adam"})
    {'lr': 0.5, 'betas': (0.9, 1), 'name': 'adam'}
    """
    if isinstance(value, np.longdouble):
        return float(value)
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, int):
        return value
    if isinstance(value, numbers.Integral):
        return int(value)
    if isinstance(value, dict):
        return {key: plain_numbers(one) for key, one in value.items()}
    if type(value) in (list, tuple):
        return type(value)(plain_numbers(one) for one in value)
    return value


class Settings(BaseModel):
    """What a thing is set to: frozen, keyword-only, and the table that a recipe has for it."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _of_any_library(cls, values: Any) -> Any:
        return plain_numbers(values)


_S = TypeVar("_S", bound=Settings)


def settle(kind: type[_S], owner: str, /, **values: Any) -> _S:
    """Make settings, or say in one sentence which value isn't allowed.

    Raises:
        OptionError: naming the owner, the setting, its value and the rule.

    >>> from thalweg.strategies import EarlyStopping
    >>> EarlyStopping(patience=0)
    Traceback (most recent call last):
    thalweg.errors.OptionError: early-stopping: patience is 0, but must be greater than or equal to 1
    """
    try:
        return kind(**values)
    except ValidationError as problem:
        raise refusal(problem, owner, kind) from None


_P = ParamSpec("_P")


def takes(kind: Callable[_P, Any]) -> Callable[[Callable[..., None]], Callable[Concatenate[Any, _P], None]]:
    """Give a constructor that takes anything the fields of settings as its keyword arguments.

    Type checkers, editors and ``inspect.signature`` see them, so that they stand in the settings alone.

    >>> import inspect
    >>> from thalweg.strategies import Snapshots
    >>> list(inspect.signature(Snapshots).parameters)
    ['cycles', 'keep']
    """

    def given(constructor: Callable[..., None]) -> Callable[Concatenate[Any, _P], None]:
        own, fields = inspect.signature(constructor), inspect.signature(kind)
        constructor.__signature__ = own.replace(  # type: ignore[attr-defined]
            parameters=[next(iter(own.parameters.values())), *fields.parameters.values()]
        )
        return constructor

    return given


# what pydantic calls the kinds of value among which it looks for one that fits
_BRANCH = re.compile(
    r"int|float|bool|str|none|callable|.*\[.*|(constrained|function|lax|json|is|tagged|definition)-.*"
)


def refusal(problem: ValidationError, owner: str, kind: type[BaseModel]) -> OptionError:
    """Return a sentence about settings that aren't allowed, naming the owner, the setting and its value."""
    details = problem.errors()[0]
    name = ".".join(str(part) for part in details["loc"] if not _BRANCH.fullmatch(str(part)))
    if details["type"] == "extra_forbidden":
        fields = kind.model_fields
        return OptionError(
            f"{owner} has no setting {name!r}; {nearest(name, fields) if fields else 'it has none'}"
        )
    if details["type"] == "missing":
        return OptionError(f"{owner} needs the setting {name!r}; give it")
    message = details["msg"]
    rule = message.removeprefix("Input should be ").removeprefix("Value error, ")
    if details["type"] == "sequence_str" or rule == "an instance of Sequence":
        rule = "a list"
    if details["type"] == "value_error":
        return OptionError(f"{owner}: {name or 'its settings'}: {rule}")
    return OptionError(f"{owner}: {name} is {details['input']!r}, but must be {rule}")


def check_length(epochs: int, steps: int) -> None:
    """Refuse a training that is longer than any.

    Args:
        epochs: of it.
        steps: of an epoch.

    Raises:
        OptionError: they come to more than ``MOST["steps"]``.

    >>> check_length(900_000, 500)
    Traceback (most recent call last):
    thalweg.errors.OptionError: 900,000 epochs of 500 steps are more than 100,000,000 steps; give fewer epochs
    """
    if epochs * steps > MOST["steps"]:
        raise OptionError(
            f"{epochs:,} epochs of {steps:,} steps are more than {MOST['steps']:,} steps; give fewer epochs"
        )
