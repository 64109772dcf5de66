"""Whether momentum damps oscillations across a valley."""

from __future__ import annotations

from functools import partial

import torch

from thalweg.claims.claim import Claim, Known, Numbers
from thalweg.claims.paths import walk
from thalweg.claims.picture import Lines
from thalweg.claims.rules import more
from thalweg.optim import SGD, Momentum
from thalweg.test_problems.surfaces.quadratic import quadratic

__all__ = ["CLAIM", "measure"]


def measure(seed: int, *, momentum: float, times: float = 1.8, average: bool = False) -> Numbers:
    """Descend at ``times`` over the largest curvature, and add up the way in the steepest direction."""
    surface = quadratic(eigenvalues=[1.0, 100.0], seed=None)
    start = torch.ones(2, dtype=torch.float64)
    rate = times / 100.0
    heavy = partial(Momentum, lr=rate, momentum=momentum, spelling="average" if average else "inside")
    paths = {
        "without": walk(partial(SGD, lr=rate), surface, start, 200),
        "with": walk(heavy, surface, start, 200),
    }
    ways = {name: path[:, 1].diff().abs().sum().clamp(max=1e6) for name, path in paths.items()}
    drawn = {f"{name}_path": path[:40, 1].clamp(-5, 5) for name, path in paths.items()}
    return {**ways, **drawn}


CLAIM = Claim(
    title="Momentum damps oscillations across a valley",
    topic="momentum",
    statement="Where descent swings to and fro in the steepest direction, momentum averages the swings out, "
    "so that there are fewer and smaller ones.",
    sources=("O2",),
    places="K; S 1; C s123-126",
    setup="A quadratic with curvatures 1 and 100. Descent at 1.8 over the larger, where each step swings to "
    "the other side, and at 2.5, where it diverges; against momentum at the same rate, or at the same rate "
    "with an average of gradients instead of their sum. The length of the whole way in the steepest "
    "direction over 200 steps, from 1 away.",
    against="A way that isn't shorter with momentum.",
    about="Momentum adds a slow swing of its own, whose size falls by the square root of the momentum at "
    "each step. What it helps depends on how fast the swings of descent fall by themselves: close to "
    "divergence, or beyond, much; where descent settles quickly, nothing.",
    measure=measure,
    rule=(
        more(
            "without",
            "with",
            matters=0.01,
            said="way in the steepest direction without momentum less that with it",
        ),
    ),
    conditions={
        "rate 1.8, momentum 0.5": {"momentum": 0.5},
        "rate 1.8, momentum 0.9": {"momentum": 0.9},
        "rate 1.8, average of 0.9": {"momentum": 0.9, "average": True},
        "rate 2.5, momentum 0.9": {"momentum": 0.9, "times": 2.5},
    },
    exact=True,
    picture=Lines(
        curves={"without_path": "descent", "with_path": "with momentum"},
        axis="distance in the steepest direction (cut off at 5)",
        across="steps",
    ),
    known=(
        Known(
            verdict="holds",
            why="without it descent diverges",
            conditions=("rate 2.5, momentum 0.9",),
        ),
        Known(
            verdict="does not hold",
            why="at a quarter of the bound descent doesn't swing, and momentum does",
            changes={"times": 0.5},
            conditions=("rate 1.8, momentum 0.9",),
        ),
    ),
)
