"""Where descent ends on small nets: at minima or at saddles."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from thalweg.claims.claim import Claim, Known, Numbers, Size
from thalweg.claims.paths import curvatures, normal, walk
from thalweg.claims.picture import Dots
from thalweg.claims.rules import more
from thalweg.optim import SGD

__all__ = ["CLAIM", "measure"]

_UNITS, _INPUTS = 3, 2


def measure(
    seed: int, *, scale: float, noise: bool = False, data: float = 1.0, starts: int = 8, steps: int = 4000
) -> Numbers:
    """Descend from many starts at once, and look at gradient and curvature where each is at the end."""
    x = normal(60, _INPUTS, seed=seed, of="inputs")
    y = (x @ normal(4, _INPUTS, seed=seed, of="teacher").T).tanh().sum(1)
    flat = _UNITS * (_INPUTS + 2)
    mask = [torch.ones(60, dtype=torch.float64)]

    def losses(parameters: Tensor) -> Tensor:
        w, b, v = torch.split(parameters, [_UNITS * _INPUTS, _UNITS, _UNITS], -1)
        w = w.reshape(*w.shape[:-1], _UNITS, _INPUTS)
        hidden = (torch.einsum("ni,...ui->...nu", x, w) + b[..., None, :]).tanh()
        errors = torch.einsum("...nu,...u->...n", hidden, v) - y
        return data * (mask[0] * errors.square()).mean(-1) + 1e-2 * parameters.square().sum(-1)

    start = scale * normal(starts, flat, seed=seed, of="starts")
    batches = iter(range(steps))

    def noisy(parameters: Tensor) -> Tensor:
        chosen = normal(60, seed=seed, of=f"batch {next(batches)}") > 0.5
        mask[0] = chosen.double() / chosen.double().mean().clamp(min=0.01)
        return losses(parameters)

    ends = walk(partial(SGD, lr=0.1), noisy if noise else losses, start, steps)[-1]
    mask[0] = torch.ones(60, dtype=torch.float64)
    values = torch.stack([curvatures(losses, end) for end in ends])
    lowest = values[:, 0] / values[:, -1]
    return {
        "minima": (lowest > 0).double().mean(),
        "lowest": lowest.min(),
    }


CLAIM = Claim(
    title="Where descent ends on small nets",
    topic="landscape",
    statement="Descent ends at minima, not at saddles. The lectures contradict each other: one says that it "
    "often gets stuck in saddles, the other that it seems to escape them.",
    sources=("X3", "X13"),
    places="C s33; K",
    setup="Nets with three tanh units and a penalty of 0.01 on the square of each weight fit 60 examples of "
    "a random net with four, from eight starts, 4,000 steps at the rate 0.1. Starts of usual size with all "
    "examples and with a third of them at a time, and starts a thousandth of that, next to the saddle at "
    "zero. The smallest eigenvalue of the Hessian at the end over the largest, which is above zero at a "
    "minimum.",
    against="Nine of ten ends or fewer at minima, on average.",
    about="A saddle holds descent only along the directions that rise towards it, and a random start is "
    "never on these alone. What it does is slow descent down: near a saddle steps are short for a time "
    "that grows with the logarithm of the distance.",
    measure=measure,
    rule=(more("minima", 0.9, said="share of ends at minima less 0.9"),),
    conditions={
        "usual starts": {"scale": 1.0},
        "usual starts, minibatches": {"scale": 1.0, "noise": True},
        "starts near zero": {"scale": 1e-3},
    },
    quick=Size(seeds=4),
    picture=Dots(
        values={"lowest": "the lowest of eight ends"},
        axis="smallest curvature at the end over the largest",
        mark=0.0,
    ),
    known=(
        Known(
            verdict="holds",
            why="the penalty alone is a bowl",
            changes={"scale": 0.1, "data": 0.0, "steps": 200, "starts": 3},
            conditions=("usual starts",),
        ),
        Known(
            verdict="does not hold",
            why="after five steps from next to a saddle it is still there",
            changes={"steps": 5},
            conditions=("starts near zero",),
        ),
    ),
)
