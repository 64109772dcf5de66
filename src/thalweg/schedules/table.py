"""Schedules by name, with options that fit a whole run from its length alone; and many at once."""

from __future__ import annotations

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


def _steps(length: float, total: int) -> int:
    return round(length * total) if length < 1 else round(length)


def _step(total: int, every: float, gamma: float) -> Schedule:
    return Step(every=max(1, _steps(every, total)), gamma=gamma)


def _exponential(total: int, final: float) -> Schedule:
    require(0 < final <= 1, "final", final, "within 0 (excluded) and 1")
    return Exponential(rate=-math.log(final) / total)


def _inverse_time(total: int, final: float) -> Schedule:
    require(0 < final <= 1, "final", final, "within 0 (excluded) and 1")
    return InverseTime(rate=(1.0 / final - 1.0) / total)


def _inverse_square(total: int, final: float) -> Schedule:
    require(0 < final <= 1, "final", final, "within 0 (excluded) and 1")
    return InverseSquare(rate=(1.0 / math.sqrt(final) - 1.0) / total)


def _piecewise(total: int, boundaries: Sequence[float], factors: Sequence[float]) -> Schedule:
    return Piecewise(boundaries=tuple(_steps(b, total) for b in boundaries), factors=tuple(factors))


def _one_cycle(total: int, peak_at: float, start: float, final: float) -> Schedule:
    return OneCycle(total=total, peak_at=_steps(peak_at, total), start=start, final=final)


def _warmup_stable_decay(total: int, warmup: float, decay: float, final: float) -> Schedule:
    return WarmupStableDecay(
        total=total, warmup=_steps(warmup, total), decay=_steps(decay, total), final=final
    )


_ROWS: list[tuple[Callable[..., Schedule], Description]] = [
    (
        lambda total, factor: Constant(factor=factor),
        Description(
            name="constant",
            formula="factor",
            summary="the same all the way",
            options={"factor": 1.0},
            source="K, S",
        ),
    ),
    (
        _step,
        Description(
            name="step",
            formula="gamma**floor(t/every)",
            summary="falls by a factor every so many steps",
            options={"every": 1 / 6, "gamma": 0.5},
            source="R1",
        ),
    ),
    (
        _exponential,
        Description(
            name="exponential",
            formula="final**(t/T)",
            summary="falls by the same factor each step",
            options={"final": 0.01},
            source="R2",
        ),
    ),
    (
        _inverse_time,
        Description(
            name="inverse-time",
            formula="1/(1 + k*t), final at T",
            summary="1/t decay, which some texts call linear",
            options={"final": 0.05},
            source="R3, R4",
        ),
    ),
    (
        _inverse_square,
        Description(
            name="inverse-square",
            formula="1/(1 + k*t)**2, final at T",
            summary="the square of inverse-time, which some texts call quadratic",
            options={"final": 0.01},
            source="R4",
        ),
    ),
    (
        _piecewise,
        Description(
            name="piecewise",
            formula="factors[i] between boundaries",
            summary="constant pieces",
            options={"boundaries": (0.5, 0.75), "factors": (1.0, 0.1, 0.01)},
            source="R1, R5 with the times set beforehand",
        ),
    ),
    (
        lambda total, final: Linear(total=total, final=final),
        Description(
            name="linear",
            formula="1 - (1 - final)*t/T",
            summary="a straight line to the final value",
            options={"final": 0.0},
            source="K",
        ),
    ),
    (
        lambda total, power, final: Polynomial(total=total, power=power, final=final),
        Description(
            name="polynomial",
            formula="final + (1 - final)*(1 - t/T)**power",
            summary="a power of the straight line",
            options={"power": 2.0, "final": 0.0},
            source="K, generalized",
        ),
    ),
    (
        lambda total, final, cycles: Cosine(total=total, final=final, cycles=cycles),
        Description(
            name="cosine",
            formula="final + (1 - final)*(1 + cos(pi*t/T))/2",
            summary="half a cosine to the final value; several cycles are warm restarts",
            options={"final": 0.0, "cycles": 1},
            source="Loshchilov and Hutter 2017",
        ),
    ),
    (
        _one_cycle,
        Description(
            name="one-cycle",
            formula="half a cosine from start up to 1 at peak_at, then down to final",
            summary="up for the first third, down for the rest",
            options={"peak_at": 0.3, "start": 0.04, "final": 4e-6},
            source="R6; Smith and Topin 2018",
        ),
    ),
    (
        _warmup_stable_decay,
        Description(
            name="warmup-stable-decay",
            formula="line up, 1, line down to final",
            summary="constant, with a short rise before and a fall after",
            options={"warmup": 0.05, "decay": 0.2, "final": 0.0},
            source="Hu et al. 2024",
        ),
    ),
]
_TABLE = {description.name: (make, description) for make, description in _ROWS}


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
        raise OptionError(f"there is no schedule {name!r}; {nearest(name, _TABLE)}")
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
