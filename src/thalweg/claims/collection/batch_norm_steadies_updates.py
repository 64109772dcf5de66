"""Batch norm keeps a unit's mean and spread as they were when layers below it change."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from thalweg.claims.claim import Claim, Known, Numbers
from thalweg.claims.nets import drawn, mlp
from thalweg.claims.picture import Dots
from thalweg.claims.rules import more, near
from thalweg.layers import BatchNorm
from thalweg.layers.modes import evaluating

__all__ = ["CLAIM", "measure"]


def measure(seed: int, *, relu: bool, depth: int = 8, rate: float = 0.1, frozen: bool = False) -> Numbers:
    """Look at the last hidden units before and after a step; ``frozen``: by statistics of before."""
    found = {}
    for name, width, normed in (("without", 16, False), ("with", 16, True), ("chain", 1, True)):
        kind = nn.ReLU if relu and width > 1 else nn.Identity
        net = mlp(
            *[width] * (depth + 1),
            1,
            seed=seed,
            scheme="he" if kind is nn.ReLU else "normalized",
            activation=kind,
            after=_norm if normed else lambda n: [],
        ).double()
        inputs, targets = drawn(256, width, seed=seed, of="inputs"), drawn(256, 1, seed=seed, of="targets")
        units, weights = net[:-1], list(net[:-1].parameters())
        before = units(inputs)
        slopes = torch.autograd.grad((net[-1](before) - targets).square().mean(), weights)
        with torch.no_grad():
            for weight, slope in zip(weights, slopes, strict=True):
                weight.sub_(rate * weight.norm() * slope / slope.norm().clamp(min=1e-12))
            with evaluating(units) if frozen and normed else torch.no_grad():
                found[name] = _moved(before, units(inputs))
                found[f"{name}_values"] = (units(inputs) - before).square().mean().sqrt().item()
    return found


def _norm(width: int) -> list[nn.Module]:
    return [BatchNorm(width, momentum=1.0, affine=False)]


def _moved(before: Tensor, after: Tensor) -> float:
    """By how much of their spread units moved and grew, on average, each at most by all of it."""
    live = before.std(0) > 1e-6
    spread = before.std(0)[live]
    shift, growth = (after.mean(0) - before.mean(0))[live] / spread, after.std(0)[live] / spread - 1
    return (shift.square() + growth.square()).sqrt().clamp(max=1).mean().item()


CLAIM = Claim(
    title="Batch norm steadies what layers hand on",
    topic="depth",
    statement="With batch norm the mean and the spread of a unit don't change when lower layers do. It takes "
    "from lower layers what they could do by these alone: in a chain of linear units, everything.",
    sources=("D1", "X8"),
    places="N; U; K",
    setup="One step of all weights of a net of eight layers, each along its gradient by a tenth of its own "
    "length, on random data. Of the last hidden units, changes of mean and spread over the spread before, "
    "each at most 1, with batch norm after every layer and without; and in a chain of single linear units, "
    "the change of the last one's outputs.",
    against="Units under batch norm that move by more than a hundredth of their spread, units without that "
    "move less than a tenth, or a chain whose last unit gives something else after the step.",
    about="The steadiness is no more than the definition: who divides by a batch's own statistics always "
    "hands on the same ones. In a chain nothing else is left to learn but the last weight. Of layers with "
    "nonlinear units, all that isn't mean or spread remains.",
    measure=measure,
    rule=(
        near("with", 0.0, within=0.01, said="movement with batch norm, over the spread"),
        more("without", by=0.1, said="movement without, over the spread"),
        near("chain_values", 0.0, within=0.001, said="change of a linear chain's output under batch norm"),
    ),
    conditions={"ReLU units": {"relu": True}, "linear units": {"relu": False}},
    picture=Dots(
        values={
            "without": "without: mean and spread",
            "with": "with batch norm: the same",
            "with_values": "with batch norm: each output",
        },
        axis="movement by one step, over the spread before",
    ),
    known=(
        Known(verdict="holds", why="the definition of batch norm", changes={"rate": 0.2}, seeds=5),
        Known(
            verdict="does not hold",
            why="statistics kept from before the step don't follow the layers",
            changes={"frozen": True},
        ),
    ),
)
