"""Rules: what numbers over seeds must show, and what their intervals say."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from scipy.stats import binomtest
from scipy.stats import t as student

__all__ = [
    "Decided",
    "MeanInterval",
    "Test",
    "Verdict",
    "always",
    "interval",
    "less",
    "more",
    "near",
    "share",
]

Verdict = Literal["holds", "holds under named conditions", "does not hold", "can't be told"]

# more than this nobody measures
_MOST = 100_000


@dataclass(frozen=True)
class MeanInterval:
    """A mean with its interval.

    Attributes:
        mean: of the values.
        low, high: ends of the interval; infinite where one value tells nothing of the spread.
        n: how many values.
    """

    mean: float
    low: float
    high: float
    n: int


def interval(values: Sequence[float], level: float = 0.95, *, exact: bool = False) -> MeanInterval:
    """Return the mean and its interval by Student's t.

    Args:
        values: at least one.
        level: of the interval.
        exact: the values have no error: the interval is their range.
    """
    n, mean = len(values), statistics.fmean(values)
    if exact:
        return MeanInterval(mean, min(values), max(values), n)
    if n < 2:
        return MeanInterval(mean, -math.inf, math.inf, n)
    half = float(student.ppf(0.5 + level / 2, n - 1)) * statistics.stdev(values) / math.sqrt(n)
    return MeanInterval(mean, mean - half, mean + half, n)


@dataclass(frozen=True, kw_only=True)
class Decided:
    """What the numbers say of one test.

    Attributes:
        verdict: ``holds``, ``does not hold`` or ``can't be told``.
        said: in one sentence, with the numbers.
        needed: seeds that would tell, by the spread that was seen; ``None`` where it is told.
    """

    verdict: Verdict
    said: str
    needed: int | None = None


@dataclass(frozen=True, kw_only=True)
class Test:
    """One thing that the numbers must show. Made by :func:`more`, :func:`less`, :func:`near`, ...

    Attributes:
        kind: how it is judged.
        this: name of a number of the measurement.
        that: another, or a value.
        by: the difference must be above this.
        matters: it fails for certain where the difference is below ``by + matters``.
        said: what is compared, in words.
    """

    __test__ = False  # pytest collects what is called so

    kind: Literal["more", "near", "always", "share"]
    this: str
    that: str | float = 0.0
    by: float = 0.0
    matters: float = 0.0
    said: str = ""

    def decide(self, numbers: Sequence[Mapping[str, Any]], *, level: float, exact: bool) -> Decided:
        """Judge the numbers of all seeds.

        Args:
            numbers: one mapping a seed.
            level: of the interval.
            exact: the numbers have no error.
        """
        if self.kind == "always":
            return self._always(numbers)
        if self.kind == "share":
            return self._share(numbers, level)
        differences = [self._value(each, self.this) - self._value(each, self.that) for each in numbers]
        if not all(map(math.isfinite, differences)):
            return self._signs(differences, level)
        found = interval(differences, level, exact=exact)
        if self.kind == "near":
            inside = found.low >= -self.by and found.high <= self.by
            outside = found.low > self.by or found.high < -self.by
            verdict: Verdict = "holds" if inside else "does not hold" if outside else "can't be told"
            distance = abs(abs(found.mean) - self.by)
            wanted = f"within {_text(self.by)}"
        else:
            above, below = found.low > self.by, found.high <= self.by + self.matters
            verdict = "holds" if above else "does not hold" if below else "can't be told"
            # half an interval shorter than the longer of these would tell
            distance = max(found.mean - self.by, self.by + self.matters - found.mean)
            wanted = f"more than {_text(self.by)}"
        spread = f" ({_text(found.low)} to {_text(found.high)}, n = {found.n})" if found.n > 1 else ""
        said = f"{self._words()}: {_text(found.mean)}{spread}, where {wanted} is claimed"
        needed = _needed(differences, distance, level) if verdict == "can't be told" else None
        return Decided(verdict=verdict, said=said, needed=needed)

    def names(self) -> list[str]:
        """Return the names of the numbers that it needs."""
        return [self.this, *([self.that] if isinstance(self.that, str) else [])]

    def _words(self) -> str:
        if self.said:
            return self.said
        plain = self.this.replace("_", " ")
        if isinstance(self.that, str):
            return f"{plain} less {self.that.replace('_', ' ')}"
        return plain if self.that == 0 else f"{plain} less {_text(self.that)}"

    def _value(self, numbers: Mapping[str, Any], name: str | float) -> float:
        found = numbers[name] if isinstance(name, str) else name
        return math.nan if found is None else float(found)

    def _always(self, numbers: Sequence[Mapping[str, Any]]) -> Decided:
        right = sum(bool(each[self.this]) for each in numbers)
        words = self.said or self.this.replace("_", " ")
        if len(numbers) == 1:
            seen, wanted = ("yes" if right else "no"), "yes"
        else:
            seen, wanted = f"in {right} of {len(numbers)}", "all"
        if right < len(numbers):
            return Decided(verdict="does not hold", said=f"{words}: {seen}, where {wanted} is claimed")
        return Decided(verdict="holds", said=f"{words}: {seen}")

    def _share(self, numbers: Sequence[Mapping[str, Any]], level: float) -> Decided:
        yes = sum(bool(each[self.this]) for each in numbers)
        return self._counted(yes, len(numbers), self.by, self.said or self.this.replace("_", " "), level)

    def _signs(self, differences: Sequence[float], level: float) -> Decided:
        # what is infinite has no mean: count in how many pairs the difference is as claimed
        if self.kind == "near":
            yes = sum(abs(each) <= self.by for each in differences)
        else:
            yes = sum(each > self.by for each in differences)
        return self._counted(yes, len(differences), 0.5, self._words() + ", by the sign", level)

    def _counted(self, yes: int, n: int, bar: float, words: str, level: float) -> Decided:
        found = binomtest(yes, n).proportion_ci(confidence_level=level, method="exact")
        verdict: Verdict = (
            "holds" if found.low > bar else "does not hold" if found.high <= bar else "can't be told"
        )
        seen = f"{yes} of {n} ({found.low:.0%} to {found.high:.0%})"
        said = f"{words}: in {seen}, where more than {bar:.0%} is claimed"
        needed = None
        if verdict == "can't be told":
            rate = yes / n
            distance = max(abs(rate - bar), 1e-6)
            z = float(student.ppf(0.5 + level / 2, 1_000_000))
            most = max(rate * (1 - rate), 1 / (4 * n))
            needed = min(_MOST, max(n + 1, math.ceil(z * z * most / distance**2)))
        return Decided(verdict=verdict, said=said, needed=needed)


def more(
    this: str, than: str | float = 0.0, *, by: float = 0.0, matters: float = 0.0, said: str = ""
) -> Test:
    """``this - than > by``, on average over seeds, in pairs.

    Holds where the whole interval of the mean is above ``by``; does not hold where it is all at or below
    ``by + matters``.
    """
    if not isinstance(than, str):
        # so that what is said is the number itself
        by, than = by + than, 0.0
    return Test(kind="more", this=this, that=than, by=by, matters=matters, said=said)


def less(this: str, than: str, *, by: float = 0.0, matters: float = 0.0, said: str = "") -> Test:
    """``than - this > by``: :func:`more` with sides exchanged."""
    return Test(kind="more", this=than, that=this, by=by, matters=matters, said=said)


def near(this: str, to: str | float, *, within: float, said: str = "") -> Test:
    """``|this - to| <= within``, on average over seeds.

    Holds where the whole interval of the mean is within; does not hold where it is all outside.
    """
    return Test(kind="near", this=this, that=to, by=within, said=said)


def always(what: str, *, said: str = "") -> Test:
    """``what`` isn't zero in any seed: for laws, of which one exception is enough."""
    return Test(kind="always", this=what, said=said)


def share(what: str, *, above: float, said: str = "") -> Test:
    """``what`` isn't zero in more than this share of seeds, by the exact binomial interval."""
    return Test(kind="share", this=what, by=above, said=said)


def _needed(differences: Sequence[float], distance: float, level: float) -> int:
    n = len(differences)
    if n < 2:
        return 2
    spread = statistics.stdev(differences)
    z = float(student.ppf(0.5 + level / 2, max(n - 1, 10)))
    root = z * spread / distance if distance > 0 else math.inf
    return _MOST if root > math.sqrt(_MOST) else max(n + 1, math.ceil(root**2))


def _text(value: float) -> str:
    if not math.isfinite(value):
        return "no bound" if math.isinf(value) else "not a number"
    if 1e3 <= abs(value) < 1e5:
        return f"{value:,.0f}"
    return f"{value:.3g}" if value == 0 or 1e-3 <= abs(value) < 1e5 else f"{value:.2g}"
