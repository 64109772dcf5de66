"""A race from its options to its results: plan, run the replicates, reach the verdict, write it down."""

from __future__ import annotations

import datetime
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from thalweg import __version__, data
from thalweg.data.examples import TensorExamples
from thalweg.errors import DataError, Interrupted, option
from thalweg.execution.choose import Choice
from thalweg.execution.execution import Execution
from thalweg.execution.journal import Journal
from thalweg.racing import assemble, build_results, configuration, leaderboard, looks, stages
from thalweg.racing import plan as planning
from thalweg.racing.budget import Budget, overrun
from thalweg.racing.measure import choose_engine, forward_backward, step_seconds
from thalweg.racing.options import Options
from thalweg.racing.race_setup import RaceSetup, understand
from thalweg.racing.records import ReplicateRecord
from thalweg.racing.results import PlanInfo, Results
from thalweg.racing.watch import RaceProgress, RaceWatcher, SilentRaceWatcher
from thalweg.run.directory.directory import RunDirectory
from thalweg.run.directory.interrupt import Interruption
from thalweg.run.directory.kinds import default_place
from thalweg.run.workers import prepare_workers
from thalweg.settings import trust

__all__ = ["run_race"]

# of all splits' data: more would be a burden, in this process and on the disk that hands them to others
_HELD_AT_ONCE = 2**28


def run_race(options: Options) -> tuple[Results, Path]:
    """Run a race, or go on with one, and write everything but the report.

    Args:
        options: what was asked for.

    Returns:
        The results and the run directory.

    Raises:
        UserError: something given can't be used.
        Interrupted: on Ctrl-C or SIGTERM, after everything was saved.
    """
    watcher = SilentRaceWatcher() if options.watcher is None else options.watcher
    with trust.own_code(accepted=options.trust_code, what="race"):
        return (_go_on if options.resume else _begin_anew)(options, watcher)


def _go_on(options: Options, watcher: RaceWatcher) -> tuple[Results, Path]:
    with configuration.resumed(options) as (directory, merged):
        setup = _understood(replace(merged, executor=options.executor), watcher)
        directory.note_code()
        return _race(setup, directory, watcher), directory.path


def _understood(options: Options, watcher: RaceWatcher) -> RaceSetup:
    if (text := data.announcement(options.data)) is not None:
        watcher.note(text)
    return understand(options)


def _begin_anew(options: Options, watcher: RaceWatcher) -> tuple[Results, Path]:
    configuration.refuse_early(options)
    setup = _understood(options, watcher)
    path = default_place("race", setup.source.name) if options.out is None else options.out
    with (
        RunDirectory.create(path, configuration.written(options)) as directory,
        # such as lanes asked for with a model that can't be one, which shows when they are tried
        directory.withdrawn_unless(lambda: any(e["event"] == "engine" for e in directory.events())),
    ):
        return _race(setup, directory, watcher), directory.path


def _race(setup: RaceSetup, directory: RunDirectory, watcher: RaceWatcher) -> Results:
    journal = Journal(directory)
    begun = journal.once("begun", "begun", lambda: _begin(setup, directory))
    if begun["fingerprint"] != setup.source.fingerprint:
        raise DataError(
            f"{setup.source.spec} has changed since the race in {directory.path} began; "
            f"restore the data, or begin another race with another {option('out')}"
        )
    if configuration.wants_workers(setup.options):
        # nothing is refused any more but lanes of a model that can't be one; steps are measured meanwhile
        prepare_workers()
    with Interruption() as interruption:
        try:
            return _run(setup, directory, journal, begun, watcher, interruption)
        except (Interrupted, KeyboardInterrupt) as interrupted:
            raise Interrupted(
                "interrupted; everything up to here is saved: run the same race again with "
                f"{option('out', directory.path)} and {option('resume', True)}"
            ) from interrupted


def _begin(setup: RaceSetup, directory: RunDirectory) -> dict[str, Any]:
    return {
        "thalweg": __version__,
        "race": uuid.uuid4().hex,
        "command": directory.config().get("command", "thalweg.race(...) from Python"),
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "fingerprint": setup.source.fingerprint,
    }


def _run(
    setup: RaceSetup,
    directory: RunDirectory,
    journal: Journal,
    begun: dict[str, Any],
    watcher: RaceWatcher,
    interruption: Interruption,
) -> Results:
    info, choice, cost = choose_engine(setup, journal)
    looked = journal.once("looked", "looks", lambda: looks.count_and_add(begun["fingerprint"], begun["race"]))
    plan, notes = planning.fit_minutes(setup.plan, cost)
    watcher.understood(setup.data_info, setup.model_info, plan)
    watcher.engine(info)
    for name, reason in plan.left_out.items():
        watcher.note(f"{name} is left out: {reason}")
    for note in notes:
        watcher.note(note)

    meter = _Meter(plan, watcher, planning.estimate_seconds(plan, cost))
    records: list[ReplicateRecord] = []
    reached: dict[int, ReplicateRecord] = {}

    def told(record: ReplicateRecord) -> None:
        reached[record.replicate] = record
        watcher.leaderboard(leaderboard.leaderboard([reached[n] for n in sorted(reached)], plan))

    def cut(sentence: str) -> None:
        meter.follow(budget.plan, planning.estimate_seconds(budget.plan, cost))
        watcher.note(sentence)

    budget = Budget(plan, cost, journal, cut)
    interrupted = directory.watched(interruption.asked)
    # predictions of thousands of examples are needed only where the test set is the same each time
    fixed = setup.source.fixed_test
    with Execution(
        choice, journal, stop=interrupted, advanced=meter.advanced, predictions=fixed,
        elsewhere=setup.options.executor,
    ) as engine:  # fmt: skip
        if _side_by_side(setup, plan, choice):
            meter.side_by_side = True
            records = _replicates(range(plan.splits), setup, budget, engine, told)
        else:
            for number in range(plan.splits):
                record = _replicate(number, setup, budget, engine, interrupted, told)
                if record is None:
                    reached.pop(number, None)
                    break
                records.append(record)
    plan = budget.plan
    seconds = step_seconds(setup, plan, records, journal)
    elapsed = journal.elapsed
    over = overrun(plan, elapsed)
    goal = plan.goal if plan.goal is not None else assemble.default_goal(records, plan)
    results = build_results.build_results(
        setup,
        plan.model_copy(update={"goal": goal}),
        info,
        records,
        begun=begun,
        test_looks=looked,
        cuts=[*budget.cuts, *([] if over is None else [over])],
        step_seconds=seconds,
        forward_backward=forward_backward(setup, journal),
        seconds=elapsed,
        seconds_by_stage=engine.seconds,
    )
    if over is not None:
        watcher.note(over)
    if not build_results.write_winner(setup, results, records, directory):
        watcher.note("no winner.toml: model, data, loss or metric were given as Python objects")
    directory.write_json("results.json", results.model_dump(mode="json"))
    return results


def _side_by_side(setup: RaceSetup, plan: PlanInfo, choice: Choice) -> bool:
    """Say whether splits go through their stages together: what one leaves of a process, another takes.

    A budget of time cuts plans by what the first splits took, and elimination holds pools against each
    other: both go one split after another. So do large data, of which each split has a copy of its own.
    """
    if plan.minutes is not None or plan.eliminate or choice.kind != "lanes":
        return False
    if choice.lane_processes < 2 and setup.options.executor is None:
        return False
    parts = (setup.first.train, setup.first.validation, setup.first.test)
    if not all(isinstance(part, TensorExamples) for part in parts):
        return False
    held = sum(t.nbytes for part in parts for t in (part.inputs, part.targets) if isinstance(t, Tensor))
    return held * plan.splits <= _HELD_AT_ONCE


def _replicates(
    numbers: Sequence[int],
    setup: RaceSetup,
    budget: Budget,
    engine: Execution,
    told: Callable[[ReplicateRecord], None],
) -> list[ReplicateRecord]:
    """Take splits from stage to stage, side by side; return their records."""
    going = {number: stages.replicate(number, setup, budget, engine.journal, told=told) for number in numbers}
    records: dict[int, ReplicateRecord] = {}
    requests = {number: next(replicate) for number, replicate in going.items()}
    while requests:
        found = dict(zip(requests, engine.run([*requests.values()]), strict=True))
        requests = {}
        for number, outcomes in found.items():
            try:
                requests[number] = going[number].send(outcomes)
            except StopIteration as ended:
                records[number] = ended.value
    return [records[number] for number in numbers]


def _replicate(
    number: int,
    setup: RaceSetup,
    budget: Budget,
    engine: Execution,
    interrupted: Callable[[], bool],
    told: Callable[[ReplicateRecord], None],
) -> ReplicateRecord | None:
    """Run a split; ``None`` where the budget of time has no room for it, or ran out on the way."""
    if not budget.next_fits(number):
        budget.end(number, "; another would have taken longer than there is time")
        return None
    if not budget.dropped(number):
        engine.stop = lambda: interrupted() or budget.is_over(number)
        try:
            (record,) = _replicates([number], setup, budget, engine, told)
        except Interrupted:
            if interrupted() or not budget.is_over(number):
                raise
            budget.drop(number)
        else:
            budget.done(number)
            return record
    budget.end(number, f"; split {number + 1} was under way and is dropped")
    return None


class _Meter:
    """Turns steps of runs done into progress with time left."""

    def __init__(self, plan: PlanInfo, watcher: RaceWatcher, estimate: float) -> None:
        self._watcher = watcher
        self.side_by_side = False
        self._began = time.monotonic()
        self._done = 0.0
        self.follow(plan, estimate)

    def follow(self, plan: PlanInfo, estimate: float) -> None:
        """Measure by this plan from now on: what the clock has cut isn't left to do."""
        runs = plan.splits * len(plan.optimizers) * sum(planning.run_counts(plan).values())
        self._total = float(runs * plan.steps)
        self._splits = plan.splits
        self._estimate = estimate

    def advanced(self, stage: str, key: str, steps: float) -> None:
        """Take in steps done; audits come on top of the plan and are never more than what was saved."""
        replicate = int(key.partition("/")[0].removeprefix("r"))
        self._done = min(self._total, self._done + steps)
        self._watcher.progress(
            RaceProgress(
                stage=stage,
                detail=f"{self._splits} splits side by side"
                if self.side_by_side
                else f"split {replicate + 1} of {self._splits}",
                done=self._done,
                total=self._total,
                seconds_left=self._left(),
            )
        )

    def _left(self) -> float:
        """The estimate at first, more and more what the race has really taken."""
        share = min(1.0, self._done / self._total)
        elapsed = time.monotonic() - self._began
        if share <= 0:
            return self._estimate
        by_pace = elapsed * (1 - share) / share
        return (1 - share) * (self._estimate * (1 - share) + by_pace * share) + share * by_pace
