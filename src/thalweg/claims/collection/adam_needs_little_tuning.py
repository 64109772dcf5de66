"""Whether Adam works over a wider range of rates, and as it is given."""

from __future__ import annotations

import math

from thalweg.claims.claim import Claim, Known, Numbers, Size
from thalweg.claims.picture import Dots
from thalweg.claims.rules import less, more
from thalweg.execution.sweep import sweep

__all__ = ["CLAIM", "measure"]

_DEFAULTS = {"adam": 1e-3, "momentum": 1e-2}


def measure(
    seed: int, *, model: str, eps: float = 1e-8, within: float = 0.02, a_decade: int = 4, epochs: int = 15
) -> Numbers:
    """Rates over five decades: the width of those within a little of the best, and how far the default is."""
    rates = [10 ** (-5 + k / a_decade) for k in range(5 * a_decade + 1)]
    settings = [{"optimizer": "momentum", "lr": rate} for rate in [*rates, _DEFAULTS["momentum"]]]
    settings += [{"optimizer": "adam", "lr": rate, "eps": eps} for rate in [*rates, _DEFAULTS["adam"]]]
    found = sweep(model, "digits", settings, seeds=[seed], seed=seed, epochs=epochs, evaluations=1)
    rows = found.final().sort("setting").to_dicts()
    scores = [row[found.metric] if row[found.metric] is not None else 0.0 for row in rows]
    sides = {"momentum": scores[: len(rates) + 1], "adam": scores[len(rates) + 1 :]}
    numbers = {}
    for name, (*tried, default) in sides.items():
        good = sum(score >= max(tried) - within for score in tried)
        # where nothing is learned, every rate is as good as the best
        learned = max(tried) > 0.3
        numbers[f"{name}_width"] = good / a_decade if learned else 0.0
        numbers[f"{name}_gap"] = max(*scores) - default
    assert all(math.isfinite(value) for value in numbers.values())
    return numbers


CLAIM = Claim(
    title="Adam needs little tuning",
    topic="choosing",
    statement="Adam is robust to the choice of its hyperparameters: more rates are good, and the "
    "usual one is.",
    sources=("X12", "O6"),
    places="K; S",
    setup="Adam and SGD with momentum, each at 21 rates from 1e-5 to 1, on the digits for 15 epochs. "
    "Counted is the width of the rates, in decades, whose validation accuracy is within two points of "
    "that optimizer's best; and how far the usual rate (0.001 for Adam, 0.01 for momentum) is from "
    "the best of all.",
    against="Adam's range that isn't wider, or its usual rate that is further from the best than that "
    "of momentum.",
    about="A rate counts as good if it is nearly the best of its own optimizer. The usual rates are "
    "those that most libraries have; momentum is 0.9.",
    measure=measure,
    rule=(
        more("adam_width", "momentum_width", matters=0.25, said="decades of good rates, Adam less momentum"),
        less(
            "adam_gap",
            "momentum_gap",
            matters=0.005,
            said="accuracy lost by the usual rate, momentum less Adam",
        ),
    ),
    conditions={"one hidden layer": {"model": "mlp:64"}, "three hidden layers": {"model": "mlp:64,64,64"}},
    quick=Size(seeds=20),
    full=Size(seeds=30, changes={"a_decade": 8, "epochs": 40}),
    picture=Dots(values={"adam_width": "Adam", "momentum_width": "momentum"}, axis="decades of good rates"),
    known=(
        Known(
            verdict="holds",
            why="with so few epochs the usual rate of momentum is too low for a deep net",
            conditions=("three hidden layers",),
            changes={"epochs": 4, "a_decade": 2, "within": 0.3},
            seeds=3,
        ),
        Known(
            verdict="does not hold",
            why="with so large an eps Adam hardly moves",
            conditions=("one hidden layer",),
            changes={"eps": 1e6, "epochs": 2, "a_decade": 2},
            seeds=2,
        ),
    ),
)
