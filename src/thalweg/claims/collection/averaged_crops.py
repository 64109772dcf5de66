"""Training on random crops and testing by the mean over fixed ones."""

from __future__ import annotations

import torch
from torch import nn

import thalweg
from thalweg.claims.claim import Claim, Known, Numbers, Size
from thalweg.claims.nets import parts, right
from thalweg.claims.picture import Dots
from thalweg.claims.rules import more
from thalweg.data.augmentation import crops
from thalweg.initial import initialize
from thalweg.strategies import Augmentation

__all__ = ["CLAIM", "measure"]


def measure(
    seed: int,
    *,
    examples: int = 300,
    epochs: int = 30,
    smallest: float = 0.75,
    window: float = 0.875,
    seen: int = 5,
    alone: int = 0,
    rate: float = 0.01,
    plain_rate: float = 0.01,
) -> Numbers:
    """Train without and with random crops; test by the whole image, and by the mean over crops."""
    split, found = parts("digits", seed, examples=examples, flat=False), {}
    inputs = split.test[0]
    for name, own in (("plain", plain_rate), ("cropped", rate)):
        net = nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(8, 16, 3, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(256, 10),
        )
        initialize(net, "he", seed=seed)
        augmented = [Augmentation(crop=smallest)] if name == "cropped" else []
        thalweg.fit(
            net,
            split.train,
            "cross-entropy",
            "adam",
            "cosine",
            augmented,
            epochs=epochs,
            batch_size=32,
            seed=seed,
            hyperparameters={"lr": own},
        )
        with torch.no_grad():
            found[name] = right(net(inputs), split.test)
            if name == "cropped":
                views = [net(view).softmax(-1) for view in crops(inputs, 5, window=window)[:seen]]
                found["one"] = right(views[alone], split.test)
                found["mean"] = right(torch.stack(views).mean(0), split.test)
    return found


CLAIM = Claim(
    title="Random crops in training, the mean of fixed ones at test time",
    topic="averaging",
    statement="A net that is trained on random crops and tested by the mean over a fixed set of crops "
    "predicts better than by one crop, and better than a net that sees whole images only.",
    sources=("A6", "A5"),
    places="S",
    setup="A small convolutional net on 300 digits of 8x8 pixels, 30 epochs of Adam with a rate that falls "
    "to zero: on whole images, and on crops of three quarters of the sides or more, at random places. What "
    "counts is test accuracy: by the centre crop, by the mean of probabilities over centre and corners, at "
    "seven eighths of the sides, and of the net that saw whole images.",
    against="A mean over crops that isn't better by at least half a hundredth than the centre alone, or than "
    "the net that saw whole images.",
    about="Crops show a net more places and sizes than there are images. It is tested on what it was trained "
    "on, crops, and five of them disagree where one of them misses what matters. On images as small and as "
    "well centred as these a crop can also take away what tells two digits apart.",
    measure=measure,
    rule=(
        more(
            "mean",
            "one",
            by=0.0,
            matters=0.005,
            said="accuracy by the mean over crops less that by the centre",
        ),
        more(
            "mean",
            "plain",
            by=0.0,
            matters=0.005,
            said="accuracy by the mean over crops less that without crops",
        ),
    ),
    quick=Size(seeds=24),
    picture=Dots(
        values={
            "plain": "trained on whole images",
            "cropped": "trained on crops, whole image",
            "one": "centre crop",
            "mean": "mean over five crops",
        },
        axis="test accuracy",
    ),
    known=(
        Known(
            verdict="holds",
            why="the one crop is a corner of half the sides, and the net of whole images has no rate to "
            "learn with",
            changes={"epochs": 6, "smallest": 0.5, "window": 0.5, "alone": 1, "plain_rate": 1e-9},
        ),
        Known(
            verdict="does not hold",
            why="one crop is the mean over itself",
            changes={"seen": 1, "epochs": 2},
        ),
    ),
)
