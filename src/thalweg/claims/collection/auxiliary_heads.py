"""Auxiliary heads give lower layers a larger gradient."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from thalweg.claims.claim import Claim, Known, Numbers, Size
from thalweg.claims.picture import Dots
from thalweg.claims.problems import accuracy, digits, mlp, trained
from thalweg.claims.rules import more
from thalweg.stages import auxiliary_heads
from thalweg.stages.taps import Closing

__all__ = ["CLAIM", "measure"]

_UNITS = {"sigmoid": nn.Sigmoid, "relu": nn.ReLU}


def measure(
    seed: int,
    *,
    units: str,
    depth: int = 6,
    weight: float = 0.3,
    epochs: int = 15,
    lr: float = 0.01,
    plain_lr: float | None = None,
    examples: int = 500,
) -> Numbers:
    """The first layer's gradient with heads and without, and the accuracy after as many epochs."""
    train, test = digits(seed, train=examples)
    widths = [64, *[32] * depth, 10]
    plain, helped = (mlp(widths, seed, _UNITS[units]) for _ in range(2))
    names = [str(2 * layer + 1) for layer in range(depth - 1)]
    stage = auxiliary_heads(helped, train[0][:4], names, loss="cross-entropy", weight=weight, epochs=epochs)
    (one,) = stage
    assert one.build is not None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        whole = one.build(helped)
    norms = []
    nets: list[tuple[nn.Module, nn.Sequential, Any]] = [
        (plain, plain, nn.functional.cross_entropy),
        (whole, helped, one.loss),
    ]
    for net, inner, loss in nets:
        first = inner[0]
        assert isinstance(first, nn.Linear)
        (slope,) = torch.autograd.grad(loss(net(train[0]), train[1]), [first.weight])
        norms.append(math.log10(float(slope.norm()) + 1e-30))
    assert isinstance(whole, Closing)
    whole.close()
    return {
        "gradient_without": norms[0],
        "gradient_with": norms[1],
        "without": accuracy(trained(plain, train, lr=plain_lr or lr, epochs=epochs, seed=seed), test),
        "with": accuracy(trained(helped, train, lr=lr, seed=seed, stages=stage), test),
    }


CLAIM = Claim(
    title="Auxiliary heads give lower layers a large gradient",
    topic="stages",
    statement="Copies of the output on inner layers, trained for the same task, give the lower layers "
    "a larger gradient, and so a deep net trains better; they are dropped afterwards.",
    sources=("D4",),
    places="N",
    setup="Six hidden layers of 32 units on 500 digits, with a head of weight 0.3 on each inner layer "
    "or without. Measured are the norm of the first layer's gradient before training, and test "
    "accuracy after 15 epochs of Adam at 0.01.",
    against="A gradient that isn't at least three times as large, or an accuracy that gains half a "
    "point or less.",
    about="Both parts have to hold: a larger gradient alone is no better result. Where signals pass "
    "through a net anyhow, as with ReLU, heads have less to add.",
    measure=measure,
    rule=(
        more(
            "gradient_with",
            "gradient_without",
            by=0.477,
            said="decades of the gradient's norm, with less without",
        ),
        more("with", "without", matters=0.005, said="accuracy, with heads less without"),
    ),
    conditions={"sigmoid": {"units": "sigmoid"}, "ReLU": {"units": "relu"}},
    quick=Size(seeds=12),
    full=Size(seeds=60, changes={"epochs": 60}),
    picture=Dots(values={"with": "with heads", "without": "without"}, axis="test accuracy"),
    known=(
        Known(
            verdict="holds",
            why="sigmoid layers let nothing through, and the other side goes nowhere",
            conditions=("sigmoid",),
            changes={"plain_lr": 1e-9, "depth": 3, "epochs": 8},
        ),
        Known(
            verdict="does not hold",
            why="heads without weight give no gradient",
            conditions=("sigmoid",),
            changes={"weight": 0.0, "epochs": 1, "depth": 3},
        ),
    ),
)
