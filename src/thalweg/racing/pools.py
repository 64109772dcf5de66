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
from thalweg.errors import OptionError, nearest, option
from thalweg.racing.initializations import DEFAULT, SEARCHED
from thalweg.racing.ranges import Space, ranges
from thalweg.racing.results import PlanInfo
from thalweg.run.spec import Setting

__all__ = [
    "Choices",
    "Edges",
    "choices",
    "edges",
    "extended",
    "first_wave",
    "initialization_spaces",
    "second_wave",
    "spaces",
]

Edges = Mapping[str, Literal["low", "high"]]

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
                f"write {option('initializations', [*names, of])}"
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
    found = {
        of: {
            hyper.name: own[of].get(hyper.name, (hyper.low, hyper.high))
            for hyper in numbers
            if hyper.searched or hyper.name in own[of]
        }
        for of, numbers in known.items()
    }
    for of, numbers in known.items():
        _check_together(of, numbers, found[of])
    return found


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
    hyper = numbers[name]
    for end in (low, high):
        # a space may begin or end where values aren't legal any more: draws lie inside
        why = None if end in (hyper.above, hyper.below) else hyper.refusal(end)
        if why is not None:
            raise OptionError(f"the search space of {key} goes from {low:g} to {high:g}: {name} {why}")
    if hyper.scale == "log" and low <= 0:
        raise OptionError(
            f"the search space of {key} starts at {low:g}, but is searched on a log scale and must start "
            f"above 0; give a small positive number"
        )
    if hyper.scale == "complement" and not 0 <= low < high < 1:
        raise OptionError(
            f"the search space of {key} goes from {low:g} to {high:g}, but {name} must be at least 0 and "
            f"under 1; give ends in that range, such as 0.8:0.999"
        )


def _check_together(of: str, numbers: Sequence[Hyperparameter], space: Space) -> None:
    """Refuse spaces of which one may give less than another's values, where it can't be less."""
    for hyper in numbers:
        other = next((one for one in numbers if one.name == hyper.not_under), None)
        if other is None:
            continue
        lowest = space.get(hyper.name, (hyper.default, hyper.default))[0]
        highest = space.get(other.name, (other.default, other.default))[1]
        if lowest < highest:
            raise OptionError(
                f"{of}.{hyper.name} may be as low as {lowest:g} and {other.name} as high as {highest:g}, but "
                f"the first can't be less than the second; separate their search spaces"
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
    for name, span in ranges(numbers, space).items():
        place = span.place(float(values.get(name, defaults[name])))
        if place <= _EDGE and span.beyond("low") < span.low:
            found[name] = "low"
        elif place >= 1 - _EDGE and span.beyond("high") > span.high:
            found[name] = "high"
    return found


def _moved(entry: Entry, choices: Choices, edges: Edges, *, beyond: bool) -> Choices:
    """The choices with the ends named moved out; ``beyond``: without what there was before."""

    def moved(numbers: Sequence[Hyperparameter], space: Space, of: str) -> Space:
        spans, found = ranges(numbers, space), dict(space)
        for name, span in spans.items():
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


def _draws(entry: Entry, choices: Choices, count: int, seed: int, *, skip: int) -> list[Setting]:
    """``count`` settings from a scrambled Halton sequence.

    Its dimensions are the hyperparameters, the schedule, then the starting point where there are several, and
    its numbers, where any has some.
    """
    if count <= 0:
        return []
    spans = ranges(entry.hyperparameters, choices.space)
    schedules = choices.schedules if entry.scheduled else [_plain(choices.schedules)]
    begins = {name: ranges(SEARCHED[name], space) for name, space in choices.initializations.items()}
    names = list(begins)
    several = len(names) > 1
    dimensions = len(spans) + 1 + several + max(map(len, begins.values()))
    sampler = qmc.Halton(dimensions, scramble=True, **{_RNG: np.random.default_rng(seed)})
    found = []
    for point in sampler.random(skip + count)[skip:]:
        places = iter(float(place) for place in point)
        hyperparameters = {name: span.value(next(places)) for name, span in spans.items()}
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
