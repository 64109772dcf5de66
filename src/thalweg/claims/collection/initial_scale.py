"""Initial weights that are far too small or too large keep a net from learning."""

from __future__ import annotations

from thalweg.claims.claim import Claim, Known, Numbers
from thalweg.claims.nets import best
from thalweg.claims.picture import Dots
from thalweg.claims.rules import more
from thalweg.execution.sweep import sweep

__all__ = ["CLAIM", "measure"]


def measure(
    seed: int,
    *,
    layers: int,
    epochs: int = 10,
    low: float = 0.1,
    high: float = 5.0,
    optimizer: str = "sgd",
    rates: tuple[float, ...] = (1e-3, 1e-2, 1e-1, 0.5),
) -> Numbers:
    """Train from weights at the right scale, at low and high multiples of it, each at the best rate."""
    right = (2 / 64) ** 0.5
    scales = {"small": low * right, "right": right, "large": high * right}
    settings = [
        {"optimizer": optimizer, "lr": list(rates), "initialization": {"scheme": "gaussian", "scale": scale}}
        for scale in scales.values()
    ]
    found = sweep(
        "mlp:" + ",".join(["64"] * layers),
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
    return {
        name: best(found, by="validation_loss", **{"initialization.scale": scale})["test"]
        for name, scale in scales.items()
    }


CLAIM = Claim(
    title="The scale of initial weights matters",
    topic="starting",
    statement="Initial weights that are too small or too large keep a net from learning: signals vanish or "
    "explode on their way through it.",
    sources=("I1", "I9"),
    places="K; U",
    setup="Nets with one and with six hidden layers of 64 ReLU units on digits for ten epochs of gradient "
    "descent. Weights are normal, at the deviation sqrt(2/64) that suits such layers, at a tenth of it and "
    "at five times it. Each gets the best of four rates by its validation loss; what counts is test "
    "accuracy.",
    against="A small or a large scale that comes within five in a hundred of the right one.",
    about="What one layer does to a signal, six do to the sixth power. A shallow net forgives nearly any "
    "scale, and the rate makes up for the rest; a deep one doesn't.",
    measure=measure,
    rule=(
        more("right", "small", by=0.05, said="accuracy from the right scale less that from a tenth of it"),
        more("right", "large", by=0.05, said="accuracy from the right scale less that from five times it"),
    ),
    conditions={"one hidden layer": {"layers": 1}, "six hidden layers": {"layers": 6}},
    picture=Dots(
        values={"small": "a tenth", "right": "the right scale", "large": "five times"}, axis="test accuracy"
    ),
    known=(
        Known(
            verdict="holds",
            why="signals through seven layers shrink or grow by factors of a thousand and more in each",
            changes={"epochs": 2, "low": 1e-3, "high": 1e3, "rates": (0.1,)},
            conditions=("six hidden layers",),
        ),
        Known(
            verdict="does not hold",
            why="all three scales are the same",
            changes={"epochs": 1, "low": 1.0, "high": 1.0, "rates": (0.1,)},
        ),
    ),
)
