"""Greedy supervised pretraining against training all layers at once."""

from __future__ import annotations

from torch import nn

from thalweg.claims.claim import Claim, Known, Numbers, Size
from thalweg.claims.picture import Dots
from thalweg.claims.problems import accuracy, digits, mlp, trained
from thalweg.claims.rules import more
from thalweg.stages import greedy

__all__ = ["CLAIM", "measure"]

_UNITS = {"sigmoid": nn.Sigmoid, "tanh": nn.Tanh, "relu": nn.ReLU}


def measure(
    seed: int,
    *,
    units: str,
    layers: int = 5,
    epochs: int = 20,
    lr: float = 0.01,
    direct_lr: float | None = None,
    examples: int = 800,
) -> Numbers:
    """Train layer by layer and then together, or together from the beginning, for as many epochs."""
    train, test = digits(seed, train=examples)
    widths = [64, *[32] * layers, 10]
    direct = trained(mlp(widths, seed, _UNITS[units]), train, lr=direct_lr or lr, epochs=epochs, seed=seed)
    net = mlp(widths, seed, _UNITS[units])
    each = max(1, epochs // (2 * layers))
    stages = greedy(net, train[0][:4], epochs=each, joint=epochs - each * layers)
    by_layer = trained(net, train, lr=lr, seed=seed, stages=stages)
    return {"greedy": accuracy(by_layer, test), "direct": accuracy(direct, test)}


CLAIM = Claim(
    title="Greedy supervised pretraining makes a deep net trainable",
    topic="stages",
    statement="A deep net that is hard to train directly reaches a better result if its layers are "
    "first trained one by one, each on the output of the one before.",
    sources=("P1",),
    places="N; U",
    setup="Five hidden layers of 32 units on 800 digits, 20 epochs by Adam at 0.01: all together, or "
    "two epochs for each layer with a temporary head and ten for all. Test accuracy.",
    against="A greedy start that gains half a point or less.",
    about="Epochs are equal, but an epoch of one layer costs less than one of all. Pretraining was "
    "found when deep nets had sigmoid units; ReLU units came later, and made it rare.",
    measure=measure,
    rule=(more("greedy", "direct", matters=0.005, said="accuracy, greedy less direct"),),
    conditions={"sigmoid": {"units": "sigmoid"}, "tanh": {"units": "tanh"}, "ReLU": {"units": "relu"}},
    quick=Size(seeds=24),
    full=Size(seeds=60, changes={"epochs": 60}),
    picture=Dots(values={"greedy": "greedy, then together", "direct": "together"}, axis="test accuracy"),
    known=(
        Known(
            verdict="holds",
            why="the other goes nowhere at such a rate",
            conditions=("ReLU",),
            changes={"direct_lr": 1e-9, "epochs": 8, "layers": 2, "examples": 200},
        ),
        Known(
            verdict="does not hold",
            why="at such a rate nothing is learned",
            conditions=("ReLU",),
            changes={"lr": 1e-9, "epochs": 4, "layers": 2, "examples": 100},
        ),
    ),
)
