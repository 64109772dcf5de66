"""A race's budget of time while it runs: what the clock leaves of the plan, and what was cut."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from thalweg.execution.journal import Journal
from thalweg.racing.plan import KEPT_BACK, Cost, replicate_seconds, spoken_seconds
from thalweg.racing.results import PlanInfo

__all__ = ["Budget", "overrun"]

# a verdict compares splits, so it needs two of them
_FEWEST_SPLITS = 2
# a budget overrun by less than this share is as good as kept
_OVERRUN = 1.2


def overrun(plan: PlanInfo, seconds: float) -> str | None:
    """Say that a race took longer than its budget; ``None`` where it didn't, or by little.

    Args:
        plan: what was done, with ``minutes`` if there was a budget.
        seconds: that the race took.
    """
    if plan.minutes is None or seconds <= _OVERRUN * 60 * plan.minutes:
        return None
    least = ": two splits are run whatever they take" if plan.splits <= _FEWEST_SPLITS else ""
    budget = spoken_seconds(60 * plan.minutes)
    return f"the race took {spoken_seconds(seconds)}, more than its budget of {budget}{least}"


class Budget:
    """Cuts a plan when the clock says so.

    An estimate made before the race can be wrong, on a busy machine by a factor. While the first split runs,
    settings that its first wave can't try in time, the second wave and the reruns are left out, here and in
    all splits that follow, so that each is tuned alike. After two splits, another one begins only if it is
    expected to end in time, and is dropped if it doesn't. Every decision goes into the journal before
    anybody acts on it: a resumed race decides the same.

    Args:
        plan: with ``minutes``; without a budget nothing is ever cut.
        cost: as measured before the race.
        journal: has the clock, of all attempts together.
        told: called with each sentence about a cut.
    """

    def __init__(self, plan: PlanInfo, cost: Cost, journal: Journal, told: Callable[[str], None]) -> None:
        self.plan = plan
        self.cuts: list[str] = []
        self._cost = cost
        self._journal = journal
        self._told = told
        self._limit = None if plan.minutes is None else 60 * plan.minutes * (1 - KEPT_BACK)
        # seconds by the estimate of what is done, and the clock when runs began
        self._planned = 0.0
        self._begun = float(self._once("begun", lambda: journal.elapsed)) if self._limit is not None else 0.0

    def first_wave_is_over(self, replicate: int) -> bool:
        """Say whether the first split's first wave has had its share: two whole splits have to fit."""
        if self._limit is None or replicate > 0:
            return False
        parts = replicate_seconds(self.plan, self._cost)
        share = parts["first"] / (parts["first"] + parts["confirm"]) / _FEWEST_SPLITS
        return self._journal.elapsed > self._begun + (self._limit - self._begun) * share

    def after_first_wave(self, replicate: int, tried: int) -> None:
        """Leave out what won't fit, once the first split's first wave has tried so many settings."""
        if self._limit is None or replicate > 0:
            return
        first = self.plan.trials - self.plan.reserve
        parts = replicate_seconds(self.plan, self._cost)
        self._planned += parts["first"] * tried / first
        if tried < first:
            self._cut(
                f"{tried} of {self.plan.trials} settings an optimizer were tried", trials=tried, reserve=0
            )
        cut = self._once("first wave", self._unfitting)
        if "second" in cut and self.plan.reserve:
            asked = self.plan.trials
            self._cut(f"{first} of {asked} settings an optimizer were tried", trials=first, reserve=0)
        if "rerun" in cut:
            self._cut("the best settings weren't run again on other seeds", reruns=1, rerun_seeds=0)

    def next_fits(self, replicate: int) -> bool:
        """Say whether another split is expected to end in time."""
        if self._limit is None or replicate < _FEWEST_SPLITS:
            return True
        return bool(self._once(f"split {replicate}", lambda: self._fits(self._whole())))

    def is_over(self, replicate: int) -> bool:
        """Say whether a split that is under way has to be dropped."""
        if self._limit is None or replicate < _FEWEST_SPLITS:
            return False
        return self._journal.elapsed > self._limit

    def done(self, replicate: int) -> None:
        """Take in that a split has ended."""
        parts = replicate_seconds(self.plan, self._cost)
        self._planned += self._whole() - (parts["first"] if replicate == 0 else 0.0)

    def end(self, replicates: int, why: str) -> None:
        """Say that the race ends with so many splits."""
        self._cut(f"{replicates} of {self.plan.splits} splits were run{why}", splits=replicates)

    def dropped(self, replicate: int) -> bool:
        """Say whether this split was dropped, in this attempt or an earlier one."""
        return f"budget/dropped {replicate}" in self._journal

    def drop(self, replicate: int) -> None:
        """Write down that a split is dropped."""
        self._once(f"dropped {replicate}", lambda: True)

    def _whole(self) -> float:
        return sum(replicate_seconds(self.plan, self._cost).values())

    def _unfitting(self) -> list[str]:
        parts = replicate_seconds(self.plan, self._cost)
        cut: list[str] = []
        for part in ("second", "rerun"):
            rest = _FEWEST_SPLITS * sum(parts.values()) - parts["first"]
            if self._fits(rest):
                break
            parts[part] = 0.0
            cut.append(part)
        return cut

    def _fits(self, seconds: float) -> bool:
        """Whether what the estimate gives so many seconds ends in time, at the pace of the race so far."""
        assert self._limit is not None
        elapsed = self._journal.elapsed
        pace = (elapsed - self._begun) / self._planned if self._planned else 1.0
        return elapsed + pace * seconds <= self._limit

    def _cut(self, sentence: str, **changes: int) -> None:
        self.plan = self.plan.model_copy(update=changes)
        assert self.plan.minutes is not None
        self.cuts.append(f"{sentence}, since the budget is {spoken_seconds(60 * self.plan.minutes)}")
        self._told(self.cuts[-1])

    def _once(self, key: str, decide: Callable[[], Any]) -> Any:
        return self._journal.once("budget", f"budget/{key}", decide)
