"""The three ways in which blurring fails."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from thalweg.claims.claim import Claim, Known, Numbers
from thalweg.claims.picture import Lines
from thalweg.claims.rules import always

__all__ = ["CLAIM", "measure"]

_GRID = torch.linspace(-6, 6, 2401, dtype=torch.float64)


def _concave(x: Tensor) -> Tensor:
    return -x.square()


def _misleading(x: Tensor) -> Tensor:
    # wide and shallow at -2, narrow and deeper at 3
    return 0.05 * x.square() - torch.exp(-(x + 2).square() / 4) - 1.4 * torch.exp(-(x - 3).square() / 0.02)


def _steps(x: Tensor, ruggedness: float) -> Tensor:
    return x.square() / 10 + ruggedness * (1 - torch.cos(2 * math.pi * x))


def _blurred(values: Tensor, sigma: float) -> Tensor:
    """The values on the grid, averaged over a Gaussian of the points around each; ends are cut off."""
    weights = torch.exp(-(_GRID.unsqueeze(1) - _GRID).square() / (2 * sigma**2))
    return (weights * values).sum(1) / weights.sum(1)


def measure(
    seed: int, *, kind: str, sigmas: tuple[float, ...] = (0.1, 0.2, 0.4, 0.8), depth: float = 1.0
) -> Numbers:
    """Blur a function of one number exactly, and look at whether and how it becomes convex."""
    function = {"concave": _concave, "misleading": _misleading}[kind]
    values = function(_GRID) * depth if kind == "concave" else function(_GRID)
    inner = slice(600, -600)
    curves = [_blurred(values, sigma)[inner] for sigma in sigmas]
    bends = [float((curve[2:] - 2 * curve[1:-1] + curve[:-2]).min()) for curve in curves]
    grid = _GRID[inner]
    followed = [float(grid[curve.argmin()]) for curve in curves]
    lowest = float(grid[values[inner].argmin()])
    return {
        "never_convex": all(bend < 0 for bend in bends),
        "misled": abs(followed[-1] - lowest) > 1,
        "failed": all(bend < 0 for bend in bends) if kind == "concave" else abs(followed[-1] - lowest) > 1,
        "x": grid[::20].tolist(),
        "sharp": (values[inner] - values[inner].min())[::20].tolist(),
        "blurred": (curves[-1] - curves[-1].min())[::20].tolist(),
    }


CLAIM = Claim(
    title="Blurring doesn't help where nothing becomes convex, or leads elsewhere",
    topic="stages",
    statement="Minus the square never becomes convex, however much it is blurred. Another function "
    "becomes convex, and the minimum of the blurred one leads to a local minimum.",
    sources=("P7",),
    places="N",
    setup="Minus x squared, and a wide bowl beside a narrow hole that is deeper, are blurred on a "
    "grid with noises from 0.1 to 0.8. Looked at are second differences, and where the minimum lies.",
    against="A blurred function that is convex in the first case, or whose minimum is near the "
    "deepest point in the second.",
    about="A Gaussian average of minus x squared is minus x squared less the variance: blurring moves "
    "it down and leaves its shape. The third failure, that too many steps are needed, is one of cost, "
    "and is not judged here.",
    measure=measure,
    rule=(always("failed", said="blurring fails as is said"),),
    conditions={
        "minus the square": {"kind": "concave"},
        "a wide bowl and a narrow hole": {"kind": "misleading"},
    },
    exact=True,
    picture=Lines(
        curves={"sharp": "the function", "blurred": "blurred by 0.8"},
        x="x",
        axis="value above the least",
        across="x",
        own_scales=True,
    ),
    known=(
        Known(verdict="holds", why="the lecture's own examples"),
        Known(
            verdict="does not hold",
            why="the square is convex already",
            changes={"depth": -1.0},
            conditions=("minus the square",),
        ),
        Known(
            verdict="does not hold",
            why="so little noise hides no hole",
            changes={"sigmas": [0.01]},
            conditions=("a wide bowl and a narrow hole",),
        ),
    ),
)
