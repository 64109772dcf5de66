"""The gradient doesn't propose what batch norm undoes."""

from __future__ import annotations

import torch
from torch import nn

from thalweg.claims.claim import Claim, Known, Numbers
from thalweg.claims.nets import drawn, mlp
from thalweg.claims.picture import Lines
from thalweg.claims.rules import near
from thalweg.layers import BatchNorm
from thalweg.layers.modes import evaluating

__all__ = ["CLAIM", "measure"]


def measure(seed: int, *, fixed: bool = False) -> Numbers:
    """Take the gradient at each delta; ``fixed``: by statistics that gradients don't pass through."""
    inputs, targets = drawn(128, 10, seed=seed, of="inputs"), drawn(128, 1, seed=seed, of="targets")
    deltas = [10.0**power for power in range(-10, 1)]
    shifts, scales = [], []
    for delta in deltas:
        linear, norm = nn.Linear(10, 8).double(), BatchNorm(8, delta=delta, momentum=1.0).double()
        linear.load_state_dict(mlp(10, 8, seed=seed).double()[0].state_dict())
        top = mlp(8, 8, 1, seed=seed + 1).double()
        norm(linear(inputs))
        with evaluating(norm) if fixed else torch.enable_grad():
            loss = (top(norm(linear(inputs))) - targets).square().mean()
        weight, bias = torch.autograd.grad(loss, [linear.weight, linear.bias])
        # how much of each unit's gradient points along its own weights, which scales what it gives
        along = (weight * linear.weight.detach()).sum(1) / linear.weight.detach().norm(dim=1)
        shifts.append(max((bias.norm() / weight.norm()).item(), 1e-18))
        scales.append(max((along.norm() / weight.norm()).item(), 1e-18))
    first, last = deltas.index(1e-6), deltas.index(1e-2)
    rise = torch.tensor(scales[last] / scales[first]).log10().item() / 4
    return {
        "shift": shifts[0],
        "scale": scales[0],
        "rise": rise,
        "shifts": shifts,
        "scales": scales,
        "deltas": deltas,
    }


CLAIM = Claim(
    title="The gradient doesn't propose what batch norm undoes",
    topic="depth",
    statement="Gradients that pass through batch norm's statistics have no part that only shifts a unit's "
    "inputs to it, and none that only scales them but for the delta under the root.",
    sources=("D1",),
    places="N; U",
    setup="A linear layer, batch norm and a net above them, on random data, in float64. Of the layer's "
    "gradient: the part for its biases, which shift, and the part along each unit's own weights, which "
    "scales, over the length of the whole; for deltas from 1 down to 1e-10.",
    against="A part that shifts above rounding, a part that scales above 1e-8 at the smallest delta, or one "
    "that doesn't fall in proportion to delta.",
    about="Delta is what makes a small spread count: without it the output is exactly the same for every "
    "scale, and the gradient along it zero. Where statistics are kept fixed, the gradient sees none of this "
    "and proposes what the next batch will undo.",
    measure=measure,
    rule=(
        near("shift", 0.0, within=1e-12, said="part of the gradient that shifts"),
        near("scale", 0.0, within=1e-8, said="part that scales, at a delta of 1e-10"),
        near("rise", 1.0, within=0.05, said="powers of ten by which it grows for each of delta, less one"),
    ),
    picture=Lines(
        curves={"scales": "part that scales", "shifts": "part that shifts"},
        axis="part of the gradient",
        across="delta",
        x="deltas",
        log=True,
        log_x=True,
    ),
    known=(
        Known(verdict="holds", why="the derivative of what doesn't depend on shift and scale", seeds=5),
        Known(
            verdict="does not hold",
            why="through fixed statistics the output does depend on shift and scale",
            changes={"fixed": True},
        ),
    ),
)
