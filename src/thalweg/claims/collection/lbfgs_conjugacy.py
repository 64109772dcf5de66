"""The directions of L-BFGS with exact searches are conjugate on a quadratic."""

from __future__ import annotations

import torch

from thalweg.claims.claim import Claim, Known, Numbers, Size
from thalweg.claims.paths import minimizing, normal
from thalweg.claims.picture import Dots
from thalweg.claims.rules import near
from thalweg.secondorder import Backtracking, Exact, LBFGSDirection
from thalweg.test_problems.surfaces.quadratic import quadratic

__all__ = ["CLAIM", "measure"]


def measure(seed: int, *, history: int, exact: bool = True, n: int = 10) -> Numbers:
    """Look at the angles of n directions in the metric of the matrix."""
    surface = quadratic(n=n, condition=10.0, seed=seed)
    path = minimizing(
        surface,
        normal(n, seed=seed),
        method=LBFGSDirection(history=history),
        search=Exact() if exact else Backtracking(),
        tolerance=0.0,
        max_iterations=n - 1,
    )
    ways = path.diff(dim=0)
    products = ways @ torch.from_numpy(surface.matrix) @ ways.T
    scale = products.diagonal().sqrt()
    cosines = (products / scale[:, None] / scale).abs().fill_diagonal_(0.0)
    return {"worst": cosines.max(), "drawn": cosines.max().clamp(min=1e-17)}


CLAIM = Claim(
    title="L-BFGS makes conjugate directions",
    topic="second-order",
    statement="With exact line searches on a quadratic all directions of L-BFGS are mutually conjugate, "
    "whether one pair is remembered or many.",
    sources=("O12",),
    places="N",
    setup="Quadratics in ten dimensions with condition number 10, randomly rotated, from random starts. The "
    "first nine directions with one remembered pair and with ten: the largest cosine between any two, with "
    "the matrix as metric.",
    against="A cosine of more than a millionth, on average.",
    about="With exact searches L-BFGS takes the steps of conjugate gradients. Unlike those it stays useful "
    "where searches are short of exact, though the directions then aren't conjugate any more.",
    measure=measure,
    rule=(near("worst", 0.0, within=1e-6, said="largest cosine between two of the directions"),),
    conditions={"one pair": {"history": 1}, "ten pairs": {"history": 10}},
    quick=Size(seeds=20),
    picture=Dots(values={"drawn": "nine directions"}, axis="largest cosine", log=True),
    known=(
        Known(verdict="holds", why="a theorem of Nazareth"),
        Known(
            verdict="does not hold",
            why="where searches end at the first step that is low enough, it isn't so",
            changes={"exact": False},
        ),
    ),
)
