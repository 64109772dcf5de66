"""The settings that one optimizer tries in one replicate, and the space that they are drawn from.

A pool begins with the library's defaults, goes on with quasi-random draws from the catalogue's space, and
ends with a second wave (a quarter of the pool), drawn when the rest has been tried: beyond the end of the
space at which the best setting so far lies, or, where it lies inside, from the same sequence as before.
Draws are a pure function of the seed. A space is hyperparameter to ``(low, high)``; scale, default and
what is legal come from the catalogue.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.stats import qmc

from thalweg.catalogue.entry import Entry, Hyperparameter
from thalweg.entries import Setting
from thalweg.errors import OptionError, nearest

__all__ = ["Edges", "Range", "Space", "edges", "extended", "first_wave", "second_wave", "spaces"]

Scale = Literal["log", "linear", "complement"]
Edges = Mapping[str, Literal["low", "high"]]
Space = Mapping[str, tuple[float, float]]

_EDGE = 0.05
# scipy renamed the argument; a Generator means the same draws under both names
_RNG = "rng" if "rng" in inspect.signature(qmc.Halton).parameters else "seed"


@dataclass(frozen=True, kw_only=True)
class Range:
    """Where a hyperparameter is searched.

    Attributes:
        low, high: the ends, ``low < high``.
        scale: ``"log"``; ``"linear"``; or ``"complement"``, which is 1 - x on a log scale (momentum, betas).
        least, most: the ends of what is legal, where there are any.
        open: those of them that aren't legal themselves.
        whole: only whole numbers.
    """

    low: float
    high: float
    scale: Scale
    least: float = -math.inf
    most: float = math.inf
    open: tuple[float, ...] = ()
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

        Where rounding would lead to an end that isn't legal, it isn't done.

        >>> Range(low=0.0, high=0.999, scale="complement").value(0.5)
        0.9684
        """
        low, high = self._straight(self.low), self._straight(self.high)
        at = low + place * (high - low)
        if self.scale == "complement":
            # the digits that matter are those of 1 - x; the outer rounding only clears float dust
            found = 1.0 - math.exp(-at)
            near = round(1.0 - _rounded(math.exp(-at), 3), 12)
        else:
            found = math.exp(at) if self.scale == "log" else at
            near = float(round(found)) if self.whole else _rounded(found)
        near = self._inside(near)
        return self._inside(found) if near in self.open else near

    def beyond(self, end: Literal["low", "high"]) -> float:
        """Return how far this end may be moved out: a decade, on a linear scale the range's own width.

        Clipped to what is legal: over 0 on a log scale, at least 0 and under 1 on a complement scale, and
        whole where only whole numbers are.

        >>> Range(low=1e-4, high=1e-2, scale="log").beyond("high")
        0.1
        >>> Range(low=0.0, high=0.99, scale="complement").beyond("low")
        0.0
        """
        sign = -1.0 if end == "low" else 1.0
        start = self.low if end == "low" else self.high
        if self.scale == "log":
            far = _rounded(start * 10.0**sign)
        elif self.scale == "complement":
            far = round(max(0.0, 1.0 - _rounded((1.0 - start) * 10.0**-sign)), 12)
        else:
            far = _rounded(start + sign * (self.high - self.low))
        if self.whole:
            far = float(max(round(far), 1) if self.scale == "log" else round(far))
        return min(max(far, self.least), self.most)

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
        overrides: ``"adam.lr"`` to ``(low, high)``.

    Returns:
        Optimizer to space, hyperparameters in the catalogue's order.

    Raises:
        OptionError: a range for what isn't raced, the wrong way round, or beyond what is legal.
    """
    own: dict[str, dict[str, tuple[float, float]]] = {name: {} for name in entries}
    for key, (low, high) in overrides.items():
        optimizer, _, name = key.rpartition(".")
        _check(key, optimizer, name, low, high, entries)
        own[optimizer][name] = (float(low), float(high))
    found = {
        optimizer: {
            hyper.name: own[optimizer].get(hyper.name, (hyper.low, hyper.high))
            for hyper in entry.hyperparameters
            if hyper.searched or hyper.name in own[optimizer]
        }
        for optimizer, entry in entries.items()
    }
    for optimizer, space in found.items():
        _check_together(optimizer, entries[optimizer], space)
    return found


def _check(
    key: str, optimizer: str, name: str, low: float, high: float, entries: Mapping[str, Entry]
) -> None:
    if optimizer not in entries:
        raise OptionError(
            f"the search space {key!r} is for {optimizer or key!r}, which isn't in this race; "
            f"{nearest(optimizer or key, entries)}"
        )
    known = {hyper.name: hyper for hyper in entries[optimizer].hyperparameters}
    if name not in known:
        raise OptionError(f"{optimizer} has no hyperparameter {name!r} to search; {nearest(name, known)}")
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise OptionError(
            f"the search space of {key} goes from {low:g} to {high:g}, but must go from a lower to a "
            f"higher number; swap or change the ends"
        )
    hyper = known[name]
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


def _check_together(optimizer: str, entry: Entry, space: Space) -> None:
    """Refuse spaces of which one may give less than another's values, where it can't be less."""
    for hyper in entry.hyperparameters:
        other = next((one for one in entry.hyperparameters if one.name == hyper.not_under), None)
        if other is None:
            continue
        lowest = space.get(hyper.name, (hyper.default, hyper.default))[0]
        highest = space.get(other.name, (other.default, other.default))[1]
        if lowest < highest:
            raise OptionError(
                f"{optimizer}.{hyper.name} may be as low as {lowest:g} and {other.name} as high as "
                f"{highest:g}, but the first can't be less than the second; part their search spaces"
            )


def first_wave(
    entry: Entry, space: Space, schedules: Sequence[str], count: int, *, seed: int
) -> list[Setting]:
    """Return the pool's first settings: the library's defaults, then draws.

    The defaults go with the constant schedule where it is among the options, else with the first option.

    Args:
        entry: the optimizer.
        space: what is searched.
        schedules: the options, at least one, the same for all optimizers; where a schedule does nothing,
            only the constant one is drawn.
        count: how many settings, at least 1.
        seed: of the pool.
    """
    schedule = _plain(schedules)
    defaults = {hyper.name: hyper.default for hyper in entry.hyperparameters if hyper.name in space}
    default = Setting(optimizer=entry.name, hyperparameters=defaults, schedule=schedule)
    return [default, *_draws(entry, space, schedules, count - 1, seed, skip=0)]


def second_wave(
    entry: Entry,
    space: Space,
    schedules: Sequence[str],
    count: int,
    *,
    seed: int,
    drawn: int,
    edges: Edges,
) -> list[Setting]:
    """Return the pool's last settings: the next of the same quasi-random sequence.

    Args:
        entry: the optimizer.
        space: of the first wave.
        schedules: the options.
        count: how many settings.
        seed: of the pool.
        drawn: how many the pool has already, the defaults included.
        edges: :func:`edges` of the best of them. Each hyperparameter named is drawn from beyond that end
            alone; all others, and all if none is named, from the space as before.
    """
    beyond = dict(space)
    for name, end in edges.items():
        low, high = space[name]
        far = _ranges(entry, space)[name].beyond(end)
        ends = (far, low) if end == "low" else (high, far)
        if ends[0] < ends[1]:
            beyond[name] = ends
    return _draws(entry, beyond, schedules, count, seed, skip=drawn - 1)


def edges(entry: Entry, setting: Setting, space: Space) -> dict[str, Literal["low", "high"]]:
    """Name the hyperparameters within a twentieth of an end of their range, on the search scale, or past it.

    An end that can't be moved out (momentum 0) is no edge: nothing better can lie beyond it.
    """
    found: dict[str, Literal["low", "high"]] = {}
    defaults = {hyper.name: hyper.default for hyper in entry.hyperparameters}
    for name, span in _ranges(entry, space).items():
        place = span.place(float(setting.hyperparameters.get(name, defaults[name])))
        if place <= _EDGE and span.beyond("low") < span.low:
            found[name] = "low"
        elif place >= 1 - _EDGE and span.beyond("high") > span.high:
            found[name] = "high"
    return found


def extended(entry: Entry, space: Space, edges: Edges) -> dict[str, tuple[float, float]]:
    """Return the space with the ends named moved out, as :meth:`Range.beyond` says."""
    moved = dict(space)
    for name, end in edges.items():
        low, high = space[name]
        far = _ranges(entry, space)[name].beyond(end)
        moved[name] = (min(low, far), max(high, far))
    return moved


def _ranges(entry: Entry, space: Space) -> dict[str, Range]:
    """Ends with scale and legal limits, in the catalogue's order."""
    return {
        hyper.name: Range(
            low=space[hyper.name][0],
            high=space[hyper.name][1],
            scale=hyper.scale,
            least=_least(hyper, entry, space),
            most=_most(hyper, entry, space),
            open=tuple(end for end in (hyper.above, hyper.below) if end is not None),
            whole=hyper.whole,
        )
        for hyper in entry.hyperparameters
        if hyper.name in space
    }


def _least(hyper: Hyperparameter, entry: Entry, space: Space) -> float:
    ends = [end for end in (hyper.least, hyper.above) if end is not None]
    for other in entry.hyperparameters:
        if other.name == hyper.not_under:
            # where both are searched, this end stays, so that only the other one's moves
            ends.append(space[hyper.name][0] if other.name in space else other.default)
    return max(ends, default=-math.inf)


def _most(hyper: Hyperparameter, entry: Entry, space: Space) -> float:
    ends = [end for end in (hyper.most, hyper.below) if end is not None]
    for other in entry.hyperparameters:
        if other.not_under == hyper.name:
            ends.append(space[other.name][0] if other.name in space else other.default)
    return min(ends, default=math.inf)


def _draws(
    entry: Entry, space: Space, schedules: Sequence[str], count: int, seed: int, *, skip: int
) -> list[Setting]:
    """``count`` settings from a scrambled Halton sequence; the last dimension is the schedule."""
    if count <= 0:
        return []
    ranges = _ranges(entry, space)
    if not entry.scheduled:
        schedules = [_plain(schedules)]
    sampler = qmc.Halton(len(ranges) + 1, scramble=True, **{_RNG: np.random.default_rng(seed)})
    return [
        Setting(
            optimizer=entry.name,
            hyperparameters={
                name: span.value(float(place))
                for (name, span), place in zip(ranges.items(), point, strict=False)
            },
            schedule=schedules[int(point[-1] * len(schedules))],
        )
        for point in sampler.random(skip + count)[skip:]
    ]


def _plain(schedules: Sequence[str]) -> str:
    return "constant" if "constant" in schedules else schedules[0]


def _rounded(value: float, digits: int = 4) -> float:
    return float(f"{value:.{digits}g}")
