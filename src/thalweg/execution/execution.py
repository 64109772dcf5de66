"""A list of runs on a problem, carried out as was once chosen; each outcome is written down once.

Whoever wants runs done (a race, a sweep, an ensemble) hands requests to an :class:`Execution`, and knows
nothing of how: as lanes or one by one, here or in other processes, with how many threads. What the journal
holds isn't computed again, and states of runs under way are kept beside it, so that an interrupted list goes
on where it was.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from torch import Tensor

from thalweg.errors import Interrupted
from thalweg.execution.choose import Choice
from thalweg.execution.executors import (
    Evaluated,
    Executor,
    RunList,
    SequentialExecutor,
    Train,
    as_lanes,
    one_by_one,
)
from thalweg.execution.journal import Journal
from thalweg.execution.lanes import Keep
from thalweg.execution.lanes import plan as plan_chunks
from thalweg.execution.pool import ProcessPool
from thalweg.execution.states import States
from thalweg.run.history import History
from thalweg.run.problem import Problem
from thalweg.run.sampler import evaluation_points
from thalweg.run.spec import Outcome, Run, Workload
from thalweg.training.reasons import refuse_what_none_can_learn

__all__ = ["Elimination", "Execution", "Request"]


class Elimination(Protocol):
    """Stops runs early, each pool of runs compared as a whole.

    Called with the number of steps done and the validation metric by identity (``None``: diverged), at every
    evaluation of lanes, and at the ``rungs`` of other runs; returns the identities to stop.
    """

    @property
    def rungs(self) -> Collection[int]: ...

    def __call__(self, step: int, validation: Mapping[str, float | None]) -> set[str]: ...


@dataclass(frozen=True, kw_only=True)
class Request:
    """Runs that somebody wants carried out.

    Attributes:
        key: unique within the journal.
        runs: with distinct identities.
        problem: what they are trained on.
        workload: how long.
        stage: what they are for.
        eliminate: stops runs early.
        over: asked often by runs that aren't lanes; once it says so, and each optimizer has had a run, those
            not yet at their end are left out, as many of each optimizer.
        examples: identity to int64 ``[n]``, for all runs or none: which training examples stand in the places
            of the split. All have the same n.
        keep: given each run that came to its end, and its model's state, where it was trained and before its
            outcome is written down. A run may be given twice, alike, where it was interrupted in between.
        evaluated: told of evaluations of lanes, where they are trained in this process.
        alone: trains a run that isn't a lane, in this process; ``None``: the loop does, wherever that is.
    """

    key: str
    runs: Sequence[Run]
    problem: Problem
    workload: Workload
    stage: str
    eliminate: Elimination | None = None
    over: Callable[[], bool] | None = None
    examples: Mapping[str, Tensor] | None = None
    keep: Keep | None = None
    evaluated: Evaluated | None = None
    alone: Train | None = None


class Execution:
    """Carries out runs as chosen, and hands back what the journal already holds. It is a context.

    Args:
        choice: how: :func:`thalweg.execution.choose.choose` measures it.
        journal: where outcomes are kept, chunk by chunk of lanes, run by run of others; where it has a
            directory, states of what is under way are kept there.
        stop: asked often; ``True`` saves and raises :class:`~thalweg.errors.Interrupted`.
        advanced: told (stage, what, steps of runs done since it was told last).
        predictions: whether outcomes keep what their runs predicted for each test example.
        checkpoint_seconds: at least this long between two states of a run or chunk under way.
        elsewhere: carries out what needn't be in this process; default: this one, or as many of this machine
            as were chosen.
    """

    def __init__(
        self,
        choice: Choice,
        journal: Journal,
        *,
        stop: Callable[[], bool],
        advanced: Callable[[str, str, float], None] = lambda stage, what, steps: None,
        predictions: bool = True,
        checkpoint_seconds: float = 30.0,
        elsewhere: Executor | None = None,
    ) -> None:
        self.choice, self.journal, self.stop = choice, journal, stop
        self.seconds: dict[str, float] = {}
        folder = None if journal.directory is None else journal.directory.path / "checkpoints"
        self._states = None if folder is None else States(folder)
        self._advanced, self._predictions, self._seconds = advanced, predictions, checkpoint_seconds
        threads = choice.threads if choice.lane_processes > 1 else choice.loop_threads
        self._workers = ProcessPool(max(choice.processes, choice.lane_processes), threads)
        self._elsewhere = elsewhere

    def __enter__(self) -> Execution:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._workers.close()
        if kind is None:
            # a kill just before it was to be done may have left some
            self._clear()

    def run(self, requests: Sequence[Request]) -> list[dict[str, Outcome]]:
        """Train the runs of requests, or read their outcomes from the journal.

        No process waits for another between two requests.

        Args:
            requests: with distinct keys, on any problems.

        Returns:
            Outcome by identity, for each.

        Raises:
            DataError: every run of a request diverged, and a value in the data isn't finite.
            Interrupted: on ``stop``, after everything was saved.
        """
        programs = [[run for run in each.runs if self._in_lanes(run, each)] for each in requests]
        found = self._lanes(requests, programs)
        for number, asked in enumerate(requests):
            own, alone = found[number], [run for run in asked.runs if not self._in_lanes(run, asked)]
            if alone and asked.eliminate is None and asked.over is not None:
                own = self._while_time(asked, alone, own, asked.over)
            elif alone:
                own = own | self._alone(asked, alone)
            if own and all(outcome.diverged_at is not None for outcome in own.values()):
                refuse_what_none_can_learn(asked.problem.data)
            found[number] = own
        return found

    def _in_lanes(self, run: Run, asked: Request) -> bool:
        return self.choice.kind == "lanes" and asked.problem.entry(run).rule is not None

    def _executor(self, groups: int, processes: int, threads: int, *, here: bool) -> Executor:
        """Who carries so many groups out where so many processes were chosen; ``here``: this process."""
        if here:
            return SequentialExecutor(threads)
        if self._elsewhere is not None:
            return self._elsewhere
        return self._workers if min(groups, processes) > 1 else SequentialExecutor(threads)

    def _list(self, asked: Request, train: Train, groups: Sequence[Sequence[Run]]) -> RunList:
        return RunList(
            train=train, groups=groups, problem=asked.problem, workload=asked.workload,
            examples=asked.examples, keep=asked.keep, states=self._states, checkpoint_seconds=self._seconds,
        )  # fmt: skip

    # Lanes ------------------------------------------------------------------------------------------

    def _lanes(
        self, requests: Sequence[Request], programs: Sequence[Sequence[Run]]
    ) -> list[dict[str, Outcome]]:
        """Train each request's program of lanes, in chunks; return outcomes by request."""
        found: list[dict[str, Outcome]] = [{} for _ in requests]
        waiting: list[tuple[int, str, Sequence[Run]]] = []
        for owner, (asked, program) in enumerate(zip(requests, programs, strict=True)):
            pieces = self._pieces(owner, len(requests))
            chunks = self._chunks(program, asked, pieces) if program else []
            for number, chunk in enumerate(chunks):
                # in other company a request may be divided otherwise; its chunks then are others
                name = f"{asked.key}/chunk{number}of{len(chunks)}"
                if name in self.journal:
                    found[owner] |= self._replayed(name, name, asked.stage)
                else:
                    waiting.append((owner, name, chunk))
        if not waiting:
            return found
        began = time.monotonic()

        def ended(number: int, outcomes: list[Outcome]) -> None:
            nonlocal began
            owner, name, _ = waiting[number]
            # written before it counts: a kill from here on finds the outcomes
            value = self.journal.once("runs", name, lambda: self._written(outcomes, began))
            found[owner] |= self._read(value, requests[owner].stage)
            began = time.monotonic()

        # who is eliminated is written into the journal, which only this process may do
        here = any(requests[owner].eliminate is not None for owner, _, _ in waiting)
        executor = self._executor(len(waiting), self.choice.lane_processes, self.choice.threads, here=here)
        # owners follow each other in `waiting`, so that groups have the same numbers in all lists together
        owners = list(dict.fromkeys(owner for owner, _, _ in waiting))
        lists = [
            replace(
                self._list(requests[owner], as_lanes, [chunk for mine, _, chunk in waiting if mine == owner]),
                eliminate=requests[owner].eliminate,
                evaluated=requests[owner].evaluated,
            )
            for owner in owners
        ]
        first = waiting[0]
        executor.carry_out(
            lists,
            ended=ended,
            advanced=lambda steps: self._advanced(requests[first[0]].stage, first[1], steps),
            stop=self.stop,
        )
        # only now: until the journal had the outcomes, a resume would have gone on from the states
        self._clear()
        return found

    def _pieces(self, number: int, requests: int) -> int:
        """Return into how many chunks at least a request is divided, so that all processes end together.

        A program over half the lanes takes more than half the time: as many requests as go round are left
        whole, the rest are divided among the processes. It depends on the plan alone, so that a resumed list
        of runs is divided as it was.
        """
        processes = self.choice.lane_processes
        return processes if number >= requests - requests % processes else 1

    def _chunks(self, runs: Sequence[Run], asked: Request, pieces: int) -> list[list[Run]]:
        """Divide runs into programs; whole pools where they are held against each other while running."""
        if asked.eliminate is None:
            share = -(-len(runs) // pieces)
            return plan_chunks(runs, asked.problem.optimizers, max(1, min(self.choice.chunk, share)))
        chunks: list[list[Run]] = []
        for name in dict.fromkeys(run.setting.optimizer for run in runs):
            pool = [run for run in runs if run.setting.optimizer == name]
            if chunks and len(chunks[-1]) + len(pool) <= self.choice.chunk:
                chunks[-1] += pool
            else:
                chunks.append(pool)
        return chunks

    # Runs by themselves -----------------------------------------------------------------------------

    def _while_time(
        self, asked: Request, alone: Sequence[Run], found: dict[str, Outcome], over: Callable[[], bool]
    ) -> dict[str, Outcome]:
        """Runs that aren't lanes, each optimizer's first, then each one's second, until time is over."""
        places: dict[str, int] = {}
        counts: dict[str, int] = {}
        for run in asked.runs:
            name = run.setting.optimizer
            places[run.identity] = counts[name] = counts.get(name, -1) + 1
        decided = f"{asked.key}/left out"
        rounds = max(counts.values()) + 1
        if decided in self.journal:
            rounds = int(self.journal.once("budget", decided, int))
            alone = [run for run in alone if places[run.identity] < rounds]
        firsts = {run.identity for run in alone if places[run.identity] == 0}
        # stable, so that optimizers keep their order within a round
        in_turn = sorted(alone, key=lambda run: places[run.identity])
        found |= self._alone(asked, in_turn, over=lambda ended: over() and firsts <= set(ended))
        missing = [places[run.identity] for run in asked.runs if run.identity not in found]
        if missing and decided not in self.journal:
            rounds = min(missing)
            # a resume leaves out the same runs, however fast it is
            self.journal.once("budget", decided, lambda: rounds)
        return {run.identity: found[run.identity] for run in asked.runs if places[run.identity] < rounds}

    def _alone(
        self,
        asked: Request,
        runs: Sequence[Run],
        over: Callable[[Collection[str]], bool] | None = None,
    ) -> dict[str, Outcome]:
        """One by one, or several processes side by side; with elimination, from rung to rung.

        ``over`` is told which runs have ended; once it says so, the others are left out.
        """
        key, stage, eliminate = asked.key, asked.stage, asked.eliminate
        problem, workload = asked.problem, asked.workload
        found: dict[str, Outcome] = {}
        pending: list[Run] = []
        for run in runs:
            if f"{key}/{run.identity}" in self.journal:
                found |= self._replayed(f"{key}/{run.identity}", run.identity, stage)
            else:
                pending.append(run)
        began, states = time.monotonic(), self._states
        told = dict.fromkeys((run.identity for run in pending), 0)
        # of runs under way, which their ends needn't tell again
        ahead, last = 0.0, pending[0].identity if pending else ""

        def advanced(steps: float) -> None:
            nonlocal ahead
            ahead += steps
            self._advanced(stage, last, steps)

        def reached(outcome: Outcome) -> None:
            nonlocal ahead, last
            last, step = outcome.identity, outcome.steps[-1]
            steps = float(step - told[last])
            known = min(ahead, steps)
            ahead, told[last] = ahead - known, step
            self._advanced(stage, last, steps - known)

        def finished(outcome: Outcome) -> None:
            nonlocal began
            value = self._written([outcome], began)
            self.journal.once("runs", f"{key}/{outcome.identity}", lambda: value)
            # in this order: a kill in between leaves a state too many, never an outcome too few
            if self._states is not None:
                self._states.drop(outcome.identity)
            began = time.monotonic()
            found.update(self._read(value, stage))
            reached(outcome)

        def time_is_over() -> bool:
            return over is not None and over(found.keys())

        def train(some: Sequence[Run], ended: Callable[[Outcome], None], until: int | None = None) -> None:
            executor = self._executor(
                len(some), self.choice.processes, self.choice.loop_threads, here=asked.alone is not None
            )
            listed = self._list(asked, asked.alone or one_by_one, [[run] for run in some])
            executor.carry_out(
                [replace(listed, until=until)],
                ended=lambda _, outcomes: ended(outcomes[0]),
                # from a rung on, a run would tell its first steps once more
                advanced=advanced if eliminate is None else lambda steps: None,
                stop=lambda: self.stop() or time_is_over(),
            )

        going = pending
        if eliminate is not None:
            assert states is not None, "runs that pause need a directory for their states"
            for rung in sorted(eliminate.rungs):
                train(going, reached, rung)
                going, stopped = _eliminated(going, rung, eliminate, states, problem, workload)
                for outcome in stopped:
                    finished(outcome)
        try:
            train(going, finished)
        except Interrupted:
            if self.stop() or not time_is_over():
                raise
            self._clear()
        return found

    def _clear(self) -> None:
        """What states were for is in the journal now, or left out."""
        if self._states is not None:
            self._states.clear()

    def _replayed(self, key: str, what: str, stage: str) -> dict[str, Outcome]:
        """Hand back what the journal holds, and tell of its steps."""
        value = self.journal.once("runs", key, dict)
        found = self._read(value, stage)
        self._advanced(stage, what, float(len(found) * _last_step(value)))
        return found

    def _written(self, outcomes: Sequence[Outcome], began: float) -> dict[str, Any]:
        kept = [one if self._predictions else replace(one, test_predictions=[]) for one in outcomes]
        return {"seconds": time.monotonic() - began, "outcomes": [one.to_json() for one in kept]}

    def _read(self, value: Mapping[str, Any], stage: str) -> dict[str, Outcome]:
        self.seconds[stage] = self.seconds.get(stage, 0.0) + float(value["seconds"])
        outcomes = [Outcome.from_json(one) for one in value["outcomes"]]
        return {outcome.identity: outcome for outcome in outcomes}


def _last_step(value: Mapping[str, Any]) -> int:
    return max((int(one["steps"][-1]) for one in value["outcomes"]), default=0)


def _eliminated(
    runs: Sequence[Run],
    rung: int,
    eliminate: Elimination,
    states: States,
    problem: Problem,
    workload: Workload,
) -> tuple[list[Run], list[Outcome]]:
    """Who goes on from a rung that all have reached, each pool compared as a whole; how the rest ended."""
    histories = {run.identity: _history(run, states, workload) for run in runs}
    at_rung = {
        name: dict(zip(history.steps, history.validation, strict=True)).get(rung)
        for name, history in histories.items()
    }
    stopped = eliminate(rung, at_rung)
    outcomes: list[Outcome] = []
    for name, history in histories.items():
        if name in stopped and history.active:
            history.stopped_at = rung
            for point in evaluation_points(problem.steps(workload), workload.evaluations):
                if point > rung:
                    history.skip(point)
            outcomes.append(history.outcome(name))
    return [run for run in runs if run.identity not in stopped], outcomes


def _history(run: Run, states: States, workload: Workload) -> History:
    state = states.load(run.identity)
    assert state is not None, "a run that reached a rung has a state"
    return History.start(workload, state["history"])
