"""Whether momentum overshoots the minimum."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from thalweg.claims.claim import Claim, Known, Numbers
from thalweg.claims.paths import walk
from thalweg.claims.picture import Lines
from thalweg.claims.rules import more
from thalweg.optim import SGD, Momentum

__all__ = ["CLAIM", "measure"]


def measure(seed: int, *, times: float, momentum: float = 0.9, steps: int = 3000) -> Numbers:
    """Descend ``x^2 / 2`` from 1 at the rate ``times``, and see how far beyond 0 it comes."""

    def function(x: Tensor) -> Tensor:
        return x.square().sum() / 2

    start = torch.ones(1, dtype=torch.float64)
    plain = walk(partial(SGD, lr=times), function, start, steps)[:, 0]
    heavy = walk(partial(Momentum, lr=times, momentum=momentum), function, start, steps)[:, 0]
    return {
        "plain": (-plain.min()).clamp(min=0),
        "heavy": (-heavy.min()).clamp(min=0),
        "plain_path": plain[:120],
        "heavy_path": heavy[:120],
    }


CLAIM = Claim(
    title="Momentum overshoots the minimum",
    topic="momentum",
    statement="With momentum, descent runs past the minimum and has to come back, where plain descent at the "
    "same rate approaches it from one side.",
    sources=("O2",),
    places="S 2",
    setup="A parabola of curvature 1 from 1 with momentum 0.9 from rest, at the rates 0.5, 0.05 and 0.002. "
    "How far beyond the minimum it comes, and how far without momentum.",
    against="No more than a hundredth of the way beyond the minimum, or no more than without momentum.",
    about="It overshoots where the rate times the curvature is above (1 - sqrt(a))^2, which is 0.0026 for "
    "a = 0.9. Along flatter directions momentum is only a larger rate. So in a valley it overshoots across, "
    "and need not along.",
    measure=measure,
    rule=(more("heavy", "plain", by=0.01, said="how far beyond the minimum, with momentum less without"),),
    conditions={
        "rate 0.5": {"times": 0.5},
        "rate 0.05": {"times": 0.05},
        "rate 0.002": {"times": 0.002},
    },
    exact=True,
    picture=Lines(
        curves={"plain_path": "descent", "heavy_path": "with momentum 0.9"}, axis="x", across="steps"
    ),
    known=(
        Known(
            verdict="holds",
            why="0.05 is above (1 - sqrt(0.9))^2",
            changes={"steps": 200},
            conditions=("rate 0.5", "rate 0.05"),
        ),
        Known(
            verdict="does not hold",
            why="momentum 0.5 at the rate 0.05 is below (1 - sqrt(0.5))^2",
            changes={"momentum": 0.5, "steps": 200},
            conditions=("rate 0.05",),
        ),
    ),
)
