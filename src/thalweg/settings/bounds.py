"""What is legal of a number: declared once beside what has it, for its checks, its rows and its search."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

__all__ = ["ABOVE_ZERO", "ANY", "BETAS", "FRACTION", "FROM_ZERO", "Bounds", "OptionBounds", "PairBounds"]


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """The ends of a number.

    Attributes:
        least, most: the smallest and the largest legal value, where there are such.
        above, below: what every legal value lies above and below, where it can't be reached itself.
        whole: whether only whole numbers make sense.
        finite: whether infinity is refused where no end does it.
        optional: whether ``None`` may stand in its place.
        why: why it can't be as small as what it lies above, for messages.

    >>> FRACTION.rule, FRACTION.asked(1.5), FRACTION.hold(0.0)
    ('at least 0 and below 1', 'a number of at least 0 and below 1', True)
    """

    least: float | None = None
    most: float | None = None
    above: float | None = None
    below: float | None = None
    whole: bool = False
    finite: bool = False
    optional: bool = False
    why: str = ""

    def hold(self, number: float) -> bool:
        """Say whether a number lies within, whole or not; NaN lies within no ends."""
        low = (self.least is None or number >= self.least) and (self.above is None or number > self.above)
        high = (self.most is None or number <= self.most) and (self.below is None or number < self.below)
        return low and high and not (self.finite and not math.isfinite(number))

    @property
    def rule(self) -> str:
        """What is legal, in words; empty where nothing is known."""
        words = ("at least", self.least), ("above", self.above), ("at most", self.most), ("below", self.below)
        ends = " and ".join(f"{word} {end:g}" for word, end in words if end is not None)
        return ", ".join(filter(None, ["a whole number" if self.whole else "", ends]))

    def asked(self, number: float = math.nan) -> str:
        """Say what to give in the place of a number that lies outside."""
        kind = "a whole number" if self.whole else "a finite number" if self.finite else "a number"
        instead = ", or None" if self.optional else ""
        if self.above is not None and number <= self.above and self.why:
            return f"a number over {self.above:g}, {self.why}"
        if None not in (self.least, self.most):
            return f"{kind} from {self.least:g} to {self.most:g}{instead}"
        ends = self.rule.removeprefix("a whole number").removeprefix(", ")
        of = " of" if self.least is not None else ""
        return f"{kind}{of} {ends}{instead}".rstrip()


@dataclass(frozen=True, kw_only=True)
class PairBounds:
    """The ends of two numbers that are given together.

    Attributes:
        first, second: of each.
        rising: whether the second can't be less than the first.
        optional: whether ``None`` may stand in their place.
        asked: what to give, where that is said of both at once.
    """

    first: Bounds
    second: Bounds
    rising: bool = False
    optional: bool = False
    asked: str = ""


OptionBounds: TypeAlias = Mapping[str, Bounds | PairBounds]
"""What is legal of each option of an optimizer that is a number, or a pair of them."""

ANY = Bounds()
FROM_ZERO = Bounds(least=0, finite=True)
ABOVE_ZERO = Bounds(above=0, finite=True)
FRACTION = Bounds(least=0, below=1)
BETAS = PairBounds(first=FRACTION, second=FRACTION)
