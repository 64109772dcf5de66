"""What to tune of a trained net, by how much data there are and how like the source's they are."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from thalweg.claims.claim import Claim, Known, Numbers, Size
from thalweg.claims.picture import Dots
from thalweg.claims.problems import accuracy, digits, mlp, trained
from thalweg.claims.rules import more
from thalweg.stages import transfer

__all__ = ["CLAIM", "measure"]


def measure(
    seed: int,
    *,
    examples: int,
    similar: bool,
    tune: bool,
    steps: int = 300,
    source_epochs: int = 30,
    rates: Sequence[float] = (0.03, 0.003, 0.0003),
    head_rates: Sequence[float] | None = None,
) -> Numbers:
    """Train the head alone, and all taken layers too; ``tune`` says which of them is recommended."""
    source = mlp([64, 64, 32, 5], seed)
    trained(source, digits(seed, classes=range(5))[0], lr=0.003, epochs=source_epochs, seed=seed)
    (x, y), (new_x, new_y) = digits(seed, train=examples, test=450, classes=range(5, 10))
    if not similar:
        # the same pixels in another order: nothing local that was learned is of use
        order = torch.randperm(64, generator=torch.Generator().manual_seed(seed))
        x, new_x = x[:, order], new_x[:, order]
    found = {}
    for name, layers in (("head", 0), ("tuned", None)):
        scores = []
        for rate in (head_rates or rates) if name == "head" else rates:
            net = mlp([64, 64, 32, 5], seed + 1000)
            stages = transfer(net, source, x[:4], tune=layers, steps=steps)
            trained(net, (x, y), lr=rate, seed=seed, stages=stages, batch_size=min(32, examples))
            # the rate is chosen on 150 examples and judged on the others
            scores.append(
                (accuracy(net, (new_x[:150], new_y[:150])), accuracy(net, (new_x[150:], new_y[150:])))
            )
        found[name] = max(scores)[1]
    best, other = ("tuned", "head") if tune else ("head", "tuned")
    return {**found, "recommended": found[best], "other": found[other]}


CLAIM = Claim(
    title="What to tune after transfer depends on how much data there are, and how similar",
    topic="stages",
    statement="Of a net that was trained on other data: where data are few and similar, train a "
    "linear classifier on top; where they are many, tune layers too, and many of them where the data "
    "are different.",
    sources=("P3", "P4"),
    places="S; N; U",
    setup="A net of two hidden layers is trained on the digits 0 to 4. The task is the digits 5 to 9, "
    "as they are (similar) or with their pixels in another order (different), with 20 or 400 "
    "examples. The head alone, or all layers too, are trained for 300 steps at the best of three "
    "rates, chosen on 150 further examples.",
    against="A recommended way that is half a point or more worse than the other.",
    about="The lecture says of few and different data that one is in trouble, and recommends nothing "
    "to be tested. That the recommended way is no worse is what is judged: where both are alike, the "
    "table does no harm.",
    measure=measure,
    rule=(more("recommended", "other", by=-0.005, said="accuracy, recommended less the other"),),
    conditions={
        "few, similar: the head": {"examples": 20, "similar": True, "tune": False},
        "many, similar: tuned": {"examples": 400, "similar": True, "tune": True},
        "many, different: tuned": {"examples": 400, "similar": False, "tune": True},
    },
    quick=Size(seeds=16),
    full=Size(seeds=100),
    picture=Dots(values={"head": "head alone", "tuned": "all layers tuned"}, axis="test accuracy"),
    known=(
        Known(
            verdict="holds",
            why="a head goes nowhere at such a rate",
            conditions=("many, similar: tuned",),
            changes={"head_rates": [1e-9], "rates": [0.003], "steps": 100, "source_epochs": 5},
        ),
        Known(
            verdict="does not hold",
            why="what is recommended goes nowhere at such a rate",
            conditions=("few, similar: the head",),
            changes={"head_rates": [1e-9], "rates": [0.003], "steps": 100, "source_epochs": 5},
        ),
    ),
)
