"""A rate that falls tenfold whenever the loss stagnates, against a fixed one."""

from __future__ import annotations

from collections.abc import Callable

from thalweg.claims.claim import Claim, Known, Numbers, Size
from thalweg.claims.nets import descend, noisy_task
from thalweg.claims.picture import Lines
from thalweg.claims.rules import more
from thalweg.schedules import Constant, Plateau
from thalweg.secondorder import minimize

__all__ = ["CLAIM", "measure"]


def measure(seed: int, *, problem: str, batch: int = 8, steps: int = 1000, patience: int = 3) -> Numbers:
    """Descend with both, each at the best of the same rates."""
    task = noisy_task(problem, seed)
    rates = [2.0**-power for power in range(-2, 6)]
    lanes: list[tuple[float, Callable[[int], float]]] = [(rate, Constant()) for rate in rates]
    lanes += [(rate, Plateau(higher_is_better=False, patience=patience)) for rate in rates]
    convex = problem != "mlp-digits"
    lowest = float(minimize(task.loss, task.parameters(), method="newton").value) if convex else 0.0
    losses = descend(task, lanes, batch=batch, steps=steps, seed=seed) - lowest
    fixed, falling = losses[:, : len(rates)], losses[:, len(rates) :]
    ends = [each[-8:].mean(0).clamp(1e-12, 1e12).log10() for each in (fixed, falling)]
    return {
        "fixed": ends[0].min().item(),
        "falling": ends[1].min().item(),
        "fixed_path": fixed[:, ends[0].argmin()].tolist(),
        "falling_path": falling[:, ends[1].argmin()].tolist(),
    }


CLAIM = Claim(
    title="A tenth of the rate, whenever the loss stagnates",
    topic="noise",
    statement="A fixed rate until the loss stagnates, then a tenth of it, again and again, ends lower than a "
    "fixed rate.",
    sources=("R5",),
    places="C s99",
    setup="Descent by batches of 8 examples for 1000 steps. The loss over all examples is looked at 40 "
    "times; after four looks without a better one the rate falls to a tenth. It is compared with rates that "
    "stay, each side at the best of the same eight. What counts is the mean loss of the last fifth of the "
    "way, above the minimum where the loss is convex.",
    against="A fixed rate that ends as low.",
    about="Nothing needs to be known beforehand of when progress ends. What falls at the fall is the noise "
    "around the minimum, so that little is gained where a rate is limited by something else: by the steepest "
    "direction, or by how far it is to go.",
    measure=measure,
    rule=(more("fixed", "falling", by=0.0, matters=0.02, said="fixed less falling, in powers of ten"),),
    conditions={
        "least squares": {"problem": "least-squares"},
        "logistic regression": {"problem": "logistic-breast-cancer"},
        "a net on digits": {"problem": "mlp-digits"},
    },
    quick=Size(seeds=8),
    full=Size(seeds=40),
    picture=Lines(
        curves={"fixed_path": "fixed rate", "falling_path": "a tenth at each plateau"},
        axis="loss, above the minimum if it is known",
        across="looks",
        log=True,
    ),
    known=(
        Known(
            verdict="holds",
            why="batches of one example leave noise that a smaller rate averages out",
            changes={"batch": 1, "steps": 400, "patience": 2},
            conditions=("least squares",),
            seeds=10,
        ),
        Known(
            verdict="does not hold",
            why="the patience is longer than the training, so that the rate never falls",
            changes={"patience": 100, "steps": 100},
            conditions=("least squares",),
        ),
    ),
)
