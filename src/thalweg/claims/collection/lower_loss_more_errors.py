"""The least loss isn't the fewest errors."""

from __future__ import annotations

import torch

from thalweg.claims.claim import Claim, Known, Numbers, Size
from thalweg.claims.picture import Dots
from thalweg.claims.rules import share
from thalweg.secondorder.minimizing import minimize

__all__ = ["CLAIM", "measure"]


def measure(seed: int, *, examples: int = 60, distance: float = 1.5) -> Numbers:
    """Errors of the line with the least logistic loss, and of the best line through two of the points."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(examples).remainder(2).double()
    inputs = torch.randn(examples, 2, generator=generator).double()
    inputs[:, 0] += distance * (labels - 0.5)
    inputs = torch.cat([inputs, torch.ones(examples, 1).double()], dim=1)

    def loss(weights: torch.Tensor) -> torch.Tensor:
        # the penalty gives separable data a minimum, and is too weak to move any other
        fitted = torch.nn.functional.binary_cross_entropy_with_logits(inputs @ weights, labels)
        return fitted + 1e-6 * weights.square().sum()

    weights = minimize(loss, torch.zeros(3).double(), method="lbfgs").x
    wrong = int(((inputs @ weights > 0) != (labels > 0)).sum())
    first, second = torch.triu_indices(examples, examples, offset=1)
    lines = torch.linalg.cross(inputs[first], inputs[second])
    # a line through two points, turned a little either way, has them on any sides
    sides = (lines @ inputs.T > 0) != (labels > 0)
    others = torch.ones_like(sides)
    pairs = torch.arange(len(lines))
    others[pairs, first] = others[pairs, second] = False
    counted = (sides & others).sum(1)
    fewest = int(torch.minimum(counted, (~sides & others).sum(1)).min())
    return {"loss": wrong, "fewest": min(fewest, wrong), "differ": wrong > fewest}


CLAIM = Claim(
    title="The line of least loss makes more errors than another line",
    topic="classifying",
    statement="The loss that is minimized stands in for the number of errors, which has no gradient. "
    "Minimizing it need not minimize the errors.",
    sources=("X13",),
    places="C s10-11",
    setup="Sixty points of two overlapping clouds in the plane. The line of least logistic loss is "
    "found by L-BFGS; of all lines through two points, each turned a little either way, the one with "
    "the fewest errors is counted.",
    against="A line of least loss that has the fewest possible errors in half of the draws or more.",
    about="It is about the data that are trained on: how well either line does on new data is another "
    "question, and the one of fewest errors is fitted to its sixty points.",
    measure=measure,
    rule=(share("differ", above=0.5, said="another line makes fewer errors"),),
    quick=Size(seeds=60),
    full=Size(seeds=400),
    picture=Dots(
        values={"loss": "least loss", "fewest": "fewest errors"}, axis="errors among 60 training examples"
    ),
    known=(
        Known(
            verdict="holds", why="random labels leave much to a search", changes={"distance": 0.0}, seeds=40
        ),
        Known(
            verdict="does not hold",
            why="clouds far apart are separated by both",
            changes={"distance": 12.0},
            seeds=20,
        ),
    ),
)
