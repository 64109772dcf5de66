"""The mean of points on either side of a valley is near its bottom."""

from __future__ import annotations

import torch
from torch import nn

from thalweg.averaging import Average, ExponentialAverage, Uniform
from thalweg.claims.claim import Claim, Known, Numbers, Size
from thalweg.claims.nets import drawn
from thalweg.claims.picture import Lines
from thalweg.claims.rules import more
from thalweg.optim import SGD

__all__ = ["CLAIM", "measure"]


def measure(seed: int, *, rate: float, noise: float, steps: int = 300) -> Numbers:
    """Descend in a valley a hundred times as steep across as along, and average the points."""
    curvature = torch.tensor([1.0, 0.01], dtype=torch.float64)
    place = nn.Module()
    place.x = nn.Parameter(torch.tensor([1.0, 10.0], dtype=torch.float64))
    draws = noise * drawn(steps, 2, seed=seed)
    uniform, decaying = Average(place, Uniform()), Average(place, ExponentialAverage(decay=0.95))
    descent = SGD([place.x], lr=rate)
    across: dict[str, list[float]] = {"last": [], "uniform": [], "decaying": []}
    for draw in draws:
        place.x.grad = curvature * place.x.detach() + draw * curvature.sqrt()
        descent.step()
        for name, average in (("uniform", uniform), ("decaying", decaying)):
            average.update()
            with average.swapped():
                across[name].append(place.x[0].abs().item())
        across["last"].append(place.x[0].abs().item())
    # single points may pass the bottom by chance: the root of the mean square of the last hundred
    ends = {
        name: torch.tensor(values[-steps // 3 :]).square().mean().sqrt().clamp(min=1e-12).log10().item()
        for name, values in across.items()
    }
    return {**ends, **{f"{name}_path": values for name, values in across.items()}}


CLAIM = Claim(
    title="Averaged points lie near the bottom of a valley",
    topic="averaging",
    statement="Descent may leap back and forth across a valley without ever being near its bottom; the mean "
    "of the points that it visits is.",
    sources=("A1",),
    places="N 8.39; S",
    setup="A quadratic valley, a hundred times as steep across as along, and 300 steps of descent: with a "
    "rate of 1.99 over the steep curvature, which leaps from side to side, and with a rate of 1 and noisy "
    "gradients. Beside the points themselves, their uniform mean and one that decays by 0.95. What counts is "
    "the distance from the bottom, across the valley, over the last hundred steps.",
    against="A mean that isn't nearer to the bottom than the points by at least a factor of two.",
    about="On either side of the valley errors have opposite signs, and so they cancel. Along the valley "
    "they have the same, and the uniform mean lags behind there: hence the mean that decays.",
    measure=measure,
    rule=(
        more("last", "uniform", by=0.3, said="point less uniform mean, in powers of ten"),
        more("last", "decaying", by=0.3, said="point less decaying mean, in powers of ten"),
    ),
    conditions={
        "leaps across the valley": {"rate": 1.99, "noise": 0.05},
        "noisy gradients": {"rate": 1.0, "noise": 0.3},
    },
    quick=Size(seeds=20),
    picture=Lines(
        curves={"last_path": "the points", "uniform_path": "uniform mean", "decaying_path": "decaying mean"},
        axis="distance from the bottom, across the valley",
        across="steps",
        log=True,
    ),
    known=(
        Known(
            verdict="holds",
            why="leaps of nearly equal length cancel",
            changes={"steps": 150},
            conditions=("leaps across the valley",),
            seeds=5,
        ),
        Known(
            verdict="does not hold",
            why="at a small rate without noise all points lie on one side, the last one nearest",
            changes={"rate": 0.05, "noise": 0.0, "steps": 150},
        ),
    ),
)
