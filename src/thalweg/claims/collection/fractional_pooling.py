"""Pooling over regions drawn at random, against fixed ones."""

from __future__ import annotations

import torch
from torch import nn

import thalweg
from thalweg.claims.claim import Claim, Known, Numbers, Size
from thalweg.claims.nets import parts, right
from thalweg.claims.picture import Dots
from thalweg.claims.rules import more
from thalweg.initial import initialize
from thalweg.layers import FractionalMaxPool2d, sampled_prediction

__all__ = ["CLAIM", "measure"]


def measure(
    seed: int, *, examples: int = 300, epochs: int = 40, rate: float = 0.01, fixed_rate: float = 0.01
) -> Numbers:
    """Train a net with either pooling, and test the random one by the mean over 20 draws."""
    split, found = parts("digits", seed, examples=examples, flat=False), {}
    for name, own in (("fixed", fixed_rate), ("random", rate)):
        pools = [nn.AdaptiveMaxPool2d(5)] if name == "fixed" else [FractionalMaxPool2d(2, output_ratio=5 / 8)]
        net = nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1),
            nn.ReLU(),
            *pools,
            nn.Conv2d(8, 16, 3, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(400, 10),
        )
        initialize(net, "he", seed=seed)
        thalweg.fit(
            net,
            split.train,
            "cross-entropy",
            "adam",
            "cosine",
            epochs=epochs,
            batch_size=32,
            seed=seed,
            hyperparameters={"lr": own},
        )
        with torch.no_grad():
            found[name] = right(net(split.test[0]), split.test)
        if name == "random":
            mean = sampled_prediction(
                net, split.test[0], samples=20, seed=seed, transform=lambda x: x.softmax(-1)
            )
            found["averaged"] = right(mean.mean, split.test)
    return found


CLAIM = Claim(
    title="Fractional max pooling regularizes",
    topic="averaging",
    statement="Pooling over regions that are drawn at random while training, and averaged over at test time, "
    "makes a net generalize better than pooling over fixed ones.",
    sources=("A7", "A5"),
    places="S",
    setup="A small convolutional net on 300 digits of 8x8 pixels, 40 epochs of Adam with a rate that falls "
    "to zero, with pooling over fixed, overlapping regions from 8x8 to 5x5 and with fractional pooling to "
    "the same size. What counts is test accuracy, with fractional pooling by the mean of probabilities over "
    "20 draws.",
    against="An accuracy with random regions that isn't higher by at least half a hundredth.",
    about="Random regions show the layers above an image that is stretched a little otherwise each time: an "
    "augmentation inside of the net. How much that gains goes with how few images there are.",
    measure=measure,
    rule=(
        more(
            "averaged",
            "fixed",
            by=0.0,
            matters=0.005,
            said="accuracy with random regions less that with fixed",
        ),
    ),
    quick=Size(seeds=12),
    picture=Dots(
        values={
            "fixed": "fixed regions",
            "random": "random, mean in the layer",
            "averaged": "random, mean of 20",
        },
        axis="test accuracy",
    ),
    known=(
        Known(
            verdict="holds",
            why="the net with fixed regions has no rate to learn with",
            changes={"epochs": 4, "fixed_rate": 1e-9},
        ),
        Known(
            verdict="does not hold",
            why="the net with random regions has no rate to learn with",
            changes={"epochs": 4, "rate": 1e-9},
        ),
    ),
)
