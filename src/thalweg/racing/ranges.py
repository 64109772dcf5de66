"""Where a number is searched: a range with its scale, and how far it may be moved out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from thalweg.catalogue.entry import Hyperparameter

__all__ = ["Range", "Space", "ranges"]

Scale = Literal["log", "linear", "complement"]
Space = Mapping[str, tuple[float, float]]


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


def ranges(numbers: Sequence[Hyperparameter], space: Space) -> dict[str, Range]:
    """Return the range of each number that a space has, with its scale and what is legal."""
    return {
        hyper.name: Range(
            low=space[hyper.name][0],
            high=space[hyper.name][1],
            scale=hyper.scale,
            least=_least(hyper, numbers, space),
            most=_most(hyper, numbers, space),
            open=tuple(end for end in (hyper.above, hyper.below) if end is not None),
            whole=hyper.whole,
        )
        for hyper in numbers
        if hyper.name in space
    }


def _least(hyper: Hyperparameter, numbers: Sequence[Hyperparameter], space: Space) -> float:
    ends = [end for end in (hyper.least, hyper.above) if end is not None]
    for other in numbers:
        if other.name == hyper.not_under:
            # where both are searched, this end stays, so that only the other one's moves
            ends.append(space[hyper.name][0] if other.name in space else other.default)
    return max(ends, default=-math.inf)


def _most(hyper: Hyperparameter, numbers: Sequence[Hyperparameter], space: Space) -> float:
    ends = [end for end in (hyper.most, hyper.below) if end is not None]
    for other in numbers:
        if other.not_under == hyper.name:
            ends.append(space[other.name][0] if other.name in space else other.default)
    return min(ends, default=math.inf)


def _rounded(value: float, digits: int = 4) -> float:
    return float(f"{value:.{digits}g}")
