"""Stopping where validation is best against training to the end."""

from __future__ import annotations

import torch

import thalweg
from thalweg.claims.claim import Claim, Known, Numbers, Size
from thalweg.claims.nets import mislabelled, mlp, parts, right
from thalweg.claims.picture import Lines
from thalweg.claims.rules import more

__all__ = ["CLAIM", "measure"]


def measure(
    seed: int, *, noise: float, examples: int = 400, epochs: int = 60, rate: float = 3e-3, width: int = 128
) -> Numbers:
    """Train to the end, and take the weights of the best validation loss too."""
    split = parts("digits", seed, examples=examples)
    train = split.train[0], mislabelled(split.train[1], noise, seed)
    validation = split.validation[0], mislabelled(split.validation[1], noise, seed + 10_000)
    net = mlp(64, width, 10, seed=seed)
    fitted = thalweg.fit(
        net,
        train,
        "cross-entropy",
        "adam",
        validation=validation,
        epochs=epochs,
        seed=seed,
        batch_size=32,
        hyperparameters={"lr": rate},
        evaluations=epochs,
    )
    losses, scores = {}, {}
    assert fitted.best_state is not None
    for name, state in (("end", None), ("stopped", fitted.best_state)):
        if state is not None:
            net.load_state_dict(state)
        with torch.no_grad():
            outputs = net(split.test[0])
        scores[f"{name}_accuracy"] = right(outputs, split.test)
        losses[name] = torch.nn.functional.cross_entropy(outputs, split.test[1]).item()
    curve = [each.validation_loss for each in fitted.curve]
    return {**losses, **scores, "curve": [each for each in curve if each is not None]}


CLAIM = Claim(
    title="Stopping before the minimum",
    topic="averaging",
    statement="The minimum of the training loss generalizes worse than a point on the way there, which "
    "validation finds.",
    sources=("E4",),
    places="K",
    setup="A net of 128 ReLU units on 400 digits, 60 epochs of Adam; with true labels, and with 30 % of "
    "training and validation labels drawn anew. The weights at the end are compared with those of the lowest "
    "validation loss, by loss and accuracy on test digits with true labels.",
    against="A stopped net whose loss isn't lower by 0.02 or whose accuracy is lower than at the end.",
    about="Stopping helps as much as there is to learn that is wrong. With true labels hardly anything is; "
    "with false ones the net first learns what they have in common and then each by itself.",
    measure=measure,
    rule=(
        more("end", "stopped", by=0.02, said="test loss at the end less that of the stopped net"),
        more(
            "stopped_accuracy",
            "end_accuracy",
            by=-0.005,
            said="test accuracy of the stopped net less the end's",
        ),
    ),
    conditions={"true labels": {"noise": 0.0}, "30 % of labels drawn anew": {"noise": 0.3}},
    quick=Size(seeds=30),
    picture=Lines(
        curves={"curve": "validation loss"}, axis="cross-entropy on validation data", across="epochs"
    ),
    known=(
        Known(
            verdict="holds",
            why="half of the labels are false, and the net has room for all of them",
            changes={"noise": 0.5, "epochs": 25, "rate": 0.01, "examples": 200},
            conditions=("30 % of labels drawn anew",),
            seeds=8,
        ),
        Known(
            verdict="does not hold",
            why="after two epochs of a small rate the loss still falls everywhere",
            changes={"epochs": 2, "rate": 1e-4},
        ),
    ),
)
