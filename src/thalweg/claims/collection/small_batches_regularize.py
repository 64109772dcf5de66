"""Small batches against large ones, at equal passes and at equal updates."""

from __future__ import annotations

import torch

from thalweg.claims.claim import Claim, Known, Numbers, Size
from thalweg.claims.nets import best, mislabelled, parts
from thalweg.claims.picture import Dots
from thalweg.claims.rules import more
from thalweg.execution.sweep import sweep

__all__ = ["CLAIM", "measure"]


def measure(
    seed: int,
    *,
    same: str,
    noise: float = 0.2,
    epochs: int = 15,
    small: int = 8,
    large: int = 128,
    small_rates: tuple[float, ...] = (0.01, 0.03, 0.1, 0.3),
    large_rates: tuple[float, ...] = (0.03, 0.1, 0.3, 1.0),
) -> Numbers:
    """Train with either, at the best of as many rates."""
    split = parts("digits", 0)
    inputs = torch.cat([split.train[0], split.validation[0], split.test[0]])
    targets = torch.cat([split.train[1], split.validation[1], split.test[1]])
    targets = mislabelled(targets, noise, seed)
    found = {}
    for name, size, rates in (("small", small, small_rates), ("large", large, large_rates)):
        swept = sweep(
            "mlp:64",
            (inputs, targets),
            {"optimizer": "sgd", "lr": list(rates)},
            seeds=[seed],
            seed=seed,
            epochs=epochs * (size // small if same == "updates" else 1),
            batch_size=size,
            evaluations=1,
            test=True,
            engine="lanes",
        )
        found[name] = best(swept, by="validation_loss")["test"]
    return found


CLAIM = Claim(
    title="Small batches regularize",
    topic="noise",
    statement="Training by small batches generalizes better than by large ones: the noise of their gradients "
    "hinders a net from learning what single examples have to themselves.",
    sources=("E2",),
    places="K",
    setup="A net of 64 ReLU units on digits of which a fifth have labels drawn anew, by batches of 8 and of "
    "128, each at the best of four rates by validation loss. At equal passes both see each example 15 times, "
    "in 16 times as many updates by small batches; at equal updates the large batches see each 240 times. "
    "What counts is accuracy on test digits, labels likewise.",
    against="An accuracy by small batches that isn't higher by at least half a hundredth.",
    about="The two ways to compare differ: at equal passes large batches make few steps, and may simply not "
    "have arrived; at equal updates they have seen each example more often, and had more time to learn it by "
    "heart. What is left of an advantage when each side has its best rate is what batches do by themselves.",
    measure=measure,
    rule=(
        more(
            "small", "large", by=0.0, matters=0.005, said="accuracy by small batches less that by large ones"
        ),
    ),
    conditions={"equal passes": {"same": "passes"}, "equal updates": {"same": "updates"}},
    quick=Size(seeds=10),
    full=Size(seeds=40),
    picture=Dots(values={"small": "batches of 8", "large": "batches of 128"}, axis="test accuracy"),
    known=(
        Known(
            verdict="holds",
            why="large batches have no rate to learn with",
            changes={"epochs": 2, "small_rates": (0.1,), "large_rates": (1e-9,), "large": 32},
        ),
        Known(
            verdict="does not hold",
            why="small batches have no rate to learn with",
            changes={"epochs": 2, "small_rates": (1e-9,), "large_rates": (0.1,), "large": 32},
        ),
    ),
)
