"""The settings that one optimizer tries in one replicate, and the space that they are drawn from.

A pool begins with the library's defaults, goes on with quasi-random draws from the catalogue's space, and
ends with a second wave (a quarter of the pool), drawn when the rest has been tried: beyond the end of the
space at which the best setting so far lies, or, where it lies inside, from the same sequence as before.
Draws are a pure function of the seed. A space is hyperparameter to ``(low, high)``; scale, default and
what is legal come from the catalogue, and for starting points from :mod:`thalweg.racing.initializations`.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from scipy.stats import qmc

from thalweg.catalogue.entry import Entry, Hyperparameter
from thalweg.entries import Setting
from thalweg.errors import OptionError, nearest
from thalweg.racing.initializations import DEFAULT, SEARCHED
from thalweg.racing.results import PlanInfo

__all__ = [
    "Choices",
    "Edges",
    "Range",
    "Space",
    "choices",
    "edges",
    "extended",
    "first_wave",
    "initialization_spaces",
    "second_wave",
    "spaces",
]

Scale = Literal["log", "linear", "complement"]
Edges = Mapping[str, Literal["low", "high"]]
Space = Mapping[str, tuple[float, float]]

_EDGE = 0.05
# scipy renamed the argument; a Generator means the same draws under both names
_RNG = "rng" if "rng" in inspect.signature(qmc.Halton).parameters else "seed"


@dataclass(frozen=True, kw_only=True)
class Choices:
    """What the settings of a pool are drawn from.

    Attributes:
        space: of the optimizer's hyperparameters.
        schedules: at least one, the same for all optimizers; where a schedule does nothing, only the constant
            one is drawn.
        initializations: starting points, each with the space of its own numbers; likewise.
    """

    space: Space
    schedules: Sequence[str]
    initializations: Mapping[str, Space] = field(default_factory=lambda: {DEFAULT: {}})


@dataclass(frozen=True, kw_only=True)
class Range:
    """Where a hyperparameter is searched.

    Attributes:
        low, high: the ends, ``low < high``.
        scale: ``"log"``; ``"linear"``; or ``"complement"``, which is 1 - x on a log scale (momentum, betas).
        least: the smallest legal value, where there is one.
        whole: only whole numbers.
    """

    low: float
    high: float
    scale: Scale
    least: float = -math.inf
    whole: bool = False

    def place(self, value: float) -> float:
        """Return where a value lies on the search scale: 0 at the low end, 1 at the high end.

        >>> round(Range(low=1e-4, high=1e-2, scale="log").place(1e-3), 6)
        0.5
        """
        low, high, at = (self._straight(x) for x in (self.low, self.high, value))
        return (at - low) / (high - low)

    def value(self, place: float) -> float:
        """Return the value at a place from 0 to 1, rounded to 4 significant digits (1 - x to 3).

        >>> Range(low=0.0, high=0.999, scale="complement").value(0.5)
        0.9684
        """
        low, high = self._straight(self.low), self._straight(self.high)
        at = low + place * (high - low)
        if self.scale == "complement":
            # the digits that matter are those of 1 - x; the outer rounding only clears float dust
            return self._inside(round(1.0 - _rounded(math.exp(-at), 3), 12))
        found = math.exp(at) if self.scale == "log" else at
        return self._inside(float(round(found)) if self.whole else _rounded(found))

    def beyond(self, end: Literal["low", "high"]) -> float:
        """Return how far this end may be moved out: a decade, on a linear scale the range's own width.

        Clipped to what is legal: over 0 on a log scale, at least 0 and under 1 on a complement scale.

        >>> Range(low=1e-4, high=1e-2, scale="log").beyond("high")
        0.1
        >>> Range(low=0.0, high=0.99, scale="complement").beyond("low")
        0.0
        """
        sign = -1.0 if end == "low" else 1.0
        start = self.low if end == "low" else self.high
        if self.scale == "log":
            return max(self.least, _rounded(start * 10.0**sign))
        if self.scale == "complement":
            return round(max(0.0, 1.0 - _rounded((1.0 - start) * 10.0**-sign)), 12)
        return max(self.least, _rounded(start + sign * (self.high - self.low)))

    def _inside(self, value: float) -> float:
        return min(max(value, self.low), self.high)

    def _straight(self, value: float) -> float:
        """The value on the axis on which the search is uniform."""
        if self.scale == "log":
            return math.log(value) if value > 0 else -math.inf
        if self.scale == "complement":
            return -math.log(1.0 - value) if value < 1 else math.inf
        return value


def spaces(
    entries: Mapping[str, Entry], overrides: Mapping[str, tuple[float, float]]
) -> dict[str, dict[str, tuple[float, float]]]:
    """Return each optimizer's search space: the catalogue's, with a person's own ranges.

    A hyperparameter that the catalogue doesn't search is searched once it has a range.

    Args:
        entries: the optimizers of this race by name.
        overrides: ``"adam.lr"`` to ``(low, high)``; those of starting points are left to
            :func:`initialization_spaces`.

    Returns:
        Optimizer to space, hyperparameters in the catalogue's order.

    Raises:
        OptionError: a range for what isn't raced, the wrong way round, or beyond what is legal.
    """
    known = {name: entry.hyperparameters for name, entry in entries.items()}
    return _with_own(known, {key: ends for key, ends in overrides.items() if not _begins(key, entries)})


def initialization_spaces(
    names: Sequence[str], entries: Mapping[str, Entry], overrides: Mapping[str, tuple[float, float]]
) -> dict[str, dict[str, tuple[float, float]]]:
    """Return the search space of each starting point, with a person's own ranges.

    Args:
        names: of the starting points.
        entries, overrides: as for :func:`spaces`; of ``"sparse.k"`` to ``(low, high)``.

    Raises:
        OptionError: as :func:`spaces` does.
    """
    own = {key: ends for key, ends in overrides.items() if _begins(key, entries)}
    for key in own:
        of = key.rpartition(".")[0]
        if of not in names:
            raise OptionError(
                f"the search space {key!r} is for {of} weights, which aren't in this race; "
                f"write --initializations {','.join([*names, of])}"
            )
    return _with_own({name: SEARCHED[name] for name in names}, own)


def _begins(key: str, entries: Mapping[str, Entry]) -> bool:
    """Whether a range is for a starting point."""
    name = key.rpartition(".")[0]
    return name in SEARCHED and name not in entries


def _with_own(
    known: Mapping[str, tuple[Hyperparameter, ...]], overrides: Mapping[str, tuple[float, float]]
) -> dict[str, dict[str, tuple[float, float]]]:
    own: dict[str, dict[str, tuple[float, float]]] = {name: {} for name in known}
    for key, (low, high) in overrides.items():
        of, _, name = key.rpartition(".")
        _check(key, of, name, low, high, known)
        own[of][name] = (float(low), float(high))
    return {
        of: {
            hyper.name: own[of].get(hyper.name, (hyper.low, hyper.high))
            for hyper in numbers
            if hyper.searched or hyper.name in own[of]
        }
        for of, numbers in known.items()
    }


def _check(
    key: str, of: str, name: str, low: float, high: float, known: Mapping[str, tuple[Hyperparameter, ...]]
) -> None:
    if of not in known:
        raise OptionError(
            f"the search space {key!r} is for {of or key!r}, which isn't in this race; "
            f"{nearest(of or key, known)}"
        )
    numbers = {hyper.name: hyper for hyper in known[of]}
    if name not in numbers:
        raise OptionError(f"{of} has no hyperparameter {name!r} to search; {nearest(name, numbers)}")
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise OptionError(
            f"the search space of {key} goes from {low:g} to {high:g}, but must go from a lower to a "
            f"higher number; swap or change the ends"
        )
    scale = numbers[name].scale
    if scale == "log" and low <= 0:
        raise OptionError(
            f"the search space of {key} starts at {low:g}, but is searched on a log scale and must start "
            f"above 0; give a small positive number"
        )
    if scale == "complement" and not 0 <= low < high < 1:
        raise OptionError(
            f"the search space of {key} goes from {low:g} to {high:g}, but {name} must be at least 0 and "
            f"under 1; give ends in that range, such as 0.8:0.999"
        )
    least = _least(numbers[name])
    if low < least:
        raise OptionError(
            f"the search space of {key} starts at {low:g}, but {name} can't be "
            f"{f'less than {least:g}' if least else 'negative'}; start at {least:g}"
        )


def choices(plan: PlanInfo, optimizer: str) -> Choices:
    """Return what a plan lets an optimizer's settings be drawn from."""
    return Choices(
        space=plan.spaces[optimizer], schedules=plan.schedules, initializations=plan.initializations
    )


def first_wave(entry: Entry, choices: Choices, count: int, *, seed: int) -> list[Setting]:
    """Return the pool's first settings: the library's defaults, then draws.

    The defaults go with the constant schedule and the model's own weights where these are among the options,
    else with the first option.

    Args:
        entry: the optimizer.
        choices: what is searched.
        count: how many settings, at least 1.
        seed: of the pool.
    """
    begins = DEFAULT if DEFAULT in choices.initializations else next(iter(choices.initializations))
    default = Setting(
        optimizer=entry.name,
        hyperparameters={
            hyper.name: hyper.default for hyper in entry.hyperparameters if hyper.name in choices.space
        },
        schedule=_plain(choices.schedules),
        initialization=_beginning(begins, {number.name: number.default for number in SEARCHED[begins]}),
    )
    return [default, *_draws(entry, choices, count - 1, seed, skip=0)]


def second_wave(
    entry: Entry, choices: Choices, count: int, *, seed: int, drawn: int, edges: Edges
) -> list[Setting]:
    """Return the pool's last settings: the next of the same quasi-random sequence.

    Args:
        entry: the optimizer.
        choices: of the first wave.
        count: how many settings.
        seed: of the pool.
        drawn: how many the pool has already, the defaults included.
        edges: :func:`edges` of the best of them. Each number named is drawn from beyond that end alone; all
            others, and all if none is named, from the space as before.
    """
    return _draws(entry, _moved(entry, choices, edges, beyond=True), count, seed, skip=drawn - 1)


def edges(entry: Entry, setting: Setting, choices: Choices) -> dict[str, Literal["low", "high"]]:
    """Name the numbers within a twentieth of an end of their range, on the search scale, or past it.

    Those of a starting point are named with it: ``"sparse.k"``. An end that can't be moved out (momentum 0)
    is no edge: nothing better can lie beyond it.
    """
    found = _at_ends(entry.hyperparameters, choices.space, setting.hyperparameters)
    begins = str(setting.initialization.get("scheme", DEFAULT))
    own = _at_ends(SEARCHED[begins], choices.initializations[begins], setting.initialization)
    return found | {f"{begins}.{name}": end for name, end in own.items()}


def extended(entry: Entry, choices: Choices, edges: Edges) -> Choices:
    """Return the choices with the ends named moved out, as :meth:`Range.beyond` says."""
    return _moved(entry, choices, edges, beyond=False)


def _at_ends(
    numbers: Sequence[Hyperparameter], space: Space, values: Mapping[str, Any]
) -> dict[str, Literal["low", "high"]]:
    found: dict[str, Literal["low", "high"]] = {}
    defaults = {number.name: number.default for number in numbers}
    for name, span in _ranges(numbers, space).items():
        place = span.place(float(values.get(name, defaults[name])))
        if place <= _EDGE and span.beyond("low") < span.low:
            found[name] = "low"
        elif place >= 1 - _EDGE and span.beyond("high") > span.high:
            found[name] = "high"
    return found


def _moved(entry: Entry, choices: Choices, edges: Edges, *, beyond: bool) -> Choices:
    """The choices with the ends named moved out; ``beyond``: without what there was before."""

    def moved(numbers: Sequence[Hyperparameter], space: Space, of: str) -> Space:
        ranges, found = _ranges(numbers, space), dict(space)
        for name, span in ranges.items():
            end = edges.get(f"{of}{name}")
            if end is None:
                continue
            far = span.beyond(end)
            if beyond:
                ends = (far, span.low) if end == "low" else (span.high, far)
                if ends[0] < ends[1]:
                    found[name] = ends
            else:
                found[name] = (min(span.low, far), max(span.high, far))
        return found

    return Choices(
        space=moved(entry.hyperparameters, choices.space, ""),
        schedules=choices.schedules,
        initializations={
            name: moved(SEARCHED[name], space, f"{name}.") for name, space in choices.initializations.items()
        },
    )


def _ranges(numbers: Sequence[Hyperparameter], space: Space) -> dict[str, Range]:
    """Ends with scale and legal limit, in the catalogue's order."""
    return {
        hyper.name: Range(
            low=space[hyper.name][0],
            high=space[hyper.name][1],
            scale=hyper.scale,
            least=_least(hyper),
            whole=hyper.whole,
        )
        for hyper in numbers
        if hyper.name in space
    }


def _least(hyper: Hyperparameter) -> float:
    if hyper.least is not None:
        return hyper.least
    return 0.0 if hyper.scale == "linear" and hyper.low >= 0 else -math.inf


def _draws(entry: Entry, choices: Choices, count: int, seed: int, *, skip: int) -> list[Setting]:
    """``count`` settings from a scrambled Halton sequence.

    Its dimensions are the hyperparameters, the schedule, then the starting point where there are several, and
    its numbers, where any has some.
    """
    if count <= 0:
        return []
    ranges = _ranges(entry.hyperparameters, choices.space)
    schedules = choices.schedules if entry.scheduled else [_plain(choices.schedules)]
    begins = {name: _ranges(SEARCHED[name], space) for name, space in choices.initializations.items()}
    names = list(begins)
    several = len(names) > 1
    dimensions = len(ranges) + 1 + several + max(map(len, begins.values()))
    sampler = qmc.Halton(dimensions, scramble=True, **{_RNG: np.random.default_rng(seed)})
    found = []
    for point in sampler.random(skip + count)[skip:]:
        places = iter(float(place) for place in point)
        hyperparameters = {name: span.value(next(places)) for name, span in ranges.items()}
        schedule = schedules[int(next(places) * len(schedules))]
        begin = names[int(next(places) * len(names))] if several else names[0]
        found.append(
            Setting(
                optimizer=entry.name,
                hyperparameters=hyperparameters,
                schedule=schedule,
                initialization=_beginning(
                    begin, {name: span.value(next(places)) for name, span in begins[begin].items()}
                ),
            )
        )
    return found


def _beginning(name: str, values: Mapping[str, float]) -> dict[str, Any]:
    """A starting point as a setting has it."""
    if name == DEFAULT:
        return {}
    whole = {number.name for number in SEARCHED[name] if number.whole}
    return {"scheme": name, **{key: int(x) if key in whole else x for key, x in values.items()}}


def _plain(schedules: Sequence[str]) -> str:
    return "constant" if "constant" in schedules else schedules[0]


def _rounded(value: float, digits: int = 4) -> float:
    return float(f"{value:.{digits}g}")
