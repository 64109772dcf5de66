"""Scores of all lanes on a split, block by block."""

from __future__ import annotations

import torch
from torch import Tensor

from thalweg.data.source import Prepared
from thalweg.execution.lanes.device_split import DeviceSplit
from thalweg.execution.lanes.forward import by_rows
from thalweg.execution.lanes.step import LaneProgram
from thalweg.objectives import Metric

__all__ = ["ignores", "score"]


def score(
    program: LaneProgram, metric: Metric, data: DeviceSplit, *, block: int, step: int
) -> tuple[list[float], list[float], Tensor]:
    """Score a split: blocks count by what the loss divides by, as in the loop.

    Args:
        program: of K lanes.
        metric: what they are evaluated by.
        data: the split.
        block: how many examples at a time.
        step: of the clock.

    Returns:
        Loss and metric ``[K]``, and what the metric needs of each example, ``[K, N, ...]``.
    """
    lanes, reduced, held = len(program.runs), [], []
    losses = torch.zeros(lanes, dtype=torch.float64, device=data.targets.device)
    weights = torch.zeros_like(losses)
    targets = data.targets
    for begin in range(0, len(targets), block):
        x, y = data.between(begin, min(begin + block, len(targets)))
        outputs = program.predict(x.expand(lanes, *x.shape), step)
        here, divisor = program.measured_losses(outputs, y.expand(lanes, *y.shape))
        if divisor is None:
            losses, weights = losses + here.double(), torch.ones_like(weights)
        elif bool(divisor.isnan().any()):
            # a function that doesn't say what it divides by is computed once, of all examples
            held.append(outputs)
        else:
            # nothing but ignored targets adds nothing, where the mean over none is NaN
            losses += torch.where(divisor > 0, here.double() * divisor, 0.0)
            weights += divisor
        if metric.per_example and (outputs.ndim > 3 or y[:1].numel() > 1):
            # an example of several columns or positions is no row; lane by lane bits don't depend on K either
            reduced.append(torch.stack([metric.reduce(one, y) for one in outputs]))
        elif metric.per_example:
            reduced.append(by_rows(metric.reduce, outputs, y.expand(lanes, *y.shape)))
        else:
            reduced.append(metric.reduce(outputs, y))
    together = torch.cat(reduced, 1)
    found = metric.score(together, targets, lanes=None if metric.per_example else True)
    if held:
        losses = program.losses(torch.cat(held, 1), targets.expand(lanes, *targets.shape)).double()
        weights = torch.ones_like(losses)
    return (losses / weights).tolist(), found.tolist(), together


def ignores(prepared: Prepared) -> bool:
    """Whether cross-entropy leaves targets out of account, as torch has it for -100."""
    parts = (prepared.train.targets, prepared.validation.targets, prepared.test.targets)
    return any(
        part is not None and not part.is_floating_point() and bool((part == -100).any()) for part in parts
    )
