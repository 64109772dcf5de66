"""What settings are: frozen, typed, the tables of recipes; and what is said of wrong ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from thalweg.errors import OptionError, nearest

__all__ = ["MOST", "Settings", "check_length", "settle"]

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


class Settings(BaseModel):
    """What a thing is set to: frozen, keyword-only, and the table that a recipe has for it."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


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
        details = problem.errors()[0]
        name = ".".join(str(part) for part in details["loc"] if isinstance(part, (int, str)))
        if details["type"] == "extra_forbidden":
            raise OptionError(
                f"{owner} has no setting {name!r}; {nearest(name, kind.model_fields)}"
            ) from None
        rule = details["msg"].removeprefix("Input should be ").removeprefix("Value error, ")
        raise OptionError(f"{owner}: {name} is {details['input']!r}, but must be {rule}") from None


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
