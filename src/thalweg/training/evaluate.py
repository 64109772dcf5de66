"""Evaluating a model: at which weights, and by which numbers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd

from thalweg.data.examples import moved
from thalweg.errors import DataError
from thalweg.layers.modes import evaluating
from thalweg.layers.passing import outputs_of
from thalweg.objectives import Loss, Metric, as_loss
from thalweg.objectives.dividing import Division, divided
from thalweg.objectives.nests import count_of, joined, leaves, mapped, of_examples
from thalweg.randomness.keyed import Keyed, RunDraws, portion
from thalweg.training.backend import Backend, OneProcess, agree, rows
from thalweg.training.loader import taken
from thalweg.training.steps import ForwardContext

__all__ = ["evaluation_point", "has_two_points", "keyed", "score"]

_KEPT = 2**28  # bytes
_REMEDY = "validate on fewer examples, or give a loss that is a mean or a sum over examples"


def keyed(model: nn.Module, draws: RunDraws) -> ForwardContext:
    """Make the context of a forward pass; torch's own layers without randomness need none."""
    for module in model.modules():
        plain = type(module).__module__.startswith("torch.nn.modules")
        if not plain or isinstance(module, (_DropoutNd, nn.RReLU)) or getattr(module, "dropout", False):
            return lambda: Keyed(draws)
    return nullcontext


def has_two_points(optimizer: torch.optim.Optimizer) -> bool:
    """Whether an optimizer trains one point and means another."""
    return hasattr(optimizer, "train") and hasattr(optimizer, "eval")


@contextmanager
def evaluation_point(optimizer: torch.optim.Optimizer) -> Iterator[None]:
    """Hold the model at what its optimizer wants evaluated: some train at another point."""
    if not has_two_points(optimizer):
        yield
        return
    optimizer.eval()  # type: ignore[attr-defined]
    try:
        yield
    finally:
        optimizer.train()  # type: ignore[attr-defined]


@torch.no_grad()
def score(
    model: nn.Module,
    batches: Iterable[tuple[Any, Tensor]],
    loss: Callable[[Any, Tensor], Tensor],
    metric: Metric | None,
    forward_context: ForwardContext,
    backend: Backend | None = None,
) -> tuple[float, float | None, Tensor | None]:
    """Score a split in evaluation mode, and put each part of the model back into its own mode.

    Of many processes each computes its share of every batch.

    The loss is that of the whole split: batches count by what it divides by, and a loss that doesn't say is
    computed once, of all outputs, where they have one shape and take less than 256 MB.

    Returns:
        The loss, the metric, and what the metric needs of each example; the same in all processes.

    Raises:
        OptionError: shapes that can't be compared, or outputs too large to keep and a loss that can't be had
            of its parts.
    """
    with evaluating(model):
        return _scored(model, batches, loss, metric, forward_context, backend)


def _scored(
    model: nn.Module,
    batches: Iterable[tuple[Any, Tensor]],
    loss: Callable[[Any, Tensor], Tensor],
    metric: Metric | None,
    forward_context: ForwardContext,
    backend: Backend | None,
) -> tuple[float, float | None, Tensor | None]:
    backend = OneProcess() if backend is None else backend
    losses = _Losses(as_loss(loss), backend, forward_context)
    reduced, goals = [], []
    sizes: list[int] = []
    for inputs, targets in batches:
        size = count_of(targets)
        sizes.append(size)
        begin, end = _share(size, backend.rank, backend.world)
        # a batch that has too few for all is everybody's, and process 0 counts it
        mine, own, counts = inputs, targets, backend.rank == 0
        if backend.world > 1 and size >= backend.world:
            mine, own, counts = (
                taken(inputs, torch.arange(begin, end), size),
                taken(targets, torch.arange(begin, end), size),
                True,
            )
        part = portion(size, begin, end) if counts and backend.world > 1 else nullcontext()
        with part, forward_context():
            outputs = outputs_of(model, mine)
            losses.add(outputs, own, counts=counts)
        if metric is not None:
            found = metric.reduce(mapped(_wide, outputs), own)
            # of one process every batch counts whole
            reduced.append(found if backend.world == 1 else _counted(found, count_of(own) if counts else 0))
        goals.append(targets)
    if not sizes:
        raise DataError("the validation data hold no examples; give at least one, or leave them out")
    value = losses.whole(goals, sizes)
    if metric is None:
        return value, None, None
    together = joined(reduced)
    if backend.world > 1:
        together = _all_in_order(together, sizes, backend)
    value_of_metric = metric.score(together, joined(goals), lanes=None if metric.per_example else False)
    return value, backend.broadcast(float(value_of_metric)), together


def _wide(leaf: Tensor) -> Tensor:
    """What is computed in half precision, in single."""
    return leaf.float() if leaf.dtype in (torch.bfloat16, torch.float16) else leaf


class _Losses:
    """The loss of a split, from those of its blocks or from all outputs at once."""

    def __init__(self, loss: Loss, backend: Backend, forward_context: ForwardContext) -> None:
        self._loss, self._backend, self._forward_context = loss, backend, forward_context
        self._divide = Division(loss, remedy=_REMEDY)
        self._total, self._weight, self._summed = 0.0, 0.0, False
        self._held: list[tuple[Any, Tensor]] = []
        self._bytes = 0
        self._by_parts: bool | None = None

    def add(self, outputs: Any, targets: Tensor, *, counts: bool) -> None:
        """Take a block in; within the context of a forward pass."""
        if self._by_parts is None:
            # what says what it divides by is never kept whole
            given = self._loss.compare(outputs, targets)
            known = divided(self._loss.function, *given).kind != "unknown"
            self._by_parts = known
        if self._by_parts:
            self._part(outputs, targets, counts=counts)
            return
        if not counts:
            outputs, targets = _counted(outputs, 0), _counted(targets, 0)
        self._held.append((outputs, targets))
        self._bytes += sum(leaf.nbytes for leaf in leaves(outputs))
        if self._backend.world == 1 and self._bytes > _KEPT:
            self._let_go()

    def whole(self, goals: Sequence[Tensor], sizes: Sequence[int]) -> float:
        """Return the loss of all blocks."""
        backend, outputs = self._backend, None
        if self._held:
            try:
                outputs = joined([each for each, _ in self._held])
                targets = joined(list(goals))
            except (RuntimeError, TypeError, ValueError):
                # padded to another length in each block
                outputs = None
            if agree(backend, outputs is None)[0]:
                self._let_go()
        if self._held:
            if backend.world > 1:
                outputs = _all_in_order(outputs, sizes, backend)
            with self._forward_context():
                return backend.broadcast(float(self._loss(outputs, targets)))
        total, weight = self._total, self._weight
        if backend.world > 1:
            each = backend.collect((total, weight))
            total, weight = sum(one for one, _ in each), sum(other for _, other in each)
        if self._summed:
            return total
        return total / weight if weight else math.nan

    def _let_go(self) -> None:
        self._by_parts = True
        for outputs, targets in self._held:
            if count_of(targets):
                self._part(outputs, targets, counts=True)
        self._held = []

    def _part(self, outputs: Any, targets: Tensor, *, counts: bool) -> None:
        found = self._divide.part(outputs, targets)
        self._summed = found.kind == "sum"
        if not counts:
            return
        weight = 1.0 if self._summed else float(found.divisor or 0.0)
        if weight:
            self._total += float(found.value) * weight
        self._weight += weight


def _counted(value: Any, count: int) -> Any:
    """The first examples of what a process has computed."""
    if of_examples(value):
        return value[:count]
    return mapped(lambda leaf: leaf[:count] if leaf.ndim else leaf, value)


def _share(count: int, rank: int, world: int) -> tuple[int, int]:
    """First and last of a batch's examples that a process scores."""
    if count >= world:
        return rows(count, rank, world)
    return (0, count) if rank == 0 else (0, 0)


def _all_in_order(mine: Any, sizes: Sequence[int], backend: Backend) -> Any:
    if not of_examples(mine) and any(True for _ in leaves(mine)):
        return mapped(lambda leaf: _in_order(leaf, sizes, backend), mine)
    held = backend.collect(moved(mine, torch.device("cpu")))
    found = []
    for size in sizes:
        for rank, each in enumerate(held):
            begin, end = _share(size, rank, backend.world)
            found += [each.pop(0) for _ in range(end - begin)]
    return found


def _in_order(mine: Tensor, sizes: Sequence[int], backend: Backend) -> Tensor:
    """What all processes have found of their shares of batches, in the order of the examples."""
    if not mine.ndim:
        return mine
    shares = [[_share(size, rank, backend.world) for size in sizes] for rank in range(backend.world)]
    counts = [[end - begin for begin, end in each] for each in shares]
    padded = mine.new_zeros((max(map(sum, counts)), *mine.shape[1:]))
    padded[: len(mine)] = mine
    parts = [
        torch.split(found[: sum(each)], each)
        for found, each in zip(backend.gather(padded), counts, strict=True)
    ]
    return torch.cat([part for batch in zip(*parts, strict=True) for part in batch])
