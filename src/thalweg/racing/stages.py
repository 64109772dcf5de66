"""The protocol of one replicate: tune (``screen``), re-test (``rerun``), confirm.

What is repeated, replicate after replicate, is the whole procedure, tuning included: each replicate
has its own split of the data, its own draw of every pool and its own seeds, shared by all optimizers.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Generator, Mapping
from typing import TypeAlias

from thalweg.execution.execution import Request
from thalweg.execution.journal import Journal
from thalweg.racing import pools
from thalweg.racing.budget import Budget
from thalweg.racing.elimination import Halving
from thalweg.racing.race_setup import RaceSetup
from thalweg.racing.records import Audit, PoolRecord, ReplicateRecord, Tried, final, ranked
from thalweg.racing.results import PlanInfo
from thalweg.racing.tuning import regret
from thalweg.randomness.streams import seed32
from thalweg.run.problem import Problem
from thalweg.run.spec import Outcome, Run, Setting

__all__ = ["Replicate", "replicate"]

Replicate: TypeAlias = Generator[Request, Mapping[str, Outcome], ReplicateRecord]
"""Gives the runs of one stage after another, is sent their outcomes by identity, and returns the record.

Who drives it decides whether replicates run one after another or side by side.
"""

_Stage: TypeAlias = Generator[Request, Mapping[str, Outcome], None]
_AUDITED_AT_RANDOM = 1


def replicate(
    number: int,
    setup: RaceSetup,
    budget: Budget,
    journal: Journal,
    *,
    told: Callable[[ReplicateRecord], None],
) -> Replicate:
    """Go through one replicate from its split to its confirmation runs.

    Args:
        number: of the replicate, from 0.
        setup: what the race understood.
        budget: has the plan, how much of everything, and cuts it after the first wave where time is short.
        journal: remembers who was eliminated.
        told: called after each stage with the record so far.

    Returns:
        The record: every setting tried, the reruns of the best three, the winner and its confirmations.
    """
    problem, plan = setup.problem(number), budget.plan
    record = ReplicateRecord(
        replicate=number,
        pools={name: PoolRecord(optimizer=name, replicate=number) for name in plan.optimizers},
    )
    yield from _first_wave(
        record, setup, plan, journal, problem, over=lambda: budget.first_wave_is_over(number)
    )
    budget.after_first_wave(number, min(len(pool.tried) for pool in record.pools.values()))
    plan = budget.plan
    told(record)
    yield from _second_wave(record, setup, plan, journal, problem)
    if plan.eliminate:
        yield from _audit(record, setup, plan, problem)
    told(record)
    yield from _rerun(record, setup, plan, problem)
    yield from _confirm(record, setup, plan, problem)
    told(record)
    return record


def _first_wave(
    record: ReplicateRecord,
    setup: RaceSetup,
    plan: PlanInfo,
    journal: Journal,
    problem: Problem,
    *,
    over: Callable[[], bool],
) -> _Stage:
    drawn_from = {name: pools.choices(plan, name) for name in plan.optimizers}
    settings = {
        name: pools.first_wave(
            setup.entries[name],
            choices,
            plan.trials - plan.reserve,
            seed=_pool_seed(plan, record, name),
        )
        for name, choices in drawn_from.items()
    }
    yield from _screen(record, setup, plan, journal, problem, settings, drawn_from, wave=1, over=over)


def _second_wave(
    record: ReplicateRecord, setup: RaceSetup, plan: PlanInfo, journal: Journal, problem: Problem
) -> _Stage:
    """Spend the reserve: beyond the edge where the best setting so far lies at one, inside otherwise."""
    if not plan.reserve:
        return
    settings = {}
    drawn_from: dict[str, pools.Choices] = {}
    for name, pool in record.pools.items():
        best = ranked(pool.tried, higher_is_better=plan.higher_is_better)[0]
        entry, whole = setup.entries[name], pools.choices(plan, name)
        # the library defaults stand where they stand: only a drawn setting says that the space is too small
        at = best.edges if best.wave == 1 and final(best.outcome) is not None else {}
        pool.extended = bool(at)
        drawn_from[name] = pools.extended(entry, whole, at)
        settings[name] = pools.second_wave(
            entry,
            whole,
            plan.reserve,
            seed=_pool_seed(plan, record, name),
            drawn=len(pool.tried),
            edges=at,
        )
    yield from _screen(record, setup, plan, journal, problem, settings, drawn_from, wave=2)


def _pool_seed(plan: PlanInfo, record: ReplicateRecord, optimizer: str) -> int:
    return seed32(plan.seed, "pool", record.replicate, optimizer)


def _screen(
    record: ReplicateRecord,
    setup: RaceSetup,
    plan: PlanInfo,
    journal: Journal,
    problem: Problem,
    settings: Mapping[str, list[Setting]],
    drawn_from: Mapping[str, pools.Choices],
    *,
    wave: int,
    over: Callable[[], bool] | None = None,
) -> _Stage:
    """Run new settings of every pool once, all with the replicate's screening seed.

    Where time is over before all have run, what is left of each pool is as long as the others' and not empty.
    """
    r = record.replicate
    seed = seed32(plan.seed, "run", r, "screen")
    runs = {
        name: [
            Run(identity=f"r{r}/{name}/t{len(record.pools[name].tried) + i:02d}", setting=setting, seed=seed)
            for i, setting in enumerate(drawn)
        ]
        for name, drawn in settings.items()
    }
    defaults = {pool[0].identity for pool in runs.values()} if wave == 1 else set()
    halving = Halving(plan, journal, runs, spared=defaults) if plan.eliminate else None
    outcomes = yield Request(
        key=f"r{r}/screen{wave}",
        runs=[run for pool in runs.values() for run in pool],
        problem=problem,
        workload=setup.workload(plan),
        stage="screen",
        eliminate=halving,
        over=over,
    )
    for name, pool in runs.items():
        for i, run in enumerate(pool):
            if run.identity not in outcomes:
                break
            is_default = wave == 1 and i == 0
            record.pools[name].tried.append(
                Tried(
                    setting=run.setting,
                    outcome=outcomes[run.identity],
                    wave=0 if is_default else wave,
                    edges={}
                    if is_default
                    else pools.edges(setup.entries[name], run.setting, drawn_from[name]),
                    eliminated_at=halving.stopped.get(run.identity) if halving else None,
                )
            )


def _audit(record: ReplicateRecord, setup: RaceSetup, plan: PlanInfo, problem: Problem) -> _Stage:
    """Run the best of the eliminated settings, and others at random, to the end: was stopping them right?"""
    r = record.replicate
    seed = seed32(plan.seed, "run", r, "screen")
    chosen: list[tuple[PoolRecord, Tried, str]] = []
    for name, pool in record.pools.items():
        stopped = [one for one in pool.tried if one.eliminated_at is not None]
        if not stopped:
            continue
        best = _best_when_stopped(stopped, higher_is_better=plan.higher_is_better)
        others = [one for one in stopped if one is not best]
        drawn = random.Random(seed32(plan.seed, "audit", r, name)).sample(
            others, min(_AUDITED_AT_RANDOM, len(others))
        )
        chosen += [(pool, best, "best"), *((pool, one, "random") for one in drawn)]
    runs = [
        Run(identity=f"{one.outcome.identity}/audit", setting=one.setting, seed=seed) for _, one, _ in chosen
    ]
    outcomes = yield Request(
        key=f"r{r}/audit", runs=runs, problem=problem, workload=setup.workload(plan), stage="audit"
    )
    for (pool, one, why), run in zip(chosen, runs, strict=True):
        outcome = outcomes[run.identity]
        value = final(outcome)
        best_kept = final(ranked(pool.tried, higher_is_better=plan.higher_is_better)[0].outcome)
        pool.audits.append(
            Audit(
                identity=one.outcome.identity,
                optimizer=pool.optimizer,
                replicate=r,
                chosen_as="best" if why == "best" else "random",
                validation=value,
                regret=regret(value, best_kept, higher_is_better=plan.higher_is_better),
            )
        )


def _best_when_stopped(stopped: list[Tried], *, higher_is_better: bool) -> Tried:
    def last_seen(one: Tried) -> float:
        seen = [value for value in one.outcome.validation if value is not None]
        if not seen:
            return float("inf")
        return -seen[-1] if higher_is_better else seen[-1]

    return min(stopped, key=lambda one: (-(one.eliminated_at or 0), last_seen(one)))


def _rerun(record: ReplicateRecord, setup: RaceSetup, plan: PlanInfo, problem: Problem) -> _Stage:
    """Run the best three of each pool on fresh seeds; the best mean wins the pool."""
    r = record.replicate
    best: dict[str, list[Tried]] = {
        name: ranked(pool.tried, higher_is_better=plan.higher_is_better)[: plan.reruns]
        for name, pool in record.pools.items()
    }
    runs = [
        Run(
            identity=f"{one.outcome.identity}/rerun{j}",
            setting=one.setting,
            seed=seed32(plan.seed, "run", r, "rerun", j),
        )
        for chosen in best.values()
        for one in chosen
        for j in range(plan.rerun_seeds)
    ]
    outcomes = yield Request(
        key=f"r{r}/rerun", runs=runs, problem=problem, workload=setup.workload(plan), stage="rerun"
    )
    for name, chosen in best.items():
        pool = record.pools[name]
        for one in chosen:
            identity = one.outcome.identity
            pool.reruns[identity] = [outcomes[f"{identity}/rerun{j}"] for j in range(plan.rerun_seeds)]
        pool.winner = min(chosen, key=lambda one: _mean_rank(pool, one, plan))


def _mean_rank(pool: PoolRecord, one: Tried, plan: PlanInfo) -> tuple[int, float]:
    """Fewest divergences first, then the best mean validation over the rerun seeds."""
    values = [final(outcome) for outcome in pool.reruns[one.outcome.identity]]
    known = [value for value in values if value is not None]
    mean = sum(known) / len(known) if known else 0.0
    return (len(values) - len(known), -mean if plan.higher_is_better else mean)


def _confirm(record: ReplicateRecord, setup: RaceSetup, plan: PlanInfo, problem: Problem) -> _Stage:
    """Run each pool's winner on seeds that nothing was chosen on, and score it on the test split."""
    r = record.replicate
    seeds = [seed32(plan.seed, "run", r, "confirm", j) for j in range(plan.confirm)]
    runs: list[Run] = []
    for pool in record.pools.values():
        assert pool.winner is not None
        runs += [
            Run(identity=f"r{r}/{pool.optimizer}/confirm{j}", setting=pool.winner.setting, seed=seed)
            for j, seed in enumerate(seeds)
        ]
    outcomes = yield Request(
        key=f"r{r}/confirm",
        runs=runs,
        problem=problem,
        workload=setup.workload(plan, score_test=True),
        stage="confirm",
    )
    for name, pool in record.pools.items():
        pool.confirmations = [outcomes[f"r{r}/{name}/confirm{j}"] for j in range(plan.confirm)]
        pool.confirm_seeds = seeds
