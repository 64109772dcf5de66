"""Newton's method ends on a quadratic after one step."""

from __future__ import annotations

import torch

from thalweg.claims.claim import Claim, Known, Numbers, Size
from thalweg.claims.paths import normal
from thalweg.claims.picture import Dots
from thalweg.claims.rules import always
from thalweg.secondorder import Fixed, NewtonDirection, SteepestDescentDirection
from thalweg.secondorder.minimizing import minimize
from thalweg.test_problems import surfaces

__all__ = ["CLAIM", "measure"]


def measure(seed: int, *, condition: float, surface: str = "quadratic") -> Numbers:
    """Take one step of Newton's method, and one of descent at its best rate."""
    options = {"n": 10, "condition": condition, "seed": seed, "centre": 1.0}
    function = surfaces.get(surface, **(options if surface == "quadratic" else {}))
    minimum = torch.tensor(function.minima[0].x, dtype=torch.float64)
    start = minimum + normal(function.n, seed=seed)
    before = (start - minimum).norm()
    left = {}
    for name, direction, rate in (
        ("newton", NewtonDirection(), 1.0),
        ("descent", SteepestDescentDirection(), 2 / (1 + condition)),
    ):
        found = minimize(function, start, method=direction, search=Fixed(step=rate), max_iterations=1)
        left[name] = float((found.x - minimum).norm() / before)
    return {"there": left["newton"] < 1e-6, "newton": max(left["newton"], 1e-17), "descent": left["descent"]}


CLAIM = Claim(
    title="Newton's one step on a quadratic",
    topic="second-order",
    statement="On a quadratic with a positive definite matrix Newton's step leads to the minimum at once, "
    "from anywhere and whatever the condition number.",
    sources=("O9", "X9"),
    places="N 8.27; C s42, s80; S",
    setup="Quadratics in ten dimensions, randomly rotated, with condition numbers 10, 1,000 and 1e6, from "
    "random starts. What one whole step leaves of the distance must be below a millionth.",
    against="A run that is left with more.",
    about="What is left is rounding, which the condition number multiplies. Each step costs a Hessian and a "
    "system of equations; that a function is a quadratic is known only near its minimum.",
    measure=measure,
    rule=(always("there", said="one step leaves less than a millionth of the distance"),),
    conditions={
        "condition number 10": {"condition": 10.0},
        "condition number 1,000": {"condition": 1e3},
        "condition number 1e6": {"condition": 1e6},
    },
    quick=Size(seeds=10),
    picture=Dots(
        values={"newton": "Newton", "descent": "descent at its best rate"},
        axis="part of the distance that is left after one step",
        log=True,
    ),
    known=(
        Known(verdict="holds", why="it solves the equations of the minimum"),
        Known(
            verdict="does not hold",
            why="Rosenbrock's valley is no quadratic",
            changes={"surface": "rosenbrock"},
            conditions=("condition number 10",),
        ),
    ),
)
