"""Units that begin alike stay alike."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from thalweg.claims.claim import Claim, Known, Numbers
from thalweg.claims.nets import drawn, mlp
from thalweg.claims.picture import Lines
from thalweg.claims.rules import more, near
from thalweg.optim import Adam

__all__ = ["CLAIM", "measure"]


def measure(seed: int, *, apart: float = 0.0, units: int = 16, steps: int = 400) -> Numbers:
    """Train a net from random units and from equal ones; ``apart``: how much these differ."""
    inputs = drawn(128, 4, seed=seed, of="inputs")
    targets = (inputs[:, :1] * inputs[:, 1:2] + inputs[:, 2:3].sin()).detach()
    found: dict[str, float | list[float]] = {}
    for name in ("random", "equal"):
        net = mlp(4, units, 1, seed=seed, activation=nn.Tanh, scheme="normalized").double()
        below, _, above, _ = net.parameters()
        if name == "equal":
            for weight, axis in ((below, 0), (above, 1)):
                own = weight.detach().clone()
                weight.data = own.narrow(axis, 0, 1).expand_as(own) + apart * (own - own.mean(axis, True))
        descent, losses = Adam(net.parameters(), lr=0.02), []
        for _ in range(steps):
            descent.zero_grad()
            loss = (net(inputs) - targets).square().mean()
            torch.autograd.backward(loss)
            descent.step()
            losses.append(loss.item())
        found |= {name: losses[-1], f"{name}_path": losses, f"{name}_spread": _spread(below.detach())}
    return found


def _spread(weight: Tensor) -> float:
    return float((weight - weight.mean(0)).norm() / weight.norm())


CLAIM = Claim(
    title="Units that begin alike stay alike",
    topic="starting",
    statement="Hidden units with the same inputs and the same initial weights get the same gradients for "
    "ever, so that many are no more than one. Random weights break the symmetry.",
    sources=("I1",),
    places="K; U",
    setup="A net of 16 tanh units learns a product and a sine from 128 examples by 400 full-batch steps of "
    "Adam, once from random weights and once with all units as the first. What counts are how much units "
    "differ at the end, over the length of their weights, and the loss.",
    against="Units that have come to differ by more than rounding, or equal units that fit as well as random "
    "ones.",
    about="This is the one property of a start that is certain to matter. It holds for every method that "
    "treats units alike; what draws at random while training, as dropout does, breaks the symmetry too.",
    measure=measure,
    rule=(
        near("equal_spread", 0.0, within=1e-6, said="how much equal units differ in the end"),
        more("random_spread", by=0.1, said="how much random units differ in the end"),
        more("equal", "random", by=0.05, said="loss from equal units less that from random ones"),
    ),
    picture=Lines(
        curves={"equal_path": "equal units", "random_path": "random units"},
        axis="squared error",
        across="steps",
        log=True,
    ),
    known=(
        Known(verdict="holds", why="equal gradients", changes={"steps": 150}, seeds=5),
        Known(
            verdict="does not hold",
            why="units that differ a little at the start aren't equal",
            changes={"apart": 0.5, "steps": 100},
        ),
    ),
)
