"""Members of an ensemble: their seeds, how they are trained, and where they are kept."""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import safetensors.torch
import torch
from torch import Tensor, nn

from thalweg import lanes, streams
from thalweg.catalogue import Entry
from thalweg.data.examples import DatasetExamples, Examples, TensorExamples
from thalweg.data.source import Prepared
from thalweg.entries import Outcome, Run, Setting, Workload
from thalweg.errors import Interrupted, OptionError
from thalweg.lanes.course import initial_module
from thalweg.models import Factory
from thalweg.runs.directory import RunDirectory
from thalweg.runs.interrupt import Interruption
from thalweg.streams import seed32
from thalweg.training.choose import choose
from thalweg.training.core import copied
from thalweg.training.cost import with_threads
from thalweg.training.engine import laid_down
from thalweg.training.job import Fitted
from thalweg.training.watch import Evaluation, Pace, Progress, Watcher

__all__ = [
    "Among",
    "How",
    "Kept",
    "Member",
    "bootstrap",
    "how",
    "in_lanes",
    "member_seed",
    "one_by_one",
    "resampled",
    "runs_of",
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
    if isinstance(examples, TensorExamples):
        return TensorExamples(*examples.batch(places))
    if isinstance(examples, DatasetExamples):
        targets = None if examples.targets is None else examples.targets[places.to(examples.targets.device)]
        return replace(examples, positions=examples.positions[places.numpy()], targets=targets)
    raise OptionError(f"examples of type {type(examples).__name__} can't be resampled; leave resample out")


@dataclass(frozen=True, kw_only=True)
class Member:
    """What came of a member; its weights are kept apart.

    Attributes:
        number, seed: from 1, and see :func:`member_seed`.
        curve: every evaluation.
        updates: steps that its optimizer took.
        stopped, failed: why training ended before its time, and whether that was a failure.
        notes: what strategies had to say.
    """

    number: int
    seed: int
    curve: list[Evaluation] = field(repr=False)
    updates: int
    stopped: str | None = None
    failed: bool = False
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class How:
    """How members are trained: the choice, once made, is kept and followed by every resume."""

    engine: Literal["lanes", "loop"]
    reason: str
    threads: int
    chunk: int = 1


class Kept:
    """Where members are kept: in a run directory, or in memory.

    Args:
        directory: ``None`` for memory.

    Attributes:
        members: those that are trained, by number.
    """

    def __init__(self, directory: RunDirectory | None = None) -> None:
        self.directory = directory
        self.members: dict[int, Member] = {}
        self.how: How | None = None
        self.seconds = 0.0
        self._states: dict[int, dict[str, Tensor]] = {}
        self._names: set[str] = set()
        for event in [] if directory is None else directory.events():
            if event["event"] == "member":
                values = {**event["member"], "curve": [Evaluation(**e) for e in event["member"]["curve"]]}
                self.members[values["number"]] = Member(**values)
            elif event["event"] == "engine":
                self.how = How(**event["how"])
            elif event["event"] == "spent":
                self.seconds += event["seconds"]

    def decide(self, how: How) -> None:
        """Keep the choice of engine."""
        self.how = how
        if self.directory is not None:
            self.directory.append({"event": "engine", "how": asdict(how)})

    def put(self, member: Member, state: Mapping[str, Tensor] | None) -> None:
        """Keep a member, and its weights unless it failed."""
        if state is not None:
            if self.directory is None:
                self._states[member.number] = copied(dict(state))
            else:
                whole = {name: laid_down(value) for name, value in state.items()}
                self.directory.write_bytes(
                    f"member-{member.number}.safetensors", safetensors.torch.save(whole)
                )
        if self.directory is not None and member.number not in self.members:
            self.directory.append({"event": "member", "member": asdict(member)})
        self.members[member.number] = member

    def state(self, number: int) -> dict[str, Tensor]:
        """Return the weights of a member."""
        if self.directory is None:
            return self._states[number]
        return safetensors.torch.load_file(self.directory.path / f"member-{number}.safetensors")

    def spent(self, seconds: float) -> None:
        """Note how long training went on."""
        self.seconds += seconds
        if self.directory is not None:
            self.directory.append({"event": "spent", "seconds": seconds})

    # What lanes ask of a keeper ---------------------------------------------------------------------

    def save(self, chunk: str, state: dict[str, Any]) -> None:
        """Keep the state of lanes under way."""
        if self.directory is not None:
            self._names.add(chunk)
            self.directory.save_checkpoint(f"lanes-{chunk}", state)

    def load(self, chunk: str) -> dict[str, Any] | None:
        """Return the state of lanes kept last."""
        if self.directory is None:
            return None
        self._names.add(chunk)
        return self.directory.load_checkpoint(f"lanes-{chunk}")

    def tidy(self) -> None:
        """Drop what was kept for a resume alone."""
        if self.directory is not None:
            for name in self._names:
                self.directory.drop_checkpoint(f"lanes-{name}")
            shutil.rmtree(self.directory.path / "members", ignore_errors=True)


def how(
    engine: Literal["auto", "lanes", "loop"],
    why_not: str | None,
    runs: Sequence[Run],
    **shared: Any,
) -> How:
    """Choose how to train members: as lanes where that can be and pays, by a short measurement.

    Args:
        engine: what was asked for.
        why_not: why lanes can't be, as far as is known beforehand.
        runs: the members.
        shared: ``factory``, ``prepared``, ``workload``, ``entry`` and ``device``, as for :func:`in_lanes`; of
            no use where lanes can't be.

    Raises:
        ModelError: lanes were asked for and the model can't be one.
        OptionError: lanes were asked for, and the optimizer or the data can't be.
    """
    if why_not is not None or engine == "loop":
        reason = "the loop was asked for" if why_not is None else why_not
        return How(engine="loop", reason=reason, threads=torch.get_num_threads())
    entries = {runs[0].setting.optimizer: shared.pop("entry")}
    most = min(len(runs), _CHUNK)
    # a race has thousands of runs to win the measurement back, an ensemble a few; and where lanes were asked
    # for, only their number and threads are open
    seconds = 0.03 if engine == "auto" else 0.0
    choice = choose(
        runs, engine=engine, catalogue_entries=entries, processes=1, most=most, seconds=seconds, **shared
    )
    return How(engine=choice.kind, reason=choice.reason, threads=choice.threads, chunk=choice.chunk)


def runs_of(seed: int, members: int, setting: Setting) -> list[Run]:
    """Return the members as runs, named by their numbers."""
    return [
        Run(identity=str(number), setting=setting, seed=member_seed(seed, number))
        for number in range(1, members + 1)
    ]


def in_lanes(
    runs: Sequence[Run],
    kept: Kept,
    watcher: Watcher,
    *,
    factory: Factory,
    prepared: Prepared,
    workload: Workload,
    entry: Entry,
    device: str,
    resample: bool,
    how: How,
    seconds: float,
    scored: bool = True,
) -> None:
    """Train members as lanes, or go on with it.

    Args:
        runs: of :func:`runs_of`.
        kept: where they go, and where lanes under way are kept.
        watcher: told the mean over members.
        factory, prepared, workload, device: as for :func:`thalweg.lanes.run`.
        entry: of the optimizer.
        resample: each member on a :func:`bootstrap` of its own.
        how: threads of torch, and the most lanes of a program.
        seconds: between two checkpoints.
        scored: whether the data's validation part is one, or only stands in for what isn't there.

    Raises:
        Interrupted: Ctrl-C or SIGTERM, after everything was saved.
    """
    began = time.monotonic()
    seeds = {run.identity: run.seed for run in runs}
    pace = Pace(watcher)
    entries = {runs[0].setting.optimizer: entry}
    sizes = [len(chunk) for chunk in lanes.plan(runs, entries, how.chunk)]

    def collect(outcome: Outcome, tensors: Mapping[str, Tensor]) -> None:
        member = _member(outcome, seeds, scored)
        module = initial_module(factory, prepared.input_shape, prepared.outputs, member.seed).to(device)
        kept.put(member, with_tensors(module, tensors).state_dict())

    def watch(progress: lanes.Progress) -> None:
        before = sum(sizes[: progress.chunk]) * progress.steps
        pace.tell(before + sizes[progress.chunk] * progress.step, progress.steps * len(runs))
        scores = [value for value in progress.validation.values() if value is not None]
        if scored and progress.validation:
            mean = math.fsum(scores) / len(scores) if scores else None
            evaluation = Evaluation(
                step=progress.step, train_loss=None, validation_loss=None, validation=mean
            )
            if kept.directory is not None:
                kept.directory.append({"event": "evaluation", **asdict(evaluation)})
            watcher.evaluated(evaluation, None)

    examples = None
    if resample:
        examples = {run.identity: bootstrap(len(prepared.train), seed=run.seed) for run in runs}
    try:
        with Interruption() as interruption, with_threads(how.threads):
            outcomes = lanes.run(
                runs,
                factory=factory,
                prepared=prepared,
                workload=workload,
                catalogue_entries=entries,
                device=device,
                chunk=how.chunk,
                watch=watch,
                checkpoint=kept,
                checkpoint_seconds=seconds,
                stop=interruption.asked if kept.directory is not None else None,
                examples=examples,
                collect=collect,
            )
    except Interrupted as problem:
        raise Interrupted("interrupted; everything is saved, and --resume goes on") from problem
    finally:
        kept.spent(time.monotonic() - began)
    for outcome in outcomes:
        if int(outcome.identity) not in kept.members:
            kept.put(_member(outcome, seeds, scored), None)


def one_by_one(
    runs: Sequence[Run],
    kept: Kept,
    watcher: Watcher,
    train: Callable[[Run, Path | None, Watcher], Fitted],
) -> None:
    """Train members one after another, each in a run directory of its own while it is under way.

    Args:
        runs: of :func:`runs_of`.
        kept: where they go.
        watcher: told of all members together.
        train: trains one, or goes on with it, in this run directory, which is gone afterwards.

    Raises:
        Interrupted: Ctrl-C or SIGTERM, after everything was saved.
    """
    pace = Pace(watcher)
    for position, run in enumerate(runs):
        number = int(run.identity)
        if number in kept.members:
            continue
        path = None if kept.directory is None else kept.directory.path / "members" / run.identity
        fitted = train(run, path, Among(watcher, pace, position, len(runs)))
        kept.put(
            Member(
                number=number, seed=run.seed, curve=fitted.curve, updates=fitted.updates,
                stopped=fitted.stopped, failed=fitted.failed, notes=fitted.notes,
            ),
            None if fitted.failed else fitted.model.state_dict(),
        )  # fmt: skip
        kept.spent(fitted.seconds)
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
        stopped=None if diverged is None else f"the loss was no longer finite at step {diverged}",
        failed=diverged is not None,
    )


@torch.no_grad()
def with_tensors(module: nn.Module, tensors: Mapping[str, Tensor]) -> nn.Module:
    """Put values into parameters and buffers by name."""
    for name, own in [*module.named_parameters(), *module.named_buffers()]:
        own.copy_(tensors[name])
    return module.eval()


class Among(Watcher):
    """Tells of one member as one of all."""

    def __init__(self, watcher: Watcher, pace: Pace, position: int, members: int) -> None:
        self._watcher, self._pace, self._position, self._members = watcher, pace, position, members

    def note(self, text: str) -> None:
        """Say whose note it is."""
        self._watcher.note(f"member {self._position + 1} of {self._members}: {text}")

    def progress(self, progress: Progress) -> None:
        """Count all members' steps."""
        self._pace.tell(self._position * progress.steps + progress.step, self._members * progress.steps)

    def evaluated(self, evaluation: Evaluation, best: Evaluation | None) -> None:
        """Hand a member's evaluation on."""
        self._watcher.evaluated(evaluation, best)
