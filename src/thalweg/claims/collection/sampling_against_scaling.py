"""One scaled pass does as well as the mean of many random ones."""

from __future__ import annotations

import torch
from torch import nn

import thalweg
from thalweg.claims.claim import Claim, Known, Numbers, Size
from thalweg.claims.nets import mlp, parts, right
from thalweg.claims.picture import Dots
from thalweg.claims.rules import near
from thalweg.layers import sampled_outputs

__all__ = ["CLAIM", "measure"]


def measure(
    seed: int, *, score: str, drop: float = 0.5, samples: int = 100, epochs: int = 20, examples: int = 500
) -> Numbers:
    """Train with dropout, and test by both."""
    split = parts("digits", seed, examples=examples)
    net = mlp(64, 64, 64, 10, seed=seed, after=lambda width: [nn.Dropout(drop)])
    thalweg.fit(
        net,
        split.train,
        "cross-entropy",
        "adam",
        epochs=epochs,
        batch_size=32,
        seed=seed,
        hyperparameters={"lr": 3e-3},
    )
    inputs, targets = split.test
    with torch.no_grad():
        scaled = net(inputs).softmax(-1)
    passes = [each.softmax(-1) for each in sampled_outputs(net, inputs, samples=max(samples, 2), seed=seed)]
    found = {}
    for name, chances in (("scaled", scaled), ("sampled", torch.stack(passes[:samples]).mean(0))):
        loss = nn.functional.nll_loss(chances.clamp(min=1e-9).log(), targets).item()
        found[name] = 100 * right(chances, split.test) if score == "accuracy" else 20 * loss
    return {**found, "difference": found["sampled"] - found["scaled"]}


CLAIM = Claim(
    title="Scaling in place of sampling",
    topic="averaging",
    statement="To average out dropout's randomness at test time, one pass with scaled units gives nearly "
    "what the mean of many random passes gives.",
    sources=("A5", "A4"),
    places="S",
    setup="A net of two hidden layers of 64 units with dropout at one half, trained on 500 digits. Test "
    "digits are classified by one scaled pass and by the mean probabilities of a hundred random ones. Their "
    "accuracies are judged, in percent, and their cross-entropies, in twentieths.",
    against="Accuracies that differ by more than one in a hundred, or losses that differ by more than 0.05.",
    about="Through nonlinear units, the last of which makes probabilities, scaling isn't the mean. The class "
    "with the largest output can well be the same where the probabilities aren't: means of probabilities are "
    "less sure than each of them.",
    measure=measure,
    rule=(near("sampled", "scaled", within=1.0, said="sampling less scaling"),),
    conditions={"accuracy": {"score": "accuracy"}, "cross-entropy": {"score": "loss"}},
    quick=Size(seeds=8),
    picture=Dots(
        values={"difference": "sampling less scaling"},
        axis="accuracy in percent, cross-entropy in twentieths",
        mark=0.0,
    ),
    known=(
        Known(
            verdict="holds",
            why="hardly any unit is dropped, so that all passes are one",
            changes={"samples": 10, "epochs": 4, "drop": 0.002},
            conditions=("cross-entropy",),
        ),
        Known(
            verdict="does not hold",
            why="a single random pass has a fifth of its units",
            changes={"samples": 1, "epochs": 4, "drop": 0.8},
            conditions=("accuracy",),
            seeds=6,
        ),
    ),
)
