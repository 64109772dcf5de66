"""Whether conjugate gradients have to be reset where the function is no quadratic."""

from __future__ import annotations

import math
from typing import Literal

from thalweg.claims.claim import Claim, Known, Numbers, Size
from thalweg.claims.paths import normal
from thalweg.claims.picture import Dots
from thalweg.claims.rules import more
from thalweg.secondorder import ConjugateGradientDirection, Exact, StrongWolfe
from thalweg.secondorder.minimizing import minimize
from thalweg.test_problems import surfaces

__all__ = ["CLAIM", "measure"]

_SURFACES = ("rosenbrock", "wood", "chained-rosenbrock", "extended-powell-singular", "trigonometric", "beale")


def measure(
    seed: int,
    *,
    formula: Literal["fletcher-reeves", "polak-ribiere"],
    every: int = 5,
    names: tuple[str, ...] = _SURFACES,
) -> Numbers:
    """Count evaluations without and with a reset every so many steps; mean over surfaces, in tenfolds."""
    spent = {"never": 0.0, "reset": 0.0}
    for name in names:
        options = {"n": 20, "condition": 100.0, "seed": seed} if name == "quadratic" else {}
        surface = surfaces.get(name, **options)
        start = surface.initial()
        start = start + 0.1 * start.abs().clamp(min=0.1) * normal(surface.n, seed=seed)
        for kind, reset in (("never", None), ("reset", every)):
            found = minimize(
                surface,
                start,
                method=ConjugateGradientDirection(formula=formula, reset=reset),
                search=Exact() if name == "quadratic" else StrongWolfe(c2=0.1),
                tolerance=1e-5,
                max_evaluations=2000,
            )
            spent[kind] += math.log10(found.counts.evaluations) / len(names)
    return {**spent}


CLAIM = Claim(
    title="Conjugate gradients need resets",
    topic="second-order",
    statement="On functions that aren't quadratic directions don't stay conjugate; going back to the plain "
    "gradient now and then, every five steps say, makes conjugate gradients reach the minimum sooner.",
    sources=("O11",),
    places="N Alg 8.9",
    setup="Six surfaces (Rosenbrock's and its chain of ten, Wood's, Powell's singular one, Beale's, the "
    "trigonometric one) from starts around the usual, with a line search that is nearly exact. Evaluations "
    "until the gradient is 1e-5, at most 2,000: without resets against a reset every five steps. Means "
    "over the surfaces of logarithms.",
    against="No fewer evaluations with resets.",
    about="Fletcher and Reeves' formula can go on with a useless direction for long, since it remembers all "
    "directions before; that of Polak and Ribiere turns back to the gradient by itself where a step was "
    "short. On a true quadratic a reset throws away what was gained.",
    measure=measure,
    rule=(more("never", "reset", matters=0.02, said="evaluations without resets less with, in tenfolds"),),
    conditions={
        "Fletcher-Reeves": {"formula": "fletcher-reeves"},
        "Polak-Ribiere": {"formula": "polak-ribiere"},
    },
    quick=Size(seeds=8),
    picture=Dots(
        values={"never": "without resets", "reset": "reset every five steps"},
        axis="evaluations (logarithm to base 10)",
    ),
    known=(
        Known(
            verdict="holds",
            why="in two dimensions no more than two directions are conjugate: a third is stale",
            changes={"names": ("rosenbrock", "beale"), "every": 2},
            conditions=("Fletcher-Reeves",),
        ),
        Known(
            verdict="does not hold",
            why="on a quadratic conjugate directions are all that is needed",
            changes={"names": ("quadratic",)},
        ),
    ),
)
