"""A start that is as good for optimization can be worse for generalization."""

from __future__ import annotations

from thalweg.claims.claim import Claim, Known, Numbers, Size
from thalweg.claims.nets import best
from thalweg.claims.picture import Dots
from thalweg.claims.rules import less, more
from thalweg.execution.sweep import sweep

__all__ = ["CLAIM", "measure"]


def measure(
    seed: int,
    *,
    large: float = 5.0,
    epochs: int = 20,
    width: int = 128,
    rates: tuple[float, ...] = (1e-3, 1e-2, 0.1, 0.3),
) -> Numbers:
    """Train from the usual scale and a larger one, each at the rate that fits training data best."""
    usual = (2 / 64) ** 0.5
    scales = {"usual": usual, "large": large * usual}
    settings = [
        {"optimizer": "sgd", "lr": list(rates), "initialization": {"scheme": "gaussian", "scale": scale}}
        for scale in scales.values()
    ]
    found = sweep(
        f"mlp:{width}",
        "digits",
        settings,
        seeds=[seed],
        seed=seed,
        epochs=epochs,
        batch_size=32,
        evaluations=epochs,
        test=True,
        engine="lanes",
    )
    ends = {
        name: best(found, by="train_loss", **{"initialization.scale": scale})
        for name, scale in scales.items()
    }
    return {
        **{f"{name}_trained": row["train_loss"] for name, row in ends.items()},
        **{f"{name}_tested": row["test"] for name, row in ends.items()},
    }


CLAIM = Claim(
    title="A start that trains well and generalizes badly",
    topic="starting",
    statement="A start that is good for optimization can be bad for generalization: from larger weights a "
    "net fits its training data as well, and new data worse.",
    sources=("X12", "I9"),
    places="U; K",
    setup="A net of 128 ReLU units on digits, 20 epochs of gradient descent from weights at the usual scale "
    "and at five times it, each at the rate of four that ends with the lowest training loss. What counts are "
    "that loss, over the last epoch, and test accuracy.",
    against="A training loss from larger weights that is higher by more than 0.01, or a test accuracy that "
    "isn't lower by at least half a hundredth.",
    about="Large weights need to change little to fit, so that units stay nearly what they were drawn as, "
    "and the net is a linear model on random features. Training can't tell that from having learnt features; "
    "new data can.",
    measure=measure,
    rule=(
        less(
            "large_trained",
            "usual_trained",
            by=-0.01,
            said="training loss from usual less from larger weights",
        ),
        more(
            "usual_tested", "large_tested", by=0.0, matters=0.005, said="accuracy from usual less from larger"
        ),
    ),
    quick=Size(seeds=8),
    picture=Dots(values={"usual_tested": "usual scale", "large_tested": "five times"}, axis="test accuracy"),
    known=(
        Known(
            verdict="holds",
            why="from large weights the hidden layer stays as it was drawn",
            changes={"rates": (0.1,), "epochs": 20, "width": 64},
            seeds=4,
        ),
        Known(
            verdict="does not hold",
            why="the two scales are the same",
            changes={"large": 1.0, "epochs": 2, "rates": (0.1,)},
        ),
    ),
)
