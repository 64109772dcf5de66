"""How fast descent is where curvature has bounds on both sides."""

from __future__ import annotations

import itertools
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from thalweg.claims.claim import Claim, Known, Numbers, Size
from thalweg.claims.paths import normal, walk
from thalweg.claims.picture import Lines
from thalweg.claims.rules import always
from thalweg.optim import SGD
from thalweg.test_problems.surfaces.quadratic import quadratic

__all__ = ["CLAIM", "measure"]


def measure(
    seed: int, *, kind: Literal["quadratic", "smooth", "kinked"], power: float = 2.0, steps: int = 300
) -> Numbers:
    """Descend at the best rate for curvatures from 1 to 30, and compare each step with the bound."""
    surface = quadratic(n=5, condition=30.0, seed=seed)
    curvatures, axes = (torch.from_numpy(each) for each in (surface.eigenvalues, surface.eigenvectors))

    def function(x: Tensor) -> Tensor:
        along = x @ axes
        if kind == "quadratic":
            return (curvatures * along.abs() ** power / power).sum()
        rest = torch.log(torch.cosh(along)) if kind == "smooth" else along.abs()
        return (along**2 / 2 + (curvatures - 1) * rest).sum()

    path = walk(partial(SGD, lr=2 / (30.0 + 1.0)), function, normal(5, seed=seed), steps)
    distances = [each for each in path.norm(dim=1).tolist() if each > 1e-9]
    factors = [after / before for before, after in itertools.pairwise(distances)]
    bound = (30.0 - 1.0) / (30.0 + 1.0)
    return {
        "kept": all(each <= bound * (1 + 1e-6) for each in factors),
        "distance": distances,
        "proven": [distances[0] * bound**k for k in range(len(distances))],
    }


CLAIM = Claim(
    title="A constant factor at every step",
    topic="convergence",
    statement="On a strongly convex function of curvatures from m to L, descent at the rate 2 / (L + m) "
    "multiplies the distance from the minimum by at most (L - m) / (L + m) at every step. The lecture asks "
    "for the bound from below alone; without that from above the statement isn't true.",
    sources=("X9",),
    places="C s40, s55-62",
    setup="Five dimensions, randomly rotated, from random starts, m = 1 and L = 30. Quadratics; sums of "
    "log cosh and x^2 / 2, whose curvature lies between m and L; and x^2 / 2 with an absolute value, which "
    "has m and no L. Every step until the distance is at the level of rounding.",
    against="One step, in any run, that multiplies the distance by more than the bound.",
    about="What is proven is a bound: most steps are shorter of the minimum than it says. A kink in the "
    "function has infinite curvature; there a fixed rate jumps to and fro, however strongly convex the "
    "function is.",
    measure=measure,
    rule=(always("kept", said="no step is above the proven factor"),),
    conditions={
        "quadratic": {"kind": "quadratic"},
        "strongly convex and smooth": {"kind": "smooth"},
        "strongly convex with a kink": {"kind": "kinked"},
    },
    quick=Size(seeds=10),
    picture=Lines(
        curves={"distance": "measured", "proven": "the bound"},
        axis="distance from the minimum",
        across="steps",
        log=True,
    ),
    known=(
        Known(
            verdict="holds",
            why="it is a theorem where curvature has both bounds",
            conditions=("quadratic", "strongly convex and smooth"),
        ),
        Known(
            verdict="does not hold",
            why="a quartic has no curvature at its minimum",
            changes={"power": 4.0},
            conditions=("quadratic",),
        ),
    ),
)
