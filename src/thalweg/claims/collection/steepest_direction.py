"""The steepest direction alone decides how large a learning rate may be."""

from __future__ import annotations

from functools import partial
from typing import Literal

import torch

from thalweg.claims.claim import Claim, Known, Numbers, Size
from thalweg.claims.paths import normal, walk
from thalweg.claims.picture import Lines
from thalweg.claims.rules import always
from thalweg.optim import SGD
from thalweg.test_problems.surfaces.quadratic import quadratic

__all__ = ["CLAIM", "measure"]


def measure(seed: int, *, bound: Literal["steepest", "mean"] = "steepest", steps: int = 600) -> Numbers:
    """Descend a rotated quadratic at 0.95 and at 1.05 times the bound, and look along its axes."""
    surface = quadratic(n=6, condition=100.0, seed=seed)
    curvatures = torch.from_numpy(surface.eigenvalues)
    limit = 2 / float(curvatures.max() if bound == "steepest" else curvatures.mean())
    start = torch.from_numpy(surface.eigenvectors) @ normal(6, seed=seed)
    below, above = (
        walk(partial(SGD, lr=times * limit), surface, start, taken) @ torch.from_numpy(surface.eigenvectors)
        for times, taken in ((0.95, steps), (1.05, 150))
    )
    turned = (below[1:10] * below[:9] < 0).all(0)
    return {
        "arrives": below[-1].norm() < 1e-3 * below[0].norm(),
        "leaves": above[-1].norm() > 1e3 * above[0].norm(),
        "others_shrink": bool((above[-1, :-1].abs() <= above[0, :-1].abs()).all()),
        "oscillates_there": bool((turned == (0.95 * limit * curvatures > 1)).all()),
        "below": below.norm(dim=1)[:151],
        "above": above.norm(dim=1),
    }


CLAIM = Claim(
    title="The steepest direction limits the learning rate",
    topic="convergence",
    statement="With one learning rate for all directions, descent converges below 2 over the largest "
    "curvature and diverges above, whatever the other curvatures are. It oscillates in those directions "
    "whose own best rate is smaller than the one used.",
    sources=("X9", "O1"),
    places="C s45-54",
    setup="Quadratics in six dimensions with curvatures from 1 to 100, randomly rotated, from random starts: "
    "600 steps at 0.95 times the bound and 150 at 1.05 times. Steps are looked at along the eigenvectors.",
    against="Convergence above the bound or divergence below it, a shallower direction that grows, or "
    "oscillation in other directions than those said.",
    about="Along each eigenvector descent is a problem of one dimension, with a best rate of its own. The "
    "rate for all of them has to suit the steepest, and is then a hundredth of what the shallowest could "
    "take.",
    measure=measure,
    rule=(
        always("arrives", said="at 0.95 times the bound the distance falls to a thousandth"),
        always("leaves", said="at 1.05 times it grows a thousandfold"),
        always("others_shrink", said="there all directions but the steepest shrink"),
        always("oscillates_there", said="directions oscillate where the rate is above their best"),
    ),
    quick=Size(seeds=10),
    picture=Lines(
        curves={"below": "0.95 times the bound", "above": "1.05 times"},
        axis="distance from the minimum",
        across="steps",
        log=True,
    ),
    known=(
        Known(verdict="holds", why="the algebra of one step, direction by direction"),
        Known(
            verdict="does not hold",
            why="the mean of the curvatures is below a third of the largest",
            changes={"bound": "mean"},
        ),
    ),
)
