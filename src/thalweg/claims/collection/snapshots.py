"""Snapshots of one training predict better together than its end."""

from __future__ import annotations

import thalweg
from thalweg.averaging import averaged_probabilities
from thalweg.claims.claim import Claim, Known, Numbers, Size
from thalweg.claims.nets import mlp, parts, right
from thalweg.claims.picture import Dots
from thalweg.claims.rules import more
from thalweg.schedules import build
from thalweg.strategies import Snapshots

__all__ = ["CLAIM", "measure"]


def measure(
    seed: int,
    *,
    examples: int = 200,
    cycles: int = 5,
    epochs: int = 60,
    rates: tuple[float, ...] = (0.1, 0.3, 0.6),
    single_rates: tuple[float, ...] = (0.1, 0.3, 0.6),
) -> Numbers:
    """Train with a cyclic rate and with one that falls once, for as long, each at its best rate."""
    split = parts("digits", seed, examples=examples)
    steps = epochs * (len(split.train[1]) // 32)
    tried: dict[str, list[tuple[float, float]]] = {"single": [], "together": [], "last": []}
    for turns, chosen_rates in ((1, single_rates), (cycles, rates)):
        for rate in chosen_rates:
            net, taken = mlp(64, 64, 10, seed=seed), Snapshots(cycles=turns)
            thalweg.fit(
                net,
                split.train,
                "cross-entropy",
                "sgd",
                build("cosine", total=steps, cycles=turns),
                [taken],
                epochs=epochs,
                batch_size=32,
                seed=seed,
                hyperparameters={"lr": rate},
            )
            members = taken.taken.members(net)
            for name, chosen in (("together", members), ("last", members[-1:])):
                if turns == cycles or name == "last":
                    scores = [
                        right(averaged_probabilities(chosen, part[0]), part)
                        for part in (split.validation, split.test)
                    ]
                    tried["single" if turns < cycles else name].append((scores[0], scores[1]))
    # where there is one cycle, it is all three
    tried["single"] = tried["single"] or tried["last"]
    return {name: max(scores)[1] for name, scores in tried.items()}


CLAIM = Claim(
    title="Snapshots of one training as an ensemble",
    topic="averaging",
    statement="In place of several models, snapshots of one training can be averaged: they predict better "
    "than the model that a single training of that length ends with.",
    sources=("A3",),
    places="S",
    setup="A net of 64 ReLU units on 200 digits for 60 epochs: five cosine cycles with a snapshot at the end "
    "of each, and one cycle all the way, each at the best of three rates by validation accuracy. What counts "
    "is test accuracy: of the mean of five snapshots' probabilities, and of the single training's end.",
    against="Snapshots that aren't better by at least 0.002.",
    about="Averaging gains what members disagree about. Points of one training, a few epochs apart, disagree "
    "less than models from different starts, and each had less time to itself.",
    measure=measure,
    rule=(
        more(
            "together",
            "single",
            by=0.0,
            matters=0.002,
            said="accuracy of snapshots less that of one training",
        ),
    ),
    quick=Size(seeds=12),
    picture=Dots(
        values={
            "single": "one cycle, its end",
            "last": "five cycles, the end",
            "together": "five cycles, mean",
        },
        axis="test accuracy",
    ),
    known=(
        Known(
            verdict="does not hold",
            why="one cycle has one snapshot, which is its end",
            changes={"cycles": 1, "epochs": 3, "rates": (0.3,), "single_rates": (0.3,)},
        ),
        Known(
            verdict="holds",
            why="the single training has no rate to learn with",
            changes={"epochs": 10, "rates": (0.3,), "single_rates": (1e-9,)},
        ),
    ),
)
