"""Unsupervised pretraining where labels are few."""

from __future__ import annotations

from thalweg.claims.claim import Claim, Known, Numbers, Size
from thalweg.claims.picture import Dots
from thalweg.claims.problems import accuracy, digits, mlp, trained
from thalweg.claims.rules import more
from thalweg.stages import Stage, unsupervised

__all__ = ["CLAIM", "measure"]


def measure(
    seed: int,
    *,
    labels: int,
    epochs: int = 40,
    first_epochs: int = 20,
    lr: float = 0.003,
    alone_lr: float | None = None,
    noise: float = 0.3,
) -> Numbers:
    """Train on few labels, and after learning to reconstruct 1,000 images without labels."""
    (x, y), test = digits(seed, train=1000)
    few = (x[:labels], y[:labels])
    size = min(32, labels)
    widths = [64, 64, 32, 10]
    alone = trained(mlp(widths, seed), few, lr=alone_lr or lr, epochs=epochs, seed=seed, batch_size=size)
    net = mlp(widths, seed)
    stages = [
        *unsupervised(net, x[:4], epochs=first_epochs, noise=noise, data=x),
        Stage(name="labels", epochs=epochs),
    ]
    first = trained(net, few, lr=lr, seed=seed, stages=stages, batch_size=size)
    return {"pretrained": accuracy(first, test), "alone": accuracy(alone, test)}


CLAIM = Claim(
    title="Unsupervised pretraining helps where labels are few",
    topic="stages",
    statement="A net that begins with what it learned from inputs without labels does better on a "
    "supervised task than one that begins at random, above all where labels are few.",
    sources=("I8",),
    places="K",
    setup="Two hidden layers learn to reconstruct 1,000 digits from noisy ones, without labels, for "
    "20 epochs, and then 20, 100 or 1,000 labels for 40 epochs; or they learn the labels alone. Test "
    "accuracy.",
    against="Pretraining that gains half a point or less.",
    about="With 1,000 labels both have seen the same images, and what is left of a gain is that of a "
    "better start.",
    measure=measure,
    rule=(more("pretrained", "alone", matters=0.005, said="accuracy, pretrained less labels alone"),),
    conditions={"20 labels": {"labels": 20}, "100 labels": {"labels": 100}, "1,000 labels": {"labels": 1000}},
    quick=Size(seeds=24),
    full=Size(seeds=60, changes={"first_epochs": 60}),
    picture=Dots(
        values={"pretrained": "without labels first", "alone": "labels alone"}, axis="test accuracy"
    ),
    known=(
        Known(
            verdict="holds",
            why="the other goes nowhere at such a rate",
            conditions=("1,000 labels",),
            changes={"alone_lr": 1e-9, "epochs": 3, "first_epochs": 1},
        ),
        Known(
            verdict="does not hold",
            why="at such a rate nothing is learned",
            conditions=("20 labels",),
            changes={"lr": 1e-9, "epochs": 1, "first_epochs": 1},
        ),
    ),
)
