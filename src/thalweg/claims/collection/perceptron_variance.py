"""How much a new point turns the line of a perceptron and of descent."""

from __future__ import annotations

import torch

from thalweg.claims.claim import Claim, Known, Numbers, Size
from thalweg.claims.perceptron import Point, descent, perceptron, separable, turn
from thalweg.claims.picture import Dots
from thalweg.claims.rules import more

__all__ = ["CLAIM", "measure"]


def measure(seed: int, *, gap: float = 1.0, surprising: bool = True, steps: int = 2000) -> Numbers:
    """Train both on 40 separable points, add the one of 200 that their line is least sure of, go on."""
    generator = torch.Generator().manual_seed(seed)
    points: list[Point] = []
    while len(points) < 240:
        x, y = (2 * torch.randn(2, generator=generator)).tolist()
        if abs(x + 0.5 * y) > gap / 2:
            points.append((x, y, float(x + 0.5 * y > 0)))
    ours, rest = points[:40], points[40:]
    assert separable(points)
    line = perceptron(ours)[0]
    fitted = descent(ours, [seed], steps=steps)[0]

    def sure(point: Point, weights: torch.Tensor) -> float:
        x, y, label = point
        return (2 * label - 1) * float(weights @ torch.tensor([x, y, 1.0], dtype=torch.float64))

    pick = min if surprising else max
    turned = {}
    for name, weights in (("perceptron", line), ("descent", fitted)):
        added = [*ours, pick(rest, key=lambda point: sure(point, weights))]
        after = (
            perceptron(added, start=weights)[0]
            if name == "perceptron"
            else descent(added, [seed], steps=steps, start=weights.unsqueeze(0))[0]
        )
        turned[name] = turn(weights, after)
    return turned


CLAIM = Claim(
    title="A new point turns the perceptron's line far, and descent's little",
    topic="classifying",
    statement="A perceptron has low bias and high variance: a single new example may change its line "
    "greatly. A unit trained by descent is changed little by one example.",
    sources=("X11",),
    places="C s27-30",
    setup="Forty separable points; each method is then given, of 200 further separable ones, the one "
    "that its own line is least sure of, and goes on. The angle by which the line turns is measured.",
    against="A perceptron that turns no more than descent, in the mean.",
    about="The perceptron adds a whole point to its weights, whatever their size. Descent weighs one "
    "point against the forty others, and its line lay between the classes before.",
    measure=measure,
    rule=(more("perceptron", "descent", matters=0.5, said="degrees turned, perceptron less descent"),),
    quick=Size(seeds=40),
    full=Size(seeds=400),
    picture=Dots(
        values={"perceptron": "perceptron", "descent": "descent"}, axis="degrees by which the line turns"
    ),
    known=(
        Known(
            verdict="holds",
            why="with a narrow gap the new point is on the wrong side of the perceptron's line",
            changes={"gap": 0.2, "steps": 500},
            seeds=30,
        ),
        Known(
            verdict="does not hold",
            why="a point that is surely right corrects no perceptron",
            changes={"surprising": False, "steps": 500},
            seeds=10,
        ),
    ),
)
