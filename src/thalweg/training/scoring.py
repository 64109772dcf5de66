"""Judging a model: what it is to be judged at, and by which numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd

from thalweg.models import one_tensor
from thalweg.objectives import Metric
from thalweg.randomness import Keyed, RunDraws, portion
from thalweg.training.engine import Engine, OneProcess, rows
from thalweg.training.feed import taken
from thalweg.training.steps import Surroundings

__all__ = ["has_two_points", "judged_point", "keyed", "score"]


def keyed(model: nn.Module, draws: RunDraws) -> Surroundings:
    """Make the surroundings of a forward pass; torch's own layers without randomness need none."""
    for module in model.modules():
        plain = type(module).__module__.startswith("torch.nn.modules")
        if not plain or isinstance(module, (_DropoutNd, nn.RReLU)) or getattr(module, "dropout", False):
            return lambda: Keyed(draws)
    return nullcontext


def has_two_points(optimizer: torch.optim.Optimizer) -> bool:
    """Whether an optimizer trains one point and means another."""
    return hasattr(optimizer, "train") and hasattr(optimizer, "eval")


@contextmanager
def judged_point(optimizer: torch.optim.Optimizer) -> Iterator[None]:
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
    surroundings: Surroundings,
    engine: Engine | None = None,
) -> tuple[float, float | None, Tensor | None]:
    """Score a split in evaluation mode; of many processes each computes its share of every batch.

    Returns:
        The mean loss, the metric, and what the metric needs of each example; the same in all processes.
    """
    model.eval()
    carried: Engine = OneProcess() if engine is None else engine
    total, count, reduced, goals = 0.0, 0, [], []
    sizes: list[int] = []
    for inputs, targets in batches:
        sizes.append(len(targets))
        begin, end = _share(len(targets), carried.rank, carried.world)
        # a batch that has too few for all is everybody's, and process 0 counts it
        mine, own, counts = inputs, targets, carried.rank == 0
        if carried.world > 1 and len(targets) >= carried.world:
            mine, own, counts = taken(inputs, torch.arange(begin, end)), targets[begin:end], True
        part = portion(len(targets), begin, end) if counts and carried.world > 1 else nullcontext()
        with part, surroundings():
            outputs = model(mine)
            value = loss(outputs, own)
        if counts:
            total += float(value) * len(own)
            count += len(own)
        if metric is not None:
            outputs = one_tensor(outputs, f"the metric {metric.name!r}")
            if outputs.dtype in (torch.bfloat16, torch.float16):
                outputs = outputs.float()
            reduced.append(metric.reduce(outputs, own)[: len(own) if counts else 0])
            goals.append(targets)
    if carried.world > 1:
        total, count = sum(each for each, _ in carried.collect((total, count))), sum(sizes)
    if metric is None:
        return total / count, None, None
    together = torch.cat(reduced) if carried.world == 1 else _in_order(torch.cat(reduced), sizes, carried)
    return total / count, carried.broadcast(float(metric.score(together, torch.cat(goals)))), together


def _share(count: int, rank: int, world: int) -> tuple[int, int]:
    """First and last of a batch's examples that a process scores."""
    if count >= world:
        return rows(count, rank, world)
    return (0, count) if rank == 0 else (0, 0)


def _in_order(mine: Tensor, sizes: Sequence[int], engine: Engine) -> Tensor:
    """What all processes have found of their shares of batches, in the order of the examples."""
    shares = [[_share(size, rank, engine.world) for size in sizes] for rank in range(engine.world)]
    counts = [[end - begin for begin, end in each] for each in shares]
    padded = mine.new_zeros((max(map(sum, counts)), *mine.shape[1:]))
    padded[: len(mine)] = mine
    parts = [
        torch.split(found[: sum(each)], each)
        for found, each in zip(engine.gather(padded), counts, strict=True)
    ]
    return torch.cat([part for batch in zip(*parts, strict=True) for part in batch])
