"""A perceptron, and a logistic unit trained by descent, on points of the plane."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

__all__ = ["Point", "descent", "perceptron", "separable", "separates", "turn"]

Point = Sequence[float]
"""x, y and the class, 1 or 0."""


def _tensors(points: Sequence[Point]) -> tuple[Tensor, Tensor]:
    table = torch.tensor([list(point) for point in points], dtype=torch.float64)
    return torch.cat([table[:, :2], torch.ones(len(table), 1, dtype=torch.float64)], dim=1), table[:, 2]


def perceptron(
    points: Sequence[Point], *, start: Tensor | None = None, most: int = 200_000
) -> tuple[Tensor, int]:
    """Add a point that is on the wrong side to the weights, or take it off, until there is none.

    Returns:
        The weights ``[3]`` of x, y and 1, and how many corrections it took; at most ``most``.
    """
    inputs, classes = _tensors(points)
    signed = inputs * (2 * classes - 1).unsqueeze(1)
    weights = torch.zeros(3, dtype=torch.float64) if start is None else start.clone()
    for corrections in range(most):
        wrong = (signed @ weights <= 0).nonzero()
        if not len(wrong):
            return weights, corrections
        weights = weights + signed[wrong[corrections % len(wrong), 0]]
    return weights, most


def descent(
    points: Sequence[Point],
    seeds: Sequence[int],
    *,
    steps: int,
    lr: float = 1.0,
    start: Tensor | None = None,
    confidence: float = 0.99,
    longest: float | None = None,
) -> Tensor:
    """Descend the mean squared loss of a logistic unit from random weights, for all seeds at once.

    Weights whose norm is above ``longest`` are shortened to it after each step.

    Returns:
        The weights ``[seeds, 3]``.
    """
    inputs, classes = _tensors(points)
    targets = (1 - confidence) + classes * (2 * confidence - 1)
    if start is None:
        draws = [torch.randn(3, generator=torch.Generator().manual_seed(s)).double() for s in seeds]
        start = torch.stack(draws)
    weights = start.clone()
    for _ in range(steps):
        outputs = (weights @ inputs.T).sigmoid()
        slopes = 2 * (outputs - targets) * outputs * (1 - outputs) / len(targets)
        weights = weights - lr * slopes @ inputs
        if longest is not None:
            weights = weights * (longest / weights.norm(dim=1, keepdim=True)).clamp_max(1)
    return weights


def separates(weights: Tensor, points: Sequence[Point]) -> bool:
    """Whether every point is on its side of the line."""
    inputs, classes = _tensors(points)
    return bool(((inputs @ weights) * (2 * classes - 1) > 0).all())


def separable(points: Sequence[Point]) -> bool:
    """Whether a line separates the classes."""
    from scipy.optimize import linprog

    inputs, classes = _tensors(points)
    signed: Any = -(inputs * (2 * classes - 1).unsqueeze(1)).numpy()
    found = linprog([0, 0, 0], A_ub=signed, b_ub=-torch.ones(len(classes)).numpy(), bounds=(None, None))
    return bool(found.status == 0)


def turn(before: Tensor, after: Tensor) -> float:
    """The angle in degrees by which a line has turned."""
    one, other = before[:2], after[:2]
    cosine = (one @ other / (one.norm() * other.norm()).clamp_min(1e-30)).clamp(-1, 1)
    return float(torch.rad2deg(torch.arccos(cosine)))
