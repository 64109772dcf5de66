"""Which schemes of initial weights keep the variance of activations and gradients through 20 layers."""

from __future__ import annotations

import torch
from torch import nn

from thalweg.claims.claim import Claim, Known, Numbers, Size
from thalweg.claims.nets import drawn, mlp
from thalweg.claims.picture import Lines
from thalweg.claims.rules import near

__all__ = ["CLAIM", "measure"]

_UNITS = {"linear": nn.Identity, "tanh": nn.Tanh, "relu": nn.ReLU}


def measure(
    seed: int, *, scheme: str, units: str, gain: float = 1.0, depth: int = 20, width: int = 128
) -> Numbers:
    """Pass random data through a net and a random gradient back; ``gain`` multiplies the weights."""
    options = {"scale": 0.01} if scheme == "gaussian" else {"k": 15} if scheme == "sparse" else {}
    net = mlp(
        *[width] * (depth + 1), width, seed=seed, scheme=scheme, activation=_UNITS[units], **options
    ).double()
    values = drawn(256, width, seed=seed, of="inputs").requires_grad_()
    kept, parts = [values], list(net)[:-1]
    for layer, unit in zip(parts[::2], parts[1::2], strict=True):
        values = unit(gain * layer(values))
        values.retain_grad()
        kept.append(values)
    torch.autograd.backward(values, drawn(256, width, seed=seed, of="upstream"))
    forward = [one.detach().square().mean().clamp(min=1e-300).log10().item() for one in kept]
    backward = [
        one.grad.square().mean().clamp(min=1e-300).log10().item() for one in kept if one.grad is not None
    ]
    return {
        "forward": forward[-1] - forward[1],
        "backward": backward[0] - backward[-2],
        "forward_path": [one - forward[0] for one in forward],
        "backward_path": [one - backward[-1] for one in backward],
    }


CLAIM = Claim(
    title="Variance through twenty layers",
    topic="starting",
    statement="A good scheme of initial weights gives all layers the same variance of activations and of "
    "gradients.",
    sources=("I1", "I2", "I3", "I4"),
    places="K; U",
    setup="Random data through 20 layers of 128 units, and a random gradient back, for each scheme with the "
    "units that it is used with. What counts are powers of ten between the mean squares at the first layer "
    "and at the last.",
    against="Activations or gradients whose mean square changes more than tenfold from the first layer to "
    "the last.",
    about="A layer multiplies the mean square by the number of its inputs times the weights' variance, and "
    "by what its units let through. Twenty layers take that to the twentieth power: a scheme is right for a "
    "kind of unit, or it is far off.",
    measure=measure,
    rule=(
        near("forward", 0.0, within=1.0, said="powers of ten of activations, from first layer to last"),
        near("backward", 0.0, within=1.0, said="powers of ten of gradients, from last layer to first"),
    ),
    conditions={
        "deviation 0.01 with tanh": {"scheme": "gaussian", "units": "tanh"},
        "uniform 1/sqrt(N) with tanh": {"scheme": "inverse-root", "units": "tanh"},
        "normalized with linear units": {"scheme": "normalized", "units": "linear"},
        "normalized with tanh": {"scheme": "normalized", "units": "tanh"},
        "normalized with ReLU": {"scheme": "normalized", "units": "relu"},
        "He with ReLU": {"scheme": "he", "units": "relu"},
        "He with linear units": {"scheme": "he", "units": "linear"},
        "orthogonal with tanh": {"scheme": "orthogonal", "units": "tanh"},
        "sparse (15) with tanh": {"scheme": "sparse", "units": "tanh"},
    },
    quick=Size(seeds=10),
    picture=Lines(
        curves={"forward_path": "activations", "backward_path": "gradients"},
        axis="mean square, in powers of ten of that where they come in",
        across="layer",
    ),
    known=(
        Known(
            verdict="holds",
            why="variance 1/n of n weights keeps the mean square of a linear layer",
            changes={"width": 64, "depth": 10},
            conditions=("normalized with linear units",),
            seeds=6,
        ),
        Known(
            verdict="does not hold",
            why="weights twice as large multiply the mean square by 4 in each layer",
            changes={"gain": 2.0, "width": 64},
            conditions=("normalized with linear units",),
        ),
    ),
)
