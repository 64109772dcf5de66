"""The best rate depends on the batch size."""

from __future__ import annotations

import math

from thalweg.claims.claim import Claim, Known, Numbers, Size
from thalweg.claims.nets import best
from thalweg.claims.picture import Dots
from thalweg.claims.rules import more
from thalweg.execution.sweep import sweep

__all__ = ["CLAIM", "measure"]


def measure(
    seed: int, *, small: int = 4, large: int = 128, epochs: int = 5, model: str = "mlp:64"
) -> Numbers:
    """Find the best rate of either by validation loss."""
    rates = [2.0**power for power in range(-9, 3)]
    found = {}
    for name, size in (("small", small), ("large", large)):
        swept = sweep(
            model,
            "digits",
            {"optimizer": "sgd", "lr": rates},
            seeds=[seed],
            seed=seed,
            epochs=epochs,
            batch_size=size,
            evaluations=1,
            engine="lanes",
        )
        found[name] = math.log2(best(swept, by="validation_loss")["lr"])
    return found


CLAIM = Claim(
    title="The rate interacts with the batch",
    topic="noise",
    statement="The best learning rate depends strongly on the batch size: small batches ask for a smaller "
    "rate.",
    sources=("X12", "E2"),
    places="K",
    setup="A net of 64 ReLU units on digits, five epochs of gradient descent by batches of 4 and of 128, "
    "each at twelve rates in steps of two. What counts is the power of two of the rate with the lowest "
    "validation loss.",
    against="A best rate of small batches that isn't smaller than that of large ones by more than a factor "
    "of two.",
    about="Two things bound the rate of small batches: the noise of their gradients, and that many more of "
    "their steps fit into a pass. Large batches must go far by few steps, up to where the steepest direction "
    "bounds them. A rate is therefore sought anew when the batch changes.",
    measure=measure,
    rule=(
        more(
            "large",
            "small",
            by=1.0,
            matters=0.5,
            said="doublings from the best rate of small batches to that of large ones",
        ),
    ),
    quick=Size(seeds=6),
    picture=Dots(
        values={"small": "batches of 4", "large": "batches of 128"}, axis="best rate, as a power of two"
    ),
    known=(
        Known(
            verdict="holds",
            why="large batches take three steps in all, which must be long",
            changes={"epochs": 1, "model": "mlp:32", "large": 359},
            seeds=4,
        ),
        Known(
            verdict="does not hold",
            why="both sides have the same batch",
            changes={"small": 64, "large": 64, "epochs": 1, "model": "linear"},
        ),
    ),
)
