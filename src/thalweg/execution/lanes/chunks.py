"""Runs as lanes: chunks of them are trained together, and each leaves its outcome."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from thalweg.catalogue import Entry
from thalweg.data.examples import Examples
from thalweg.errors import Interrupted
from thalweg.execution.lanes.device_split import DeviceSplit
from thalweg.execution.lanes.evaluating import ignores, score
from thalweg.execution.lanes.forward import forward_of
from thalweg.execution.lanes.stack import Stack
from thalweg.execution.lanes.step import LaneProgram, group_key
from thalweg.objectives.nests import mapped
from thalweg.run.factors import Factors
from thalweg.run.history import History
from thalweg.run.movement import checksums_of_lanes
from thalweg.run.problem import Problem
from thalweg.run.sampler import evaluation_points, orders, steps_an_epoch
from thalweg.run.spec import Outcome, Run, Workload

__all__ = ["Eliminate", "Keep", "LaneKeeper", "LaneProgress", "plan", "promise", "run"]

Eliminate = Callable[[int, Mapping[str, float | None]], set[str]]
"""Steps done and validation metric by identity (``None``: diverged), to the identities to stop."""

Keep = Callable[[Outcome, Mapping[str, Tensor]], None]
"""Outcome of a run that came to its end, and its model's state, as it is to be evaluated."""


class LaneKeeper(Protocol):
    """Where the state of a chunk is kept, so that it can go on after an interruption.

    A state holds tensors, lists, dictionaries, numbers, strings and ``None``: ``torch.save`` writes it and
    ``torch.load(weights_only=True)`` reads it. A chunk's last state has its outcomes and no tensors.
    """

    def save(self, chunk: str, state: dict[str, Any]) -> None:
        """Keep a state in place of the chunk's earlier one; the tensors are only valid during the call."""

    def load(self, chunk: str) -> dict[str, Any] | None:
        """Return the state kept last, or ``None``."""


@dataclass(frozen=True, kw_only=True)
class LaneProgress:
    """How far a chunk is.

    Attributes:
        chunk, chunks: number of the chunk, from 0, and how many there are.
        step, steps: done, and in all.
        going: how many runs of the chunk still go on.
        validation: metric by identity, at evaluations; empty in between.
        finished: outcomes, when the chunk is done.
    """

    chunk: int
    chunks: int
    step: int
    steps: int
    going: int
    validation: Mapping[str, float | None] = field(default_factory=dict)
    finished: Sequence[Outcome] = ()


def promise(form: str = "batched", device: str = "cpu") -> str:
    """Say how equal a lane is to the same lane in other company: another K, slot, chunk or elimination.

    Args:
        form: of the forward pass, ``"batched"`` or ``"vmap"``.
        device: where the lanes run.

    Returns:
        A sentence that begins with ``"bits"`` or ``"tolerance"``.
    """
    reproducible = os.environ.get("MKL_CBWR", "").split(",")[0] in (
        "AVX2",
        "AVX512",
        "AVX",
        "SSE4_2",
        "COMPATIBLE",
    )
    mkl = bool(torch.backends.mkl.is_available())  # type: ignore[no-untyped-call]
    if form == "batched" and device == "cpu" and reproducible and mkl:
        return "bits: a run gives the same bits whatever runs beside it, with as many threads on this machine"
    return (
        "tolerance: a run gives the same values within rounding (in float32, a relative 1e-5 of a step) "
        "whatever runs beside it; training may magnify that, as it does every rounding"
    )


def plan(runs: Sequence[Run], entries: Mapping[str, Entry], chunk: int) -> list[list[Run]]:
    """Divide runs into chunks: those of a seed together, since they share batches, then those of a rule.

    Args:
        runs: with distinct identities.
        entries: the catalogue's entry of each optimizer's name.
        chunk: the most runs a chunk holds.

    Returns:
        The chunks, a pure function of the arguments.

    Raises:
        RuleError: an optimizer that lanes can't run.
    """
    assert len({run.identity for run in runs}) == len(runs), "identities must be distinct"
    seeds = {seed: number for number, seed in enumerate(dict.fromkeys(run.seed for run in runs))}
    keys = {run.identity: group_key(run, entries[run.setting.optimizer]) for run in runs}
    numbers = {key: number for number, key in enumerate(dict.fromkeys(keys.values()))}
    ordered = sorted(runs, key=lambda run: (seeds[run.seed], numbers[keys[run.identity]]))
    pieces = -(-len(ordered) // chunk)
    size = -(-len(ordered) // max(pieces, 1))
    chunks = [ordered[begin : begin + size] for begin in range(0, len(ordered), size)] if ordered else []
    # a rule updates one slice of the stack, so runs of a rule stand side by side
    return [sorted(each, key=lambda run: numbers[keys[run.identity]]) for each in chunks]


def run(
    runs: Sequence[Run],
    problem: Problem,
    workload: Workload,
    *,
    chunk: int = 64,
    watch: Callable[[LaneProgress], None] | None = None,
    checkpoint: LaneKeeper | None = None,
    checkpoint_seconds: float = 30.0,
    stop: Callable[[], bool] | None = None,
    eliminate: Eliminate | None = None,
    examples: Mapping[str, Tensor] | None = None,
    keep: Keep | None = None,
) -> list[Outcome]:
    """Train runs as lanes.

    Args:
        runs: with distinct identities.
        problem: what they are trained on.
        workload: how long.
        chunk: the most runs that are one program; the rest follow in equal chunks.
        watch: told of every evaluation and of every chunk's end; at most a few times a second in between.
        checkpoint: keeps the state of the chunks. Those that it holds are resumed where they were.
        checkpoint_seconds: at least this long between two checkpoints of a chunk.
        stop: asked before every step; ``True`` saves and raises.
        eliminate: asked at every evaluation but the last for the identities to stop. A stopped run has
            ``None`` from the next evaluation on.
        examples: identity to int64 ``[n]``, for all runs or none: which training examples stand in the
            places of the split, as in a resample. All have the same n.
        keep: given every run that came to its end, before its chunk's last state is saved; a run that such a
            state has isn't given again. Tensors are only valid during the call.

    Returns:
        Outcomes in the order of ``runs``.

    Raises:
        ModelError: the model can't be stacked, or can't be traced over lanes.
        RuleError: an optimizer has no rule.
        DataError: the training split has fewer examples than a batch.
        Interrupted: ``stop`` returned ``True``.
    """
    found: dict[str, Outcome] = {}
    chunks = plan(runs, problem.optimizers, chunk)
    for number, members in enumerate(chunks):
        lanes = _Chunk(members, problem, workload, examples)
        lanes.name = _name(members)
        state = checkpoint.load(lanes.name) if checkpoint is not None else None
        if state is not None:
            lanes.load(state)
        lanes.train(
            watch=None if watch is None else _ProgressTeller(watch, number, len(chunks), lanes.total),
            keeper=checkpoint,
            every=checkpoint_seconds,
            stop=stop,
            eliminate=eliminate,
            keep=keep,
        )
        outcomes = lanes.outcomes()
        if watch is not None:
            watch(
                LaneProgress(
                    chunk=number,
                    chunks=len(chunks),
                    step=lanes.total,
                    steps=lanes.total,
                    going=0,
                    finished=outcomes,
                )
            )
        found |= {outcome.identity: outcome for outcome in outcomes}
    return [found[each.identity] for each in runs]


def _name(runs: Sequence[Run]) -> str:
    text = "\n".join(run.identity for run in runs)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


class _ProgressTeller:
    """Hands progress on, a few times a second between evaluations."""

    def __init__(self, watch: Callable[[LaneProgress], None], chunk: int, chunks: int, steps: int) -> None:
        self._watch, self._chunk, self._chunks, self._steps = watch, chunk, chunks, steps
        self._told = 0.0

    def __call__(self, step: int, going: int, validation: Mapping[str, float | None] | None) -> None:
        now = time.monotonic()
        if validation is None and now - self._told < 0.2:
            return
        self._told = now
        self._watch(
            LaneProgress(
                chunk=self._chunk,
                chunks=self._chunks,
                step=step,
                steps=self._steps,
                going=going,
                validation=validation or {},
            )
        )


class _Chunk:
    """Runs that are trained together, as rows of one program.

    ``rows[i]`` is the number of the run in row i. A lone run has two rows, since a matrix product over one
    lane takes another path than over many.
    """

    def __init__(
        self,
        runs: Sequence[Run],
        problem: Problem,
        workload: Workload,
        examples: Mapping[str, Tensor] | None = None,
    ) -> None:
        self.runs, self.problem, self.workload = list(runs), problem, workload
        prepared, device = problem.data, torch.device(problem.device)
        self.name, self.device = "", device
        self.data = DeviceSplit(prepared.train, device)
        self.loss, self.judged, self.metric = problem.functions
        if ignores(prepared):
            # which a mean over examples would count
            self.loss = replace(self.loss, per_example=None)
            self.judged = replace(self.judged, per_example=None)
        self.examples = None if examples is None else [examples[run.identity].to(device) for run in runs]
        self.places = len(prepared.train if self.examples is None else self.examples[0])
        self.epoch_steps = steps_an_epoch(self.places, workload.batch_size)
        self.total = self.epoch_steps * workload.epochs
        self.points = evaluation_points(self.total, workload.evaluations)
        self.histories = [History.start(workload) for _ in self.runs]
        settings = [run.setting for run in self.runs]
        names, options = [s.schedule for s in settings], [s.schedule_options for s in settings]
        self.factors = Factors(names, self.total, options)
        self.step, self.rows = 0, _padded(range(len(self.runs)))
        self._since, self._going = -1, len(self.runs)  # step of the last evaluation, runs that go on
        self.program: LaneProgram | None = None
        self._resumed: Mapping[str, Any] | None = None
        self._epoch = -1
        self._beginning: dict[int, Tensor] = {}

    # Training ---------------------------------------------------------------------------------------

    def train(
        self,
        *,
        watch: _ProgressTeller | None,
        keeper: LaneKeeper | None,
        every: float,
        stop: Callable[[], bool] | None,
        eliminate: Eliminate | None,
        keep: Keep | None = None,
    ) -> None:
        """Go on to the end."""
        if self._finished():
            return
        self._begin()
        saved, points = time.monotonic(), set(self.points)
        while not self._finished():
            # a chunk that goes on from a checkpoint may stand where it was evaluated before that was saved
            if self.step in points and self.step != self._since:
                self._evaluate(eliminate, watch)
                if self._finished():
                    break
                if keeper is not None and time.monotonic() - saved >= every:
                    keeper.save(self.name, self.state())
                    saved = time.monotonic()
            if stop is not None and stop():
                if keeper is not None:
                    keeper.save(self.name, self.state())
                raise Interrupted("stopped on request; everything up to the last step is saved")
            self._advance()
            if watch is not None:
                watch(self.step, self._going, None)
        # before the last state, which has no tensors: a kill in between hands the runs on once more
        if keep is not None:
            self._hand_on(keep)
        self.program = None
        if keeper is not None:
            keeper.save(self.name, self.state())

    def outcomes(self) -> list[Outcome]:
        """Return what each run has left behind."""
        return [history.outcome(run.identity) for run, history in zip(self.runs, self.histories, strict=True)]

    @torch.no_grad()
    def _hand_on(self, keep: Keep) -> None:
        assert self.program is not None
        tensors = self.program.shown()
        for number, (run, history) in enumerate(zip(self.runs, self.histories, strict=True)):
            if history.active:
                row, model = self.rows.index(number), self.problem.model(run)
                for name, own in [*model.named_parameters(), *model.named_buffers()]:
                    own.copy_(tensors[name][row])
                keep(history.outcome(run.identity), model.state_dict())

    def _finished(self) -> bool:
        return self._since == self.total

    def _begin(self) -> None:
        """Build the program, from the runs' seeds or from a checkpoint."""
        rows = [self.runs[number] for number in self.rows]
        stack = Stack.build(self.problem.model, rows)
        # from the runs' seeds, also where a checkpoint goes on from there
        sums = checksums_of_lanes(stack.parameters)
        self._beginning = dict(zip(self.rows, sums, strict=True))
        self.program = LaneProgram(
            stack, forward_of(stack.template), self.loss, rows, self.problem.optimizers, self.judged
        )
        self._losses = torch.zeros(
            self._window(), len(rows), dtype=stack.parameters[0].dtype, device=self.device
        )
        if self._resumed is not None:
            self.program.load(self._resumed["program"])
            recorded = self._resumed["losses"]
            self._losses[: len(recorded)] = recorded.to(self.device)
            self._resumed = None
        self._table = self.factors.at(self.rows)

    def _window(self) -> int:
        return max(b - a for a, b in zip(self.points, self.points[1:], strict=False))

    def _advance(self) -> None:
        assert self.program is not None
        inputs, targets = self._batch()
        losses = self.program.step(inputs, targets, self.step + 1, self._table)
        # stays on the device until the next evaluation: reading a number would wait for the step
        self._losses[self.step - self._since].copy_(losses)
        self.step += 1

    def _batch(self) -> tuple[Any, Tensor]:
        """Inputs and targets ``[K, B, ...]`` of the coming step; without copies where lanes share them."""
        epoch, position = divmod(self.step, self.epoch_steps)
        if epoch != self._epoch:
            self._order(epoch)
        size = self.workload.batch_size
        chosen = self._orders[:, position * size : (position + 1) * size]
        lanes = len(self.rows)
        if len(chosen) == 1:
            x, y = self.data.at(chosen[0])
            return _both(lambda leaf: leaf.expand(lanes, *leaf.shape), x, y)
        x, y = self.data.at(chosen.reshape(-1))
        return _both(lambda leaf: leaf.view(lanes, size, *leaf.shape[1:]), x, y)

    def _order(self, epoch: int) -> None:
        """Orders of the epoch: one row for all lanes of one seed, otherwise a row a lane."""
        seeds = [self.runs[number].seed for number in self.rows]
        distinct = list(dict.fromkeys(seeds))
        each = orders(self.places, distinct, epoch)
        slot = [distinct.index(seed) for seed in seeds]
        if self.examples is None:
            self._orders = (each if len(distinct) == 1 else each[slot]).to(self.device)
        else:
            own = [self.examples[number] for number in self.rows]
            self._orders = torch.stack(own).gather(1, each[slot].to(self.device))
        self._epoch = epoch

    # Evaluations ------------------------------------------------------------------------------------

    def _evaluate(self, eliminate: Eliminate | None, watch: _ProgressTeller | None) -> None:
        assert self.program is not None
        first: dict[int, int] = {}
        for row, number in enumerate(self.rows):
            first.setdefault(number, row)
        since, last = self._since, self.step == self.total
        if self.step > 0:
            losses = self._losses[: self.step - since].double().cpu().numpy()
            for number, row in first.items():
                self.histories[number].train(losses[:, row], range(since + 1, self.step + 1))
        if last:
            for row, sums in enumerate(checksums_of_lanes(self.program.stack.parameters)):
                history = self.histories[self.rows[row]]
                history.unmoved = history.active and torch.equal(sums, self._beginning[self.rows[row]])
        loss, score, _ = self._score(self.problem.data.validation)
        test_score, reduced = None, None
        if self.workload.score_test:
            _, test_score, reduced = self._score(self.problem.data.test)
        for number, history in enumerate(self.histories):
            if number not in first:
                history.skip(self.step)
                continue
            row = first[number]
            history.evaluate(
                self.step, loss[row], score[row], None if test_score is None else test_score[row]
            )
            if last and history.active and reduced is not None and self.metric.per_example:
                history.test_predictions = reduced[row].double().tolist()
            # another array: by that the program notices that the scalars it has computed ahead are outdated
            if self.factors.observe(number, self.step, history.validation_loss[-1]):
                self._table = self.factors.at(self.rows)
        seen = {self.runs[number].identity: self.histories[number].validation[-1] for number in first}
        if eliminate is not None and not last:
            stopped = eliminate(self.step, seen)
            for number in first:
                if self.runs[number].identity in stopped and self.histories[number].active:
                    self.histories[number].stopped_at = self.step
        self._since = self.step
        self._going = sum(history.active for history in self.histories)
        if watch is not None:
            watch(self.step, self._going, seen)
        if not last:
            self._drop()

    def _drop(self) -> None:
        """Take the rows of diverged and stopped runs out of the stack."""
        assert self.program is not None
        going = [number for number in dict.fromkeys(self.rows) if self.histories[number].active]
        if not going:
            for point in self.points:
                if point > self.step:
                    for history in self.histories:
                        history.skip(point)
            self.step = self._since = self.total
            return
        rows = _padded(going)
        if rows == self.rows:
            return
        self.program.keep([self.rows.index(number) for number in rows])
        self.rows = rows
        # the evaluation has just put the losses so far into the histories
        self._losses = self._losses.new_zeros(len(self._losses), len(rows))
        self._table = self.factors.at(rows)
        # orders have a row a lane, so they are made anew
        self._epoch = -1

    def _score(self, examples: Examples) -> tuple[list[float], list[float], Tensor]:
        assert self.program is not None
        data = DeviceSplit(examples, self.device)
        block = max(self.workload.batch_size, 256)
        read = self.problem.objective.interface.part
        return score(self.program, self.metric, data, block=block, step=self.step, read=read)

    # Checkpoints ------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """Everything needed to go on; tensors are not copied."""
        program = None if self.program is None else self.program.state()
        return {
            "step": self.step,
            "rows": self.rows,
            "histories": [history.state() for history in self.histories],
            "plateaus": self.factors.state(),
            "program": program,
            # since the last evaluation; those before it are in the histories
            "losses": None if program is None else self._losses[: self.step - max(self._since, 0)],
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Take over what :meth:`state` returned."""
        self.step, self.rows = state["step"], list(state["rows"])
        self.histories = [History.start(self.workload, values) for values in state["histories"]]
        self._since = max((history.steps[-1] for history in self.histories if history.steps), default=-1)
        self._going = sum(history.active for history in self.histories)
        self.factors.load(state["plateaus"], self.step)
        self._resumed = state if state["program"] is not None else None


def _both(change: Callable[[Tensor], Tensor], inputs: Any, targets: Tensor) -> tuple[Any, Tensor]:
    return mapped(change, inputs), change(targets)


def _padded(numbers: Sequence[int]) -> list[int]:
    rows = list(numbers)
    return rows * 2 if len(rows) == 1 else rows
