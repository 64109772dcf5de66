"""Newton's method goes to saddles, and what keeps it from them."""

from __future__ import annotations

from torch import Tensor

from thalweg.claims.claim import Claim, Known, Numbers, Size
from thalweg.claims.paths import curvatures, normal
from thalweg.claims.picture import Dots
from thalweg.claims.rules import always, share
from thalweg.secondorder import Fixed, NewtonDirection, StrongWolfe
from thalweg.secondorder.minimizing import minimize
from thalweg.test_problems.surfaces.quadratic import quadratic

__all__ = ["CLAIM", "measure"]


def measure(seed: int, *, saddle: bool = True) -> Numbers:
    """Start near a saddle, or a minimum, and look where each method ends."""
    falling = [-1.0, -2.0] if saddle else [1.0, 2.0]
    surface = quadratic(eigenvalues=[*falling, 1.0, 2.0, 4.0, 8.0], seed=seed)

    def function(x: Tensor) -> Tensor:
        return surface(x) + (x**4).sum() / 4

    start = 0.3 * normal(6, seed=seed)
    found: dict[str, float | bool] = {}
    for name, direction, search in (
        ("whole", NewtonDirection(), Fixed()),
        ("loaded", NewtonDirection(damping=4.0), Fixed()),
        ("modified", NewtonDirection(modified=True), StrongWolfe()),
    ):
        end = minimize(function, start, method=direction, search=search, max_iterations=200)
        found[name] = float(curvatures(function, end.x)[0])
        found[name + "_arrived"] = end.converged
    return {
        **found,
        "at_saddle": found["whole"] < 0 and found["whole_arrived"],
        "cured": found["loaded"] > 0 and found["modified"] > 0,
    }


CLAIM = Claim(
    title="Newton's method goes to saddles, and damping cures it",
    topic="second-order",
    statement="Near a saddle Newton's whole steps lead to the saddle, as a rule, instead of down. With a "
    "constant added to the Hessian's diagonal that is larger than the most negative curvature, or with "
    "curvatures taken by their magnitude, it goes to a minimum.",
    sources=("O9", "O10", "X3"),
    places="N 8.28; C s93-94",
    setup="A quadratic with curvatures -2, -1, 1, 2, 4 and 8, randomly rotated, plus a quarter of the fourth "
    "powers of the coordinates, so that there are minima; from random starts near the saddle. Whole steps, "
    "steps with 4 added to the diagonal, and modified curvatures with a line search.",
    against="Fewer than half of the runs with whole steps ending at a point with negative curvature, or one "
    "damped or modified run that doesn't end at a minimum.",
    about="Newton's step leads to where the gradient of the quadratic model is zero, and to the model a "
    "saddle is as good as a minimum. How much must be added depends on the most negative curvature, which "
    "is seldom known; magnitudes need an eigendecomposition, but nothing to choose.",
    measure=measure,
    rule=(
        share("at_saddle", above=0.5, said="whole steps end at a saddle"),
        always("cured", said="damped and modified steps end at a minimum"),
    ),
    quick=Size(seeds=20),
    picture=Dots(
        values={
            "whole": "whole steps",
            "loaded": "4 added to the diagonal",
            "modified": "magnitudes of curvatures",
        },
        axis="smallest curvature where it ends",
        mark=0.0,
    ),
    known=(
        Known(
            verdict="holds",
            why="to second order the step from near the saddle ends at it",
            seeds=10,
        ),
        Known(
            verdict="does not hold",
            why="without falling directions the function is convex and has no saddle",
            changes={"saddle": False},
            seeds=10,
        ),
    ),
)
