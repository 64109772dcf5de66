"""A large condition number makes descent slow, and scaling the axes cures it."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from thalweg.claims.claim import Claim, Known, Numbers, Size
from thalweg.claims.paths import normal
from thalweg.claims.picture import Lines
from thalweg.claims.rules import always
from thalweg.secondorder import Fixed, SteepestDescentDirection
from thalweg.secondorder.minimizing import minimize
from thalweg.secondorder.newton import NormalizedDirection
from thalweg.test_problems.surfaces.quadratic import quadratic

__all__ = ["CLAIM", "measure"]

_CONDITIONS = (3.0, 10.0, 30.0, 100.0, 300.0)


def measure(
    seed: int,
    *,
    rotated: bool,
    scaling: Literal["axes", "matrix"],
    plain: Literal["descent", "scaled"] = "descent",
) -> Numbers:
    """Count steps at each method's best fixed rate, until the gradient is 1e-4, by condition."""
    steps: dict[str, list[float]] = {"plain": [], "scaled": []}
    for condition in _CONDITIONS:
        surface = quadratic(n=4, condition=condition, seed=seed if rotated else None)
        matrix = torch.from_numpy(surface.matrix)
        scale = torch.diag(matrix.diagonal()) if scaling == "axes" else matrix
        start = torch.linalg.solve(matrix, normal(4, seed=seed))
        for name, used in (("plain", None if plain == "descent" else scale), ("scaled", scale)):
            found = minimize(
                surface,
                start,
                method=SteepestDescentDirection() if used is None else NormalizedDirection(used),
                search=Fixed(step=_best_rate(matrix, used)),
                tolerance=1e-4,
                max_iterations=20_000,
            )
            steps[name].append(found.counts.iterations)
    return {
        "grow": steps["plain"][-1] / steps["plain"][0] > (_CONDITIONS[-1] / _CONDITIONS[0]) ** 0.8,
        "cured": max(steps["scaled"]) <= 2,
        "condition": list(_CONDITIONS),
        **steps,
    }


def _best_rate(matrix: Tensor, scale: Tensor | None) -> float:
    seen = matrix if scale is None else torch.linalg.solve(scale, matrix)
    curvatures = torch.linalg.eigvals(seen).real
    return float(2 / (curvatures.min() + curvatures.max()))


CLAIM = Claim(
    title="A large condition number is slow, and scaling cures it",
    topic="convergence",
    statement="The steps that descent needs grow in proportion to the condition number, even at the best "
    "learning rate. In coordinates scaled so that all curvatures are equal it needs one. Scaling each axis "
    "does that where the quadratic's axes are those of the coordinates; else its whole matrix is needed.",
    sources=("X9", "O16"),
    places="C s54, s65-80; S",
    setup="Quadratics in four dimensions with condition numbers from 3 to 300, along the axes or randomly "
    "rotated, from random starts until the gradient is 1e-4. Descent at its best fixed rate, "
    "2 / (largest + smallest curvature), against the same with each axis scaled by its own curvature, or "
    "with A^-1.",
    against="Steps that grow by less than the power 0.8 of the condition number, or more than two steps "
    "after scaling.",
    about="The whole matrix is Newton's method, and needs an inverse. Scaling axis by axis is what methods "
    "with a rate for each parameter do; a rotation is enough to take most of its help away.",
    measure=measure,
    rule=(
        always("grow", said="steps grow by at least the power 0.8 of the condition number"),
        always("cured", said="after scaling at most two steps at every condition number"),
    ),
    conditions={
        "along the axes, each scaled": {"rotated": False, "scaling": "axes"},
        "rotated, each axis scaled": {"rotated": True, "scaling": "axes"},
        "rotated, scaled by the matrix": {"rotated": True, "scaling": "matrix"},
    },
    quick=Size(seeds=3),
    picture=Lines(
        curves={"plain": "descent", "scaled": "scaled"},
        axis="steps",
        across="condition number",
        x="condition",
        log=True,
        log_x=True,
    ),
    known=(
        Known(
            verdict="holds",
            why="the algebra of a quadratic",
            conditions=("along the axes, each scaled", "rotated, scaled by the matrix"),
            seeds=1,
        ),
        Known(
            verdict="does not hold",
            why="where descent is scaled too, its steps don't grow",
            changes={"plain": "scaled"},
            conditions=("rotated, scaled by the matrix",),
            seeds=1,
        ),
    ),
)
