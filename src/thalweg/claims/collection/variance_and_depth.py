"""Whether deeper nets vary less from one training set to another."""

from __future__ import annotations

from thalweg.claims.claim import Claim, Known, Numbers, Size
from thalweg.claims.disagreeing import disagreement
from thalweg.claims.picture import Dots
from thalweg.claims.rules import more

__all__ = ["CLAIM", "measure"]


def measure(
    seed: int, *, examples: int, shallow: int = 2, deep: int = 6, units: int = 132, updates: int = 400
) -> Numbers:
    """Disagreement of two shallow and of two deep nets, with as many units and updates."""
    epochs = max(1, updates * 32 // examples)
    return {
        name: disagreement(seed, depth=depth, units=units, examples=examples, epochs=epochs)["disagree"]
        for name, depth in (("shallow", shallow), ("deep", deep))
    }


CLAIM = Claim(
    title="Deeper nets vary less from one training set to another",
    topic="classifying",
    statement="Of nets with the same number of hidden units, the boundaries that deeper ones learn "
    "vary less from one training set to the next. The lecture calls it an anecdote.",
    sources=("X11",),
    places="C s31",
    setup="Two nets of 132 hidden units in two layers, and two in six, each trained by Adam on points "
    "of its own, above or below a wave in the plane, for 400 updates. Measured is the share of new "
    "points on which the two disagree.",
    against="Deep nets that disagree as often as shallow ones, or more often.",
    about="Layers of few units are another net than layers of many, and deep nets train less evenly "
    "by the same rule. The slide's nets have 660 units and 1,000 or 10,000 points; the full size has "
    "as many units.",
    measure=measure,
    rule=(
        more(
            "shallow",
            "deep",
            matters=0.003,
            said="share of points with different labels, two layers less six",
        ),
    ),
    conditions={"150 points": {"examples": 150}, "1,500 points": {"examples": 1500}},
    quick=Size(seeds=20),
    full=Size(seeds=40, changes={"units": 660, "updates": 3000, "deep": 10}),
    picture=Dots(
        values={"shallow": "two layers", "deep": "six layers"},
        axis="share of new points on which two nets disagree",
    ),
    known=(
        Known(
            verdict="holds",
            why="two units in one layer can't draw a wave, and draw another line each time",
            changes={"shallow": 66, "deep": 2, "updates": 60},
            conditions=("150 points",),
            seeds=5,
        ),
        Known(
            verdict="does not hold",
            why="a net is as deep as itself",
            changes={"deep": 2, "updates": 20},
            conditions=("150 points",),
            seeds=3,
        ),
    ),
)
