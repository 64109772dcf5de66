"""Judging a model: what it is to be judged at, and by which numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd

from thalweg.objectives import Metric
from thalweg.randomness import Keyed, RunDraws
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
) -> tuple[float, float | None, Tensor | None]:
    """Score a split in evaluation mode.

    Returns:
        The mean loss, the metric, and what the metric needs of each example.
    """
    model.eval()
    total, count, reduced, goals = 0.0, 0, [], []
    for inputs, targets in batches:
        with surroundings():
            outputs = model(inputs)
            value = loss(outputs, targets)
        total += float(value) * len(targets)
        count += len(targets)
        if metric is not None:
            if outputs.dtype in (torch.bfloat16, torch.float16):
                outputs = outputs.float()
            reduced.append(metric.reduce(outputs, targets))
            goals.append(targets)
    if metric is None:
        return total / count, None, None
    together = torch.cat(reduced)
    return total / count, float(metric.score(together, torch.cat(goals))), together
