"""What a hand-written loop needs to take the batches that a stage takes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from thalweg.randomness.streams import seed32
from thalweg.run.sampler import Batches


def batches(examples: int, stage: str, steps: int, size: int, seed: int = 0) -> Iterator[Tensor]:
    """The indices that each step of a stage takes."""
    order = Batches(examples, seed=seed32(seed, "stage", stage), size=size)
    for step in range(steps):
        yield order.take(step / steps)


def descend(parameters: Sequence[Tensor], loss: Callable[[], Tensor], lr: float) -> None:
    """One step of plain gradient descent."""
    slopes = torch.autograd.grad(loss(), list(parameters))
    with torch.no_grad():
        for p, slope in zip(parameters, slopes, strict=True):
            p -= lr * slope
