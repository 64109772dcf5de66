"""Minima become rarer than saddles as dimension grows, in random functions."""

from __future__ import annotations

import torch

from thalweg.claims.claim import Claim, Known, Numbers, Size
from thalweg.claims.paths import normal
from thalweg.claims.picture import Lines
from thalweg.claims.rules import more, near

__all__ = ["CLAIM", "measure"]

_DIMENSIONS = (2, 3, 5, 10, 20)


def measure(seed: int, *, bowl: float = 0.0, draws: int = 20_000) -> Numbers:
    """Draw Hessians at stationary points of Gaussian functions, and count the minima."""
    shares = []
    for n in _DIMENSIONS:
        # Of a function with covariance exp(-r^2 / 2), whatever the gradient is there: off the diagonal of
        # variance 1, on it of variance 3, of which 1 is common to all. A stationary point is as likely to be
        # met as the volume of gradients around it is large: it counts by |det H| (Kac and Rice).
        noise = normal(draws, n, n, seed=seed, of=f"Hessians {n}")
        common = normal(draws, 1, seed=seed, of=f"diagonals {n}") + bowl
        values = torch.linalg.eigvalsh((noise + noise.mT) / 2**0.5) + common
        counts = values.abs().prod(1)
        shares.append(float((counts * (values[:, 0] > 0)).sum() / counts.sum()))
    return {
        "lowest": shares[0],
        "quarter": shares[0] / 4,
        "middle": shares[2],
        "highest": shares[-1],
        "dimension": list(_DIMENSIONS),
        "share": shares,
        "by_signs": [0.5**n for n in _DIMENSIONS],
    }


CLAIM = Claim(
    title="Minima become rare as dimension grows",
    topic="landscape",
    statement="In random functions of few variables many stationary points are minima; of many variables "
    "nearly all are saddles, and the ratio grows exponentially with dimension.",
    sources=("X3",),
    places="K; C s33",
    setup="Gaussian random functions, which are alike everywhere and in all directions, in 2, 3, 5, 10 and "
    "20 dimensions: 20,000 Hessians at stationary points of each, drawn by the formula of Kac and Rice. "
    "Which share of them are minima.",
    against="In two dimensions less than five minima in a hundred; in five a quarter of the share in two, or "
    "more; or in twenty more than one in a thousand.",
    about="A point is a minimum only if curvature is positive in every direction. If each sign were a toss "
    "of a coin, the share would halve with every dimension; eigenvalues of one matrix repel each other, so "
    "that it falls faster. Losses of nets are no random functions: whether they share this is another "
    "question.",
    measure=measure,
    rule=(
        more("lowest", 0.05, said="share of minima in two dimensions less 0.05"),
        more("quarter", "middle", said="a quarter of that share less the share in five dimensions"),
        near("highest", 0.0, within=0.001, said="share in twenty dimensions"),
    ),
    quick=Size(seeds=8),
    picture=Lines(
        curves={"share": "drawn", "by_signs": "a coin for each sign"},
        axis="share of stationary points that are minima",
        across="dimensions",
        x="dimension",
        log_x=True,
    ),
    known=(
        Known(
            verdict="holds",
            why="in the plane a quarter are minima: as many as maxima, and half of all are saddles",
            changes={"draws": 4000},
            seeds=4,
        ),
        Known(
            verdict="does not hold",
            why="a steep bowl beneath makes every stationary point a minimum",
            changes={"bowl": 200.0, "draws": 500},
        ),
    ),
)
