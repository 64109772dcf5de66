"""How much longer a training's path is than the way it has come."""

from __future__ import annotations

import torch
from torch import nn

from thalweg.claims.claim import Claim, Known, Numbers, Size
from thalweg.claims.picture import Lines
from thalweg.claims.problems import digits, mlp
from thalweg.claims.rules import more
from thalweg.optim import Momentum

__all__ = ["CLAIM", "measure"]


def measure(
    seed: int, *, batch: int, lr: float = 0.05, momentum: float = 0.0, steps: int = 400, linear: bool = False
) -> Numbers:
    """Train a net, and compare the length of its path with the distance from its start."""
    (x, y), _ = digits(seed, train=512)
    net = mlp([64, 32, 10], seed)
    descent = Momentum(net.parameters(), lr=lr, momentum=momentum)
    start = before = nn.utils.parameters_to_vector(net.parameters()).detach().clone()
    pull = start + torch.randn(len(start), generator=torch.Generator().manual_seed(seed))
    length, ratios = 0.0, []
    for step in range(steps):
        picks = torch.randperm(len(y), generator=torch.Generator().manual_seed(1000 * seed + step))[:batch]
        descent.zero_grad()
        loss = nn.functional.cross_entropy(net(x[picks]), y[picks])
        if linear:
            loss = (nn.utils.parameters_to_vector(net.parameters()) - pull).square().sum() / 2
        torch.autograd.backward(loss)
        descent.step()
        at = nn.utils.parameters_to_vector(net.parameters()).detach().clone()
        length += float((at - before).norm())
        ratios.append(length / float((at - start).norm().clamp_min(1e-12)))
        before = at
    return {"ratio": ratios[-1], "ratios": ratios}


CLAIM = Claim(
    title="Descent's path is much longer than the way to where it ends",
    topic="landscape",
    statement="The gradient says where it goes down here, not where a minimum is: a training spends "
    "much of its time on a path that is far longer than the straight way to its end.",
    sources=("X7",),
    places="K",
    setup="A net of 32 hidden units on 512 digits, 400 steps of SGD at 0.05, on full batches and on "
    "batches of 16. The length of the path is divided by the distance between its ends.",
    against="A path at most 1.5 times as long as the straight way.",
    about="Noise of small batches makes a path longer without making the surface worse, so full "
    "batches tell of the surface, and small ones of both.",
    measure=measure,
    rule=(more("ratio", 1.5, said="length of the path over distance"),),
    conditions={"full batches": {"batch": 512}, "batches of 16": {"batch": 16}},
    quick=Size(seeds=8),
    full=Size(seeds=40, changes={"steps": 4000}),
    picture=Lines(
        curves={"ratios": "path / distance"},
        axis="length of the path / distance from the start",
        across="steps",
    ),
    known=(
        Known(
            verdict="holds",
            why="noise at a large rate walks at random",
            changes={"lr": 0.5, "steps": 200},
            conditions=("batches of 16",),
        ),
        Known(
            verdict="does not hold",
            why="down a round bowl the path is straight",
            changes={"linear": True, "steps": 60},
        ),
    ),
)
