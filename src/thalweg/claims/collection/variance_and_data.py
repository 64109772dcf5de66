"""Whether nets vary less from one training set to another where these are larger."""

from __future__ import annotations

from thalweg.claims.claim import Claim, Known, Numbers, Size
from thalweg.claims.disagreeing import disagreement
from thalweg.claims.picture import Dots
from thalweg.claims.rules import more

__all__ = ["CLAIM", "measure"]


def measure(
    seed: int, *, depth: int, few: int = 150, many: int = 1500, units: int = 132, updates: int = 400
) -> Numbers:
    """Disagreement of two nets with few examples and of two with many, with as many updates."""
    return {
        name: disagreement(
            seed, depth=depth, units=units, examples=count, epochs=max(1, updates * 32 // count)
        )["disagree"]
        for name, count in (("few", few), ("many", many))
    }


CLAIM = Claim(
    title="Nets vary less from one training set to another where there are more data",
    topic="classifying",
    statement="The boundary that a net learns varies less from one training set to the next where "
    "these are larger. The lecture calls it an anecdote.",
    sources=("X11",),
    places="C s31",
    setup="Two nets of 132 hidden units, in two layers or in six, each trained by Adam for 400 "
    "updates on 150 points of its own, and two on 1,500. Measured is the share of new points on which "
    "the two disagree.",
    against="Nets of 1,500 points that disagree as often as those of 150.",
    about="Two training sets of 1,500 points tell nearly the same about the plane, two of 150 don't. "
    "What is left beside that comes from the first weights and the order of examples, which differ "
    "too.",
    measure=measure,
    rule=(more("few", "many", matters=0.002, said="share of points with different labels, 150 less 1,500"),),
    conditions={"two layers": {"depth": 2}, "six layers": {"depth": 6}},
    quick=Size(seeds=30),
    full=Size(seeds=40, changes={"units": 660, "updates": 3000, "few": 1000, "many": 10000}),
    picture=Dots(
        values={"few": "150 points", "many": "1,500 points"},
        axis="share of new points on which two nets disagree",
    ),
    known=(
        Known(
            verdict="holds",
            why="40 points can't tell where a wave runs",
            changes={"few": 40, "updates": 60},
            conditions=("two layers",),
            seeds=12,
        ),
        Known(
            verdict="does not hold",
            why="as many examples tell as much",
            changes={"many": 150, "updates": 20},
            conditions=("two layers",),
            seeds=3,
        ),
    ),
)
