"""How long a step along Newton's direction may be."""

from __future__ import annotations

import itertools
from typing import Literal

from thalweg.claims.claim import Claim, Known, Numbers, Size
from thalweg.claims.paths import minimizing, normal
from thalweg.claims.picture import Lines
from thalweg.claims.rules import always
from thalweg.secondorder import Fixed, NewtonDirection, SteepestDescentDirection
from thalweg.test_problems.surfaces.quadratic import quadratic

__all__ = ["CLAIM", "measure"]


def measure(
    seed: int, *, step: float, direction: Literal["newton", "gradient"] = "newton", steps: int = 60
) -> Numbers:
    """Take so many steps, and compare each with the factor ``1 - step``."""
    surface = quadratic(n=5, condition=1000.0, seed=seed)
    start = normal(5, seed=seed)
    path = minimizing(
        surface,
        start,
        method=NewtonDirection() if direction == "newton" else SteepestDescentDirection(),
        search=Fixed(step=step),
        tolerance=0.0,
        max_iterations=steps,
    )
    wrong = [float((b - (1 - step) * a).norm() / (a.norm() + 1e-9)) for a, b in itertools.pairwise(path)]
    moved = float(path[-1].norm() / start.norm())
    return {
        "as_said": max(wrong[:20]) < 1e-6,
        "arrives": moved < 0.01 if step < 2 else moved > 100,
        "distance": path.norm(dim=1).clamp(1e-15, 1e15),
    }


CLAIM = Claim(
    title="Newton's step times less than two",
    topic="second-order",
    statement="Along Newton's direction a quadratic of any shape behaves as one of curvature 1: the step 1 "
    "is best, below 2 it converges, above 2 it diverges.",
    sources=("O9", "O16"),
    places="C s80, s96",
    setup="Quadratics in five dimensions with condition number 1,000, randomly rotated, from random starts. "
    "Sixty steps of 0.5, 1, 1.9 and 2.1 times Newton's. Each must multiply the whole distance by one minus "
    "that; in the end it must have shrunk to a hundredth, or grown a hundredfold above 2.",
    against="Another factor, or another end.",
    about="The same four behaviours as in one dimension, with no direction that is steeper than the others. "
    "For plain descent the bound is 2 over the largest curvature, here 500 times smaller.",
    measure=measure,
    rule=(
        always("as_said", said="each step multiplies the distance by one minus its length"),
        always("arrives", said="converges below two, and diverges above"),
    ),
    conditions={
        "0.5: monotone": {"step": 0.5},
        "1: at once": {"step": 1.0},
        "1.9: oscillates": {"step": 1.9},
        "2.1: diverges": {"step": 2.1},
    },
    quick=Size(seeds=10),
    picture=Lines(
        curves={"distance": "distance"}, axis="distance from the minimum", across="steps", log=True
    ),
    known=(
        Known(verdict="holds", why="the algebra of a quadratic", seeds=2),
        Known(
            verdict="does not hold",
            why="along the gradient 1.9 is far above the bound",
            changes={"direction": "gradient", "steps": 20},
            conditions=("1.9: oscillates",),
        ),
    ),
)
