"""How the runs of a race are computed: as lanes or one by one; decided once, recorded, and replayed."""

from __future__ import annotations

import contextlib
import hashlib
import re
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from thalweg.data.source import Prepared
from thalweg.entries import Outcome, Run, Workload
from thalweg.errors import Interrupted, RunDirectoryError, option
from thalweg.lanes.chunks import Progress as LaneProgress
from thalweg.lanes.chunks import plan as plan_chunks
from thalweg.lanes.chunks import run as run_lanes
from thalweg.lanes.course import History, evaluation_points
from thalweg.racing.elimination import Halving
from thalweg.racing.journal import Journal
from thalweg.racing.results import EngineInfo, PlanInfo
from thalweg.racing.setup import Setup
from thalweg.runs.files import drop_state, load_state, reason, save_state
from thalweg.training.cost import with_threads
from thalweg.training.processes import Workers, run_chunks, run_many
from thalweg.training.reasons import refuse_what_none_can_learn

__all__ = ["Checkpoints", "Engine"]

_STATE = re.compile(r"[0-9a-f]{24}\.\d+\.[0-9a-f]{16}\.pt|\..*\.draft")


class Checkpoints:
    """Keeps the states of unfinished runs as files of the run directory; may be sent to other processes.

    Args:
        folder: where the files lie.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def save(self, chunk: str, state: dict[str, Any]) -> None:
        """Keep a state in place of the earlier one.

        Raises:
            RunDirectoryError: it can't be written.
        """
        with self._writing():
            save_state(self._path(chunk), state)

    def load(self, chunk: str) -> dict[str, Any] | None:
        """Return the newest sound state kept under this name, or ``None``."""
        found = load_state(self._path(chunk), lambda damaged: None)
        return None if found is None else dict(found)

    def clear(self) -> None:
        """Forget all states: what they were for is in the journal now."""
        with self._writing():
            for file in self._folder.iterdir():
                # nothing else, wherever a stranger's folder may lead
                if _STATE.fullmatch(file.name):
                    file.unlink(missing_ok=True)

    def drop(self, chunk: str) -> None:
        """Forget one run's states."""
        with self._writing():
            drop_state(self._path(chunk))

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as problem:
            raise RunDirectoryError(
                f"{self._folder} can't be written ({reason(problem)}); what was "
                f"there before is unharmed: make room and run again with {option('resume', True)}"
            ) from problem

    def _path(self, chunk: str) -> Path:
        # an optimizer's name may be a path, longer than a file's name may be
        return self._folder / hashlib.blake2b(chunk.encode(), digest_size=12).hexdigest()


class Engine:
    """Runs what a stage asks for, and hands back what an interrupted race had already found.

    Args:
        setup: model, data and entries.
        journal: where outcomes are kept, chunk by chunk in lanes, run by run in the loop.
        info: the choice of engine that this race follows.
        plan: how long runs are.
        workers: the processes for runs that aren't lanes.
        stop: asked often; ``True`` saves and raises :class:`~thalweg.errors.Interrupted`.
        advanced: told (stage, what, steps of runs done since it was told last).
    """

    def __init__(
        self,
        setup: Setup,
        journal: Journal,
        info: EngineInfo,
        plan: PlanInfo,
        *,
        workers: Workers,
        stop: Callable[[], bool],
        advanced: Callable[[str, str, float], None],
    ) -> None:
        self.journal = journal
        self.info = info
        self.seconds: dict[str, float] = {}
        self._setup = setup
        self._checkpoints = journal.directory.path / "checkpoints"
        self._plan = plan
        self._workers = workers
        self.stop = stop
        self._advanced = advanced

    def run(
        self,
        key: str,
        runs: Sequence[Run],
        prepared: Prepared,
        workload: Workload,
        *,
        stage: str,
        halving: Halving | None = None,
        over: Callable[[], bool] | None = None,
    ) -> dict[str, Outcome]:
        """Train runs, or read their outcomes from the journal.

        Args:
            key: of this call, unique within the race.
            runs: of one replicate.
            prepared: that replicate's data.
            workload: what the runs share.
            stage: what they are for.
            halving: stops the worse half of each pool early.
            over: asked often by runs that aren't lanes; once it says so, and each optimizer has had a run,
                those not yet at their end are left out, as many of each optimizer.

        Returns:
            Outcome by identity.

        Raises:
            DataError: every run diverged, and a value in the data isn't finite.
        """
        lanes: list[Run] = []
        alone: list[Run] = []
        for run in runs:
            by_lanes = (
                self.info.kind == "lanes" and self._setup.entries[run.setting.optimizer].rule is not None
            )
            (lanes if by_lanes else alone).append(run)
        found: dict[str, Outcome] = {}
        chunks = {
            f"{key}/chunk{number}": chunk
            for number, chunk in enumerate(self._chunks(lanes, whole_pools=halving is not None))
        }
        pending = {name: chunk for name, chunk in chunks.items() if name not in self.journal}
        if halving is None and self.info.lane_processes > 1 and len(pending) > 1:
            self._spread(pending, prepared, workload, stage)
        for name, chunk in chunks.items():
            known = name in self.journal and name not in pending
            found |= self._lanes(name, chunk, prepared, workload, stage, halving, told=not known)
        if alone and halving is None and over is not None:
            found = self._while_time(key, runs, alone, found, prepared, workload, stage, over)
        elif alone:
            found |= self._alone(key, alone, prepared, workload, stage, halving)
        if found and all(outcome.diverged_at is not None for outcome in found.values()):
            refuse_what_none_can_learn(prepared)
        return found

    def _while_time(
        self,
        key: str,
        runs: Sequence[Run],
        alone: Sequence[Run],
        found: dict[str, Outcome],
        prepared: Prepared,
        workload: Workload,
        stage: str,
        over: Callable[[], bool],
    ) -> dict[str, Outcome]:
        """Runs that aren't lanes, each optimizer's first, then each one's second, until time is over."""
        places: dict[str, int] = {}
        counts: dict[str, int] = {}
        for run in runs:
            name = run.setting.optimizer
            places[run.identity] = counts[name] = counts.get(name, -1) + 1
        decided = f"{key}/left out"
        rounds = max(counts.values()) + 1
        if decided in self.journal:
            rounds = int(self.journal.once("budget", decided, int))
            alone = [run for run in alone if places[run.identity] < rounds]
        firsts = {run.identity for run in alone if places[run.identity] == 0}
        in_turn = sorted(alone, key=lambda run: places[run.identity])
        found |= self._alone(
            key, in_turn, prepared, workload, stage, None, over=lambda ended: over() and firsts <= set(ended)
        )
        missing = [places[run.identity] for run in runs if run.identity not in found]
        if missing and decided not in self.journal:
            rounds = min(missing)
            self.journal.once("budget", decided, lambda: rounds)
        return {run.identity: found[run.identity] for run in runs if places[run.identity] < rounds}

    def _chunks(self, runs: Sequence[Run], *, whole_pools: bool) -> list[list[Run]]:
        """Divide runs into programs; whole pools where they are held against each other while running."""
        if not whole_pools:
            share = -(-len(runs) // self.info.lane_processes)
            return plan_chunks(runs, self._setup.entries, max(1, min(self.info.chunk, share)))
        chunks: list[list[Run]] = []
        for name in dict.fromkeys(run.setting.optimizer for run in runs):
            pool = [run for run in runs if run.setting.optimizer == name]
            if chunks and len(chunks[-1]) + len(pool) <= self.info.chunk:
                chunks[-1] += pool
            else:
                chunks.append(pool)
        return chunks

    def _lanes(
        self,
        key: str,
        runs: Sequence[Run],
        prepared: Prepared,
        workload: Workload,
        stage: str,
        halving: Halving | None,
        *,
        told: bool,
    ) -> dict[str, Outcome]:
        """One program in this process, or from the journal; ``told``: its progress has been or will be."""
        seen = 0.0

        def watch(progress: LaneProgress) -> None:
            nonlocal seen
            done = float(progress.step * len(runs))
            self._advanced(stage, key, done - seen)
            seen = done

        def compute() -> dict[str, Any]:
            began = time.monotonic()
            with with_threads(self.info.threads):
                outcomes = run_lanes(
                    runs,
                    factory=self._setup.factory,
                    prepared=prepared,
                    workload=workload,
                    catalogue_entries=self._setup.entries,
                    device=self._setup.options.device,
                    chunk=len(runs),
                    watch=watch,
                    checkpoint=Checkpoints(self._checkpoints),
                    stop=self.stop,
                    eliminate=halving,
                )
            return self._written(outcomes, began)

        known = key in self.journal
        value = self.journal.once("runs", key, compute)
        if not known:
            Checkpoints(self._checkpoints).clear()
        elif not told:
            self._advanced(stage, key, float(len(runs) * self._steps(value)))
        return self._read(value, stage)

    def _spread(
        self, chunks: Mapping[str, Sequence[Run]], prepared: Prepared, workload: Workload, stage: str
    ) -> None:
        """Several programs side by side, each in a process of its own; their outcomes go into the journal."""
        names = list(chunks)
        began = time.monotonic()

        def ended(number: int, outcomes: Sequence[Outcome]) -> None:
            nonlocal began
            value = self._written(outcomes, began)
            self.journal.once("runs", names[number], lambda: value)
            began = time.monotonic()

        run_chunks(
            list(chunks.values()),
            workers=self._workers,
            factory=self._setup.factory,
            prepared=prepared,
            workload=workload,
            catalogue_entries=self._setup.entries,
            device=self._setup.options.device,
            ended=ended,
            advanced=lambda steps: self._advanced(stage, names[0], steps),
            checkpoint=Checkpoints(self._checkpoints),
            stop=self.stop,
        )
        Checkpoints(self._checkpoints).clear()

    def _alone(
        self,
        key: str,
        runs: Sequence[Run],
        prepared: Prepared,
        workload: Workload,
        stage: str,
        halving: Halving | None,
        over: Callable[[Collection[str]], bool] | None = None,
    ) -> dict[str, Outcome]:
        """One by one, or several processes side by side; with halving, from rung to rung.

        ``over`` is told which runs have ended; once it says so, the others are left out.
        """
        found: dict[str, Outcome] = {}
        pending: list[Run] = []
        for run in runs:
            if f"{key}/{run.identity}" in self.journal:
                value = self.journal.once("runs", f"{key}/{run.identity}", dict)
                found |= self._read(value, stage)
                self._advanced(stage, run.identity, float(self._steps(value)))
            else:
                pending.append(run)
        began = time.monotonic()
        keeper = Checkpoints(self._checkpoints)
        told = dict.fromkeys((run.identity for run in pending), 0)

        def reached(outcome: Outcome) -> None:
            step = outcome.steps[-1]
            self._advanced(stage, outcome.identity, float(step - told[outcome.identity]))
            told[outcome.identity] = step

        def finished(outcome: Outcome) -> None:
            nonlocal began
            value = self._written([outcome], began)
            self.journal.once("runs", f"{key}/{outcome.identity}", lambda: value)
            keeper.drop(outcome.identity)
            began = time.monotonic()
            found.update(self._read(value, stage))
            reached(outcome)

        def time_is_over() -> bool:
            return over is not None and over(found.keys())

        def train(some: Sequence[Run], ended: Callable[[Outcome], None], until: int | None = None) -> None:
            def watch(progress: LaneProgress) -> None:
                for outcome in progress.finished:
                    ended(outcome)

            run_many(
                some,
                factory=self._setup.factory,
                prepared=prepared,
                workload=workload,
                catalogue_entries=self._setup.entries,
                device=self._setup.options.device,
                workers=self._workers,
                watch=watch,
                checkpoint=keeper,
                stop=lambda: self.stop() or time_is_over(),
                until=until,
            )

        going = pending
        if halving is not None:
            for rung in sorted(halving.rungs):
                train(going, reached, rung)
                going, stopped = self._judged(going, rung, halving, keeper, workload)
                for outcome in stopped:
                    finished(outcome)
        try:
            train(going, finished)
        except Interrupted:
            if self.stop() or not time_is_over():
                raise
            keeper.clear()
        return found

    def _judged(
        self, runs: Sequence[Run], rung: int, halving: Halving, keeper: Checkpoints, workload: Workload
    ) -> tuple[list[Run], list[Outcome]]:
        """Who goes on from a rung that all have reached, each pool judged as a whole; how the rest ended."""
        histories = {run.identity: _history(run, keeper, workload) for run in runs}
        at_rung = {
            name: dict(zip(history.steps, history.validation, strict=True)).get(rung)
            for name, history in histories.items()
        }
        stopped = halving(rung, at_rung)
        outcomes: list[Outcome] = []
        for name, history in histories.items():
            if name in stopped and history.active:
                history.stopped_at = rung
                for point in evaluation_points(self._plan.steps, workload.evaluations):
                    if point > rung:
                        history.skip(point)
                outcomes.append(history.outcome())
        return [run for run in runs if run.identity not in stopped], outcomes

    def _written(self, outcomes: Sequence[Outcome], began: float) -> dict[str, Any]:
        # predictions of thousands of examples are needed only where the test set is the same each time
        kept = [
            one if self._setup.source.fixed_test else replace(one, test_predictions=[]) for one in outcomes
        ]
        return {"seconds": time.monotonic() - began, "outcomes": [one.to_json() for one in kept]}

    def _read(self, value: Mapping[str, Any], stage: str) -> dict[str, Outcome]:
        self.seconds[stage] = self.seconds.get(stage, 0.0) + float(value["seconds"])
        outcomes = [Outcome.from_json(one) for one in value["outcomes"]]
        return {outcome.identity: outcome for outcome in outcomes}

    @staticmethod
    def _steps(value: Mapping[str, Any]) -> int:
        return max((int(one["steps"][-1]) for one in value["outcomes"]), default=0)


def _history(run: Run, keeper: Checkpoints, workload: Workload) -> History:
    state = keeper.load(run.identity)
    assert state is not None, "a run that reached a rung has a state"
    return History.restore(run, workload, state["history"])
