"""Where damping has to be strong, Newton's method is slower than descent."""

from __future__ import annotations

from functools import partial

import torch

from thalweg.claims.claim import Claim, Known, Numbers
from thalweg.claims.paths import minimizing, walk
from thalweg.claims.picture import Lines
from thalweg.claims.rules import more, near
from thalweg.optim import SGD
from thalweg.secondorder import Fixed, NewtonDirection
from thalweg.test_problems.surfaces.quadratic import quadratic

__all__ = ["CLAIM", "measure"]

_LARGEST = 10.0


def measure(seed: int, *, negative: float, margin: float = 1.1, steps: int = 20) -> Numbers:
    """Damp by ``margin`` times the negative curvature, and follow the directions that rise."""
    damping = margin * negative
    surface = quadratic(eigenvalues=[-negative, 1.0, 3.0, _LARGEST], seed=None)
    start = torch.tensor([0.0, 1.0, 1.0, 1.0], dtype=torch.float64)
    newton = minimizing(
        surface,
        start,
        method=NewtonDirection(damping=damping),
        search=Fixed(),
        tolerance=0.0,
        max_iterations=steps,
    )
    descent = walk(partial(SGD, lr=2 / (1 + _LARGEST)), surface, start, steps)
    curvatures = torch.tensor([1.0, 3.0, _LARGEST], dtype=torch.float64)
    wrong = newton[1, 1:] / start[1:] - damping / (curvatures + damping)
    return {
        "wrong": wrong.abs().max(),
        "newton": newton[-1, 1:].norm().log10().clamp(min=-12),
        "descent": descent[-1, 1:].norm().log10().clamp(min=-12),
        "newton_path": newton[:, 1:].norm(dim=1),
        "descent_path": descent[:, 1:].norm(dim=1),
    }


CLAIM = Claim(
    title="Strong damping is slower than descent",
    topic="second-order",
    statement="With alpha added to the Hessian's diagonal, a Newton step leaves alpha / (lambda + alpha) of "
    "the distance along a direction of curvature lambda. Where strong negative curvature calls for a large "
    "alpha, descent with a well chosen rate is faster.",
    sources=("O9", "O10", "X12"),
    places="N 8.28",
    setup="A quadratic with curvatures 1, 3 and 10 and one of -1, -10 or -100. Alpha is 1.1 times the "
    "magnitude of the negative one, so that it is offset. After twenty steps: what is left along the rising "
    "directions, against descent at 2 / (1 + 10), in tenfolds.",
    against="Another factor than the one in closed form, or descent that leaves more.",
    about="With a large alpha the step is the gradient over alpha: descent with a rate that the negative "
    "curvature chose. Where negative curvature is weak, Newton's method keeps its advantage.",
    measure=measure,
    rule=(
        near("wrong", 0.0, within=1e-9, said="factor of the first step less alpha / (lambda + alpha)"),
        more(
            "newton",
            "descent",
            matters=0.1,
            said="distance left by Newton's method less that left by descent, in tenfolds",
        ),
    ),
    conditions={
        "negative curvature -1": {"negative": 1.0},
        "negative curvature -10": {"negative": 10.0},
        "negative curvature -100": {"negative": 100.0},
    },
    exact=True,
    picture=Lines(
        curves={"newton_path": "damped Newton", "descent_path": "descent"},
        axis="distance along the rising directions",
        across="steps",
        log=True,
    ),
    known=(
        Known(
            verdict="holds",
            why="110/111 a step against 9/11",
            conditions=("negative curvature -100",),
        ),
        Known(
            verdict="does not hold",
            why="undamped, a step leaves nothing",
            changes={"margin": 0.0},
            conditions=("negative curvature -100",),
        ),
    ),
)
