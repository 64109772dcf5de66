"""Residual blocks left out at random while training."""

from __future__ import annotations

import torch
from torch import nn

import thalweg
from thalweg.claims.claim import Claim, Known, Numbers, Size
from thalweg.claims.nets import mlp, parts, right
from thalweg.claims.picture import Dots
from thalweg.claims.rules import more
from thalweg.layers import BatchNorm, Skip, set_stochastic_depth

__all__ = ["CLAIM", "measure"]


def measure(
    seed: int,
    *,
    examples: int = 300,
    drop: float = 0.5,
    blocks: int = 6,
    epochs: int = 30,
    rates: tuple[float, ...] = (0.03, 0.1),
    all_rates: tuple[float, ...] = (0.03, 0.1),
) -> Numbers:
    """Train a residual net with and without, each at its best rate."""
    split = parts("digits", seed, examples=examples)
    found = {}
    for name, share, own in (("all", 0.0, all_rates), ("dropped", drop, rates)):
        tried = []
        for rate in own:
            body = [mlp(32, 32, 32, seed=100 * seed + block) for block in range(blocks)]
            net = nn.Sequential(
                mlp(64, 32, seed=seed),
                *(Skip(nn.Sequential(BatchNorm(32), each)) for each in body),
                BatchNorm(32),
                mlp(32, 10, seed=seed + 1),
            )
            if share:
                set_stochastic_depth(net, share)
            thalweg.fit(
                net,
                split.train,
                "cross-entropy",
                "momentum",
                "cosine",
                epochs=epochs,
                batch_size=32,
                seed=seed,
                hyperparameters={"lr": rate},
            )
            with torch.no_grad():
                tried.append([right(net(part[0]), part) for part in (split.validation, split.test)])
        found[name] = max(tried)[1]
    return found


CLAIM = Claim(
    title="Stochastic depth regularizes",
    topic="averaging",
    statement="Leaving out residual blocks at random while training, and averaging that out at test time, "
    "makes a deep net generalize better.",
    sources=("A8", "A5"),
    places="S",
    setup="A residual net of six blocks with batch norm on 300 digits, 30 epochs of descent with momentum "
    "and a rate that falls to zero. Blocks are left out with chances that rise to one half at the last, or "
    "never; each side has the better of two rates by validation accuracy. What counts is test accuracy.",
    against="An accuracy that isn't higher by at least half a hundredth.",
    about="A net of which half is missing is a smaller one, and the whole is nearly the mean of many such. "
    "Where a net isn't too deep for its data there may be little to gain, and what is left out is learnt "
    "more slowly.",
    measure=measure,
    rule=(
        more("dropped", "all", by=0.0, matters=0.005, said="accuracy with blocks left out less that without"),
    ),
    quick=Size(seeds=12),
    picture=Dots(values={"all": "all blocks", "dropped": "left out at random"}, axis="test accuracy"),
    known=(
        Known(
            verdict="holds",
            why="the net with all blocks has no rate to learn with",
            changes={"epochs": 5, "rates": (0.1,), "all_rates": (1e-9,), "blocks": 2},
        ),
        Known(
            verdict="does not hold",
            why="with a chance of zero it is the same net",
            changes={"drop": 0.0, "epochs": 2, "rates": (0.1,), "all_rates": (0.1,), "blocks": 2},
        ),
    ),
)
