"""What depends on this machine's clock: measured once, written into the journal, replayed by a resume."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from thalweg.execution import timing
from thalweg.execution.choose import Choice, choose
from thalweg.execution.journal import Journal
from thalweg.execution.lanes import promise
from thalweg.racing import assemble, pools
from thalweg.racing import plan as planning
from thalweg.racing.plan import Cost
from thalweg.racing.race_setup import RaceSetup
from thalweg.racing.records import ReplicateRecord
from thalweg.racing.results import EngineInfo, PlanInfo
from thalweg.run.spec import Run, Setting
from thalweg.training.steps import FORWARD_BACKWARD

__all__ = ["choose_engine", "forward_backward", "step_seconds"]

_ROUNDS = 5
_PROMISE_OF_THE_LOOP = "bits: a run gives the same bits however many run at a time, on this machine"


def choose_engine(setup: RaceSetup, journal: Journal) -> tuple[EngineInfo, Choice, Cost]:
    """Choose lanes or loop, chunk size, processes and threads, and say what a run costs that way.

    Args:
        setup: what the race understood.
        journal: holds the choice of an interrupted race.
    """
    value = journal.once("engine", "engine", lambda: _measure(setup))
    info = EngineInfo(**value["info"])
    return info, Choice.of(value["info"]), Cost(**value["cost"])


def _measure(setup: RaceSetup) -> dict[str, Any]:
    plan = setup.plan
    runs = [
        Run(identity=f"{name}/{i}", setting=setting, seed=plan.seed)
        for name, entry in setup.entries.items()
        for i, setting in enumerate(
            pools.first_wave(entry, pools.choices(plan, name), plan.trials, seed=plan.seed)
        )
    ]
    device = setup.options.device
    each = plan.splits * sum(planning.run_counts(plan).values()) * plan.steps
    suited = sum(entry.rule is not None for entry in setup.entries.values())
    choice = choose(
        runs, setup.problem(), setup.workload(plan), engine=setup.options.engine,
        lane_steps=suited * each, loop_steps=(len(setup.entries) - suited) * each,
    )  # fmt: skip
    alone = choice.loop_seconds
    if alone is None:
        first = next(iter(setup.entries))
        alone = _alone(setup, first, {}, choice.loop_threads)[1] / choice.processes
    seconds = {}
    for name, entry in setup.entries.items():
        if entry.step_kind != "gradient":
            seconds[name] = _alone(setup, name, {}, choice.loop_threads)[1] / choice.processes
        elif choice.kind == "lanes" and choice.lane_seconds is not None and entry.rule:
            seconds[name] = choice.lane_seconds
        else:
            seconds[name] = alone
    passes = len(setup.first.validation) / plan.batch_size
    measured = Cost(
        step_seconds=seconds,
        evaluation_seconds=passes * min(seconds.values()) / FORWARD_BACKWARD,
    )
    info = EngineInfo(
        kind=choice.kind,
        forward=choice.forward,
        reason=choice.reason,
        chunk=choice.chunk,
        processes=choice.processes,
        threads=choice.threads,
        loop_threads=choice.loop_threads,
        lane_processes=choice.lane_processes,
        device=device,
        promise=promise(choice.forward, device) if choice.kind == "lanes" else _PROMISE_OF_THE_LOOP,
    )
    return {"info": info.model_dump(), "cost": asdict(measured)}


def step_seconds(
    setup: RaceSetup, plan: PlanInfo, records: Sequence[ReplicateRecord], journal: Journal
) -> dict[str, tuple[float, float, float]]:
    """Measure a step of each optimizer's winner run alone, on one thread: lowest, median, highest of five.

    Optimizers take turns, so that a machine that slows down for a while slows all of them.
    """

    def measure() -> dict[str, list[float]]:
        rounds: dict[str, list[float]] = {name: [] for name in plan.optimizers}
        for _ in range(_ROUNDS):
            for name in plan.optimizers:
                winner = assemble.pool_of(records, name)[0].winner
                assert winner is not None
                rounds[name].append(_alone(setup, name, winner.setting.hyperparameters)[1])
        return {name: [min(each), statistics.median(each), max(each)] for name, each in rounds.items()}

    measured = journal.once("step seconds", "step seconds", measure)
    return {name: (low, median, high) for name, (low, median, high) in measured.items()}


def forward_backward(setup: RaceSetup, journal: Journal) -> float:
    """Measure forward with backward in forward passes, which work counts as 3."""

    def measure() -> float:
        return timing.measured_passes(setup.problem(), setup.workload(setup.plan), seconds=0.03)

    return float(journal.once("forward backward", "forward backward", measure))


def _alone(
    setup: RaceSetup, optimizer: str, hyperparameters: Mapping[str, float | bool], threads: int = 1
) -> tuple[float, float, float]:
    setting = Setting(optimizer=optimizer, hyperparameters=hyperparameters)
    return timing.step_seconds(
        setting, setup.problem(), setup.workload(setup.plan), repeats=1, seconds=0.05, threads=threads
    )
