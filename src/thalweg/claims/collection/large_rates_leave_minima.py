"""Whether a learning rate over the bound leaves poor minima."""

from __future__ import annotations

import math
from functools import partial

from torch import Tensor

from thalweg import schedules
from thalweg.claims.claim import Claim, Known, Numbers, Size
from thalweg.claims.paths import uniform, walk
from thalweg.claims.picture import Dots
from thalweg.claims.rules import more
from thalweg.optim import SGD

__all__ = ["CLAIM", "measure"]


def measure(seed: int, *, times: float, height: float = 0.5, starts: int = 200, steps: int = 400) -> Numbers:
    """Descend from local minima of a rippled bowl at a low rate, a high one, and from high to low."""
    largest = 1 + 4 * math.pi**2 * height
    low, high = 0.5 / largest, times / largest

    def function(x: Tensor) -> Tensor:
        ripples = height * (1 - (2 * math.pi * x).cos())
        return (x.square() / 2 + ripples).sum(-1)

    begun = uniform(starts, 1, seed=seed, low=-2.5, high=2.5)
    minima = walk(partial(SGD, lr=low), function, begun, 100)[-1]
    falling = schedules.build("exponential", total=steps, final=low / high)
    decayed = [high * float(falling(step)) for step in range(steps)]
    ends = {
        "low": walk(partial(SGD, lr=low), function, minima, steps),
        "high": walk(partial(SGD, lr=high), function, minima, steps),
        "decayed": walk(partial(SGD, lr=high), function, minima, steps, rates=decayed),
    }
    return {name: function(path[-1]).clamp(max=100.0).mean() for name, path in ends.items()}


CLAIM = Claim(
    title="Large rates leave poor minima",
    topic="landscape",
    statement="A learning rate above twice the best leaves poor local minima, but never settles anywhere. "
    "Large at first and then falling, it leaves them and settles in a better one.",
    sources=("R6", "X2", "X9"),
    places="C s96-98",
    setup="A parabola with ripples, x^2 / 2 + 0.5 (1 - cos 2 pi x), from 200 of its local minima. 400 steps "
    "at a low rate, half of 1 over the largest curvature; at a high one of 2.5, 4 or 8 over it; and from "
    "the high to the low one, falling exponentially. The mean value at the end.",
    against="A falling rate that ends no lower than the low one, or no lower than the high one.",
    about="Above the bound every minimum throws descent out, poor ones and good ones alike. Where it comes "
    "to rest when the rate has fallen is a matter of which minima are wide enough to hold it at a rate at "
    "which others don't; here ripples are of one width, and the bowl beneath them decides.",
    measure=measure,
    rule=(
        more("low", "decayed", matters=0.01, said="value at the low rate less that at the falling one"),
        more("high", "decayed", matters=0.01, said="value at the high rate less that at the falling one"),
    ),
    conditions={
        "2.5 over the curvature": {"times": 2.5},
        "4 over the curvature": {"times": 4.0},
        "8 over the curvature": {"times": 8.0},
    },
    quick=Size(seeds=6),
    picture=Dots(
        values={"low": "low rate", "high": "high rate", "decayed": "from high to low"},
        axis="mean value at the end",
    ),
    known=(
        Known(
            verdict="holds",
            why="at 8 it jumps over ripples, and the parabola draws it inwards",
            changes={"starts": 50},
            conditions=("8 over the curvature",),
        ),
        Known(
            verdict="does not hold",
            why="below the bound nothing leaves a minimum",
            changes={"times": 1.0, "starts": 50, "steps": 100},
            conditions=("4 over the curvature",),
        ),
    ),
)
