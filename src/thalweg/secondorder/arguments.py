"""Options of torch optimizers with closures: what they have to be, in the words of their own names."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal, TypeAlias, overload

from torch import Tensor

from thalweg.errors import OptionError, nearest
from thalweg.secondorder.searches import Backtracking, Fixed, Search
from thalweg.secondorder.wolfe import HagerZhang, StrongWolfe

__all__ = [
    "LineSearch",
    "check_option",
    "checked_rate",
    "line_search",
    "whole",
]

LineSearch: TypeAlias = Literal["strong_wolfe", "hager_zhang", "backtracking"] | None


def line_search(owner: str, name: str | None, lr: float, *, c2: float = 0.9) -> Search:
    """Return the search of that name; None: fixed steps, the first of them cautious."""
    if name is None:
        return Fixed(step=lr, cautious=True)
    made: dict[str, Callable[[], Search]] = {
        "strong_wolfe": lambda: StrongWolfe(first=lr, c2=c2),
        "hager_zhang": lambda: HagerZhang(first=lr),
        "backtracking": lambda: Backtracking(first=lr),
    }
    if name not in made:
        raise OptionError(f"{owner}: there is no line search {name!r}; {nearest(str(name), made)}, or None")
    return made[name]()


def checked_rate(owner: str, lr: Any) -> float:
    """Return a learning rate, or a tensor of one element, as a float above 0."""
    return _number(owner, "lr", lr, "a finite number above 0", lambda value: value > 0)


# Directions and limits check too, but by other names.
_OPTIONS: dict[str, tuple[str, Callable[[float], bool]]] = {
    "lr": ("a finite number above 0", lambda value: value > 0),
    "sgd_lr": ("a finite number above 0", lambda value: value > 0),
    "sgd_steps": ("a whole number of at least 0", lambda value: value >= 0),
    "max_iter": ("a whole number of at least 0", lambda value: value >= 0),
    "max_eval": ("a whole number of at least 1, or None", lambda value: value >= 1),
    "tolerance_grad": ("a finite number of at least 0", lambda value: value >= 0),
    "tolerance_change": ("a finite number of at least 0", lambda value: value >= 0),
    "history_size": ("a whole number of at least 1", lambda value: value >= 1),
    "reset": ("a whole number of at least 1, or None", lambda value: value >= 1),
    "max_products": ("a whole number of at least 1, or None", lambda value: value >= 1),
    "damping": ("a finite number of at least 0", lambda value: value >= 0),
    "accuracy": ("a number above 0 and below 1", lambda value: 0 < value < 1),
}


def check_option(owner: str, name: str, value: Any) -> None:
    """Refuse a number out of its range; other options are checked by what uses them.

    >>> check_option("LBFGS", "max_iter", -1)
    Traceback (most recent call last):
    thalweg.errors.OptionError: LBFGS: max_iter is -1; give a whole number of at least 0
    """
    rule, holds = _OPTIONS.get(name, ("", None))
    if holds is not None and not (value is None and rule.endswith("or None")):
        _number(owner, name, value, rule, holds)


def _number(owner: str, name: str, value: Any, rule: str, holds: Callable[[float], bool]) -> float:
    try:
        plain = float(value)
    except (TypeError, ValueError, RuntimeError):
        plain = math.nan
    if isinstance(value, str) or not (math.isfinite(plain) and holds(plain)):
        shown = plain if isinstance(value, Tensor) and value.numel() == 1 else repr(value)
        raise OptionError(f"{owner}: {name} is {shown}; give {rule}")
    return plain


@overload
def whole(number: float) -> int: ...
@overload
def whole(number: None) -> None: ...
def whole(number: float | None) -> int | None:
    """Return the nearest whole number: a schedule makes any number of one that was whole."""
    return None if number is None else round(number)
