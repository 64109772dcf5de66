"""A short training of a set-up, written as people write their loops, and what was seen on the way.

The loop is plain on purpose: what a person's own loop does to their set-up, wrong shapes and infinite losses
included, has to be seen and not mended.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from thalweg.catalogue.entry import StepKind
from thalweg.diagnosis.computing import learning, starting
from thalweg.diagnosis.setup import Setup, rows_of
from thalweg.diagnosis.skill import Judge
from thalweg.errors import UserError
from thalweg.layers.interface import part_of
from thalweg.layers.modes import modes_of, set_evaluation, set_modes
from thalweg.objectives.nests import count_of
from thalweg.randomness import streams
from thalweg.randomness.streams import seed32
from thalweg.training.fit_spec import step_kind_of

__all__ = ["HeldOut", "TrialPoint", "TrialRun", "constant", "held_out", "share_of_rate", "train"]

# Examples by which a trial is judged, of each part.
_JUDGED = 1000


@dataclass(frozen=True)
class TrialPoint:
    """How far a trial was after so many steps."""

    step: int
    training: float
    validation: float


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """Examples that a diagnosis judges by.

    Attributes:
        rows: numbers of the training examples that trials learn from.
        training: some of these, to judge by.
        validation: others, the person's own or held out here; ``None`` where there are too few.
        own: whether they are the person's own.
    """

    rows: Tensor
    training: tuple[Any, Any]
    validation: tuple[Any, Any] | None
    own: bool


@dataclass(kw_only=True)
class TrialRun:
    """What came of a training.

    Attributes:
        losses: of each step.
        norms: of the gradient of each step.
        points: skill on the way; the last is at the end.
        steps: that were taken.
        planned: that were to be taken.
        failed: what ended it, or was not finite: ``""`` where nothing.
        raised: whether that was an error of the model, the loss or the optimizer.
        gradients: what it cost, in gradients of a batch of the set-up that is diagnosed; passes forward, by
            which it is judged, aren't counted.
        moved: relative change of each parameter from start to end, by name.
        outputs: of the judged validation examples, decoded, at the end.
        training_outputs: likewise of training.
    """

    losses: list[float] = field(default_factory=list)
    norms: list[float] = field(default_factory=list)
    points: list[TrialPoint] = field(default_factory=list)
    steps: int = 0
    planned: int = 0
    failed: str = ""
    raised: bool = False
    gradients: float = 0.0
    moved: dict[str, float] = field(default_factory=dict)
    outputs: Any = None
    training_outputs: Any = None
    model: nn.Module | None = None

    @property
    def finite(self) -> bool:
        """Whether it went through."""
        return not self.failed

    @property
    def training(self) -> float:
        """Skill on training examples at the end; -1 where it failed."""
        return self.points[-1].training if self.points and self.finite else -1.0

    @property
    def validation(self) -> float:
        """Skill on the others at the end, likewise; that of training where there are none."""
        if not self.finite or not self.points:
            return -1.0
        found = self.points[-1].validation
        return self.points[-1].training if math.isnan(found) else found

    def score(self, *, judged: bool) -> float:
        """Return the skill that decides: on other examples, or on those learnt from."""
        return self.validation if judged else self.training


def share_of_rate(step: int, steps: int) -> float:
    """Return the share of a learning rate that is left where it falls along half a cosine, as torch's does.

    >>> share_of_rate(0, 8), round(share_of_rate(4, 8), 6)
    (1.0, 0.5)
    """
    return 0.5 * (1 + math.cos(math.pi * step / steps))


def constant(outputs: Any) -> bool:
    """Say whether outputs are the same for every example, but for rounding."""
    if not isinstance(outputs, Tensor) or len(outputs) < 2:
        return False
    flat = outputs.reshape(len(outputs), -1).double()
    return float(flat.std(0, correction=0).max()) <= 1e-4 * max(1e-8, float(flat.abs().max()))


def held_out(setup: Setup, *, seed: int) -> HeldOut:
    """Choose the examples that trials learn from, and those that they are judged by."""
    count = count_of(setup.targets)
    order = torch.from_numpy(streams.order(count, seed=seed32(seed, "diagnosis", "held"), epoch=0))
    rows = torch.arange(count)
    validation, own = None, setup.validation is not None
    if setup.validation is not None:
        many = count_of(setup.validation[1])
        mixed = streams.order(many, seed=seed32(seed, "diagnosis", "validation"), epoch=0)
        some = torch.from_numpy(mixed)[:_JUDGED].sort().values
        validation = rows_of(setup.validation[0], some), rows_of(setup.validation[1], some)
    elif count >= 40:
        out = order[: max(10, min(_JUDGED, count // 5))].sort().values
        rest = torch.ones(count, dtype=torch.bool)
        rest[out] = False
        rows = rows[rest]
        validation = rows_of(setup.inputs, out), rows_of(setup.targets, out)
    some = rows[order[order < len(rows)][:_JUDGED].sort().values]
    training = rows_of(setup.inputs, some), rows_of(setup.targets, some)
    return HeldOut(rows=rows, training=training, validation=validation, own=own)


def train(
    setup: Setup,
    judge: Judge,
    held: HeldOut,
    *,
    steps: int,
    seed: int = 0,
    points: int = 6,
    unit: int | None = None,
    keep: bool = False,
) -> TrialRun:
    """Train a set-up from its start for so many steps, or until its loss isn't finite.

    Args:
        setup: as it is to be trained.
        judge: of the original task.
        held: which examples are learnt from.
        steps: of this set-up's own batch size.
        seed: of the order of examples, of dropout, and of the weights where a function makes the model.
        points: how often skill is measured.
        unit: batch size in which gradients are counted; by default the set-up's.
        keep: whether the trained model is kept.
    """
    trial = TrialRun(planned=steps)
    unit = setup.batch_size if unit is None else unit
    # what a change of ours can't do is raised
    with starting(setup, seed=seed, stream="trial") as (model, optimizer):
        try:
            _loop(trial, setup, model, optimizer, judge, held, steps, seed, points, unit)
        except torch.OutOfMemoryError:
            raise
        except Exception as problem:
            said = str(problem) if isinstance(problem, UserError) else " ".join(str(problem).split())[:300]
            trial.failed = said or type(problem).__name__
            trial.raised = True
        if keep and trial.finite:
            trial.model = model
    return trial


def _loop(
    trial: TrialRun,
    setup: Setup,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    judge: Judge,
    held: HeldOut,
    steps: int,
    seed: int,
    points: int,
    unit: int,
) -> None:
    kind = step_kind_of(optimizer)
    # judging shouldn't take longer than training
    points = max(2, min(points, 3 * steps * setup.batch_size // count_of(held.training[1])))
    due = {round(steps * (k + 1) / points) for k in range(points - 1)}
    begun = {name: p.detach().clone() for name, p in model.named_parameters()}
    batches = _batches(setup, held.rows, seed)
    learning(model)
    rates = [group.get("lr") for group in optimizer.param_groups]
    for step in range(steps):
        if setup.falling:
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                if rate is not None:
                    group["lr"] = rate * share_of_rate(step, steps)
        inputs, targets = setup.batch(next(batches))
        value = _step(kind, model, optimizer, setup, inputs, targets, trial)
        trial.losses.append(value)
        trial.steps = step + 1
        trial.gradients += count_of(targets) / unit
        if not math.isfinite(value) or abs(value) > 1e30:
            trial.failed = f"the loss became {value:g} at step {step}"
            break
        if step + 1 in due:
            trial.points.append(_point(step + 1, trial, setup, model, optimizer, judge, held))
    with torch.no_grad():
        for name, p in model.named_parameters():
            size = float(torch.linalg.vector_norm(begun[name].double()))
            far = float(torch.linalg.vector_norm((p.detach() - begun[name]).double()))
            trial.moved[name] = far / size if size > 0 else far
    if trial.finite:
        trial.points.append(_point(steps, trial, setup, model, optimizer, judge, held, last=True))


def _step(
    kind: StepKind,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    setup: Setup,
    inputs: Any,
    targets: Any,
    trial: TrialRun,
) -> float:
    if kind != "gradient":
        return _closure_step(kind, model, optimizer, setup, inputs, targets)
    optimizer.zero_grad()
    loss = setup.loss(model(inputs), targets)
    loss.backward()
    held = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    slopes = [p.grad.coalesce().values() if p.grad.is_sparse else p.grad for p in held if p.grad is not None]
    norms = list(torch._foreach_norm(slopes)) if slopes else []
    norm = float(torch.linalg.vector_norm(torch.stack(norms).double())) if held else 0.0
    trial.norms.append(norm)
    if setup.clip is not None and math.isfinite(norm) and norm > setup.clip:
        torch._foreach_mul_(slopes, setup.clip / norm)
    optimizer.step()
    return float(loss.detach())


def _closure_step(
    kind: StepKind, model: nn.Module, optimizer: Any, setup: Setup, inputs: Any, targets: Any
) -> float:
    def closure() -> Any:
        if kind == "outputs":
            return model(inputs), lambda outputs: setup.loss(outputs, targets)
        if kind == "closure":
            optimizer.zero_grad()
        loss = setup.loss(model(inputs), targets)
        if kind == "closure":
            loss.backward()
        return loss

    found = optimizer.step(closure)
    return float(found.detach() if isinstance(found, Tensor) else found)


def _batches(setup: Setup, rows: Tensor, seed: int) -> Iterator[Tensor]:
    epoch, size = 0, min(setup.batch_size, len(rows))
    while True:
        if setup.shuffled:
            drawn = streams.order(len(rows), seed=seed32(seed, "diagnosis", "order"), epoch=epoch)
            order = rows[torch.from_numpy(drawn)]
        else:
            order = rows
        for part in torch.split(order, size):
            # the rest differs from the person's, so that one example alone says nothing of theirs
            if len(part) == size or not (setup.drop_last or len(part) < 2):
                yield part
        epoch += 1


@torch.no_grad()
def _point(
    step: int,
    trial: TrialRun,
    setup: Setup,
    model: nn.Module,
    optimizer: Any,
    judge: Judge,
    held: HeldOut,
    *,
    last: bool = False,
) -> TrialPoint:
    modes = modes_of(model)
    set_evaluation(model)
    if hasattr(optimizer, "eval"):
        optimizer.eval()
    scores = []
    for which, part in enumerate((held.training, held.validation)):
        if part is None:
            scores.append(math.nan)
            continue
        inputs, targets = part
        count = count_of(targets)
        pieces = [
            model(rows_of(inputs, torch.arange(begin, min(begin + 256, count))))
            for begin in range(0, count, 256)
        ]
        outputs: Any = None
        compared = [_compared(piece) for piece in pieces]
        if all(isinstance(piece, Tensor) for piece in compared):
            outputs = setup.decode(torch.cat([p.reshape(1) if p.ndim == 0 else p for p in compared]))
        score = judge(outputs, targets) if outputs is not None else math.nan
        if judge.kind == "other" or math.isnan(score):
            score = judge.of_loss(_mean_loss(setup, pieces, targets))
        scores.append(score)
        if last:
            if which:
                trial.outputs = outputs
            else:
                trial.training_outputs = outputs
    set_modes(modes)
    if hasattr(optimizer, "train"):
        optimizer.train()
    return TrialPoint(step, scores[0], scores[1])


def _compared(outputs: Any) -> Any:
    """Return the tensor that is judged, of what a model returns."""
    try:
        return part_of(outputs)
    except UserError:
        return None


def _mean_loss(setup: Setup, pieces: list[Any], targets: Any) -> float:
    found, begin = 0.0, 0
    for piece in pieces:
        count = count_of(piece)
        there = rows_of(targets, torch.arange(begin, begin + count))
        found += count * float(setup.loss(piece, setup.encode(there)))
        begin += count
    return found / max(1, begin)
