"""Options of torch optimizers with closures: what they have to be, in the words of their own names."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Literal, TypeAlias, overload

from torch import Tensor

from thalweg.errors import OptionError, nearest
from thalweg.secondorder.searches import Backtracking, Fixed, Search
from thalweg.secondorder.wolfe import HagerZhang, StrongWolfe
from thalweg.settings.bounds import ABOVE_ZERO, FROM_ZERO, Bounds

__all__ = [
    "BOUNDS",
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
    return _number(owner, "lr", lr, BOUNDS["lr"])


_WHOLE = Bounds(least=1, whole=True)
_MAYBE = replace(_WHOLE, optional=True)
BOUNDS: Mapping[str, Bounds] = {
    "lr": ABOVE_ZERO,
    "sgd_lr": ABOVE_ZERO,
    "sgd_steps": replace(_WHOLE, least=0),
    "max_iter": replace(_WHOLE, least=0),
    "max_eval": _MAYBE,
    "tolerance_grad": FROM_ZERO,
    "tolerance_change": FROM_ZERO,
    "history_size": _WHOLE,
    "reset": _MAYBE,
    "max_products": _MAYBE,
    "damping": FROM_ZERO,
    "accuracy": Bounds(above=0, below=1),
}
"""What is legal of each option that is a number. Directions and limits check too, but by other names."""


def check_option(owner: str, name: str, value: Any, known: Mapping[str, Bounds] = BOUNDS) -> None:
    """Refuse a number out of its range; other options are checked by what uses them.

    >>> check_option("LBFGS", "max_iter", -1)
    Traceback (most recent call last):
    thalweg.errors.OptionError: LBFGS: max_iter is -1; give a whole number of at least 0
    """
    bounds = known.get(name)
    if bounds is not None and not (value is None and bounds.optional):
        _number(owner, name, value, bounds)


def _number(owner: str, name: str, value: Any, bounds: Bounds) -> float:
    try:
        plain = float(value)
    except (TypeError, ValueError, RuntimeError):
        plain = math.nan
    # a schedule makes any number of one that was whole
    if isinstance(value, str) or not (math.isfinite(plain) and bounds.hold(plain)):
        shown = plain if isinstance(value, Tensor) and value.numel() == 1 else repr(value)
        raise OptionError(f"{owner}: {name} is {shown}; give {bounds.asked()}")
    return plain


@overload
def whole(number: float) -> int: ...
@overload
def whole(number: None) -> None: ...
def whole(number: float | None) -> int | None:
    """Return the nearest whole number: a schedule makes any number of one that was whole."""
    return None if number is None else round(number)
