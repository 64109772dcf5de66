"""The settings that one optimizer tries in one replicate, and the space that they are drawn from.

A pool has ``trials`` settings: first the library's defaults, then quasi-random draws from the published
space, and last a quarter of the pool in reserve, drawn when the rest has been tried: beyond the end of the
space at which the best setting so far lies, or, where it lies inside, from the same sequence as before.
Draws are a pure function of the seed.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np
from scipy.stats import qmc

from thalweg.entries import Setting
from thalweg.errors import OptionError, nearest

if TYPE_CHECKING:
    from thalweg.catalogue import Entry

__all__ = [
    "Edges",
    "Range",
    "Space",
    "check_overrides",
    "edges",
    "extended",
    "first_wave",
    "parse_space",
    "reserve",
    "reserve_size",
    "space_of",
]

Scale = Literal["log", "linear", "complement"]
Edges = Mapping[str, Literal["low", "high"]]

_EDGE = 0.05
# scipy renamed the argument; a Generator means the same draws under both names
_RNG = "rng" if "rng" in inspect.signature(qmc.Halton).parameters else "seed"


@dataclass(frozen=True, kw_only=True)
class Range:
    """Where a hyperparameter is searched.

    Attributes:
        low, high: the ends, ``low < high``.
        scale: ``"log"``; ``"linear"``; or ``"complement"``, which is 1 - x on a log scale (momentum, betas).
        least: the smallest legal value of a linear one, where there is one.
    """

    low: float
    high: float
    scale: Scale
    least: float = -math.inf

    def place(self, value: float) -> float:
        """Return where a value lies on the search scale: 0 at the low end, 1 at the high end.

        >>> round(Range(low=1e-4, high=1e-2, scale="log").place(1e-3), 6)
        0.5
        """
        low, high, at = (self._straight(x) for x in (self.low, self.high, value))
        return (at - low) / (high - low)

    def value(self, place: float) -> float:
        """Return the value at a place from 0 to 1, rounded to 4 significant digits (of 1 - x likewise).

        >>> Range(low=0.0, high=0.999, scale="complement").value(0.5)
        0.96838
        """
        low, high = self._straight(self.low), self._straight(self.high)
        at = low + place * (high - low)
        if self.scale == "complement":
            # the digits that matter are those of 1 - x; the outer rounding only clears float dust
            return round(1.0 - _rounded(math.exp(-at)), 12)
        return _rounded(math.exp(at) if self.scale == "log" else at)

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
            return _rounded(start * 10.0**sign)
        if self.scale == "complement":
            return round(max(0.0, 1.0 - _rounded((1.0 - start) * 10.0**-sign)), 12)
        return max(self.least, _rounded(start + sign * (self.high - self.low)))

    def _straight(self, value: float) -> float:
        """The value on the axis on which the search is uniform."""
        if self.scale == "log":
            return math.log(value) if value > 0 else -math.inf
        if self.scale == "complement":
            return -math.log(1.0 - value) if value < 1 else math.inf
        return value


@dataclass(frozen=True, kw_only=True)
class Space:
    """What is searched for one optimizer.

    Attributes:
        optimizer: its name.
        ranges: hyperparameter to range, in the catalogue's order.
        defaults: hyperparameter to the library's default, for the same names.
        schedules: the options, the same for all optimizers.
    """

    optimizer: str
    ranges: Mapping[str, Range]
    defaults: Mapping[str, float]
    schedules: tuple[str, ...] = ("constant",)


def space_of(
    name: str,
    entry: Entry,
    schedules: Iterable[str] = ("constant",),
    overrides: Mapping[str, tuple[float, float]] | None = None,
) -> Space:
    """Return the search space of an optimizer: the catalogue's, with a person's own ranges.

    A hyperparameter that the catalogue doesn't search is searched once it has a range.

    Args:
        name: of the optimizer in this race.
        entry: its row in the catalogue.
        schedules: names of schedules, at least one.
        overrides: ``"adam.lr"`` to ``(low, high)``, checked by :func:`check_overrides`; those of other
            optimizers are passed over.
    """
    own = {
        key.rpartition(".")[2]: ends
        for key, ends in (overrides or {}).items()
        if key.rpartition(".")[0] == name
    }
    ranges = {}
    for hyper in entry.hyperparameters:
        if hyper.searched or hyper.name in own:
            low, high = own.get(hyper.name, (hyper.low, hyper.high))
            least = 0.0 if hyper.low >= 0 else -math.inf
            ranges[hyper.name] = Range(low=float(low), high=float(high), scale=hyper.scale, least=least)
    defaults = {hyper.name: float(hyper.default) for hyper in entry.hyperparameters if hyper.name in ranges}
    return Space(optimizer=name, ranges=ranges, defaults=defaults, schedules=tuple(schedules))


def reserve_size(trials: int) -> int:
    """Return how many of a pool's settings are held in reserve: a quarter, rounded down."""
    return trials // 4


def first_wave(space: Space, trials: int, seed: int) -> list[Setting]:
    """Return the pool without its reserve: the defaults, then draws.

    The defaults go with the constant schedule where it is among the options, else with the first option.

    Args:
        space: from :func:`space_of`.
        trials: size of the whole pool, the reserve included, at least 1.
        seed: of the pool.

    Returns:
        ``trials - reserve_size(trials)`` settings.

    >>> lr = Range(low=1e-4, high=1e-1, scale="log")
    >>> space = Space(optimizer="sgd", ranges={"lr": lr}, defaults={"lr": 1e-3})
    >>> pool = first_wave(space, 16, seed=0)
    >>> len(pool), dict(pool[0].hyperparameters)
    (12, {'lr': 0.001})
    """
    schedule = "constant" if "constant" in space.schedules else space.schedules[0]
    default = Setting(optimizer=space.optimizer, hyperparameters=dict(space.defaults), schedule=schedule)
    return [default, *_draws(space, trials - reserve_size(trials) - 1, seed)]


def reserve(space: Space, trials: int, seed: int, at: Edges) -> list[Setting]:
    """Return the reserve of a pool.

    Args:
        space: the space of the first wave.
        trials: size of the whole pool.
        seed: of the pool.
        at: :func:`edges` of the best setting of the first wave. Each hyperparameter named is drawn from
            beyond that end alone; all others, and all if none is named, as in the first wave.

    Returns:
        ``reserve_size(trials)`` settings, the next of the same quasi-random sequence.
    """
    drawn = trials - reserve_size(trials) - 1
    ranges = dict(space.ranges)
    for name, end in at.items():
        old = ranges[name]
        ends = (old.beyond("low"), old.low) if end == "low" else (old.high, old.beyond("high"))
        if ends[0] < ends[1]:
            ranges[name] = replace(old, low=ends[0], high=ends[1])
    return _draws(replace(space, ranges=ranges), reserve_size(trials), seed, skip=drawn)


def edges(setting: Setting, space: Space) -> dict[str, Literal["low", "high"]]:
    """Name the hyperparameters within a twentieth of an end of their range, on the search scale, or past it.

    An end that can't be moved out (momentum 0) is no edge: nothing better can lie beyond it.

    >>> lr = Range(low=1e-4, high=1e-1, scale="log")
    >>> space = Space(optimizer="sgd", ranges={"lr": lr}, defaults={"lr": 1e-3})
    >>> edges(Setting(optimizer="sgd", hyperparameters={"lr": 0.09}), space)
    {'lr': 'high'}
    """
    found: dict[str, Literal["low", "high"]] = {}
    for name, span in space.ranges.items():
        place = span.place(float(setting.hyperparameters.get(name, space.defaults[name])))
        if place <= _EDGE and span.beyond("low") < span.low:
            found[name] = "low"
        elif place >= 1 - _EDGE and span.beyond("high") > span.high:
            found[name] = "high"
    return found


def extended(space: Space, at: Edges) -> Space:
    """Return the space with the ends named moved out, as :meth:`Range.beyond` says.

    >>> lr = Range(low=1e-4, high=1e-1, scale="log")
    >>> space = Space(optimizer="sgd", ranges={"lr": lr}, defaults={"lr": 1e-3})
    >>> extended(space, {"lr": "low"}).ranges["lr"].low
    1e-05
    """
    ranges = dict(space.ranges)
    for name, end in at.items():
        moved = ranges[name].beyond(end)
        ranges[name] = replace(ranges[name], low=moved) if end == "low" else replace(ranges[name], high=moved)
    return replace(space, ranges=ranges)


def parse_space(given: Iterable[str], entries: Mapping[str, Entry]) -> dict[str, tuple[float, float]]:
    """Read ``adam.lr=1e-4:1e-1`` and its like.

    Args:
        given: the texts.
        entries: the optimizers of this race by name.

    Returns:
        ``"adam.lr"`` to ``(low, high)``, checked by :func:`check_overrides`.

    Raises:
        OptionError: the text doesn't read so, or the range can't be used.
    """
    found = {}
    for text in given:
        key, _, ends = text.rpartition("=")
        low, _, high = ends.partition(":")
        try:
            found[key.strip()] = (float(low), float(high))
        except ValueError:
            found[key.strip()] = (math.nan, math.nan)
        if not key or any(math.isnan(end) for end in found[key.strip()]):
            raise OptionError(
                f"--space {text!r} can't be read; write OPTIMIZER.HYPERPARAMETER=LOW:HIGH, "
                f"such as adam.lr=1e-4:1e-1"
            )
    check_overrides(found, entries)
    return found


def check_overrides(overrides: Mapping[str, tuple[float, float]], entries: Mapping[str, Entry]) -> None:
    """Refuse ranges for what isn't raced, the wrong way round, or beyond what is legal.

    Args:
        overrides: ``"adam.lr"`` to ``(low, high)``.
        entries: the optimizers of this race by name.

    Raises:
        OptionError: in one sentence, what is wrong and what would do.
    """
    for key, (low, high) in overrides.items():
        optimizer, _, name = key.rpartition(".")
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
        scale = known[name].scale
        if scale == "log" and low <= 0:
            raise OptionError(
                f"the search space of {key} starts at {low:g}, but is searched on a log scale and must "
                f"start above 0; give a small positive number"
            )
        if scale == "complement" and not 0 <= low < high < 1:
            raise OptionError(
                f"the search space of {key} goes from {low:g} to {high:g}, but {name} must be at least 0 and "
                f"under 1; give ends in that range, such as 0.8:0.999"
            )
        if scale == "linear" and low < 0 <= known[name].low:
            raise OptionError(
                f"the search space of {key} starts at {low:g}, but {name} can't be negative; start at 0"
            )


def _draws(space: Space, count: int, seed: int, *, skip: int = 0) -> list[Setting]:
    """``count`` settings from a scrambled Halton sequence; the last dimension is the schedule."""
    if count <= 0:
        return []
    sampler = qmc.Halton(len(space.ranges) + 1, scramble=True, **{_RNG: np.random.default_rng(seed)})
    points = sampler.random(skip + count)[skip:]
    return [
        Setting(
            optimizer=space.optimizer,
            hyperparameters={
                name: span.value(float(place))
                for (name, span), place in zip(space.ranges.items(), point, strict=False)
            },
            schedule=space.schedules[int(point[-1] * len(space.schedules))],
        )
        for point in points
    ]


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")
