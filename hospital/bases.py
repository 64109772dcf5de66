"""Healthy trainings that the cases are made of: each is a function of a seed."""

from __future__ import annotations

import functools
from typing import Any

from torch import nn
from torch.optim import SGD, Adam

from hospital import data
from hospital.case import Given, given, read
from hospital.nets import Attention, ConvNet, Recurrent, mlp

__all__ = ["adam", "sgd"]


def sgd(lr: float, momentum: float = 0.0, **more: Any) -> Any:
    """Return a function of parameters."""
    return functools.partial(SGD, lr=lr, momentum=momentum, **more)


def adam(lr: float = 1e-3, **more: Any) -> Any:
    """Return a function of parameters."""
    return functools.partial(Adam, lr=lr, **more)


def digits(seed: int) -> Given:
    """Ten classes of digits, an MLP, SGD."""
    return given(data.digits(seed), lambda: mlp(64, 64, 32, 10), nn.CrossEntropyLoss(), sgd(0.1), epochs=25)


def digits_adam(seed: int) -> Given:
    """Ten classes of digits, an MLP, Adam."""
    return given(data.digits(seed), lambda: mlp(64, 64, 32, 10), nn.CrossEntropyLoss(), adam(3e-3), epochs=15)


def digit_images(seed: int) -> Given:
    """Ten classes of digits, a CNN, Adam."""
    return given(
        data.digit_images(seed), lambda: ConvNet(8, 10), nn.CrossEntropyLoss(), adam(3e-3), epochs=20
    )


def digit_images_sgd(seed: int) -> Given:
    """Ten classes of digits, a CNN, momentum."""
    return given(
        data.digit_images(seed), lambda: ConvNet(8, 10), nn.CrossEntropyLoss(), sgd(0.03, 0.9), epochs=20
    )


def digit_images_norm(seed: int) -> Given:
    """Ten classes of digits, a CNN with batch norm, momentum."""
    return given(
        data.digit_images(seed),
        lambda: ConvNet(8, 10, norm=True),
        nn.CrossEntropyLoss(),
        sgd(0.05, 0.9),
        epochs=8,
    )


def shapes(seed: int) -> Given:
    """Four shapes in noise, a CNN, Adam."""
    return given(data.shapes(seed), lambda: ConvNet(12, 4), nn.CrossEntropyLoss(), adam(5e-3), epochs=20)


def colours(seed: int) -> Given:
    """Three colours, a CNN with batch norm, Adam."""
    return given(
        data.colours(seed), lambda: ConvNet(8, 3, 3, norm=True), nn.CrossEntropyLoss(), adam(3e-3), epochs=12
    )


def wine(seed: int) -> Given:
    """Three wines, standardized, SGD."""
    return given(
        data.wine(seed), lambda: mlp(13, 16, 3), nn.CrossEntropyLoss(), sgd(0.1), epochs=40, batch_size=16
    )


def iris(seed: int) -> Given:
    """Three irises as measured, Adam."""
    return given(
        data.iris(seed), lambda: mlp(4, 16, 3), nn.CrossEntropyLoss(), adam(1e-2), epochs=60, batch_size=16
    )


def cancer(seed: int) -> Given:
    """Two classes, one unit with a sigmoid, BCELoss, Adam."""
    return given(
        data.cancer(seed),
        lambda: mlp(30, 16, 1, last=[nn.Sigmoid()]),
        nn.BCELoss(),
        adam(3e-3),
        epochs=30,
        read=read.chance,
    )


def cancer_logit(seed: int) -> Given:
    """Two classes, one unit, BCEWithLogitsLoss, SGD."""
    return given(
        data.cancer(seed),
        lambda: mlp(30, 16, 1),
        nn.BCEWithLogitsLoss(),
        sgd(0.1),
        epochs=30,
        read=read.logit,
    )


def moons(seed: int) -> Given:
    """Two half moons, two units, Adam."""
    return given(data.moons(seed), lambda: mlp(2, 24, 24, 2), nn.CrossEntropyLoss(), adam(5e-3), epochs=25)


def moons_one(seed: int) -> Given:
    """Two half moons, one unit with a sigmoid, BCELoss, momentum."""
    return given(
        data.moons(seed).targets(lambda y: y.float()[:, None]),
        lambda: mlp(2, 24, 24, 1, last=[nn.Sigmoid()]),
        nn.BCELoss(),
        sgd(0.05, 0.9),
        epochs=40,
        read=read.chance,
    )


def rings(seed: int) -> Given:
    """Three rings, Adam."""
    return given(data.rings(seed), lambda: mlp(2, 32, 32, 3), nn.CrossEntropyLoss(), adam(5e-3), epochs=25)


def spirals(seed: int) -> Given:
    """Two spirals, Adam."""
    return given(data.spirals(seed), lambda: mlp(2, 48, 48, 2), nn.CrossEntropyLoss(), adam(1e-2), epochs=50)


def blobs(seed: int) -> Given:
    """Six classes of clouds, momentum."""
    return given(data.blobs(seed), lambda: mlp(12, 48, 6), nn.CrossEntropyLoss(), sgd(0.05, 0.9), epochs=20)


def tags(seed: int) -> Given:
    """Five labels of which any may hold, BCEWithLogitsLoss, Adam."""
    return given(
        data.tags(seed),
        lambda: mlp(20, 64, 5),
        nn.BCEWithLogitsLoss(),
        adam(5e-3),
        epochs=40,
        read=read.logit,
        scored="labels",
    )


def friedman(seed: int) -> Given:
    """Regression with one output, Adam."""
    return given(
        data.friedman(seed),
        lambda: mlp(10, 48, 24, 1),
        nn.MSELoss(),
        adam(5e-3),
        epochs=40,
        read=read.number,
        scored="r2",
    )


def friedman_sgd(seed: int) -> Given:
    """Regression with one output, momentum."""
    return given(
        data.friedman(seed),
        lambda: mlp(10, 48, 24, 1),
        nn.MSELoss(),
        sgd(0.02, 0.9),
        epochs=40,
        read=read.number,
        scored="r2",
    )


def machine(seed: int) -> Given:
    """Regression with three outputs, Adam."""
    return given(
        data.machine(seed),
        lambda: mlp(8, 64, 32, 3),
        nn.MSELoss(),
        adam(5e-3),
        epochs=40,
        read=read.number,
        scored="r2",
    )


def diabetes(seed: int) -> Given:
    """A noisy regression, Adam with a little weight decay."""
    return given(
        data.diabetes(seed),
        lambda: mlp(10, 16, 1),
        nn.MSELoss(),
        adam(3e-3, weight_decay=1e-3),
        epochs=20,
        read=read.number,
        scored="r2",
    )


def houses(seed: int) -> Given:
    """Prices, standardized, Adam."""
    return given(
        data.houses(seed),
        lambda: mlp(6, 32, 16, 1),
        nn.MSELoss(),
        adam(3e-3),
        epochs=30,
        read=read.number,
        scored="r2",
    )


def waves(seed: int) -> Given:
    """Three forms of waves, GRU, Adam."""
    return given(data.waves(seed), lambda: Recurrent(1, 3), nn.CrossEntropyLoss(), adam(1e-2), epochs=20)


def forecast(seed: int) -> Given:
    """The next value but two, LSTM, Adam."""
    return given(
        data.forecast(seed),
        lambda: Recurrent(1, 1, kind="LSTM"),
        nn.MSELoss(),
        adam(1e-2),
        epochs=15,
        read=read.number,
        scored="r2",
    )


def recall(seed: int) -> Given:
    """Which symbol came first, GRU, Adam."""
    return given(
        data.recall(seed), lambda: Recurrent(4, 4, hidden=32), nn.CrossEntropyLoss(), adam(1e-2), epochs=15
    )


def adding(seed: int) -> Given:
    """The sum of two marked values, GRU, Adam."""
    return given(
        data.adding(seed, 10),
        lambda: Recurrent(2, 1, hidden=32),
        nn.MSELoss(),
        adam(1e-2),
        epochs=30,
        read=read.number,
        scored="r2",
    )


def words(seed: int) -> Given:
    """Praise or blame, attention, Adam."""
    return given(
        data.words(seed), lambda: Attention(2, vocabulary=30), nn.CrossEntropyLoss(), adam(5e-3), epochs=25
    )


def wave_attention(seed: int) -> Given:
    """Three forms of waves, attention over values, Adam."""
    return given(
        data.waves(seed), lambda: Attention(3, inputs=1), nn.CrossEntropyLoss(), adam(5e-3), epochs=30
    )
