"""What batch norm replaced: penalties on statistics, and renormalizing after each step."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from thalweg.claims.claim import Claim, Known, Numbers, Size
from thalweg.claims.picture import Dots
from thalweg.claims.problems import digits, mlp
from thalweg.claims.rules import more

__all__ = ["CLAIM", "measure"]


def _off(sums: Tensor) -> Tensor:
    """How far units are from mean 0 and standard deviation 1: root of the mean square."""
    return ((sums.mean(0) ** 2 + (sums.std(0, correction=0) - 1) ** 2) / 2).mean().sqrt()


def _descent(net: nn.Sequential, loss: Tensor, lr: float) -> None:
    parameters = list(net.parameters())
    with torch.no_grad():
        for p, slope in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
            p.sub_(lr * slope)


@torch.no_grad()
def _renormalize(layer: nn.Linear, inputs: Tensor, before: Tensor) -> tuple[float, float]:
    """Standardize a layer's sums by its weights; return what of a step that undoes, and all of the step."""
    after = layer(inputs)
    change, centred = after - before, before - before.mean(0)
    scale = centred / centred.norm(dim=0).clamp_min(1e-12)
    # the parts of each unit's change along a shift and along a scaling
    along = len(change) * change.mean(0) ** 2 + (scale * change).sum(0) ** 2
    spread = after.std(0, correction=0).clamp_min(1e-6)
    layer.weight /= spread.unsqueeze(1)
    layer.bias.sub_(after.mean(0)).div_(spread)
    return float(along.sum()), float(change.square().sum())


def measure(
    seed: int, *, penalty: float = 0.1, lr: float = 0.1, steps: int = 200, width: int = 64
) -> Numbers:
    """Train a hidden layer with nothing, with a penalty, and standardized after each step."""
    (x, y), _ = digits(seed, train=512)
    found: dict[str, float] = {}
    for way in ("nothing", "penalty", "renormalized"):
        net = mlp([64, width, 10], seed)
        layer = net[0]
        assert isinstance(layer, nn.Linear)
        undone, whole = [], []
        for step in range(steps):
            batch = torch.randperm(len(x), generator=torch.Generator().manual_seed(1000 * seed + step))[:128]
            sums = layer(x[batch])
            loss = nn.functional.cross_entropy(net[1:](sums), y[batch])
            if way == "penalty":
                loss = loss + penalty * (sums.mean(0) ** 2 + (sums.var(0, correction=0) - 1) ** 2).mean()
            _descent(net, loss, lr)
            if way == "renormalized":
                part, all_ = _renormalize(layer, x[batch], sums.detach())
                undone.append(part)
                whole.append(all_)
        with torch.no_grad():
            found[way] = float(_off(layer(x)))
        if way == "renormalized":
            # the first step begins where nothing is standardized yet
            found["undone"] = sum(undone[1:]) / max(sum(whole[1:]), 1e-12)
    return found


CLAIM = Claim(
    title="Penalties and renormalizing after each step, which batch norm replaced",
    topic="depth",
    statement="Penalties that ask for standardized units standardize them imperfectly. Standardizing "
    "them after each step by force wastes steps: the gradient proposes changes of mean and scale "
    "again and again, which are undone each time.",
    sources=("X12", "D1"),
    places="N; U",
    setup="A layer of 64 units on the digits, 200 steps of SGD: with a penalty of 0.1 on its means "
    "and variances, with weights rescaled and shifted after each step so that its sums are "
    "standardized on the batch. Measured are how far units are from mean 0 and deviation 1, and which "
    "part of what a step changes in the sums is change of mean and scale.",
    against="Units within 0.1 of standardized under the penalty, or steps of which at most a tenth is "
    "undone.",
    about="Of a change at random in 128 examples two directions hold a 64th. Batch norm standardizes "
    "by definition, and its gradient has no part along mean or scale, which is a claim of its own "
    "here.",
    measure=measure,
    rule=(
        more("penalty", 0.1, said="distance from standardized under the penalty"),
        more("undone", 0.1, said="share of a step that is undone"),
    ),
    quick=Size(seeds=8),
    full=Size(seeds=40, changes={"steps": 2000}),
    picture=Dots(
        values={
            "nothing": "nothing",
            "penalty": "penalty",
            "renormalized": "renormalized",
            "undone": "share undone",
        },
        axis="distance from standardized; share of a step undone",
    ),
    known=(
        Known(
            verdict="holds",
            why="a penalty of nearly nothing moves nothing",
            changes={"penalty": 1e-6, "steps": 30},
        ),
        Known(
            verdict="does not hold",
            why="so strong a penalty outweighs the loss",
            changes={"penalty": 5.0, "lr": 0.02, "steps": 700, "width": 8},
        ),
    ),
)
