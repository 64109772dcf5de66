"""Stopping hopeless settings early, inside a pool only, never across optimizers."""

from __future__ import annotations

import functools
from collections.abc import Collection, Mapping, Sequence

from thalweg.execution.journal import Journal
from thalweg.racing.results import PlanInfo
from thalweg.run.sampler import evaluation_points
from thalweg.run.spec import Run

__all__ = ["Halving"]

_RUNGS = (0.25, 0.5)


class Halving:
    """At a quarter and at half of the run, stop the worse half of each pool that is still running.

    Successive halving with the pool as its bracket (Jamieson and Talwalkar 2016). Optimizers are never
    held against each other: a pool of slow starters keeps its best just as a pool of fast ones does.
    Runs that diverged have stopped by themselves and count on neither side. Each decision is in the journal
    before anybody acts on it.

    Args:
        plan: its evaluation points decide where the rungs are.
        journal: where decisions are written.
        pools: optimizer to the runs of its pool.
        spared: identities that run to the end in any case: the library defaults, which the default goal and
            the comparison of defaults with tuned settings need.
    """

    def __init__(
        self,
        plan: PlanInfo,
        journal: Journal,
        pools: Mapping[str, Sequence[Run]],
        *,
        spared: Collection[str] = (),
    ) -> None:
        self._plan = plan
        self._journal = journal
        self._spared = frozenset(spared)
        self._pools = [[run.identity for run in runs] for runs in pools.values()]
        points = evaluation_points(plan.steps, plan.evaluations)
        rungs = {next(point for point in points if point >= rung * plan.steps) for rung in _RUNGS}
        self.rungs = rungs - {plan.steps}
        self.stopped: dict[str, int] = {}
        for pool in self._pools:
            for step in sorted(self.rungs):
                if self._key(pool, step) in journal:
                    self._note(journal.once("eliminated", self._key(pool, step), list), step)

    def __call__(self, step: int, validation: Mapping[str, float | None]) -> set[str]:
        """Return the identities to stop now.

        Args:
            step: optimizer steps done.
            validation: metric of the runs; ``None`` for one that diverged.
        """
        if step not in self.rungs:
            return set()
        stop: set[str] = set()
        for pool in self._pools:
            running = {
                identity: value for identity in pool if (value := validation.get(identity)) is not None
            }
            if not running:
                continue
            worse = self._journal.once(
                "eliminated",
                self._key(pool, step),
                functools.partial(self._worse_half, running),
            )
            self._note(worse, step)
            stop.update(worse)
        return stop

    def _key(self, pool: Sequence[str], step: int) -> str:
        return f"eliminate/{pool[0]}/{step}"

    def _note(self, identities: Sequence[str], step: int) -> None:
        for identity in identities:
            self.stopped.setdefault(identity, step)

    def _worse_half(self, running: Mapping[str, float]) -> list[str]:
        in_order = sorted(running, key=running.__getitem__, reverse=self._plan.higher_is_better)
        return [each for each in in_order[(len(in_order) + 1) // 2 :] if each not in self._spared]
