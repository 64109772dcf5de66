"""A spoiler: one more point that a line could satisfy, and descent doesn't."""

from __future__ import annotations

import torch

from thalweg.claims.claim import Claim, Known, Numbers, Size
from thalweg.claims.perceptron import Point, descent, perceptron, separable, separates
from thalweg.claims.picture import Dots
from thalweg.claims.rules import always, share

__all__ = ["CLAIM", "measure"]


def measure(
    seed: int, *, longest: float | None, beside: float = 2.0, far: float = 30.0, steps: int = 4000
) -> Numbers:
    """Train both on two clouds of 20 points at (2, 0) and (-2, 0), and one more at (-beside, far)."""
    generator = torch.Generator().manual_seed(seed)
    points: list[Point] = []
    for place, label in ((2.0, 1.0), (-2.0, 0.0)):
        cloud = 0.5 * torch.randn(20, 2, generator=generator) + torch.tensor([place, 0.0])
        points += [(float(x), float(y), label) for x, y in cloud]
    with_spoiler = [*points, (-beside, far, 1.0)]
    line, _ = perceptron(with_spoiler)
    ours = descent(with_spoiler, [seed], steps=steps, longest=longest)[0]
    return {
        "separable": separable(with_spoiler),
        "perceptron": separates(line, with_spoiler),
        "descent": separates(ours, with_spoiler),
        "failed": not separates(ours, with_spoiler),
        "without": separates(descent(points, [seed], steps=steps, longest=longest)[0], points),
    }


CLAIM = Claim(
    title="Spoilers: one more point, and descent no longer separates",
    topic="classifying",
    statement="Two clouds are separated by perceptron and descent alike. With one more point, such "
    "that a line still separates all, the perceptron finds it, and descent on the squared loss, its "
    "weights bounded, doesn't.",
    sources=("X11",),
    places="C s21-26",
    setup="Two clouds of 20 points around (2, 0) and (-2, 0), and a point of the first class at (-2, "
    "30): above the other cloud, and separable from it by a line that leans. Descent for 4,000 steps "
    "at the rate 1, with free weights and with weights of norm at most 2.",
    against="Descent that separates all in half of the draws or more.",
    about="One point in 41 changes the loss by little, so that descent has little reason to lean its "
    "line. With free weights the loss can always be lowered by separating everything, if a way leads "
    "there; a bound on the weights takes that away. The slides say that weights are bounded.",
    measure=measure,
    rule=(
        always("separable", said="a line separates all"),
        always("perceptron", said="the perceptron separates"),
        share("without", above=0.5, said="descent separates without the spoiler"),
        share("failed", above=0.5, said="descent fails with it"),
    ),
    conditions={"free weights": {"longest": None}, "weights of norm at most 2": {"longest": 2.0}},
    quick=Size(seeds=200),
    full=Size(seeds=400, changes={"steps": 40000}),
    picture=Dots(
        values={"without": "descent, no spoiler", "descent": "descent, spoiler", "perceptron": "perceptron"},
        axis="share of draws that are separated",
    ),
    known=(
        Known(
            verdict="holds",
            why="in so short a vector every point counts alike, and 40 outvote one that isn't far away",
            conditions=("weights of norm at most 2",),
            changes={"longest": 0.05, "beside": 1.5, "far": 2.5, "steps": 500},
            seeds=20,
        ),
        Known(
            verdict="does not hold",
            why="a point in the midst of its own cloud spoils nothing",
            changes={"beside": -2.0, "far": 0.0, "steps": 1000},
            seeds=20,
        ),
    ),
)
