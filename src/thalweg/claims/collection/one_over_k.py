"""How slow descent may be on a convex function that is only smooth."""

from __future__ import annotations

from functools import partial
from typing import Literal

import torch
from torch import Tensor

from thalweg.claims.claim import Claim, Known, Numbers, Size
from thalweg.claims.paths import normal, walk
from thalweg.claims.picture import Lines
from thalweg.claims.rules import always
from thalweg.optim import SGD

__all__ = ["CLAIM", "measure"]


def measure(
    seed: int,
    *,
    kind: Literal["chain", "quartic"],
    times: float = 1.0,
    steps: int = 1000,
) -> Numbers:
    """Descend at ``times / L`` and compare every value with the bound; lowest value 0 at the minimum."""
    smooth = 4.0 if kind == "chain" else 3.0

    def function(x: Tensor) -> Tensor:
        if kind == "chain":
            # springs between neighbours, and from both ends to a wall
            return torch.nn.functional.pad(x, (1, 1)).diff().square().sum() / 2
        # x^4 / 4 with straight arms: curvature from 0 to 3
        return torch.where(x.abs() < 1, x**4 / 4, x.abs() - 0.75).sum()

    start = 1 + 0.3 * normal(200, seed=seed)
    path = walk(partial(SGD, lr=times / smooth), function, start, steps)[1:]
    values = torch.stack([function(x) for x in path])
    counted = torch.arange(1, steps + 1, dtype=torch.float64)
    bound = start.square().sum() / (2 * (times / smooth) * counted)
    return {
        "kept": bool((values <= bound * (1 + 1e-9)).all()),
        "slow": values[-1] > values[steps // 2 - 1] / 10,
        "value": values,
        "proven": bound,
        "step": counted,
    }


CLAIM = Claim(
    title="One over k on smooth convex functions",
    topic="convergence",
    statement="On a convex function whose curvature is at most L, descent at a rate eta of at most 1/L is "
    "after k steps no further above the minimum than |w0 - w*|^2 / (2 eta k). Where there is no lower bound "
    "on curvature it is slow: doubling the steps then leaves more than a tenth of the value.",
    sources=("X9",),
    places="C s59-64",
    setup="200 dimensions from random starts, 1,000 steps at 1/L. A chain of springs fastened at both "
    "ends, much like Nesterov's example, whose curvatures go down to 2e-4; and a quartic with straight "
    "arms, whose curvature at the minimum is none.",
    against="One value above the bound; or a tenth or less left by the second half of the steps.",
    about="The bound holds for every smooth convex function, and most are faster: a round quadratic bowl is "
    "done in a step. How slow descent really is depends on how flat the function is near the minimum.",
    measure=measure,
    rule=(
        always("kept", said="no value is above the bound"),
        always("slow", said="the second half of the steps leaves more than a tenth of the value"),
    ),
    conditions={
        "a chain": {"kind": "chain"},
        "flat at the minimum": {"kind": "quartic"},
    },
    quick=Size(seeds=10),
    picture=Lines(
        curves={"value": "measured", "proven": "the bound"},
        axis="value above the minimum",
        across="steps",
        x="step",
        log=True,
        log_x=True,
    ),
    known=(
        Known(
            verdict="holds",
            why="it is a theorem, and both are flat",
            changes={"steps": 200},
            conditions=("a chain", "flat at the minimum"),
        ),
        Known(
            verdict="does not hold",
            why="descent diverges above 2/L",
            changes={"times": 2.5, "steps": 200},
            conditions=("a chain",),
        ),
    ),
)
