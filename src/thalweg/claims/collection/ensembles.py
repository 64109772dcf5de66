"""Independent models, averaged, predict better than one: by two in a hundred?"""

from __future__ import annotations

import statistics

import thalweg
from thalweg.averaging import averaged_probabilities
from thalweg.claims.claim import Claim, Known, Numbers, Size
from thalweg.claims.nets import parts, right
from thalweg.claims.picture import Dots
from thalweg.claims.rules import more, near

__all__ = ["CLAIM", "measure"]


def measure(
    seed: int,
    *,
    data: str,
    examples: int | None,
    members: int = 5,
    epochs: int = 30,
    rate: float = 3e-3,
    model: str = "mlp:32",
) -> Numbers:
    """Train members from starts of their own and average what they predict."""
    split = parts(data, seed, examples=examples)
    ensemble = thalweg.fit_ensemble(
        model,
        split.train,
        "cross-entropy",
        "adam",
        members=members,
        epochs=epochs,
        seed=seed,
        batch_size=16,
        hyperparameters={"lr": rate},
        engine="lanes",
    )
    inputs, _ = split.test
    alone = [100 * right(averaged_probabilities([one], inputs), split.test) for one in ensemble.models]
    together = 100 * right(ensemble.predict(inputs), split.test)
    return {
        "alone": statistics.fmean(alone),
        "together": together,
        "gain": together - statistics.fmean(alone),
    }


CLAIM = Claim(
    title="Several models together, and their two percent",
    topic="averaging",
    statement="The average of independent models predicts better than a single one, by about two in a "
    "hundred.",
    sources=("A2",),
    places="S",
    setup="Five nets of 32 ReLU units with initial weights and order of examples of their own, trained by "
    "Adam for 30 epochs on 100 digits, on all 1077, and on tumours. What counts are percents of test "
    "accuracy: of their mean probabilities, and of the five on average.",
    against="No gain, or one outside of one to three percent.",
    about="What an average gains is what members disagree about, and no member that errs little can be "
    "disagreed with much: the gain depends on the task and isn't a constant of nature. More members, and "
    "members that differ more, gain more.",
    measure=measure,
    rule=(
        more("gain", by=0.0, said="percent that the average gains"),
        near("gain", 2.0, within=1.0, said="percent that it gains, less two"),
    ),
    conditions={
        "100 digits": {"data": "digits", "examples": 100},
        "1077 digits": {"data": "digits", "examples": None},
        "tumours": {"data": "breast-cancer", "examples": None},
    },
    quick=Size(seeds=24),
    full=Size(seeds=100),
    picture=Dots(
        values={"alone": "alone, on average", "together": "together"}, axis="percent of test accuracy"
    ),
    known=(
        Known(
            verdict="holds",
            why="narrow nets of few digits err in a fifth of cases, each in others",
            changes={"epochs": 12, "rate": 0.01, "examples": 80, "model": "mlp:16"},
            conditions=("100 digits",),
            seeds=20,
        ),
        Known(
            verdict="does not hold",
            why="a linear model trained to the end has one minimum, so that all members are one",
            changes={"model": "linear", "epochs": 25, "rate": 0.01},
            conditions=("tumours",),
            seeds=4,
        ),
    ),
)
