"""A batch that grows does what a rate that falls does."""

from __future__ import annotations

from thalweg.claims.claim import Claim, Known, Numbers, Size
from thalweg.claims.nets import descend, noisy_task
from thalweg.claims.picture import Dots
from thalweg.claims.rules import more, near
from thalweg.schedules import Constant, Piecewise
from thalweg.secondorder import minimize

__all__ = ["CLAIM", "measure"]


def measure(seed: int, *, batch: int = 4, growth: int = 4, steps: int = 1600) -> Numbers:
    """Descend with a fixed batch and rate, a rate that falls and a batch that grows, for as many examples."""
    task = noisy_task("least-squares", seed)
    lowest = float(minimize(task.loss, task.parameters(), method="newton").value)
    rates = [2.0**-power for power in range(-1, 6)]
    quarter = steps // 4
    falling = Piecewise(
        boundaries=tuple(quarter * part for part in (1, 2, 3)),
        factors=tuple(float(growth) ** -part for part in range(4)),
    )
    lanes = [(rate, factor) for factor in (Constant(), falling) for rate in rates]
    both = descend(task, lanes, batch=batch, steps=steps, seed=seed, looks=steps)
    # as many examples in each quarter, and so fewer steps
    ends: list[int] = [sum(quarter // growth**part for part in range(upto + 1)) for upto in range(4)]

    def size(step: int) -> int:
        quarters = sum(step >= end for end in ends[:3])
        return min(task.examples - 1, int(batch * growth**quarters))

    growing = descend(
        task, [(rate, Constant()) for rate in rates], batch=size, steps=ends[-1], seed=seed, looks=ends[-1]
    )
    ways = {
        "fixed": both[-quarter:, : len(rates)],
        "falling": both[-quarter:, len(rates) :],
        "growing": growing[ends[-2] - ends[-1] :],
    }
    return {
        name: (last.mean(0).min() - lowest).clamp(1e-12, 1e12).log10().item() for name, last in ways.items()
    }


CLAIM = Claim(
    title="A batch that grows in place of a rate that falls",
    topic="noise",
    statement="Small batches first and larger ones at the end converge as a falling rate does, in fewer "
    "steps.",
    sources=("E3",),
    places="K",
    setup="Least squares, from batches of 4 examples, for 6400 examples in four quarters. At each the batch "
    "grows fourfold, or the rate falls fourfold, or neither; each way at the best of the same seven rates. "
    "What counts is the mean loss above the minimum over the last quarter.",
    against="A growing batch that ends no lower than a fixed one, or farther from the falling rate than a "
    "factor of two.",
    about="The noise of a step is its rate over its batch, so that either will do. The batch is bounded by "
    "the number of examples, and the rate isn't; but four times the batch is a quarter of the steps, which "
    "is time where hardware takes a larger batch as quickly.",
    measure=measure,
    rule=(
        more("fixed", "growing", by=0.0, matters=0.1, said="fixed less growing batch, in powers of ten"),
        near("growing", "falling", within=0.3, said="growing batch less falling rate, in powers of ten"),
    ),
    quick=Size(seeds=10),
    picture=Dots(
        values={"fixed": "both fixed", "falling": "rate falls", "growing": "batch grows"},
        axis="loss above the minimum, in powers of ten",
    ),
    known=(
        Known(
            verdict="does not hold",
            why="a batch that grows by a factor of one is a fixed one",
            changes={"growth": 1, "steps": 200},
        ),
        Known(
            verdict="holds",
            why="on a quadratic the noise of a step is its rate over its batch",
            changes={"steps": 800},
            seeds=6,
        ),
    ),
)
