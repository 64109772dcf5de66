"""Clipped gradients keep descent from being thrown off a cliff."""

from __future__ import annotations

import math

import torch

from thalweg.claims.claim import Claim, Known, Numbers, Size
from thalweg.claims.nets import drawn
from thalweg.claims.picture import Dots
from thalweg.claims.rules import more, share
from thalweg.optim import SGD
from thalweg.optim.clipping import clip_by_norm
from thalweg.test_problems import surfaces

__all__ = ["CLAIM", "measure"]


def measure(
    seed: int, *, bound: float = 1.0, rate: float = 0.01, steps: int = 1000, low: float = 1.2
) -> Numbers:
    """Descend from a place on the wall, with gradients as they are and clipped."""
    cliff = surfaces.get("cliff")
    start = torch.tensor([low, 0.5]) + 0.1 * drawn(2, seed=seed).abs()
    ends = {}
    for name, most in (("as_they_are", 1e300), ("clipped", bound)):
        x = start.clone().requires_grad_()
        descent = SGD([x], lr=rate)
        for _ in range(steps):
            descent.zero_grad()
            torch.autograd.backward(cliff(x))
            assert x.grad is not None
            if not torch.isfinite(x.grad).all():
                break
            clip_by_norm([x.grad], most)
            descent.step()
        value = float(cliff(x.detach()))
        ends[name] = math.log10(min(max(value, 1e-12), 1e12)) if math.isfinite(value) else 12.0
    return {**ends, "arrived": float(ends["clipped"] < -2), "first": cliff(start).log10().item()}


CLAIM = Claim(
    title="Clipping saves a run at a cliff",
    topic="noise",
    statement="Where products of large weights make a wall, one step along the gradient leads far beyond "
    "anything learnt. A gradient that is clipped when it is too long leads down the wall instead.",
    sources=("R9", "X4"),
    places="K",
    setup="Nine steps of a linear recurrent net of two weights, from random places on the wall that these "
    "make, by 1000 steps of descent at 0.01; gradients as they are, and clipped to a norm of 1. Losses above "
    "1e12 count as that.",
    against="A clipped run that doesn't reach a loss of 0.01, or one without clipping that ends as low.",
    about="The direction of such a gradient is right and only its length is useless, since the wall is "
    "narrower than the step. Clipping bounds the length of a step by the rate, whatever the wall's height.",
    measure=measure,
    rule=(
        more("as_they_are", "clipped", by=1.0, said="loss without less that with clipping, in powers of ten"),
        share("arrived", above=0.5, said="clipped runs reach a loss of 0.01"),
    ),
    quick=Size(seeds=20),
    picture=Dots(
        values={"first": "at the start", "as_they_are": "gradients as they are", "clipped": "clipped"},
        axis="loss at the end, in powers of ten",
    ),
    known=(
        Known(
            verdict="holds",
            why="the wall's gradient at 1.4 is some ten thousand long",
            changes={"low": 1.4, "steps": 500},
            seeds=8,
        ),
        Known(
            verdict="does not hold",
            why="no gradient is longer than the bound",
            changes={"bound": 1e30, "steps": 10},
        ),
    ),
)
