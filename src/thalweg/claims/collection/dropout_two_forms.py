"""Dropout's evaluation gives the mean of its training, exactly, through linear layers alone."""

from __future__ import annotations

import torch
from torch import nn

from thalweg.claims.claim import Claim, Known, Numbers
from thalweg.claims.nets import drawn, mlp
from thalweg.claims.picture import Dots
from thalweg.claims.rules import near
from thalweg.layers import dropout

__all__ = ["CLAIM", "measure"]


def measure(seed: int, *, units: str, drop: float = 0.5, scaled: bool = True) -> Numbers:
    """Take the mean over all masks of ten inputs, by their chances, against one pass in evaluation."""
    above: nn.Module = mlp(
        10, 12, 3, seed=seed, activation={"linear": nn.Identity, "tanh": nn.Tanh, "relu": nn.ReLU}[units]
    ).double()
    above.requires_grad_(False)
    inputs = drawn(20, 10, seed=seed)
    masks = torch.cartesian_prod(*[torch.tensor([0.0, 1.0], dtype=torch.float64)] * 10)
    chances = (masks * (1 - drop) + (1 - masks) * drop).prod(1)

    def mean(scale: float) -> torch.Tensor:
        return torch.einsum("m,mbo->bo", chances, above(masks[:, None] * inputs * scale))

    found = {}
    for name, inverted in (("plain", False), ("inverted", True)):
        expected = mean(1 / (1 - drop) if inverted and scaled else 1.0)
        evaluated = above(dropout(inputs, drop, training=False, inverted=inverted) if scaled else inputs)
        found[name] = ((evaluated - expected).norm() / expected.norm()).item()
    return found


CLAIM = Claim(
    title="Both forms of dropout evaluate to the mean of training",
    topic="averaging",
    statement="Scaling by the chance to be kept, in evaluation or by its inverse while training, gives the "
    "mean output over all masks.",
    sources=("A4", "A5"),
    places="S",
    setup="Dropout at one half on ten inputs of a net with 12 hidden units and random weights. The mean over "
    "all 1024 masks, weighted by their chances, is compared with one pass in evaluation, for plain and "
    "inverted dropout; with linear, tanh and ReLU units above.",
    against="An evaluation farther from the mean than a billionth of it.",
    about="A mean goes through a linear layer unchanged, and through a nonlinear one it doesn't: above such "
    "units scaling is an approximation, better or worse by how far they bend.",
    measure=measure,
    rule=(
        near("plain", 0.0, within=1e-9, said="plain: distance of evaluation from the mean, over its length"),
        near("inverted", 0.0, within=1e-9, said="inverted: the same"),
    ),
    conditions={
        "linear units": {"units": "linear"},
        "tanh units": {"units": "tanh"},
        "ReLU units": {"units": "relu"},
    },
    picture=Dots(
        values={"plain": "plain", "inverted": "inverted"}, axis="distance of evaluation from the mean"
    ),
    known=(
        Known(
            verdict="holds",
            why="the mean of a linear function",
            changes={"drop": 0.25},
            conditions=("linear units",),
            seeds=5,
        ),
        Known(
            verdict="does not hold",
            why="without scaling the mean of masked inputs is half of them",
            changes={"scaled": False},
            conditions=("linear units",),
        ),
    ),
)
