"""What is known of a set-up before it is trained: its data, what it computes on one batch, its gradients."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from thalweg.diagnosis.computing import computing, learning
from thalweg.diagnosis.setup import Setup
from thalweg.diagnosis.skill import Judge, task_of
from thalweg.diagnosis.trace import Operation, TracedBatch, recording
from thalweg.diagnosis.trial import HeldOut, held_out
from thalweg.errors import UserError
from thalweg.layers.interface import part_of
from thalweg.objectives.nests import leaves

__all__ = ["Facts", "InNumbers", "dense_of", "gather", "numbers_of"]

_LOOKED_AT = 256


@dataclass(frozen=True, kw_only=True)
class InNumbers:
    """Inputs or targets in numbers.

    Attributes:
        finite: share of elements that are finite.
        mean, spread: of all elements.
        low, high: the ends.
        means, spreads: of each feature (a column, a channel).
        whole: whether all are whole numbers.
        distinct: how many values there are, up to 1,000; 0 beyond.
    """

    finite: float
    mean: float
    spread: float
    low: float
    high: float
    means: Tensor
    spreads: Tensor
    whole: bool
    distinct: int


@dataclass(frozen=True, kw_only=True)
class Facts:
    """All of it.

    Attributes:
        setup: that is diagnosed.
        held: examples to judge by.
        judge: of its task.
        traced: operations of model and loss on a batch; ``None`` where that raised.
        problem: what torch or Python said where it raised.
        loss: of the first batch; NaN where there is none.
        norms: of the first gradient, by parameter; 0 where there is none.
        untrained: names of parameters that the optimizer isn't given, or that are frozen.
        strangers: shapes of weights that were used and aren't the model's.
        inputs: in numbers; ``None`` where they aren't a tensor.
        targets: likewise, as the loss is given them.
        outputs: of the first batch.
        batch_targets: of the first batch, as the loss is given them.
        group: options of the optimizer's first group.
        optimizer: name of its class.
        evaluating: whether the model was given in evaluation mode, where that makes a difference.
        scheduled: whether its steps change something besides, as a schedule of learning rates does.
    """

    setup: Setup
    held: HeldOut
    judge: Judge
    traced: TracedBatch | None
    problem: str
    loss: float
    norms: dict[str, float]
    untrained: tuple[str, ...]
    strangers: tuple[tuple[int, ...], ...]
    inputs: InNumbers | None
    targets: InNumbers | None
    outputs: Any = field(repr=False, default=None)
    batch_targets: Any = field(repr=False, default=None)
    group: dict[str, Any] = field(default_factory=dict)
    optimizer: str = ""
    scheduled: bool = False
    evaluating: bool = False
    model: nn.Module = field(repr=False, default_factory=nn.Module)

    @property
    def ending(self) -> Operation | None:
        """What the model ends with."""
        return None if self.traced is None else self.traced.ending

    @property
    def compared(self) -> Operation | None:
        """The loss of torch's that is called."""
        if self.traced is None or self.traced.compared is None:
            return None
        return self.traced.operations[self.traced.compared]

    @property
    def width(self) -> int:
        """How many numbers the model gives for an example, or for each of its positions."""
        if not isinstance(self.outputs, Tensor):
            return 0
        return self.outputs.shape[-1] if self.outputs.ndim > 1 else 1

    @property
    def direct(self) -> bool:
        """Whether the loss takes the difference of outputs and targets as they are."""
        return _direct(self.traced)

    @property
    def rate(self) -> float:
        """The learning rate; NaN where there is none."""
        return float(self.group.get("lr", math.nan))


def gather(setup: Setup, *, seed: int) -> Facts:
    """Look at data, and at one batch in model, loss and gradient."""
    held = held_out(setup, seed=seed)
    model, optimizer = setup.start(seed)
    if setup.takes_part is None:
        with computing(setup, model, seed=seed, stream="part"):
            setup = setup.with_(takes_part=_takes_part(setup, model, held.rows[:2]))
    evaluating = not any(part.training for part in model.modules()) and any(
        isinstance(part, (nn.modules.batchnorm._NormBase, nn.modules.dropout._DropoutNd))
        for part in model.modules()
    )
    learning(model)
    known = {id(p): name for name, p in model.named_parameters()}
    trained = {id(p) for group in optimizer.param_groups for p in group["params"] if p.requires_grad}
    untrained = tuple(name for key, name in known.items() if key not in trained)
    count = min(_LOOKED_AT, max(2, setup.batch_size), len(held.rows))
    order = torch.linspace(0, len(held.rows) - 1, count).round().long()
    rows = held.rows[order.unique()]  # type: ignore[no-untyped-call]
    seen = _Looked()
    with computing(setup, model, seed=seed, stream="facts"):
        _look(seen, setup, model, rows)
    strangers: tuple[tuple[int, ...], ...] = ()
    if seen.traced is not None:
        used = [p for op in seen.traced.model if op.kind == "weights" for p in op.parameters]
        strangers = tuple(tuple(p.shape) for p in used if id(p) not in known and id(p) not in trained)
    targets = setup.targets
    compared = None
    if seen.traced is not None and seen.traced.compared is not None:
        compared = seen.traced.operations[seen.traced.compared].name
    judge = task_of(
        targets,
        compared or _loss_name(setup),
        setup.metric,
        seen.outputs,
        direct=_direct(seen.traced),
        logarithms=_of_logarithms(seen.traced),
    )
    if judge.kind == "other" and math.isfinite(seen.loss):
        judge = Judge(kind="other", start=seen.loss)
    norms = {}
    for name, p in model.named_parameters():
        norms[name] = 0.0 if p.grad is None else float(torch.linalg.vector_norm(dense_of(p.grad).double()))
    group = {k: v for k, v in optimizer.param_groups[0].items() if k != "params"}
    return Facts(
        setup=setup,
        held=held,
        judge=judge,
        traced=seen.traced,
        problem=seen.problem,
        loss=seen.loss,
        norms=norms,
        untrained=untrained,
        strangers=strangers,
        inputs=numbers_of(setup.inputs),
        targets=numbers_of(setup.encode(targets)),
        outputs=seen.outputs,
        batch_targets=seen.targets,
        group=group,
        optimizer=type(optimizer).__name__,
        evaluating=evaluating,
        scheduled=bool(optimizer._optimizer_step_pre_hooks or optimizer._optimizer_step_post_hooks),
        model=model,
    )


def _loss_name(setup: Setup) -> str | None:
    """Return the function of torch's that a loss by name, or a module of torch's, stands for."""
    from thalweg.objectives.activations import torchs_name

    name = torchs_name(setup.loss)
    return None if name is None else _FUNCTIONS.get(name, name)


def _direct(traced: TracedBatch | None) -> bool:
    """Say whether the loss takes the difference of outputs and targets as they are."""
    if traced is None or traced.output is None:
        return False
    given = traced.straight(traced.output)
    for op in traced.operations[traced.begin :]:
        straight = {traced.straight(source) for source in op.sources}
        if op.name in _DIFFERENCES and straight == {given, -2}:
            return True
    return False


def _of_logarithms(traced: TracedBatch | None) -> bool:
    """Say whether the loss takes outputs for logarithms, as Poisson's does unless it is told not to."""
    if traced is None or traced.compared is None:
        return False
    op = traced.operations[traced.compared]
    return op.name == "poisson_nll_loss" and bool(op.options.get("log_input", op.options.get(2, True)))


_DIFFERENCES = (
    "mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss",
    "sub", "__sub__", "__rsub__", "subtract", "rsub", "dist", "pairwise_distance",
)  # fmt: skip
_FUNCTIONS = {
    "cross-entropy": "cross_entropy",
    "CrossEntropyLoss": "cross_entropy",
    "NLLLoss": "nll_loss",
    "bce": "binary_cross_entropy_with_logits",
    "BCEWithLogitsLoss": "binary_cross_entropy_with_logits",
    "BCELoss": "binary_cross_entropy",
    "mse": "mse_loss",
    "MSELoss": "mse_loss",
    "mae": "l1_loss",
    "L1Loss": "l1_loss",
    "huber": "huber_loss",
    "HuberLoss": "huber_loss",
    "SmoothL1Loss": "smooth_l1_loss",
}


@dataclass
class _Looked:
    traced: TracedBatch | None = None
    problem: str = ""
    loss: float = math.nan
    outputs: Any = None
    targets: Any = None


@torch.no_grad()
def _takes_part(setup: Setup, model: nn.Module, rows: Tensor) -> bool:
    """Say whether the loss wants the part that is compared, of a model that returns several things."""
    inputs, targets = setup.batch(rows)
    try:
        outputs = model(inputs)
        if isinstance(outputs, Tensor):
            return False
        return not isinstance(setup.loss(outputs, targets), Tensor)
    except torch.OutOfMemoryError:
        raise
    except Exception:
        # what is wrong is said by the look that follows
        return True


def _compared_part(outputs: Any) -> Any:
    """Return the tensor that stands for the outputs, where there is one."""
    try:
        return part_of(outputs)
    except UserError:
        return outputs


def _look(seen: _Looked, setup: Setup, model: nn.Module, rows: Tensor) -> None:
    inputs, targets = setup.batch(rows)
    seen.targets = targets
    try:
        with recording(model, len(rows)) as noted:
            noted.mark(inputs, -1)
            noted.mark(targets, -2)
            outputs = model(inputs)
            part = _compared_part(outputs)
            begin = len(noted.operations)
            noted.begin_loss()
            output = noted.source(part) if isinstance(part, Tensor) else None
            seen.outputs = part.detach() if isinstance(part, Tensor) else part
            shape = tuple(part.shape) if isinstance(part, Tensor) else ()
            # known before the loss, which may raise
            seen.traced = TracedBatch(tuple(noted.operations), output, begin, shape)
            try:
                loss = setup.loss(outputs, targets)
            finally:
                seen.traced = TracedBatch(tuple(noted.operations), output, begin, shape)
        if not isinstance(loss, Tensor):
            seen.problem = f"the loss gives a {type(loss).__name__}, not a tensor"
            return
        if loss.numel() != 1:
            seen.problem = f"the loss gives {list(loss.shape)} numbers, not one"
            return
        seen.loss = float(loss.detach())
        if not loss.requires_grad:
            seen.problem = "the loss doesn't depend on any parameter that is trained"
            return
        loss.backward()  # type: ignore[no-untyped-call]
    except torch.OutOfMemoryError:
        raise
    except Exception as problem:
        # whatever a model or a loss raises belongs to what is wrong
        said = str(problem) if isinstance(problem, UserError) else " ".join(str(problem).split())[:300]
        seen.problem = said or type(problem).__name__


def dense_of(gradient: Tensor) -> Tensor:
    """Return a gradient's elements, of a sparse one those that it holds."""
    return gradient.coalesce().values() if gradient.is_sparse else gradient


def numbers_of(value: Any) -> InNumbers | None:
    """Return what a tensor, or a nest with one, is in numbers; ``None`` where there are several or none."""
    found = list(leaves(value))
    if len(found) != 1 or found[0].is_complex() or not found[0].numel():
        return None
    values = found[0].detach().double()
    finite = torch.isfinite(values)
    share = float(finite.double().mean())
    good = values[finite]
    if not good.numel():
        good = torch.zeros(1, dtype=torch.float64)
    filled = torch.where(finite, values, torch.zeros_like(values))
    axes = (0, *range(2, values.ndim)) if values.ndim >= 4 else tuple(range(values.ndim - 1)) or (0,)
    whole = bool((good == good.round()).all())
    distinct = len(torch.unique(good[:200_000]))
    return InNumbers(
        finite=share,
        mean=float(good.mean()),
        spread=float(good.std(correction=0)),
        low=float(good.min()),
        high=float(good.max()),
        means=filled.mean(axes).reshape(-1),
        spreads=filled.std(axes, correction=0).reshape(-1),
        whole=whole,
        distinct=distinct if distinct <= 1000 else 0,
    )
