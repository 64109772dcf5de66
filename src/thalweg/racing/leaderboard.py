"""The leaderboard while a race is still running."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from thalweg.racing.initializations import words
from thalweg.racing.records import PoolRecord, ReplicateRecord, final, ranked
from thalweg.racing.results import PlanInfo
from thalweg.racing.watch import LeaderboardRow
from thalweg.run.spec import Setting

__all__ = ["leaderboard"]


def leaderboard(records: Sequence[ReplicateRecord], plan: PlanInfo) -> list[LeaderboardRow]:
    """Return the leaderboard after what has been run so far, best first.

    Args:
        records: of the replicates, the last of them perhaps unfinished.
        plan: which metric, which way.
    """
    rows = [_row(name, [record.pools[name] for record in records], plan) for name in plan.optimizers]

    def place(row: LeaderboardRow) -> tuple[bool, float]:
        value = row.best_validation if row.confirmed_score is None else row.confirmed_score
        known = 0.0 if value is None else value
        return (value is None, -known if plan.higher_is_better else known)

    return sorted(rows, key=place)


def _row(name: str, pools: Sequence[PoolRecord], plan: PlanInfo) -> LeaderboardRow:
    best = [ranked(pool.tried, higher_is_better=plan.higher_is_better)[0] for pool in pools if pool.tried]
    values = [value for one in best if (value := final(one.outcome)) is not None]
    scores = [
        outcome.test[-1]
        for pool in pools
        for outcome in pool.confirmations
        if outcome.diverged_at is None and outcome.test
    ]
    known = [score for score in scores if score is not None]
    tried = [one for pool in pools for one in pool.tried]
    return LeaderboardRow(
        optimizer=name,
        best_validation=statistics.median(values) if values else None,
        confirmed_score=statistics.median(known) if known else None,
        tried=len(tried),
        diverged=sum(one.outcome.diverged_at is not None for one in tried),
        setting=_phrase(best[-1].setting) if best else "",
    )


def _phrase(setting: Setting) -> str:
    parts = [f"{name}={value:g}" for name, value in setting.hyperparameters.items()]
    return ", ".join([*parts, setting.schedule, *words(setting.initialization)])
