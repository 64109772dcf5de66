"""Steepest descent with exact searches turns at right angles."""

from __future__ import annotations

import torch

from thalweg.claims.claim import Claim, Known, Numbers, Size
from thalweg.claims.paths import minimizing, normal
from thalweg.claims.picture import Lines
from thalweg.claims.rules import more, near
from thalweg.secondorder import ConjugateGradientDirection, Exact, Fixed, SteepestDescentDirection
from thalweg.secondorder.minimizing import minimize
from thalweg.test_problems.surfaces.quadratic import quadratic

__all__ = ["CLAIM", "measure"]


def measure(seed: int, *, exact: bool = True, condition: float = 30.0) -> Numbers:
    """Follow steepest descent on a valley of two dimensions, and look at the angles of its way."""
    surface = quadratic(n=2, condition=condition, seed=seed)
    # from where it is slowest, a little to the side: gradients of equal size along both axes
    tilt = torch.tensor([condition, 1.0], dtype=torch.float64) * (1 + 0.1 * normal(2, seed=seed))
    start = torch.from_numpy(surface.eigenvectors) @ tilt
    path = minimizing(
        surface,
        start,
        method=SteepestDescentDirection(),
        search=Exact() if exact else Fixed(step=0.5 / condition),
        tolerance=0.0,
        max_iterations=40,
    )
    searches = minimize(
        surface, start, method=ConjugateGradientDirection(), search=Exact(), tolerance=1e-6
    ).counts.iterations
    ways = path.diff(dim=0)
    ways = ways / ways.norm(dim=1, keepdim=True)
    values = surface(path)
    return {
        "angle": (ways[1:20] * ways[:19]).sum(1).abs().max(),
        "again": (ways[2:20] * ways[:18]).sum(1).min(),
        "left": values[20] / values[0],
        "conjugate": searches,
        "value": values,
    }


CLAIM = Claim(
    title="The zig-zag of steepest descent",
    topic="second-order",
    statement="Where each search along the gradient is exact, the next direction is orthogonal to it, and in "
    "two dimensions the one after next is the first again: descent goes to and fro across a valley and "
    "progresses slowly along it, though every step has the best length.",
    sources=("O15",),
    places="N fig 8.6",
    setup="Quadratics of two dimensions with condition number 30, randomly rotated, from starts where both "
    "parts of the gradient are about equal. Cosines between successive directions, and between each and the "
    "one after next; what is left of the value after twenty searches. Conjugate gradients need two.",
    against="Directions that aren't orthogonal or don't return, or a thousandth or less of the value left.",
    about="At the end of an exact search nothing can be gained along its direction, so the new gradient has "
    "no part there; but moving along it undoes what was reached. Conjugate directions don't.",
    measure=measure,
    rule=(
        near("angle", 0.0, within=1e-6, said="largest cosine between successive directions"),
        near("again", 1.0, within=1e-6, said="cosine between a direction and the one after next, less 1"),
        more("left", 0.001, said="part of the value left after twenty searches, less a thousandth"),
    ),
    quick=Size(seeds=20),
    picture=Lines(
        curves={"value": "steepest descent"}, axis="value above the minimum", across="searches", log=True
    ),
    known=(
        Known(verdict="holds", why="the geometry of a quadratic", seeds=5),
        Known(
            verdict="does not hold",
            why="short steps end before the lowest point, and turn little",
            changes={"exact": False},
        ),
    ),
)
