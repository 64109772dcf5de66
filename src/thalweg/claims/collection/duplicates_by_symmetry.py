"""Exchanging hidden units gives other minima of equal value."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from thalweg.claims.claim import Claim, Known, Numbers, Size
from thalweg.claims.paths import normal
from thalweg.claims.picture import Lines
from thalweg.claims.rules import always, more
from thalweg.secondorder.minimizing import minimize

__all__ = ["CLAIM", "measure"]


def measure(seed: int, *, whole: bool = True, units: int = 6) -> Numbers:
    """Train a small net, exchange its units and their signs, and walk from one minimum to the other."""
    x = normal(100, 3, seed=seed, of="inputs")
    y = (x.prod(1) + x[:, 0]).tanh()

    def loss(parameters: list[Tensor]) -> Tensor:
        w, b, v = parameters
        return ((x @ w.T + b).tanh() @ v - y).square().mean() + 1e-4 * (w.square().sum() + v.square().sum())

    start = [normal(units, 3, seed=seed), normal(units, seed=seed, of="b"), normal(units, seed=seed, of="v")]
    w, b, v = minimize(loss, start, method="lbfgs", tolerance=1e-6, max_iterations=2000).x
    # each unit to the next place; odd ones with all their signs changed, which tanh undoes
    order = torch.arange(units).roll(1)
    signs = 1.0 - 2.0 * (torch.arange(units) % 2)
    other = [(signs[:, None] * w)[order], (signs * b)[order], (signs * v)[order] if whole else v]
    between = [
        float(loss([(1 - t) * p + t * q for p, q in zip((w, b, v), other, strict=True)]))
        for t in torch.linspace(0, 1, 21).tolist()
    ]
    leaves = [p.clone().requires_grad_() for p in other]
    gradients = torch.autograd.grad(loss(leaves), leaves)
    apart = torch.cat([(p - q).flatten() for p, q in zip((w, b, v), other, strict=True)]).norm()
    return {
        "equal": abs(between[-1] - between[0]) < 1e-12,
        "flat": max(float(g.abs().max()) for g in gradients) < 1e-5,
        "apart": apart,
        "barrier": math.log2(max(between) / between[0]),
        "between": between,
        "place": torch.linspace(0, 1, 21).tolist(),
    }


CLAIM = Claim(
    title="Duplicates of minima by symmetry",
    topic="landscape",
    statement="Exchanging hidden units, with the weights into and out of them, gives the same function: "
    "every minimum of a net has many others of equal value, apart from each other.",
    sources=("X2",),
    places="K",
    setup="A net with six tanh units is trained to a minimum. All units then change places, and every other "
    "one changes its signs. The loss and the gradient there, and the loss along the straight line between.",
    against="Another loss, a gradient, no distance, or no barrier on the line between.",
    about="With six tanh units there are 6! 2^6 = 46,080 copies of each minimum. They do no harm: whichever "
    "is found, the function is the same. But averaging the weights of two nets averages across barriers.",
    measure=measure,
    rule=(
        always("equal", said="the loss is equal"),
        always("flat", said="the gradient is zero there"),
        more("apart", 0.1, said="distance between the two, less 0.1"),
        more("barrier", 1.0, said="doublings of the loss on the line between them, less 1"),
    ),
    quick=Size(seeds=10),
    picture=Lines(
        curves={"between": "loss"},
        axis="training loss",
        across="part of the way from a minimum to its copy",
        x="place",
    ),
    known=(
        Known(
            verdict="holds",
            why="sums don't depend on the order of what is added",
            changes={"units": 3},
            seeds=8,
        ),
        Known(
            verdict="does not hold",
            why="where outgoing weights stay in place, it is another function",
            changes={"whole": False, "units": 3},
        ),
    ),
)
