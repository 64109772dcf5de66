"""From what a race gathered to ``results.json``."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from thalweg.racing.records import PoolRecord, ReplicateRecord, Tried, final
from thalweg.racing.results import (
    AuditInfo,
    ComputeInfo,
    ConfirmRun,
    Curve,
    EliminationInfo,
    GoalInfo,
    PlanInfo,
    ReplicateWinner,
    SettingInfo,
    Trial,
)
from thalweg.run.spec import Outcome, Setting
from thalweg.training.steps import FORWARD_BACKWARD

__all__ = [
    "WORK_PER_STEP",
    "compute",
    "confirm_runs",
    "curves",
    "default_goal",
    "elimination",
    "final_scores",
    "goal_info",
    "pool_of",
    "replicate_winners",
    "rerun_mean",
    "scores_at_steps",
    "setting_info",
    "trials",
]

WORK_PER_STEP = FORWARD_BACKWARD
"""A step of the plan is one forward (1) and one backward (2) pass over its batch."""


def pool_of(records: Sequence[ReplicateRecord], optimizer: str) -> list[PoolRecord]:
    """Return one optimizer's pools, a replicate each."""
    return [record.pools[optimizer] for record in records]


def setting_info(setting: Setting) -> SettingInfo:
    """Return a setting as it is written into results."""
    return SettingInfo(
        optimizer=setting.optimizer,
        hyperparameters=dict(setting.hyperparameters),
        schedule=setting.schedule,
        initialization=dict(setting.initialization),
    )


def default_goal(records: Sequence[ReplicateRecord], plan: PlanInfo) -> float | None:
    """Return what the best optimizer reaches with its library defaults: the goal where none is given.

    The median over replicates of the final validation metric of each optimizer's defaults, the best
    of them over optimizers; ``None`` where every optimizer's defaults diverged somewhere.
    """
    medians = []
    for name in plan.optimizers:
        values = [final(pool.tried[0].outcome) for pool in pool_of(records, name)]
        known = [value for value in values if value is not None]
        if len(known) == len(values):
            medians.append(statistics.median(known))
    if not medians:
        return None
    return max(medians) if plan.higher_is_better else min(medians)


def goal_info(outcome: Outcome, goal: float | None, plan: PlanInfo) -> GoalInfo:
    """Return when a run first reached the goal on validation."""
    if goal is not None:
        for step, value in zip(outcome.steps, outcome.validation, strict=True):
            if value is not None and (value >= goal if plan.higher_is_better else value <= goal):
                return GoalInfo(steps=step, passes=step * plan.epochs / plan.steps, work=step * WORK_PER_STEP)
    return GoalInfo(steps=None, passes=None, work=None)


def confirm_runs(pools: Sequence[PoolRecord], goal: float | None, plan: PlanInfo) -> list[ConfirmRun]:
    """Return one optimizer's confirmation runs, replicate by replicate."""
    return [
        ConfirmRun(
            identity=outcome.identity,
            replicate=pool.replicate,
            seed=seed,
            score=None if outcome.diverged_at is not None else outcome.test[-1],
            validation=final(outcome),
            diverged_at=outcome.diverged_at,
            goal=goal_info(outcome, goal, plan),
            updates=outcome.updates,
        )
        for pool in pools
        for outcome, seed in zip(pool.confirmations, pool.confirm_seeds, strict=True)
    ]


def final_scores(records: Sequence[ReplicateRecord], plan: PlanInfo) -> npt.NDArray[np.float64]:
    """Return test scores after the last step as ``[optimizers, replicates, seeds]``, NaN for diverged."""
    last = dict.fromkeys(plan.optimizers, plan.steps)
    return scores_at_steps(records, plan, last)


def scores_at_steps(
    records: Sequence[ReplicateRecord], plan: PlanInfo, steps: Mapping[str, int]
) -> npt.NDArray[np.float64]:
    """Return test scores at the last evaluation within so many steps, NaN for runs diverged by then."""

    def score(outcome: Outcome, most: int) -> float:
        if outcome.diverged_at is not None and outcome.diverged_at <= most:
            return float("nan")
        within = [value for step, value in zip(outcome.steps, outcome.test, strict=True) if step <= most]
        value = within[-1] if within else None
        return float("nan") if value is None else value

    return np.array(
        [
            [
                [score(outcome, steps[name]) for outcome in pool.confirmations]
                for pool in pool_of(records, name)
            ]
            for name in plan.optimizers
        ],
        dtype=np.float64,
    )


def trials(pools: Sequence[PoolRecord]) -> list[Trial]:
    """Return every setting that was tried in the screening stage."""
    return [
        Trial(
            identity=one.outcome.identity,
            replicate=pool.replicate,
            wave=one.wave,
            setting=setting_info(one.setting),
            validation=None if one.eliminated_at is not None else final(one.outcome),
            diverged_at=one.outcome.diverged_at,
            eliminated_at=one.eliminated_at,
            edges=dict(one.edges),
        )
        for pool in pools
        for one in pool.tried
    ]


def replicate_winners(pools: Sequence[PoolRecord]) -> list[ReplicateWinner]:
    """Return the setting that won each replicate's pool."""
    winners = []
    for pool in pools:
        winner = pool.winner
        assert winner is not None
        winners.append(
            ReplicateWinner(
                replicate=pool.replicate,
                identity=winner.outcome.identity,
                setting=setting_info(winner.setting),
                rerun_validation=[final(outcome) for outcome in pool.reruns[winner.outcome.identity]],
                edges=dict(winner.edges),
                extended=pool.extended,
            )
        )
    return winners


def rerun_mean(pool: PoolRecord, one: Tried) -> float | None:
    """Return the mean final validation over a setting's reruns, ``None`` if one of them diverged.

    Of a race that had no time for reruns it is that of the screening.
    """
    values = [final(outcome) for outcome in pool.reruns[one.outcome.identity] or [one.outcome]]
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if len(known) == len(values) else None


def curves(pools: Sequence[PoolRecord]) -> list[Curve]:
    """Return the learning curves of the confirmation runs."""
    return [
        Curve(
            identity=outcome.identity,
            replicate=pool.replicate,
            seed=seed,
            steps=outcome.steps,
            train_loss=outcome.train_loss,
            validation_loss=outcome.validation_loss,
            validation=outcome.validation,
        )
        for pool in pools
        for outcome, seed in zip(pool.confirmations, pool.confirm_seeds, strict=True)
    ]


def compute(pools: Sequence[PoolRecord], plan: PlanInfo) -> ComputeInfo:
    """Return the work that one optimizer's stages took, evaluations aside; diverged runs end early."""
    tried = [one for pool in pools for one in pool.tried]

    def work(outcomes: Iterable[Outcome]) -> float:
        steps = (plan.steps if one.diverged_at is None else one.diverged_at for one in outcomes)
        return WORK_PER_STEP * sum(steps)

    return ComputeInfo(
        screen=work(one.outcome for one in tried if one.eliminated_at is None),
        rerun=work(one for pool in pools for outcomes in pool.reruns.values() for one in outcomes),
        confirm=work(one for pool in pools for one in pool.confirmations),
        eliminated=WORK_PER_STEP * sum(one.eliminated_at or 0 for one in tried),
        audit=WORK_PER_STEP * plan.steps * sum(len(pool.audits) for pool in pools),
    )


def elimination(records: Sequence[ReplicateRecord], plan: PlanInfo) -> EliminationInfo:
    """Return what was stopped early, and what the audit found."""
    pools = [pool for record in records for pool in record.pools.values()]
    return EliminationInfo(
        enabled=plan.eliminate,
        eliminated=[
            one.outcome.identity for pool in pools for one in pool.tried if one.eliminated_at is not None
        ],
        audits=[
            AuditInfo(
                identity=audit.identity,
                optimizer=audit.optimizer,
                replicate=audit.replicate,
                chosen_as=audit.chosen_as,
                validation=audit.validation,
                regret=audit.regret,
            )
            for pool in pools
            for audit in pool.audits
        ],
    )
