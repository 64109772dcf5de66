"""Stopping hopeless settings early, inside a pool only, never across optimizers."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence

from thalweg.entries import Run
from thalweg.lanes.course import evaluation_points
from thalweg.racing.journal import Journal
from thalweg.racing.results import PlanInfo

__all__ = ["Halving"]

_RUNGS = (0.25, 0.5)


class Halving:
    """At a quarter and at half of the run, stop the worse half of each pool that is still running.

    Successive halving with the pool as its bracket (Jamieson and Talwalkar 2016). Optimizers are never
    held against each other: a pool of slow starters keeps its best just as a pool of fast ones does.
    Each decision is in the journal before anybody acts on it.

    Args:
        plan: its evaluation points decide where the rungs are.
        journal: where decisions are written.
        pools: optimizer to the runs of its pool.
    """

    def __init__(self, plan: PlanInfo, journal: Journal, pools: Mapping[str, Sequence[Run]]) -> None:
        self._plan = plan
        self._journal = journal
        self._pools = [[run.identity for run in runs] for runs in pools.values()]
        points = evaluation_points(plan.steps, plan.evaluations)
        self.rungs = {next(point for point in points if point >= rung * plan.steps) for rung in _RUNGS}
        self.stopped: dict[str, int] = {}
        for pool in self._pools:
            for step in sorted(self.rungs):
                if self._key(pool, step) in journal:
                    self._note(journal.once("eliminated", self._key(pool, step), list), step)

    def __call__(self, step: int, validation: Mapping[str, float | None]) -> set[str]:
        """Return the identities to stop now.

        Args:
            step: optimizer steps done.
            validation: metric of every run still running; ``None`` for one that diverged.
        """
        if step not in self.rungs:
            return set()
        stop: set[str] = set()
        for pool in self._pools:
            running = [identity for identity in pool if identity in validation]
            if not running:
                continue
            worse = self._journal.once(
                "eliminated",
                self._key(pool, step),
                functools.partial(self._worse_half, running, validation),
            )
            self._note(worse, step)
            stop.update(worse)
        return stop

    def _key(self, pool: Sequence[str], step: int) -> str:
        return f"eliminate/{pool[0]}/{step}"

    def _note(self, identities: Sequence[str], step: int) -> None:
        for identity in identities:
            self.stopped.setdefault(identity, step)

    def _worse_half(self, running: Sequence[str], validation: Mapping[str, float | None]) -> list[str]:
        def place(identity: str) -> tuple[int, float]:
            value = validation[identity]
            if value is None:
                return (1, 0.0)
            return (0, -value if self._plan.higher_is_better else value)

        in_order = sorted(running, key=place)
        return in_order[max(1, (len(in_order) + 1) // 2) :]
