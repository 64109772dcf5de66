"""From a blurred function to the function itself, past local minima."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from thalweg.claims.claim import Claim, Known, Numbers, Size
from thalweg.claims.picture import Dots
from thalweg.claims.rules import more
from thalweg.secondorder import minimize
from thalweg.stages import blur

__all__ = ["CLAIM", "measure"]

_SIGMAS = (1.0, 0.7, 0.5, 0.35, 0.25, 0.15, 0.0)


def _dented(x: Tensor, dents: float) -> Tensor:
    return (x.square() / 10 + dents * (1 - torch.cos(2 * math.pi * x))).sum(-1)


def _deep_hole(x: Tensor, depth: float) -> Tensor:
    # a wide bowl, and beside it a hole that is deeper and a twentieth as wide
    wide = 1 - torch.exp(-(x + 2).square().sum(-1) / 8)
    return wide - depth * torch.exp(-(x - 3).square().sum(-1) / 0.02)


def measure(
    seed: int,
    *,
    kind: str,
    n: int = 3,
    strength: float = 1.0,
    samples: int = 64,
    sigmas: tuple[float, ...] = _SIGMAS,
) -> Numbers:
    """How far above the least value descent ends, directly and past blurred functions."""
    functions = {"dents": _dented, "hole": _deep_hole}

    def function(x: Tensor) -> Tensor:
        return functions[kind](x, strength)

    least = 0.0 if kind == "dents" else float(function(torch.full((n,), 3.0).double()))
    start = 6 * torch.rand(n, generator=torch.Generator().manual_seed(seed)).double() - 3
    x = start
    for sigma in sigmas:
        blurred = blur(function, sigma, samples=samples, seed=seed) if sigma else function
        x = minimize(blurred, x).x
    return {
        "blurred": float(function(x)) - least,
        "minus_blurred": least - float(function(x)),
        "direct": float(function(minimize(function, start).x)) - least,
    }


CLAIM = Claim(
    title="Blurring a function leads past its local minima",
    topic="stages",
    statement="Some functions with many local minima are nearly convex when blurred. Minimizing ever "
    "less blurred ones leads to a global minimum.",
    sources=("P7",),
    places="N 8.40; K",
    setup="L-BFGS from random points in three dimensions, directly and along seven noises from 1 to "
    "0, each blurred by 64 draws: on a bowl full of dents, and on a wide bowl beside a narrow hole "
    "that is deeper. Measured is how far above the least value it ends.",
    against="An end that is no lower than that of direct descent.",
    about="The second function is the third failure of which the lecture warns: it becomes convex, "
    "and its minimum leads to the wide bowl, not to the hole. Direct descent finds the hole only from "
    "within, so that the two tie there.",
    measure=measure,
    rule=(
        more("direct", "blurred", matters=0.02, said="value at the end, direct less blurred"),
        more("minus_blurred", by=-0.2, said="how far above the least value, sign turned"),
    ),
    conditions={
        "a bowl full of dents": {"kind": "dents"},
        "a narrow deep hole": {"kind": "hole", "strength": 2.0},
    },
    quick=Size(seeds=20),
    full=Size(seeds=200),
    picture=Dots(values={"direct": "direct", "blurred": "past blurred ones"}, axis="above the least value"),
    known=(
        Known(
            verdict="holds",
            why="shallow dents vanish at once",
            changes={"strength": 0.3},
            conditions=("a bowl full of dents",),
            seeds=8,
        ),
        Known(
            verdict="does not hold",
            why="without noise it is direct descent",
            changes={"sigmas": [0.0], "strength": 1.0},
            conditions=("a bowl full of dents",),
            seeds=4,
        ),
    ),
)
