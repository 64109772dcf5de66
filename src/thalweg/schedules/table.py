"""Schedules by name, with options that fit a whole run from its length alone; and many at once."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from thalweg.errors import OptionError, nearest
from thalweg.schedules.base import Schedule, Steps, require
from thalweg.schedules.compose import Warmup
from thalweg.schedules.driver import Factor
from thalweg.schedules.shapes import (
    Constant,
    Cosine,
    Exponential,
    InverseSquare,
    InverseTime,
    Linear,
    OneCycle,
    Piecewise,
    Polynomial,
    Step,
    WarmupStableDecay,
)
from thalweg.settings.tables import MOST, as_whole, is_number

__all__ = ["Description", "build", "describe", "evaluate", "names"]


@dataclass(frozen=True, kw_only=True)
class Description:
    """One row of ``thalweg list schedules``.

    Attributes:
        name: as in ``--schedules`` and recipes.
        formula: the factor at step t of T.
        summary: one line.
        options: by name, with their defaults; lengths are steps when 1 or more, below 1 parts of the run.
        source: ID of the lecture texts and paper.
    """

    name: str
    formula: str
    summary: str
    options: Mapping[str, Any] = field(default_factory=dict)
    source: str = ""


_TABLE: dict[str, tuple[Callable[..., Schedule], Description]] = {}


def _row(
    name: str, formula: str, summary: str, source: str
) -> Callable[[Callable[..., Schedule]], Callable[..., Schedule]]:
    """Put a schedule into the table; its options are the arguments behind ``total``, with their defaults."""

    def listed(make: Callable[..., Schedule]) -> Callable[..., Schedule]:
        _, *arguments = inspect.signature(make).parameters.values()
        options = {one.name: one.default for one in arguments}
        _TABLE[name] = (
            make,
            Description(name=name, formula=formula, summary=summary, options=options, source=source),
        )
        return make

    return listed


def _steps(length: float, total: int) -> int:
    return round(length * total) if length < 1 else round(length)


def _require_share(final: float) -> None:
    require(0 < final <= 1, "final", final, "within 0 (excluded) and 1")


@_row("constant", "factor", "the same all the way", "K, S")
def _constant(total: int, factor: float = 1.0) -> Schedule:
    return Constant(factor=factor)


@_row("step", "gamma**floor(t/every)", "falls by a factor every so many steps", "R1")
def _step(total: int, every: float = 1 / 6, gamma: float = 0.5) -> Schedule:
    return Step(every=max(1, _steps(every, total)), gamma=gamma)


@_row("exponential", "final**(t/T)", "falls by the same factor each step", "R2")
def _exponential(total: int, final: float = 0.01) -> Schedule:
    _require_share(final)
    return Exponential(rate=-math.log(final) / total)


@_row("inverse-time", "1/(1 + k*t), final at T", "1/t decay, which some texts call linear", "R3, R4")
def _inverse_time(total: int, final: float = 0.05) -> Schedule:
    _require_share(final)
    return InverseTime(rate=(1.0 / final - 1.0) / total)


@_row(
    "inverse-square", "1/(1 + k*t)**2, final at T",
    "the square of inverse-time, which some texts call quadratic", "R4",
)  # fmt: skip
def _inverse_square(total: int, final: float = 0.01) -> Schedule:
    _require_share(final)
    return InverseSquare(rate=(1.0 / math.sqrt(final) - 1.0) / total)


@_row("piecewise", "factors[i] between boundaries", "constant pieces", "R1, R5 with the times set beforehand")
def _piecewise(
    total: int, boundaries: Sequence[float] = (0.5, 0.75), factors: Sequence[float] = (1.0, 0.1, 0.01)
) -> Schedule:
    return Piecewise(boundaries=tuple(_steps(b, total) for b in boundaries), factors=tuple(factors))


@_row("linear", "1 - (1 - final)*t/T", "a straight line to the final value", "K")
def _linear(total: int, final: float = 0.0) -> Schedule:
    return Linear(total=total, final=final)


@_row("polynomial", "final + (1 - final)*(1 - t/T)**power", "a power of the straight line", "K, generalized")
def _polynomial(total: int, power: float = 2.0, final: float = 0.0) -> Schedule:
    return Polynomial(total=total, power=power, final=final)


@_row(
    "cosine", "final + (1 - final)*(1 + cos(pi*t/T))/2",
    "half a cosine to the final value; several cycles are warm restarts", "Loshchilov and Hutter 2017",
)  # fmt: skip
def _cosine(total: int, final: float = 0.0, cycles: int = 1) -> Schedule:
    return Cosine(total=total, final=final, cycles=cycles)


@_row(
    "one-cycle", "half a cosine from start up to 1 at peak_at, then down to final",
    "up for the first third, down for the rest", "R6; Smith and Topin 2018",
)  # fmt: skip
def _one_cycle(total: int, peak_at: float = 0.3, start: float = 0.04, final: float = 4e-6) -> Schedule:
    return OneCycle(total=total, peak_at=_steps(peak_at, total), start=start, final=final)


@_row(
    "warmup-stable-decay", "line up, 1, line down to final",
    "constant, with a short rise before and a fall after", "Hu et al. 2024",
)  # fmt: skip
def _warmup_stable_decay(
    total: int, warmup: float = 0.05, decay: float = 0.2, final: float = 0.0
) -> Schedule:
    return WarmupStableDecay(
        total=total, warmup=_steps(warmup, total), decay=_steps(decay, total), final=final
    )


_PLATEAU = Description(
    name="plateau",
    formula="decay**(number of times the validation loss stagnated)",
    summary="falls by a factor whenever the validation loss stagnates; the only one that looks at it",
    options={"decay": 0.1, "patience": 2},
    source="R5",
)


def names() -> tuple[str, ...]:
    """Return the names of all schedules; :func:`build` makes all but ``plateau``, the last.

    >>> names()[:3], names()[-1]
    (('constant', 'step', 'exponential'), 'plateau')
    """
    return (*_TABLE, _PLATEAU.name)


def describe() -> tuple[Description, ...]:
    """Return a row for each name, in the same order.

    >>> describe()[1].formula
    'gamma**floor(t/every)'
    """
    return (*(description for _, description in _TABLE.values()), _PLATEAU)


def build(name: str, *, total: int, **options: Any) -> Schedule:
    """Make a schedule by name, fitted to a run.

    Args:
        name: one of :func:`names`.
        total: optimizer steps of the run, at least 1. What ``step``, ``exponential``, ``inverse-time`` and
            ``inverse-square`` have reached by then they don't keep: beyond it they go on falling. The others
            keep their value.
        options: those of :func:`describe`; what is left out has its default. ``warmup`` puts a warm-up before
            any schedule. ``warmup``, ``every``, ``peak_at``, ``decay`` and ``boundaries`` are steps when 1 or
            more, and parts of the run below 1.

    Raises:
        OptionError: for an unknown name or option, or a value outside its range.

    >>> build("step", total=60, every=10)
    Step(every=10, gamma=0.5)
    >>> build("linear", total=100, warmup=0.1)
    Warmup(steps=10, then=Linear(total=90, final=0.0), start=0.0)
    """
    if name == _PLATEAU.name:
        raise OptionError(
            "the schedule 'plateau' looks at measurements and can't be computed from the step: "
            "use thalweg.schedules.Plateau in a training loop, or 'piecewise' with boundaries set beforehand"
        )
    if name not in _TABLE:
        raise OptionError(f"there is no schedule {name!r}; {nearest(name, names())}")
    require(total >= 1, "total", total, "at least 1")
    make, description = _TABLE[name]
    values = dict(description.options)
    known = {**values, "warmup": 0}
    for option, value in options.items():
        if option not in known:
            raise OptionError(f"the schedule {name!r} has no option {option!r}; {nearest(option, known)}")
        _check(name, option, value, known[option])
        values[option] = value
    if "warmup" in description.options:
        return make(total, **values)
    warmup = _steps(values.pop("warmup", 0), total)
    require(0 <= warmup < total, "warmup", warmup, f"at least 0 and fewer than the {total} steps of the run")
    return Warmup(steps=warmup, then=make(total - warmup, **values)) if warmup else make(total, **values)


def evaluate(schedules: Sequence[Factor], steps: int | npt.NDArray[Any]) -> Steps:
    """Evaluate K schedules at one step, or each at all of T steps.

    Args:
        schedules: K of them; equal ones are evaluated once.
        steps: an int, or an array ``[T]`` of ints.

    Returns:
        float64 array ``[K]``, or ``[K, T]``.

    >>> evaluate([Constant(), Linear(total=4)], np.arange(3)).tolist()
    [[1.0, 1.0, 1.0], [1.0, 0.75, 0.5]]
    """
    shape = (len(schedules), *np.shape(steps))
    result = np.empty(shape, dtype=np.float64)
    known: dict[Any, Any] = {}
    for k, schedule in enumerate(schedules):
        if schedule not in known:
            if isinstance(schedule, Schedule) or not isinstance(steps, np.ndarray):
                known[schedule] = schedule(steps)  # type: ignore[arg-type]
            else:
                known[schedule] = [schedule(int(step)) for step in steps]
        result[k] = known[schedule]
    return result


def _check(name: str, option: str, value: Any, default: Any) -> None:
    """Refuse a value of another kind than the default: a number for a number, numbers for numbers."""

    def number(item: Any) -> bool:
        return is_number(item) and math.isfinite(item)

    if isinstance(default, tuple):
        fits = isinstance(value, (list, tuple)) and all(number(item) for item in value)
        kind = "a list of numbers"
    elif option == "cycles":
        whole = as_whole(value)
        # steps times cycles stay within 64 bits
        fits = whole is not None and whole <= MOST["cycles"]
        kind = f"a whole number up to {MOST['cycles']}"
    else:
        fits, kind = number(value), "a number"
    if not fits:
        raise OptionError(
            f"{option} of the schedule {name!r} is {value!r} but must be {kind}, such as {default!r}"
        )
