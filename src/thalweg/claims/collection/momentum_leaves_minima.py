"""Whether momentum leaves local minima."""

from __future__ import annotations

import math
from functools import partial

from torch import Tensor

from thalweg.claims.claim import Claim, Known, Numbers, Size
from thalweg.claims.paths import uniform, walk
from thalweg.claims.picture import Dots
from thalweg.claims.rules import more
from thalweg.optim import SGD, Momentum

__all__ = ["CLAIM", "measure"]


def measure(
    seed: int, *, fair: bool, height: float = 1.0, momentum: float = 0.9, starts: int = 200, steps: int = 600
) -> Numbers:
    """Descend a bowl with ripples from many starts at once; where they end."""
    largest = 1 + 4 * math.pi**2 * height
    rate = 0.1 / largest

    def function(x: Tensor) -> Tensor:
        ripples = height * (1 - (2 * math.pi * x).cos())
        return (x.square() / 2 + ripples).sum(-1)

    begun = uniform(starts, 1, seed=seed, low=-5.0, high=5.0)
    plain = walk(partial(SGD, lr=rate / (1 - momentum) if fair else rate), function, begun, steps)[-1]
    heavy = walk(partial(Momentum, lr=rate, momentum=momentum), function, begun, steps)[-1]
    return {
        "plain": function(plain).mean(),
        "heavy": function(heavy).mean(),
        "plain_best": (plain.abs() < 0.5).double().mean(),
        "heavy_best": (heavy.abs() < 0.5).double().mean(),
    }


CLAIM = Claim(
    title="Momentum leaves local minima",
    topic="momentum",
    statement="Like a ball that rolls on, descent with momentum runs through local minima in which plain "
    "descent stays, and ends in better ones.",
    sources=("O2", "X2", "X13"),
    places="S 1; K",
    setup="A parabola with ripples, x^2 / 2 + h (1 - cos 2 pi x), with high ripples (h = 1) and low ones "
    "(0.25), from 200 random starts between -5 and 5, 600 steps. Momentum 0.9 against plain descent at the "
    "same rate, a tenth of 1 over the largest curvature, and at ten times that, which has the same terminal "
    "speed. The mean value where they end.",
    against="A mean value that isn't lower with momentum.",
    about="What carries it over a ripple is the height it has come down from. Momentum's friction eats most "
    "of that within ten steps, so that it leaves minima next to a high slope, and no others.",
    measure=measure,
    rule=(more("plain", "heavy", matters=0.02, said="value at the end without momentum less that with it"),),
    conditions={
        "high ripples, same rate": {"fair": False},
        "high ripples, same terminal speed": {"fair": True},
        "low ripples, same rate": {"fair": False, "height": 0.25},
        "low ripples, same terminal speed": {"fair": True, "height": 0.25},
    },
    quick=Size(seeds=5),
    picture=Dots(values={"plain": "plain descent", "heavy": "with momentum"}, axis="mean value at the end"),
    known=(
        Known(
            verdict="holds",
            why="from the steep outer slope it comes with more than the height of a ripple",
            changes={"height": 0.25, "starts": 50, "steps": 300},
            conditions=("low ripples, same rate",),
        ),
        Known(
            verdict="does not hold",
            why="without momentum both are the same",
            changes={"momentum": 0.0, "steps": 100},
            conditions=("high ripples, same rate",),
        ),
    ),
)
