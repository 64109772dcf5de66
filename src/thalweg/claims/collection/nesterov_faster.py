"""Whether Nesterov's momentum is faster than the plain kind."""

from __future__ import annotations

import itertools
import math
from functools import partial
from typing import Any

import torch
from torch import Tensor

from thalweg.claims.claim import Claim, Known, Numbers, Size
from thalweg.claims.paths import normal, walk
from thalweg.claims.picture import Dots
from thalweg.claims.rules import more
from thalweg.optim import SGD
from thalweg.test_problems.surfaces.quadratic import quadratic

__all__ = ["CLAIM", "measure"]

_GRID = tuple(itertools.product((0.5, 1.0, 2.0), (0.7, 0.8, 0.9)))


def measure(
    seed: int,
    *,
    settings: tuple[tuple[float, float], ...],
    bent: bool = False,
    nesterov: bool = True,
    steps: int = 400,
) -> Numbers:
    """Count steps to a thousandth of the distance, each at its best setting of rate times L and momentum."""
    surface = quadratic(n=10, condition=100.0, seed=seed)
    axes, curvatures = torch.from_numpy(surface.eigenvectors), torch.from_numpy(surface.eigenvalues)

    def function(x: Tensor) -> Tensor:
        return (curvatures * torch.log(torch.cosh(x @ axes))).sum() if bent else surface(x)

    start = normal(10, seed=seed)

    def needed(**options: Any) -> int:
        path = walk(partial(SGD, **options), function, start, steps).norm(dim=1)
        outside = (~(path < 1e-3 * path[0])).nonzero()
        return int(outside[-1]) + 1

    found = {}
    for name, kind in (("momentum", False), ("nesterov", nesterov)):
        found[name] = min(needed(lr=rate / 100.0, momentum=a, nesterov=kind) for rate, a in settings)
    return {**found, "gain": math.log(found["momentum"] / found["nesterov"])}


CLAIM = Claim(
    title="Nesterov's momentum is faster",
    topic="momentum",
    statement="With the gradient taken at the point that momentum leads to, steps are more accurate, and the "
    "minimum is reached sooner than with plain momentum.",
    sources=("O3", "O2"),
    places="K; S 2; C s134-140",
    setup="Ten dimensions with curvatures from 1 to L = 100, randomly rotated, from random starts: "
    "quadratics, and sums of log cosh, which flatten outwards. Steps until the distance stays below a "
    "thousandth, at the rate 1/L and momentum 0.9 for both; and each at its best of nine settings: rates of "
    "0.5, 1 and 2 over L, momentum 0.7, 0.8 and 0.9.",
    against="As many steps with Nesterov's momentum, or more.",
    about="The look-ahead damps swings along steep directions, so that at equal settings it is quicker. On a "
    "quadratic plain momentum at settings of its own has a proven rate that is no worse; what a fair "
    "comparison says depends on how both are tuned.",
    measure=measure,
    rule=(more("gain", 0.0, matters=0.02, said="logarithm of steps with plain momentum over Nesterov's"),),
    conditions={
        "quadratics, equal settings": {"settings": ((1.0, 0.9),)},
        "quadratics, each its best": {"settings": _GRID},
        "log cosh, equal settings": {"settings": ((1.0, 0.9),), "bent": True},
        "log cosh, each its best": {"settings": _GRID, "bent": True},
    },
    quick=Size(seeds=5),
    picture=Dots(
        values={"momentum": "plain momentum", "nesterov": "Nesterov's"},
        axis="steps to a thousandth of the distance",
        log=True,
    ),
    known=(
        Known(
            verdict="holds",
            why="there momentum 0.9 alone leaves 0.95 a step, the look-ahead less",
            conditions=("quadratics, equal settings",),
        ),
        Known(
            verdict="does not hold",
            why="plain momentum on both sides",
            changes={"nesterov": False},
            conditions=("quadratics, equal settings",),
        ),
    ),
)
