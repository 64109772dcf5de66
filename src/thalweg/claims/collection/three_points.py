"""Three points that both the perceptron and descent separate."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from thalweg.claims.claim import Claim, Known, Size
from thalweg.claims.perceptron import descent, perceptron, separates
from thalweg.claims.picture import Dots
from thalweg.claims.rules import always, share

__all__ = ["CLAIM", "measure"]

_POINTS = ((1.0, 0.0, 1.0), (0.0, 1.0, 1.0), (-1.0, 0.0, 0.0))


def measure(
    seeds: Sequence[int], *, more: Sequence[Sequence[float]] = (), steps: int = 4000
) -> list[dict[str, Any]]:
    """Train both on the points, and on ``more``: x, y, class."""
    points = [*_POINTS, *(tuple(each) for each in more)]
    found = descent(points, seeds, steps=steps)
    line, rounds = perceptron(points)
    return [
        {"perceptron": separates(line, points), "descent": separates(each, points), "rounds": rounds}
        for each in found
    ]


CLAIM = Claim(
    title="Three points: perceptron and descent both separate them",
    topic="classifying",
    statement="On three points in the plane, the perceptron rule finds a line without error, and so does "
    "gradient descent on the squared loss of a logistic unit.",
    sources=("X11",),
    places="C s12-14",
    setup="The points (1, 0) and (0, 1) of one class and (-1, 0) of the other. Descent at the rate 1 "
    "for 4,000 steps from random weights, targets 0.99 and 0.01; the perceptron until it makes no "
    "error.",
    against="Weights from which descent ends with a point on the wrong side, in more than a tenth of draws.",
    about="The three equations that put each point at its target have one solution, and descent finds "
    "it. It is the beginning of the example that goes on with a fourth point.",
    measure=measure,
    rule=(
        always("perceptron", said="the perceptron separates"),
        share("descent", above=0.9, said="descent separates"),
    ),
    quick=Size(seeds=100),
    picture=Dots(values={"perceptron": "perceptron", "descent": "descent"}, axis="separated (1) or not (0)"),
    known=(
        Known(verdict="holds", why="one solution of three equations", seeds=60, changes={"steps": 2000}),
        Known(
            verdict="does not hold",
            why="two points in one place with different classes can't be separated",
            changes={"more": [[1.0, 0.0, 0.0]], "steps": 200},
        ),
    ),
)
