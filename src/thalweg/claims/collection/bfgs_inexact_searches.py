"""Which method minds a line search that isn't exact."""

from __future__ import annotations

import math

from thalweg.claims.claim import Claim, Known, Numbers, Size
from thalweg.claims.paths import normal
from thalweg.claims.picture import Dots
from thalweg.claims.rules import more
from thalweg.secondorder import BFGSDirection, ConjugateGradientDirection, StrongWolfe
from thalweg.secondorder.directions import Direction
from thalweg.secondorder.minimizing import minimize
from thalweg.test_problems import surfaces

__all__ = ["CLAIM", "measure"]

_SURFACES = ("rosenbrock", "wood", "chained-rosenbrock", "trigonometric", "beale", "helical-valley")


def measure(
    seed: int,
    *,
    loose: float = 0.9,
    other: str = "polak-ribiere",
    most: int = 1000,
    names: tuple[str, ...] = _SURFACES,
) -> Numbers:
    """Count steps with a loose search over those with a tight one; mean over surfaces, in tenfolds."""
    methods: dict[str, Direction] = {
        "bfgs": BFGSDirection(),
        "cg": BFGSDirection() if other == "bfgs" else ConjugateGradientDirection(formula="polak-ribiere"),
    }
    found = {"bfgs": 0.0, "cg": 0.0}
    for name in names:
        surface = surfaces.get(name)
        start = surface.initial()
        start = start + 0.1 * start.abs().clamp(min=0.1) * normal(surface.n, seed=seed)
        for method, direction in methods.items():
            for c2, sign in ((loose, 1), (0.001, -1)):
                solution = minimize(
                    surface,
                    start,
                    method=direction,
                    search=StrongWolfe(c2=c2),
                    tolerance=1e-5,
                    max_iterations=most,
                )
                found[method] += sign * math.log10(solution.counts.iterations) / len(names)
    return {**found}


CLAIM = Claim(
    title="BFGS depends less on exact searches",
    topic="second-order",
    statement="Where line searches end far from the exact minimum along their lines, conjugate gradients "
    "need more additional steps than BFGS does.",
    sources=("O12", "O11", "O14"),
    places="N",
    setup="Six surfaces from starts around the usual: steps until the gradient is 1e-5 with a loose search "
    "(slope reduced to 0.9 of that at the start) over those with a nearly exact one (0.001), for BFGS and "
    "for conjugate gradients by Polak and Ribiere's formula. Means over the surfaces of logarithms.",
    against="No larger ratio for conjugate gradients than for BFGS.",
    about="BFGS learns curvature from any step that is long enough; a conjugate direction is conjugate only "
    "if the search before it was exact. So the usual constant is 0.1 for the one and 0.9 for the other.",
    measure=measure,
    rule=(
        more(
            "cg",
            "bfgs",
            matters=0.02,
            said="tenfolds of steps that a loose search adds to conjugate gradients, less those to BFGS",
        ),
    ),
    quick=Size(seeds=10),
    picture=Dots(
        values={"bfgs": "BFGS", "cg": "conjugate gradients"},
        axis="steps with a loose search over those with a tight one (logarithm to base 10)",
        mark=0.0,
    ),
    known=(
        Known(
            verdict="holds",
            why="without any search worth the name directions are conjugate to nothing",
            changes={"names": ("rosenbrock",), "loose": 0.99, "most": 200},
            seeds=6,
        ),
        Known(
            verdict="does not hold",
            why="BFGS on both sides",
            changes={"other": "bfgs", "names": ("rosenbrock", "beale")},
        ),
    ),
)
