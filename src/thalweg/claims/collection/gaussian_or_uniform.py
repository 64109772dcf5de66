"""Whether initial weights are normal or uniform hardly matters."""

from __future__ import annotations

from thalweg.claims.claim import Claim, Known, Numbers, Size
from thalweg.claims.nets import best
from thalweg.claims.picture import Dots
from thalweg.claims.rules import near
from thalweg.execution.sweep import sweep

__all__ = ["CLAIM", "measure"]


def measure(
    seed: int,
    *,
    layers: int,
    epochs: int = 15,
    shrink: float = 1.0,
    rates: tuple[float, ...] = (0.03, 0.1, 0.3),
) -> Numbers:
    """Train from both at one variance, each at its best rate; ``shrink`` multiplies uniform weights."""
    deviation = (2 / 64) ** 0.5
    starts = {
        "gaussian": {"scheme": "gaussian", "scale": deviation},
        "uniform": {"scheme": "uniform", "scale": 3**0.5 * deviation * shrink},
    }
    settings = [{"optimizer": "sgd", "lr": list(rates), "initialization": start} for start in starts.values()]
    found = sweep(
        "mlp:" + ",".join(["64"] * layers) if layers else "linear",
        "digits",
        settings,
        seeds=[seed],
        seed=seed,
        epochs=epochs,
        batch_size=32,
        evaluations=1,
        test=True,
        engine="lanes",
    )
    return {name: best(found, **{"initialization.scheme": name})["test"] for name in starts}


CLAIM = Claim(
    title="Normal or uniform hardly matters",
    topic="starting",
    statement="Whether initial weights are drawn from a normal or a uniform distribution of the same "
    "variance makes hardly a difference.",
    sources=("I1", "X12"),
    places="U; K",
    setup="Nets with one and with four hidden layers of 64 ReLU units on digits, 15 epochs of gradient "
    "descent from weights of variance 2/64, normal or uniform. Either has the best of three rates by "
    "validation loss; what counts is test accuracy.",
    against="Accuracies that differ by more than one in a hundred on average.",
    about="What a unit gives is a sum of many terms, and sums forget the distribution of their terms but for "
    "its variance. Its scale is what matters.",
    measure=measure,
    rule=(
        near("gaussian", "uniform", within=0.01, said="accuracy from normal less that from uniform weights"),
    ),
    conditions={"one hidden layer": {"layers": 1}, "four hidden layers": {"layers": 4}},
    quick=Size(seeds=16),
    picture=Dots(values={"gaussian": "normal", "uniform": "uniform"}, axis="test accuracy"),
    known=(
        Known(
            verdict="holds",
            why="the loss of a linear model is convex, and all starts end alike",
            changes={"layers": 0, "epochs": 15, "rates": (0.1,)},
            conditions=("one hidden layer",),
            seeds=5,
        ),
        Known(
            verdict="does not hold",
            why="uniform weights are a thousandth of normal ones, which five layers don't let through",
            changes={"epochs": 2, "rates": (0.1,), "shrink": 1e-3},
            conditions=("four hidden layers",),
        ),
    ),
)
