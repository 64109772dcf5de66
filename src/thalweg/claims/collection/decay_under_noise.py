"""Noise in gradients keeps a fixed rate from the minimum; a falling one goes on."""

from __future__ import annotations

from thalweg import schedules
from thalweg.claims.claim import Claim, Known, Numbers, Size
from thalweg.claims.nets import descend, noisy_task
from thalweg.claims.picture import Dots
from thalweg.claims.rules import less, more
from thalweg.secondorder import minimize

__all__ = ["CLAIM", "measure"]


def measure(seed: int, *, problem: str, batch: int = 8, steps: int = 1000) -> Numbers:
    """Descend with both schedules, each at the best of the same rates, with and without noise."""
    task = noisy_task(problem, seed)
    lowest = float(minimize(task.loss, task.parameters(), method="newton").value)
    rates = [2.0**-power for power in range(-2, 6)]
    factors = (schedules.Constant(), schedules.build("inverse-time", total=steps, final=0.01))
    lanes = [(rate, factor) for factor in factors for rate in rates]
    found = {}
    for noise, size in (("noisy", batch), ("exact", task.examples)):
        losses = descend(task, lanes, batch=size, steps=steps, seed=seed)[-8:].mean(0)
        gaps = (losses - lowest).clamp(1e-12, 1e12).log10().reshape(2, -1).amin(1)
        found[f"fixed_{noise}"], found[f"falling_{noise}"] = gaps.tolist()
    return found


CLAIM = Claim(
    title="Noise asks for a rate that falls",
    topic="noise",
    statement="Gradients of minibatches don't vanish at the minimum, so that a fixed rate stops short of it "
    "and a falling rate doesn't. With exact gradients a fixed rate arrives by itself.",
    sources=("X6", "R3", "R4"),
    places="K; S; C s99",
    setup="Descent on a convex loss by batches of 8 examples, and by all of them, for 1000 steps. The rate "
    "is fixed, or falls as 1/t to a hundredth. Either is given the best of the same eight rates. What counts "
    "is the mean loss of the last fifth of the way above the minimum, which Newton's method finds.",
    against="By batches, a fixed rate that comes as close as the falling one; or with exact gradients, a "
    "fixed rate that ends farther off.",
    about="A small fixed rate is an answer too, but a slow one: the steps that average noise out are as "
    "short as those that should have brought it near. A falling rate has long steps first and short ones "
    "last, which pays once the way is walked: where the loss is flat along it, a rate that falls stops "
    "before.",
    measure=measure,
    rule=(
        more(
            "fixed_noisy",
            "falling_noisy",
            by=0.0,
            matters=0.05,
            said="by batches, fixed less falling rate, in powers of ten",
        ),
        less(
            "fixed_exact",
            "falling_exact",
            by=-0.1,
            said="with exact gradients, falling less fixed rate, in powers of ten",
        ),
    ),
    conditions={
        "least squares": {"problem": "least-squares"},
        "logistic regression": {"problem": "logistic-breast-cancer"},
    },
    quick=Size(seeds=8),
    picture=Dots(
        values={
            "fixed_noisy": "batches, fixed rate",
            "falling_noisy": "batches, falling rate",
            "fixed_exact": "exact, fixed rate",
            "falling_exact": "exact, falling rate",
        },
        axis="loss above the minimum, in powers of ten",
    ),
    known=(
        Known(
            verdict="holds",
            why="least squares with a batch of one example: noise stays at the minimum",
            changes={"batch": 1, "steps": 400},
            conditions=("least squares",),
            seeds=5,
        ),
        Known(
            verdict="does not hold",
            why="batches of all examples have no noise",
            changes={"batch": 400, "steps": 30},
            conditions=("least squares",),
            seeds=6,
        ),
    ),
)
