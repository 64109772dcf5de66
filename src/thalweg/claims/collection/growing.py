"""A trained shallower net gives its first and last layers to a deeper one."""

from __future__ import annotations

from typing import Literal

from thalweg.claims.claim import Claim, Known, Numbers, Size
from thalweg.claims.picture import Dots
from thalweg.claims.problems import accuracy, digits, mlp, trained
from thalweg.claims.rules import more
from thalweg.stages import grow

__all__ = ["CLAIM", "measure"]


def measure(
    seed: int,
    *,
    middle: Literal["as drawn", "same function"],
    first_epochs: int = 20,
    epochs: int = 5,
    lr: float = 0.003,
    fresh_epochs: int | None = None,
    examples: int = 500,
) -> Numbers:
    """Train a net of eight layers from a trained one of three, and from nothing."""
    train, test = digits(seed, train=examples)
    shallow = trained(mlp([64, 32, 32, 10], seed), train, lr=lr, epochs=first_epochs, seed=seed)
    deep = [64, *[32] * 7, 10]
    grown = mlp(deep, seed + 1000)
    grow(shallow, grown, middle=middle, example=train[0][:4])
    fresh = mlp(deep, seed + 1000)
    found = {
        name: accuracy(trained(net, train, lr=lr, epochs=length, seed=seed), test)
        for name, net, length in (("grown", grown, epochs), ("fresh", fresh, fresh_epochs or epochs))
    }
    again = mlp(deep, seed + 1000)
    longer = trained(again, train, lr=lr, epochs=epochs + first_epochs, seed=seed)
    return {**found, "longer": accuracy(longer, test)}


CLAIM = Claim(
    title="A shallower trained net's first and last layers start a deeper one well",
    topic="stages",
    statement="A deeper net that is given the first and last layers of a trained shallower one trains "
    "more easily than from nothing.",
    sources=("P2",),
    places="N",
    setup="A net of three layers is trained on 500 digits for 20 epochs, and gives its first and last "
    "layers to one of eight, whose middle layers are as drawn, or such that it computes the same. It "
    "and a fresh one of eight layers are trained for 5 epochs. Test accuracy. A fresh one trained for "
    "all 25 epochs is shown beside them.",
    against="A grown net that gains half a point or less over a fresh one after 5 epochs.",
    about="The comparison after 5 epochs is of starts, as the lecture means it. The shallower net's "
    "training isn't free: the fresh net with as many epochs in all shows what it cost.",
    measure=measure,
    rule=(more("grown", "fresh", matters=0.005, said="accuracy, grown less fresh"),),
    conditions={"middle as drawn": {"middle": "as drawn"}, "same function": {"middle": "same function"}},
    quick=Size(seeds=12),
    full=Size(seeds=60),
    picture=Dots(
        values={"grown": "grown, 5 epochs", "fresh": "fresh, 5 epochs", "longer": "fresh, 25 epochs"},
        axis="test accuracy",
    ),
    known=(
        Known(
            verdict="holds",
            why="what computes the same knows it already",
            conditions=("same function",),
            changes={"epochs": 1, "first_epochs": 10},
        ),
        Known(
            verdict="does not hold",
            why="one epoch each gives little, and the fresh net trains for 25",
            conditions=("middle as drawn",),
            changes={"first_epochs": 1, "epochs": 1, "fresh_epochs": 40},
        ),
    ),
)
