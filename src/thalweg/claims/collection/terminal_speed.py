"""The largest speed under momentum."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from thalweg.claims.claim import Claim, Known, Numbers
from thalweg.claims.paths import walk
from thalweg.claims.picture import Lines
from thalweg.claims.rules import always, near
from thalweg.optim import Momentum

__all__ = ["CLAIM", "measure"]


def measure(seed: int, *, momentum: float, curvature: float = 0.0) -> Numbers:
    """Descend a slope of length 5, and compare the speed with ``rate * slope / (1 - momentum)``."""
    slope, rate = torch.tensor([3.0, -4.0], dtype=torch.float64), 0.01

    def function(x: Tensor) -> Tensor:
        return x @ slope + curvature * x @ x / 2

    path = walk(partial(Momentum, lr=rate, momentum=momentum), function, torch.zeros_like(slope), 3000)
    speed = path.diff(dim=0).norm(dim=1) / (rate * 5.0 / (1 - momentum))
    return {
        "speed": speed[-1],
        "grows": bool((speed.diff() >= -1e-12).all()),
        "by_step": speed[:300],
    }


CLAIM = Claim(
    title="Terminal speed under momentum",
    topic="momentum",
    statement="Where the gradient g stays the same, momentum a at the rate e speeds steps up to a length of "
    "e |g| / (1 - a), and no more.",
    sources=("O2",),
    places="K",
    setup="An even slope with |g| = 5 at the rate 0.01, momentum 0.5, 0.9 and 0.99, 3,000 steps from rest. "
    "The length of the last over the formula, and whether steps ever get shorter.",
    against="A ratio other than one, or a step shorter than the one before.",
    about="With momentum 0.9 steps get ten times as long as without, after some twenty of them. So momentum "
    "that is raised needs a rate that is lowered.",
    measure=measure,
    rule=(
        near("speed", 1.0, within=1e-6, said="last step over the formula, less 1"),
        always("grows", said="steps never get shorter"),
    ),
    conditions={
        "momentum 0.5": {"momentum": 0.5},
        "momentum 0.9": {"momentum": 0.9},
        "momentum 0.99": {"momentum": 0.99},
    },
    exact=True,
    picture=Lines(curves={"by_step": "momentum"}, axis="length of a step over the formula", across="steps"),
    known=(
        Known(verdict="holds", why="a geometric series", conditions=("momentum 0.9",)),
        Known(
            verdict="does not hold",
            why="in a bowl the gradient vanishes at the minimum",
            changes={"curvature": 1.0},
            conditions=("momentum 0.9",),
        ),
    ),
)
