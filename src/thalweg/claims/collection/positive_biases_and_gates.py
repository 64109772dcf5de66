"""Positive biases under ReLU, and open gates."""

from __future__ import annotations

import math

import torch
from torch import nn

from thalweg.claims.claim import Claim, Known, Numbers, Size
from thalweg.claims.picture import Dots
from thalweg.claims.problems import digits, mlp
from thalweg.claims.rules import more
from thalweg.initial import open_gates, positive_biases

__all__ = ["CLAIM", "measure"]


def measure(seed: int, *, what: str, bias: float, length: int = 30) -> Numbers:
    """The share of units that are on, or how much gradient comes back to the first step, without and with."""
    if what == "units":
        (x, _), _ = digits(seed, train=500)
        found = []
        for value in (0.0, bias):
            net = mlp([64, 64, 64, 64, 10], seed)
            for layer in net:
                if isinstance(layer, nn.Linear):
                    nn.init.zeros_(layer.bias)
            if value:
                positive_biases(net, value)
            with torch.no_grad():
                # of the last hidden layer, over examples
                found.append(float((net[:6](x) > 0).float().mean()))
        return {"without": found[0], "with": found[1]}
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(32, length, 4, generator=generator)
    found = []
    for opened in (False, True):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            net_ = nn.LSTM(4, 16, batch_first=True)
        if opened:
            open_gates(net_, forget=bias)
        at = inputs.clone().requires_grad_()
        (slope,) = torch.autograd.grad(net_(at)[0][:, -1].square().sum(), at)
        found.append(math.log10(float(slope[:, 0].norm()) + 1e-30))
    return {"without": found[0], "with": found[1]}


CLAIM = Claim(
    title="Positive biases keep ReLUs on at the start, and open gates let gradients through time",
    topic="starting",
    statement="A small positive bias lets ReLU units be active for most inputs at the start. A gate "
    "whose bias holds it open at the start lets a gradient pass through time.",
    sources=("I6",),
    places="K",
    setup="The share of examples for which units of the third hidden layer are on, with biases of 0 "
    "or 0.1; and the gradient of an LSTM's last output by its first input, 30 steps before, in "
    "decades, with a forget gate's bias of 0 or 1.",
    against="No larger share, or no larger gradient.",
    about="At biases of 0 about half of the units are on, by symmetry. A forget gate of bias 0 halves "
    "what it keeps in each step; of bias 1 it keeps 73 %, which over 29 steps is a factor of 60,000.",
    measure=measure,
    rule=(more("with", "without", by=0.02, said="with the bias less without"),),
    conditions={
        "units on, bias 0.1": {"what": "units", "bias": 0.1},
        "gates, bias 1": {"what": "gates", "bias": 1.0},
    },
    quick=Size(seeds=10),
    full=Size(seeds=60),
    picture=Dots(
        values={"without": "without", "with": "with"}, axis="share of units on; decades of the gradient"
    ),
    known=(
        Known(
            verdict="holds",
            why="a large bias holds every unit on",
            changes={"bias": 10.0},
            conditions=("units on, bias 0.1",),
        ),
        Known(
            verdict="does not hold",
            why="a bias of nearly nothing changes nothing",
            changes={"bias": 1e-6},
            conditions=("units on, bias 0.1",),
        ),
        Known(
            verdict="does not hold",
            why="a gate that is shut lets less through",
            changes={"bias": -3.0},
            conditions=("gates, bias 1",),
        ),
    ),
)
