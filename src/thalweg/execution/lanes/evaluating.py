"""Scores of all lanes on a split, block by block."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from thalweg.data.source import Prepared
from thalweg.execution.lanes.device_split import DeviceSplit
from thalweg.execution.lanes.forward import by_rows
from thalweg.execution.lanes.step import LaneProgram
from thalweg.objectives import Metric
from thalweg.objectives.nests import joined, mapped

__all__ = ["ignores", "score"]


def score(
    program: LaneProgram,
    metric: Metric,
    data: DeviceSplit,
    *,
    block: int,
    step: int,
    read: Callable[[Any], Tensor] = lambda outputs: outputs,
) -> tuple[list[float], list[float], Tensor]:
    """Score a split: blocks count by what the loss divides by, as in the loop.

    Args:
        program: of K lanes.
        metric: what they are evaluated by.
        data: the split.
        block: how many examples at a time.
        step: of the clock.
        read: from what the model returns to the part that a metric by name compares.

    Returns:
        Loss and metric ``[K]``, and what the metric needs of each example, ``[K, N, ...]``.
    """
    lanes, held = len(program.runs), []
    reduced: list[Any] = []
    losses = torch.zeros(lanes, dtype=torch.float64, device=data.targets.device)
    weights = torch.zeros_like(losses)
    targets = data.targets
    for begin in range(0, len(targets), block):
        x, y = data.between(begin, min(begin + block, len(targets)))
        outputs = program.predict(mapped(lambda leaf: leaf.expand(lanes, *leaf.shape), x), step)
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
        if metric.per_example:
            outputs = read(outputs)
        if not isinstance(outputs, Tensor):
            reduced.append([_of_lane(metric, outputs, lane, y) for lane in range(lanes)])
        elif metric.per_example and (outputs.ndim > 3 or y[:1].numel() > 1):
            # an example of several columns or positions is no row; lane by lane bits don't depend on K either
            reduced.append(torch.stack([metric.reduce(one, y) for one in outputs]))
        elif metric.per_example:
            reduced.append(by_rows(metric.reduce, outputs, y.expand(lanes, *y.shape)))
        else:
            reduced.append(metric.reduce(outputs, y))
    if isinstance(reduced[0], list):
        # a person's own metric, of all that the model returns
        each = [joined([block[lane] for block in reduced]) for lane in range(lanes)]
        found = torch.stack([metric.score(one, targets, lanes=False) for one in each])
        together = found
    else:
        together = torch.cat(reduced, 1)
        found = metric.score(together, targets, lanes=None if metric.per_example else True)
    if held:
        whole = mapped(lambda *parts: torch.cat(parts, 1) if parts[0].ndim > 1 else parts[0], *held)
        losses = program.losses(whole, targets.expand(lanes, *targets.shape)).double()
        weights = torch.ones_like(losses)
    return (losses / weights).tolist(), found.tolist(), together


def _of_lane(metric: Metric, outputs: Any, lane: int, targets: Tensor) -> Any:
    return metric.reduce(mapped(lambda leaf: leaf[lane], outputs), targets)


def ignores(prepared: Prepared) -> bool:
    """Whether cross-entropy leaves targets out of account, as torch has it for -100."""
    parts = (prepared.train.targets, prepared.validation.targets, prepared.test.targets)
    return any(
        part is not None and not part.is_floating_point() and bool((part == -100).any()) for part in parts
    )
