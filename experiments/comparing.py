"""What the numbers of an experiment say: means, intervals, differences in pairs, and a verdict on each."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from scipy.stats import t as student

from experiments.experiment import Experiment

__all__ = ["Difference", "Interval", "differences", "interval", "points", "scores"]

Verdict = Literal["gains", "loses", "the same", "not known"]


@dataclass(frozen=True)
class Interval:
    """A mean with its 95 % interval by Student's t; ``half`` is infinite where n is 1."""

    mean: float
    half: float
    n: int

    @property
    def low(self) -> float:
        """Where it begins."""
        return self.mean - self.half

    @property
    def high(self) -> float:
        """Where it ends."""
        return self.mean + self.half


def interval(values: Sequence[float]) -> Interval:
    """Return mean and interval of at least one number."""
    n, mean = len(values), statistics.fmean(values)
    if n < 2:
        return Interval(mean, math.inf, n)
    return Interval(mean, float(student.ppf(0.975, n - 1)) * statistics.stdev(values) / math.sqrt(n), n)


@dataclass(frozen=True, kw_only=True)
class Difference:
    """This less that, seed by seed, in points of a hundred.

    Attributes:
        panel: of both; of two panels empty.
        this, that: names of what is compared.
        found: the interval.
        matters: differences of less aren't looked for.
    """

    panel: str
    this: str
    that: str
    found: Interval
    matters: float

    @property
    def verdict(self) -> Verdict:
        """What the interval says: on one side of 0, within what doesn't matter, or neither."""
        if self.found.low > 0:
            return "gains"
        if self.found.high < 0:
            return "loses"
        return "the same" if max(-self.found.low, self.found.high) < self.matters else "not known"

    @property
    def bounds(self) -> str:
        """The interval in words."""
        return f"{self.found.low:+.1f} to {self.found.high:+.1f}"

    def sentence(self) -> str:
        """Say it in one sentence."""
        where = f"{self.panel}: " if self.panel else ""
        mean, n = abs(self.found.mean), f"n = {self.found.n}"
        if self.found.n < 2:
            return f"{where}**{self.this}** against {self.that}: one pair tells nothing."
        if self.verdict == "gains":
            said = f"gains {mean:.1f} points over {self.that}"
        elif self.verdict == "loses":
            said = f"loses {mean:.1f} points against {self.that}"
        elif self.verdict == "the same":
            said = f"is within {points(self.matters)} of {self.that}"
        else:
            said = (
                f"against {self.that}: {n} can't tell which is better, or whether they are within "
                f"{points(self.matters)}"
            )
            return f"{where}**{self.this}** {said} ({self.bounds})."
        return f"{where}**{self.this}** {said} ({self.bounds}; {n})."


def points(number: float) -> str:
    """Return so many points in words."""
    return f"{number:g} point{'' if number == 1 else 's'}"


def scores(experiment: Experiment, runs: Sequence[dict[str, Any]]) -> dict[tuple[str, str], dict[int, float]]:
    """Return what is compared, in points of a hundred, by panel and variant and then by seed."""
    found: dict[tuple[str, str], dict[int, float]] = {}
    for panel, variant in experiment.cells():
        mine = [r for r in runs if (r["panel"], r["variant"]) == (panel.name, variant.name)]
        values = {r["seed"]: 100 * r[experiment.number] for r in mine if r.get(experiment.number) is not None}
        if values:
            found[panel.name, variant.name] = values
    return found


def differences(experiment: Experiment, runs: Sequence[dict[str, Any]]) -> list[Difference]:
    """Return each variant against its panel's reference, and other contrasts, where there are runs."""
    there = scores(experiment, runs)
    wanted = [
        (panel.name, variant.name, experiment.reference_of(panel), (panel.name, variant.name),
         (panel.name, experiment.reference_of(panel)))
        for panel, variant in experiment.cells()
        if variant.name != experiment.reference_of(panel)
    ]  # fmt: skip
    for each in experiment.contrasts:
        this, that = (tuple(side.split(" / ", 1)) for side in (each.this, each.that))
        if this[0] == that[0]:
            wanted.append((this[0], this[1], that[1], this, that))  # type: ignore[arg-type]
        else:
            names = [f"{variant} ({panel})" for panel, variant in (this, that)]
            wanted.append(("", names[0], names[1], this, that))  # type: ignore[arg-type]
    made = []
    for panel_name, this_name, that_name, this, that in wanted:
        one, other = there.get(this, {}), there.get(that, {})
        seeds = sorted(one.keys() & other.keys())
        if seeds:
            found = interval([one[seed] - other[seed] for seed in seeds])
            made.append(
                Difference(
                    panel=panel_name, this=this_name, that=that_name, found=found, matters=experiment.matters
                )
            )
    return made
