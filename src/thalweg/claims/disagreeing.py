"""How much classifiers that were trained on different examples of the same kind disagree."""

from __future__ import annotations

import torch
from torch import Tensor

from thalweg.claims.problems import mlp, trained

__all__ = ["disagreement"]


def disagreement(seed: int, *, depth: int, units: int, examples: int, epochs: int) -> dict[str, float]:
    """Train two nets of ``depth`` hidden layers with ``units`` units together, each on examples of its own.

    Examples are points of the plane, above or below a wave.

    Returns:
        The share of new points on which they disagree, and that of errors.
    """
    generator = torch.Generator().manual_seed(seed)

    def drawn(count: int) -> tuple[Tensor, Tensor]:
        points = 4 * torch.rand(count, 2, generator=generator) - 2
        return points, (points[:, 1] > (2.5 * points[:, 0]).sin()).long()

    new, right = drawn(4000)
    labels = []
    for member in range(2):
        net = mlp([2, *[units // depth] * depth, 2], 2 * seed + member)
        trained(net, drawn(examples), lr=0.01, epochs=epochs, seed=2 * seed + member)
        with torch.no_grad():
            labels.append(net(new).argmax(-1))
    return {
        "disagree": float((labels[0] != labels[1]).float().mean()),
        "errors": float((labels[0] != right).float().mean() + (labels[1] != right).float().mean()) / 2,
    }
