"""The empirical risk comes near the risk as examples grow."""

from __future__ import annotations

import math

import torch

from thalweg.claims.claim import Claim, Known, Numbers, Size
from thalweg.claims.picture import Dots
from thalweg.claims.problems import digits, mlp
from thalweg.claims.rules import near

__all__ = ["CLAIM", "measure"]


def measure(seed: int, *, few: int = 32, many: int = 512, draws: int = 400, replaced: bool = True) -> Numbers:
    """How far the loss on few and on many examples is from that on all, in decades."""
    (x, y), _ = digits(0, train=1797)
    with torch.no_grad():
        losses = torch.nn.functional.cross_entropy(mlp([64, 32, 10], seed)(x), y, reduction="none").double()
    generator = torch.Generator().manual_seed(seed)
    errors = {}
    for name, count in (("few", few), ("many", many)):
        if replaced:
            picks = torch.randint(len(y), (draws, count), generator=generator)
        else:
            # the same first example again and again is one example
            picks = torch.randint(len(y), (draws, 1), generator=generator).expand(draws, count)
        means = losses[picks].mean(1)
        errors[name] = math.log10(float((means - losses.mean()).square().mean().sqrt()))
    return {**errors, "fall": errors["few"] - errors["many"], "expected": math.log10(many / few) / 2}


CLAIM = Claim(
    title="The mean loss over examples estimates the risk, with an error of one over the root of "
    "their number",
    topic="noise",
    statement="The empirical risk is a mean over examples, and estimates the expected loss the better "
    "the more there are: its error falls with the square root of their number.",
    sources=("E1", "E2"),
    places="N 8.25; K",
    setup="The loss of a net as drawn, on 400 draws of 32 and of 512 digits, against that on all "
    "1,797. The root of the mean squared error must fall by the root of 16, a factor of 4.",
    against="A fall that is off by more than a tenth of a decade.",
    about="It is why a batch sixteen times as large, which costs sixteen times as much, gives a "
    "gradient only four times as exact.",
    measure=measure,
    rule=(
        near(
            "fall",
            "expected",
            within=0.1,
            said="decades by which the error falls, less half of those of the examples",
        ),
    ),
    quick=Size(seeds=8),
    picture=Dots(values={"few": "32 examples", "many": "512 examples"}, axis="decades of the error"),
    known=(
        Known(verdict="holds", why="the variance of a mean of independent draws"),
        Known(
            verdict="does not hold",
            why="copies of one example tell no more than it",
            changes={"replaced": False},
        ),
    ),
)
