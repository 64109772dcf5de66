"""What Adam's bias correction is for."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from thalweg.claims.claim import Claim, Known, Numbers
from thalweg.claims.paths import walk
from thalweg.claims.picture import Lines
from thalweg.claims.rules import more, near
from thalweg.optim import Adam

__all__ = ["CLAIM", "measure"]


def measure(seed: int, *, betas: tuple[float, float], steps: int = 3000) -> Numbers:
    """Descend an even slope, where steps should have the length of the rate, with and without."""
    start, rate = torch.zeros(1, dtype=torch.float64), 0.01

    def slope(x: Tensor) -> Tensor:
        return 3 * x.sum()

    corrected, raw = (
        walk(partial(Adam, lr=rate, betas=betas, bias_correction=kind), slope, start, steps).diff(dim=0)
        for kind in (True, False)
    )
    lengths = {"corrected": corrected.abs()[:, 0] / rate, "raw": raw.abs()[:, 0] / rate}
    return {
        "first": lengths["corrected"][0],
        "worst": (lengths["corrected"] - 1).abs().max(),
        "off": lengths["raw"].log().abs().max(),
        "late": lengths["raw"][-1],
        "corrected_path": lengths["corrected"][:200],
        "raw_path": lengths["raw"][:200],
        "formula": (1 - betas[0]) / (1 - betas[1]) ** 0.5,
        "raw_first": lengths["raw"][0],
    }


CLAIM = Claim(
    title="Bias correction at the start",
    topic="momentum",
    statement="Adam's averages begin at zero, so that its first steps have a wrong length: at the usual "
    "settings (1 - 0.9) / sqrt(1 - 0.999), about three times too long. With the correction every step on an "
    "even slope has the length of the rate.",
    sources=("O6",),
    places="K Alg 8.7; S 6",
    setup="An even slope, down which a step of Adam should be as long as the rate, in 3,000 steps from rest. "
    "Averages over 0.9 and 0.999 (the usual), 0.9 and 0.9, and 0.9 and 0.99.",
    against="A corrected step of another length; without correction no step that is wrong by a factor of "
    "1.5; or a first step other than the formula's.",
    about="Which way the first steps are wrong depends on the two averages: too long where that of squares "
    "is the slower one, too short where both are alike. For 0.9 and 0.99 the two errors cancel in the first "
    "step; those after it are too long.",
    measure=measure,
    rule=(
        near("worst", 0.0, within=1e-3, said="largest deviation of a corrected step"),
        near("raw_first", "formula", within=1e-3, said="first step without correction less the formula"),
        more("off", 0.405, said="logarithm of the wrongest step without correction, less that of 1.5"),
    ),
    conditions={
        "0.9 and 0.999": {"betas": (0.9, 0.999)},
        "0.9 and 0.9": {"betas": (0.9, 0.9)},
        "0.9 and 0.99": {"betas": (0.9, 0.99)},
    },
    exact=True,
    picture=Lines(
        curves={"raw_path": "without correction", "corrected_path": "corrected"},
        axis="length of a step over the rate",
        across="steps",
    ),
    known=(
        Known(
            verdict="holds",
            why="the formula",
            changes={"steps": 100},
            conditions=("0.9 and 0.999", "0.9 and 0.9"),
        ),
        Known(
            verdict="does not hold",
            why="averages over next to nothing have no bias",
            changes={"betas": (0.0, 0.0), "steps": 100},
            conditions=("0.9 and 0.999",),
        ),
    ),
)
