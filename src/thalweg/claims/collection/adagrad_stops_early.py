"""Whether AdaGrad stops too early where RMSProp goes on."""

from __future__ import annotations

import math
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from thalweg.claims.claim import Claim, Known, Numbers, Size
from thalweg.claims.paths import normal, walk
from thalweg.claims.picture import Dots
from thalweg.claims.rules import more
from thalweg.optim import Adagrad, RMSprop
from thalweg.test_problems import surfaces, tasks

__all__ = ["CLAIM", "measure"]

_RATES = (10.0, 3.0, 1.0, 0.3, 0.1, 0.03, 0.01, 0.003)


def measure(
    seed: int,
    *,
    kind: Literal["slopes", "rosenbrock", "bowl", "net"],
    rates: tuple[float, ...] = _RATES,
    steps: int = 500,
) -> Numbers:
    """Descend by both, each at its best rate, and return the values at the end, in tenfolds."""
    start = torch.full((2,), 20.0, dtype=torch.float64) + normal(2, seed=seed)
    if kind == "net":
        task = tasks.get("mlp-digits", seed=seed)
        shapes = [p.shape for p in task.parameters()]
        start = torch.cat([p.flatten() for p in task.parameters()])

    def function(x: Tensor) -> Tensor:
        if kind == "net":
            parts = torch.split(x, [shape.numel() for shape in shapes])
            return task.loss([part.view(shape) for part, shape in zip(parts, shapes, strict=True)])
        if kind == "rosenbrock":
            return surfaces.get("rosenbrock")(x / 10 - 1)
        if kind == "bowl":
            return (x.square() * torch.tensor([0.5, 5.0])).sum()
        # a slope of 100 above 15, one of about 1 below, a round bottom
        return (100 * torch.nn.functional.softplus(x - 15) + torch.sqrt(1 + x.square()) - 1).sum()

    best = {}
    for name, make in (("adagrad", Adagrad), ("rmsprop", RMSprop)):
        ends = [float(function(walk(partial(make, lr=lr), function, start, steps)[-1])) for lr in rates]
        best[name] = math.log10(max(min(ends), 1e-12))
    return {**best}


CLAIM = Claim(
    title="AdaGrad stops too early on nonconvex surfaces",
    topic="momentum",
    statement="AdaGrad's steps shrink with the sum of all squared gradients. On nonconvex functions, where "
    "steep parts come before gentle ones, that stops it too early. RMSProp forgets the distant past, and "
    "goes on.",
    sources=("O4", "O5"),
    places="K",
    setup="500 steps (for the net 100) from starts around a point: a steep slope with a gentle one after "
    "it, Rosenbrock's valley, and a net with 32 tanh units on digits in full batches; for comparison a "
    "convex bowl. Each method at its best of eight rates, from 0.003 to 10. The value at the end, in "
    "tenfolds.",
    against="AdaGrad's value no higher than RMSProp's.",
    about="At a rate of its own AdaGrad can make up for some of what it has summed up; at a given rate its "
    "steps on a long way shrink as one over the root of their number. RMSProp's steps never shrink by "
    "themselves, so that near a minimum it needs a rate that falls.",
    measure=measure,
    rule=(
        more("adagrad", "rmsprop", matters=0.01, said="value of AdaGrad less that of RMSProp, in tenfolds"),
    ),
    conditions={
        "steep, then gentle": {"kind": "slopes"},
        "Rosenbrock's valley": {"kind": "rosenbrock"},
        "a net on digits": {"kind": "net", "steps": 100},
        "a convex bowl": {"kind": "bowl"},
    },
    quick=Size(seeds=4),
    full=Size(seeds=20),
    picture=Dots(
        values={"adagrad": "AdaGrad", "rmsprop": "RMSProp"}, axis="value at the end (logarithm to base 10)"
    ),
    known=(
        Known(
            verdict="holds",
            why="a hundred steps down a slope of 100 leave AdaGrad a thousandth of the rate",
            changes={"rates": (0.1,), "steps": 300},
            conditions=("steep, then gentle",),
        ),
        Known(
            verdict="does not hold",
            why="in a bowl RMSProp's steps of one length swing around the minimum",
            changes={"rates": (3.0,), "steps": 200},
            seeds=6,
            conditions=("a convex bowl",),
        ),
    ),
)
