"""Curvature from differences of gradients."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import nn

from thalweg.claims.claim import Claim, Known, Numbers, Size
from thalweg.claims.picture import Lines
from thalweg.claims.problems import digits, mlp
from thalweg.claims.rules import always
from thalweg.curvature import Hessian

__all__ = ["CLAIM", "measure"]

_UNITS = {"tanh": nn.Tanh, "relu": nn.ReLU}


def measure(
    seed: int,
    *,
    units: str,
    steps: Sequence[float] = (1.0, 0.1, 0.01, 0.001, 0.0001, 1e-5),
    double: bool = True,
) -> Numbers:
    """The relative error of a difference of gradients against an exact product, step by step."""
    (x, y), _ = digits(seed, train=200)
    net = mlp([64, 16, 10], seed, _UNITS[units])
    if double:
        net, x = net.double(), x.double()
    parameters = list(net.parameters())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        direction = [torch.randn_like(p) for p in parameters]
    length = math.sqrt(sum(float(d.square().sum()) for d in direction))
    direction = [d / length for d in direction]
    exact = Hessian(net, "cross-entropy", (x, y)) @ direction

    def gradient(shift: float) -> list[torch.Tensor]:
        with torch.no_grad():
            for p, d in zip(parameters, direction, strict=True):
                p.add_(shift * d)
        found = torch.autograd.grad(nn.functional.cross_entropy(net(x), y), parameters)
        with torch.no_grad():
            for p, d in zip(parameters, direction, strict=True):
                p.sub_(shift * d)
        return list(found)

    size = math.sqrt(sum(float(e.square().sum()) for e in exact))
    errors = []
    for step in steps:
        both = zip(gradient(step), gradient(-step), exact, strict=True)
        off = sum(float(((ahead - behind) / (2 * step) - e).square().sum()) for ahead, behind, e in both)
        errors.append(math.sqrt(off) / size)
    return {"best": min(errors), "near": min(errors) < 1e-3, "errors": errors, "steps": list(steps)}


CLAIM = Claim(
    title="Differences of gradients give the curvature",
    topic="second-order",
    statement="Curvature needs no second derivatives: the difference of two gradients, divided by the "
    "step, is the Hessian times the direction, the more exactly the shorter the step, until rounding "
    "takes over.",
    sources=("O13",),
    places="C s95",
    setup="A net of 16 tanh or ReLU units on 200 digits, in double precision; a random direction; "
    "central differences with steps from 1 to 1e-5, against the exact product. Some step must come "
    "within a thousandth of it.",
    against="No step that comes within a thousandth.",
    about="A ReLU has a kink wherever its input is 0, and exact products know nothing of it. A "
    "difference whose step leads over kinks of some examples sees them; shorter steps lead over "
    "fewer.",
    measure=measure,
    rule=(always("near", said="within a thousandth of the product at some step"),),
    conditions={"tanh": {"units": "tanh"}, "ReLU": {"units": "relu"}},
    quick=Size(seeds=6),
    full=Size(seeds=40),
    picture=Lines(
        curves={"errors": "relative error"},
        x="steps",
        axis="error of the difference, relative",
        across="step",
        log=True,
        log_x=True,
    ),
    known=(
        Known(verdict="holds", why="tanh is smooth", conditions=("tanh",)),
        Known(
            verdict="does not hold",
            why="a step of 3 is far from a derivative",
            conditions=("tanh",),
            changes={"steps": [3.0]},
        ),
        Known(
            verdict="does not hold",
            why="in single precision so short a step leaves no digits",
            conditions=("tanh",),
            changes={"steps": [1e-7], "double": False},
        ),
    ),
)
