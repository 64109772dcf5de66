"""Members of an ensemble: their seeds, and how they are trained."""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor

from thalweg.data.examples import Examples, at_places
from thalweg.ensembles.store import Member, MemberStore
from thalweg.errors import Interrupted, OptionError, ThalwegError, option
from thalweg.execution.choose import Choice, choose_once
from thalweg.execution.execution import Execution, Request
from thalweg.execution.executors import Executor, RunList
from thalweg.execution.outcomes import outcome_of
from thalweg.randomness import streams
from thalweg.randomness.streams import seed32
from thalweg.run.directory.interrupt import Interruption
from thalweg.run.problem import Problem
from thalweg.run.spec import Outcome, Run, Setting, Workload
from thalweg.settings.choices import EngineChoice
from thalweg.training.training_run import Fitted
from thalweg.training.watch import Evaluation, Pace, TrainingProgress, TrainingWatcher

__all__ = ["bootstrap", "member_seed", "resampled", "runs_of", "train"]

TrainAlone = Callable[[Run, Path | None, TrainingWatcher], Fitted]
"""Trains a member, or goes on with it, in a run directory of its own."""

_CHUNK = 64


def member_seed(seed: int, number: int) -> int:
    """Return the seed of a member, from 1: a training with this seed gives this member.

    >>> member_seed(0, 1) == seed32(0, "member", 1)
    True
    """
    return seed32(seed, "member", number)


def bootstrap(examples: int, *, seed: int) -> Tensor:
    """Draw as many examples as there are, with replacement: ``floor(n * u)`` with Philox's uniform u.

    Args:
        examples: n, at least 1.
        seed: of the member.

    Returns:
        int64 ``[n]``. About ``1 - 1/e``, 63 %, of the examples are among them.

    >>> drawn = bootstrap(1000, seed=3)
    >>> drawn.shape, 0.6 < len(drawn.unique()) / 1000 < 0.66
    (torch.Size([1000]), True)

    Source: Breiman 1996, for A2 (S).
    """
    u = streams.uniform((examples,), seed=seed, stream="ensemble/resample", dtype=torch.float64)
    return (u * examples).long()


def resampled(examples: Examples, *, seed: int) -> Examples:
    """Return a :func:`bootstrap` of examples.

    Raises:
        OptionError: examples of a kind of its own.
    """
    return at_places(examples, bootstrap(len(examples), seed=seed))


def runs_of(seed: int, members: int, setting: Setting) -> list[Run]:
    """Return the members as runs, named by their numbers."""
    return [
        Run(identity=str(number), setting=setting, seed=member_seed(seed, number))
        for number in range(1, members + 1)
    ]


def train(
    runs: Sequence[Run],
    store: MemberStore,
    watcher: TrainingWatcher,
    alone: TrainAlone,
    problem: Problem,
    workload: Workload,
    *,
    engine: EngineChoice,
    why_not: str | None,
    resample: bool,
    seconds: float,
    scored: bool = True,
    executor: Executor | None = None,
) -> Choice:
    """Train members to their end, or resume: choose how, hand them to an execution, and tidy up.

    Args:
        runs: of :func:`runs_of`.
        store: where they go.
        watcher: told what happens.
        alone: trains one, or goes on with it, in this run directory, which is gone afterwards.
        problem, workload: of all of them, as lanes.
        engine: what was asked for.
        why_not: why lanes can't be, as far as is known beforehand.
        resample: each member on a :func:`bootstrap` of its own.
        seconds: between two checkpoints.
        scored: whether the data's validation part is one, or only stands in for what isn't there.
        executor: carries lanes out elsewhere.

    Returns:
        The choice.

    Raises:
        UserError: the members can't be trained so.
        Interrupted: Ctrl-C or SIGTERM, after everything was saved.
        ThalwegError: every member failed.
    """
    choice = store.plan
    if choice is None:
        # a race has thousands of runs to win the measurement back, an ensemble a few; and where lanes were
        # asked for, only their number and threads are open
        choice = store.plan = choose_once(
            store.journal, runs, problem, workload, engine=engine, why_not=why_not, processes=1,
            most=min(len(runs), _CHUNK), seconds=0.03 if engine == "auto" else 0.0,
        )  # fmt: skip
    lanes = choice.kind == "lanes"
    watcher.note(
        f"{len(runs)} members {'side by side, as lanes' if lanes else 'one after another'}: {choice.reason}"
    )
    # of those that an earlier version has trained there is nothing in the journal
    missing = [run for run in runs if int(run.identity) not in store.members]
    if lanes and missing and why_not is not None:
        raise OptionError(
            f"the members were begun as lanes, which is impossible now: {why_not}; give the same "
            "arguments as before, or start again with another out"
        )
    try:
        outcomes = _carried_out(
            missing, len(runs), store, watcher, alone, problem, workload, choice,
            resample=resample, seconds=seconds, scored=scored, executor=executor,
        )  # fmt: skip
    except KeyboardInterrupt as interrupted:
        if store.directory is None:
            raise
        # between two members, where nothing is under way
        raise _interrupted() from interrupted
    for run in missing:
        store.members[int(run.identity)] = Member.of(run, outcomes[run.identity], scored=scored)
    store.tidy()
    if all(member.failed for member in store.members.values()):
        raise ThalwegError(
            f"every member failed (member 1: {store.members[1].stopped}); lower the learning rate, clip "
            "gradients, or add a guard"
        )
    return choice


def _carried_out(
    runs: Sequence[Run],
    members: int,
    store: MemberStore,
    watcher: TrainingWatcher,
    alone: TrainAlone,
    problem: Problem,
    workload: Workload,
    choice: Choice,
    *,
    resample: bool,
    seconds: float,
    scored: bool,
    executor: Executor | None,
) -> dict[str, Outcome]:
    directory = store.directory
    meter = _MembersSteps(watcher, members, members - len(runs))

    def evaluated(step: int, validation: Mapping[str, float | None]) -> None:
        if not scored:
            return
        scores = [value for value in validation.values() if value is not None]
        mean = math.fsum(scores) / len(scores) if scores else None
        evaluation = Evaluation(step=step, train_loss=None, validation_loss=None, validation=mean)
        if directory is not None:
            directory.append({"event": "evaluation", **asdict(evaluation)})
        watcher.evaluated(evaluation, None)

    examples = None
    if resample and choice.kind == "lanes":
        examples = {run.identity: bootstrap(len(problem.data.train), seed=run.seed) for run in runs}
    request = Request(
        key="members", runs=runs, problem=problem, workload=workload, stage="members", examples=examples,
        keep=store.weights, evaluated=evaluated, alone=_MemberTraining(store, watcher, alone, meter),
    )  # fmt: skip
    with ExitStack() as stack:
        stop = _never
        if choice.kind == "lanes":
            meter.steps, began = problem.steps(workload), time.monotonic()
            stack.callback(lambda: store.spent(time.monotonic() - began))
            # a training of its own listens for itself
            if directory is not None:
                stop = stack.enter_context(Interruption()).asked
        execution = stack.enter_context(
            Execution(
                choice,
                store.journal,
                stop=stop if directory is None else directory.watched(stop),
                advanced=meter.advanced,
                checkpoint_seconds=seconds,
                elsewhere=executor,
            )
        )
        try:
            (found,) = execution.run([request])
        except Interrupted as interrupted:
            if choice.kind == "lanes":
                raise _interrupted() from interrupted
            raise
    return found


class _MemberTraining:
    """Trains members that aren't lanes, each in a run directory of its own while it is under way."""

    def __init__(
        self, store: MemberStore, watcher: TrainingWatcher, alone: TrainAlone, meter: _MembersSteps
    ) -> None:
        self._store, self._watcher, self._alone, self._meter = store, watcher, alone, meter

    def __call__(
        self,
        runs: Sequence[Run],
        asked: RunList,
        *,
        stop: Callable[[], bool],
        advanced: Callable[[float], None],
    ) -> list[Outcome]:
        return [self._train(run, advanced) for run in runs]

    def _train(self, run: Run, advanced: Callable[[float], None]) -> Outcome:
        store, path = self._store, None
        if store.directory is not None:
            # so that no member makes it anew
            store.directory.check(at_once=True)
            path = store.directory.folder("members") / run.identity
            for other in path.parent.iterdir():
                # of a member whose outcome is written down by now
                if other.name.isdigit() and other != path:
                    shutil.rmtree(other, ignore_errors=True)
        told = _MemberWatcher(self._watcher, run, self._meter, advanced)
        fitted = self._alone(run, path, told)
        told.ended()
        outcome = outcome_of(run, fitted, fitted.curve)
        if not fitted.failed:
            store.weights(outcome, fitted.model.state_dict())
        store.spent(fitted.seconds)
        return outcome


def _never() -> bool:
    return False


def _interrupted() -> Interrupted:
    return Interrupted(f"interrupted; everything is saved, and {option('resume', True)} goes on")


class _MembersSteps:
    """Counts the steps of all members."""

    def __init__(self, watcher: TrainingWatcher, members: int, trained: int) -> None:
        self.members, self._pace = members, Pace(watcher)
        # of a member; 0 until that is known
        self.steps = 0
        self._trained, self._done = trained, 0.0

    def advanced(self, stage: str, what: str, steps: float) -> None:
        self._done += steps
        if self.steps:
            self._pace.tell(self._trained * self.steps + self._done, self.steps * self.members)


class _MemberWatcher(TrainingWatcher):
    """Tells of one member as one of all."""

    def __init__(
        self, watcher: TrainingWatcher, run: Run, meter: _MembersSteps, advanced: Callable[[float], None]
    ) -> None:
        self._watcher, self._run, self._meter, self._advanced = watcher, run, meter, advanced
        self._done = 0.0

    def note(self, text: str) -> None:
        """Say whose note it is."""
        self._watcher.note(f"member {self._run.identity} of {self._meter.members}: {text}")

    def progress(self, progress: TrainingProgress) -> None:
        """Count its steps among those of all members."""
        self._meter.steps = progress.steps
        self._advanced(progress.step - self._done)
        self._done = progress.step

    def ended(self) -> None:
        """Count the steps that it doesn't take any more, or didn't tell."""
        self._advanced(max(0.0, self._meter.steps - self._done))

    def evaluated(self, evaluation: Evaluation, best: Evaluation | None) -> None:
        """Hand a member's evaluation on."""
        self._watcher.evaluated(evaluation, best)
