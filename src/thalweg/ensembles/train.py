"""Members of an ensemble: their seeds, and how they are trained."""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from thalweg.data.examples import ArrayExamples, DatasetExamples, Examples, TensorExamples
from thalweg.ensembles.store import Member, MemberPlan, MemberStore
from thalweg.errors import Interrupted, OptionError, ThalwegError, option
from thalweg.execution import lanes
from thalweg.execution.choose import choose
from thalweg.layers.modes import set_evaluation
from thalweg.randomness import streams
from thalweg.randomness.streams import seed32
from thalweg.run.directory.interrupt import Interruption
from thalweg.run.problem import Problem
from thalweg.run.spec import Outcome, Run, Setting, Workload
from thalweg.run.threads import with_threads
from thalweg.settings.choices import EngineChoice
from thalweg.training.training_run import Fitted
from thalweg.training.watch import Evaluation, Pace, TrainingProgress, TrainingWatcher

__all__ = [
    "MemberContext",
    "MemberWatcher",
    "bootstrap",
    "in_lanes",
    "member_seed",
    "one_by_one",
    "plan_members",
    "resampled",
    "runs_of",
    "train",
    "with_tensors",
]

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
    places = bootstrap(len(examples), seed=seed)
    if isinstance(examples, ArrayExamples):
        return examples.at(places)
    if isinstance(examples, TensorExamples):
        return TensorExamples(*examples.batch(places))
    if isinstance(examples, DatasetExamples):
        targets = None if examples.targets is None else examples.targets[places.to(examples.targets.device)]
        return replace(examples, positions=examples.positions[places.numpy()], targets=targets)
    raise OptionError(f"examples of type {type(examples).__name__} can't be resampled; leave resample out")


@dataclass(frozen=True, kw_only=True)
class MemberContext:
    """What members have in common that are trained as lanes.

    Attributes:
        problem, workload: as for :func:`thalweg.execution.lanes.run`.
        scored: whether the data's validation part is one, or only stands in for what isn't there.
    """

    problem: Problem
    workload: Workload
    scored: bool = True


def train(
    runs: Sequence[Run],
    store: MemberStore,
    watcher: TrainingWatcher,
    alone: Callable[[Run, Path | None, TrainingWatcher], Fitted],
    context: MemberContext | None,
    *,
    engine: EngineChoice,
    why_not: str | None,
    resample: bool,
    seconds: float,
) -> MemberPlan:
    """Train members to their end, or resume: choose how, train, and drop what only a resume needs.

    Args:
        runs: of :func:`runs_of`.
        store: where they go.
        watcher: told what happens.
        alone: trains one, as for :func:`one_by_one`.
        context: as for :func:`in_lanes`; may be ``None`` where lanes can't be.
        engine, why_not: as for :func:`plan_members`.
        resample: as for :func:`in_lanes`.
        seconds: between two checkpoints.

    Returns:
        The choice.

    Raises:
        UserError: the members can't be trained so.
        Interrupted: Ctrl-C or SIGTERM, after everything was saved.
        ThalwegError: every member failed.
    """
    if store.plan is None:
        directory = store.directory
        with nullcontext() if directory is None else directory.withdrawn_unless(lambda: False):
            store.save_plan(plan_members(engine, why_not, runs, context))
    assert store.plan is not None
    means = "side by side, as lanes" if store.plan.engine == "lanes" else "one after another"
    watcher.note(f"{len(runs)} members {means}: {store.plan.reason}")
    if len(store.members) < len(runs):
        try:
            if store.plan.engine == "loop":
                one_by_one(runs, store, watcher, alone)
            elif context is not None:
                in_lanes(
                    runs,
                    store,
                    watcher,
                    context,
                    plan=store.plan,
                    resample=resample,
                    seconds=seconds,
                )
            else:
                raise OptionError(
                    f"the members were begun as lanes, which is impossible now: {why_not}; give the same "
                    "arguments as before, or start again with another out"
                )
        except KeyboardInterrupt as problem:
            if store.directory is None:
                raise
            # between two members, where nothing is under way
            raise _interrupted() from problem
    store.tidy()
    if all(member.failed for member in store.members.values()):
        raise ThalwegError(
            f"every member failed (member 1: {store.members[1].stopped}); lower the learning rate, clip "
            "gradients, or add a guard"
        )
    return store.plan


def plan_members(
    engine: EngineChoice,
    why_not: str | None,
    runs: Sequence[Run],
    context: MemberContext | None,
) -> MemberPlan:
    """Choose how to train members: as lanes where that can be and pays, by a short measurement.

    Args:
        engine: what was asked for.
        why_not: why lanes can't be, as far as is known beforehand.
        runs: the members.
        context: as for :func:`in_lanes`; of no use where lanes can't be.

    Raises:
        ModelError: lanes were asked for and the model can't be one.
        OptionError: lanes were asked for, and the optimizer or the data can't be.
    """
    if why_not is not None or engine == "loop":
        reason = "the loop was asked for" if why_not is None else why_not
        return MemberPlan(engine="loop", reason=reason, threads=torch.get_num_threads())
    assert context is not None
    most = min(len(runs), _CHUNK)
    # a race has thousands of runs to win the measurement back, an ensemble a few; and where lanes were asked
    # for, only their number and threads are open
    seconds = 0.03 if engine == "auto" else 0.0
    choice = choose(
        runs, context.problem, context.workload, engine=engine, processes=1, most=most, seconds=seconds
    )  # fmt: skip
    return MemberPlan(engine=choice.kind, reason=choice.reason, threads=choice.threads, chunk=choice.chunk)


def runs_of(seed: int, members: int, setting: Setting) -> list[Run]:
    """Return the members as runs, named by their numbers."""
    return [
        Run(identity=str(number), setting=setting, seed=member_seed(seed, number))
        for number in range(1, members + 1)
    ]


def in_lanes(
    runs: Sequence[Run],
    store: MemberStore,
    watcher: TrainingWatcher,
    context: MemberContext,
    *,
    plan: MemberPlan,
    resample: bool,
    seconds: float,
) -> None:
    """Train members as lanes, or resume.

    Args:
        runs: of :func:`runs_of`.
        store: where they go, and what keeps lanes under way.
        watcher: told the mean over members.
        context: to all.
        plan: threads of torch, and the most lanes of a program.
        resample: each member on a :func:`bootstrap` of its own.
        seconds: between two checkpoints.

    Raises:
        Interrupted: Ctrl-C or SIGTERM, after everything was saved.
    """
    began = time.monotonic()
    seeds = {run.identity: run.seed for run in runs}
    pace = Pace(watcher)
    problem, scored = context.problem, context.scored
    sizes = [len(chunk) for chunk in lanes.plan(runs, problem.optimizers, plan.chunk)]
    of_member = {int(run.identity): run for run in runs}

    def collect(outcome: Outcome, tensors: Mapping[str, Tensor]) -> None:
        member = _member(outcome, seeds, scored)
        module = problem.model(of_member[member.number])
        store.put(member, with_tensors(module, tensors).state_dict())

    def watch(progress: lanes.LaneProgress) -> None:
        before = sum(sizes[: progress.chunk]) * progress.steps
        pace.tell(before + sizes[progress.chunk] * progress.step, progress.steps * len(runs))
        scores = [value for value in progress.validation.values() if value is not None]
        if scored and progress.validation:
            mean = math.fsum(scores) / len(scores) if scores else None
            evaluation = Evaluation(
                step=progress.step, train_loss=None, validation_loss=None, validation=mean
            )
            if store.directory is not None:
                store.directory.append({"event": "evaluation", **asdict(evaluation)})
            watcher.evaluated(evaluation, None)

    examples = None
    if resample:
        examples = {run.identity: bootstrap(len(problem.data.train), seed=run.seed) for run in runs}
    try:
        with Interruption() as interruption, with_threads(plan.threads):
            outcomes = lanes.run(
                runs,
                problem,
                context.workload,
                chunk=plan.chunk,
                watch=watch,
                checkpoint=store.under_way,
                checkpoint_seconds=seconds,
                stop=None if store.directory is None else store.directory.watched(interruption.asked),
                examples=examples,
                collect=collect,
            )
    except Interrupted as problem:
        raise _interrupted() from problem
    finally:
        store.spent(time.monotonic() - began)
    for outcome in outcomes:
        if int(outcome.identity) not in store.members:
            store.put(_member(outcome, seeds, scored), None)


def one_by_one(
    runs: Sequence[Run],
    store: MemberStore,
    watcher: TrainingWatcher,
    alone: Callable[[Run, Path | None, TrainingWatcher], Fitted],
) -> None:
    """Train members one after another, each in a run directory of its own while it is under way.

    Args:
        runs: of :func:`runs_of`.
        store: where they go.
        watcher: told of all members together.
        alone: trains one, or goes on with it, in this run directory, which is gone afterwards.

    Raises:
        Interrupted: Ctrl-C or SIGTERM, after everything was saved.
    """
    pace = Pace(watcher)
    for position, run in enumerate(runs):
        number = int(run.identity)
        if number in store.members:
            continue
        path = None
        if store.directory is not None:
            # so that no member makes it anew
            store.directory.check(at_once=True)
            path = store.directory.folder("members") / run.identity
        fitted = alone(run, path, MemberWatcher(watcher, pace, position, len(runs)))
        store.put(
            Member(
                number=number, seed=run.seed, curve=fitted.curve, updates=fitted.updates,
                stopped=fitted.stopped, failed=fitted.failed, notes=fitted.notes,
            ),
            None if fitted.failed else fitted.model.state_dict(),
        )  # fmt: skip
        store.spent(fitted.seconds)
        if path is not None:
            shutil.rmtree(path, ignore_errors=True)


def _member(outcome: Outcome, seeds: Mapping[str, int], scored: bool) -> Member:
    unknown = [None] * len(outcome.steps)
    scores = (outcome.validation_loss, outcome.validation) if scored else (unknown, unknown)
    lists = outcome.steps, outcome.train_loss, *scores
    diverged = outcome.diverged_at
    return Member(
        number=int(outcome.identity),
        seed=seeds[outcome.identity],
        curve=[
            Evaluation(step=step, train_loss=train, validation_loss=loss, validation=score)
            for step, train, loss, score in zip(*lists, strict=True)
        ],
        updates=outcome.steps[-1] if diverged is None else diverged,
        stopped=None if diverged is None else _diverged(diverged),
        failed=diverged is not None,
    )


def _interrupted() -> Interrupted:
    return Interrupted(f"interrupted; everything is saved, and {option('resume', True)} goes on")


def _diverged(step: int) -> str:
    if step == 0:
        return "the loss isn't finite before the first step"
    return f"the loss was no longer finite at step {step}"


@torch.no_grad()
def with_tensors(module: nn.Module, tensors: Mapping[str, Tensor]) -> nn.Module:
    """Put values into parameters and buffers by name."""
    for name, own in [*module.named_parameters(), *module.named_buffers()]:
        own.copy_(tensors[name])
    return set_evaluation(module)


class MemberWatcher(TrainingWatcher):
    """Tells of one member as one of all."""

    def __init__(self, watcher: TrainingWatcher, pace: Pace, position: int, members: int) -> None:
        self._watcher, self._pace, self._position, self._members = watcher, pace, position, members

    def note(self, text: str) -> None:
        """Say whose note it is."""
        self._watcher.note(f"member {self._position + 1} of {self._members}: {text}")

    def progress(self, progress: TrainingProgress) -> None:
        """Count all members' steps."""
        self._pace.tell(self._position * progress.steps + progress.step, self._members * progress.steps)

    def evaluated(self, evaluation: Evaluation, best: Evaluation | None) -> None:
        """Hand a member's evaluation on."""
        self._watcher.evaluated(evaluation, best)
