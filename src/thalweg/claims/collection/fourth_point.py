"""A fourth point far away, which descent doesn't see."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from thalweg.claims.claim import Claim, Known, Size
from thalweg.claims.perceptron import descent, perceptron, separates
from thalweg.claims.picture import Dots
from thalweg.claims.rules import always, share

__all__ = ["CLAIM", "measure"]


def measure(seeds: Sequence[int], *, far: float, steps: int = 4000) -> list[dict[str, Any]]:
    """Train both on three points and one at (0, -far)."""
    points = [(1.0, 0.0, 1.0), (0.0, 1.0, 1.0), (-1.0, 0.0, 0.0), (0.0, -far, 1.0)]
    line, corrections = perceptron(points)
    found = [separates(each, points) for each in descent(points, seeds, steps=steps)]
    return [
        {
            "perceptron": separates(line, points),
            "descent": each,
            "failed": not each,
            "corrections": corrections,
        }
        for each in found
    ]


CLAIM = Claim(
    title="A fourth point far away: descent fails where the perceptron doesn't",
    topic="classifying",
    statement="A fourth point far away leaves three points separable from it by a line. The "
    "perceptron finds such a line; descent on the squared loss of a logistic unit ends nearly always "
    "at a line that has it wrong, since its gradient vanishes there.",
    sources=("X11",),
    places="C s15-20",
    setup="The points (1, 0), (0, 1) and (0, -t) of one class and (-1, 0) of the other, at t = 10, "
    "100 and 1,000. Descent as for three points, 400 draws of the first weights.",
    against="Descent that separates the points in half of the draws or more, or a perceptron that doesn't.",
    about="The gradient of the far point falls exponentially in t, but a start that has it right by "
    "chance is held there by the same point, whose gradient on the border is proportional to t. Both "
    "effects are in what is measured. The perceptron needs about t corrections.",
    measure=measure,
    rule=(
        always("perceptron", said="the perceptron separates"),
        share("failed", above=0.5, said="descent has a point wrong"),
    ),
    conditions={"t = 10": {"far": 10.0}, "t = 100": {"far": 100.0}, "t = 1,000": {"far": 1000.0}},
    quick=Size(seeds=400),
    full=Size(seeds=2000, changes={"steps": 40000}),
    picture=Dots(
        values={"perceptron": "perceptron", "descent": "descent"}, axis="share of draws that are separated"
    ),
    known=(
        Known(
            verdict="holds",
            why="from so far away not even a start that has it right stays",
            changes={"far": 1e4},
            conditions=("t = 1,000",),
            seeds=40,
        ),
        Known(
            verdict="does not hold",
            why="a point beside another of its class is no burden",
            changes={"far": -1.5},
            conditions=("t = 10",),
            seeds=40,
        ),
    ),
)
