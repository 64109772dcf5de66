"""How many searches conjugate gradients need on a quadratic."""

from __future__ import annotations

import torch

from thalweg.claims.claim import Claim, Known, Numbers, Size
from thalweg.claims.paths import normal
from thalweg.claims.picture import Dots
from thalweg.claims.rules import always
from thalweg.secondorder import ConjugateGradientDirection, Exact, SteepestDescentDirection
from thalweg.secondorder.minimizing import minimize
from thalweg.test_problems.surfaces.quadratic import quadratic

__all__ = ["CLAIM", "measure"]


def measure(
    seed: int, *, condition: float, dtype: str = "float64", conjugate: bool = True, n: int = 20
) -> Numbers:
    """Count searches until the gradient is 1e-8 of that at the start (1e-3 in float32)."""
    surface = quadratic(n=n, condition=condition, seed=seed)
    start = normal(n, seed=seed).to(getattr(torch, dtype))
    steepest = (torch.from_numpy(surface.matrix) @ start.double()).abs().max()
    direction = ConjugateGradientDirection(formula="fletcher-reeves")
    found = minimize(
        surface,
        start,
        method=direction if conjugate else SteepestDescentDirection(),
        search=Exact(),
        tolerance=float(steepest) * (1e-8 if dtype == "float64" else 1e-3),
        max_iterations=500,
    )
    searches = found.counts.iterations
    return {"enough": found.converged and searches <= n, "searches": searches}


CLAIM = Claim(
    title="Conjugate gradients: at most k searches",
    topic="second-order",
    statement="On a quadratic of k dimensions the method of conjugate gradients reaches the minimum with at "
    "most k exact line searches. That is so in exact arithmetic; rounding breaks it where the condition "
    "number is large.",
    sources=("O11",),
    places="N 8.29-8.31",
    setup="Quadratics in 20 dimensions, randomly rotated, with condition numbers 10 and 1,000, from random "
    "starts, by the formula of Fletcher and Reeves. Searches until the gradient is 1e-8 of that at the start "
    "in float64, or 1e-3 of it in float32.",
    against="A run that needs more than 20.",
    about="Each search settles one direction for good, if the directions stay conjugate. Rounding errors "
    "grow with the condition number, and conjugacy is lost little by little. The method then needs some "
    "more searches, still far fewer than steepest descent.",
    measure=measure,
    rule=(always("enough", said="the minimum is reached with at most 20 searches"),),
    conditions={
        "condition number 10": {"condition": 10.0},
        "condition number 1,000": {"condition": 1e3},
        "condition number 1,000, float32": {"condition": 1e3, "dtype": "float32"},
    },
    quick=Size(seeds=20),
    picture=Dots(values={"searches": "conjugate gradients"}, axis="searches for 20 dimensions", mark=20.0),
    known=(
        Known(
            verdict="holds",
            why="a well-conditioned quadratic leaves rounding no room",
            conditions=("condition number 10",),
        ),
        Known(
            verdict="does not hold",
            why="steepest descent has no such bound",
            changes={"conjugate": False},
            conditions=("condition number 1,000",),
        ),
    ),
)
