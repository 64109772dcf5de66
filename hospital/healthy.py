"""Trainings with which nothing is wrong, as people set them up with care."""

from __future__ import annotations

import functools

import torch
from torch import nn

from hospital import bases, data
from hospital.bases import adam, sgd
from hospital.case import given, healthy, read
from hospital.nets import Attention, ConvNet, Recurrent, mlp

__all__ = ["CASES"]


def _of(kind: str, **options: object) -> object:
    return functools.partial(getattr(torch.optim, kind), **options)


_PLAIN = (
    "digits",
    "digits_adam",
    "digit_images",
    "digit_images_sgd",
    "digit_images_norm",
    "shapes",
    "colours",
    "wine",
    "iris",
    "cancer",
    "cancer_logit",
    "moons",
    "moons_one",
    "rings",
    "spirals",
    "blobs",
    "tags",
    "friedman",
    "friedman_sgd",
    "machine",
    "diabetes",
    "houses",
    "waves",
    "forecast",
    "recall",
    "adding",
    "words",
    "wave_attention",
)

CASES = [
    *(healthy(f"{getattr(bases, name).__doc__[:-1]}", getattr(bases, name)) for name in _PLAIN),
    healthy("digits with AdamW", bases.digits, opt=_of("AdamW", lr=3e-3, weight_decay=0.01), epochs=15),
    healthy("digits with RMSProp", bases.digits, opt=_of("RMSprop", lr=1e-3), epochs=15),
    healthy("digits with Nesterov momentum", bases.digits, opt=sgd(0.03, 0.9, nesterov=True), epochs=15),
    healthy("digits with Adagrad", bases.digits, opt=_of("Adagrad", lr=0.03), epochs=15),
    healthy("digits with dropout", bases.digits_adam, model=lambda: mlp(64, 96, 48, 10, dropout=0.3)),
    healthy("digits with GELU", bases.digits_adam, model=lambda: mlp(64, 64, 32, 10, act=nn.GELU)),
    healthy("digits with tanh", bases.digits, model=lambda: mlp(64, 64, 32, 10, act=nn.Tanh)),
    healthy("digits with batch norm", bases.digits, model=lambda: mlp(64, 64, 32, 10, norm=nn.BatchNorm1d)),
    healthy(
        "digits with layer norm", bases.digits_adam, model=lambda: mlp(64, 64, 32, 10, norm=nn.LayerNorm)
    ),
    healthy(
        "digits, log-softmax and NLLLoss",
        bases.digits,
        model=lambda: mlp(64, 64, 32, 10, last=[nn.LogSoftmax(dim=1)]),
        loss=nn.NLLLoss(),
    ),
    healthy("digits, label smoothing", bases.digits_adam, loss=nn.CrossEntropyLoss(label_smoothing=0.1)),
    healthy("blobs with Adam", bases.blobs, opt=adam(5e-3)),
    healthy("waves with LSTM", bases.waves, model=lambda: Recurrent(1, 3, kind="LSTM")),
    healthy(
        "waves with convolutions",
        bases.waves,
        model=lambda: nn.Sequential(
            Turned(),
            nn.Conv1d(1, 16, 5, padding=2),
            nn.ReLU(),
            nn.MaxPool1d(2),
            nn.Conv1d(16, 16, 3),
            nn.ReLU(),
            nn.AdaptiveAvgPool1d(1),
            nn.Flatten(),
            nn.Linear(16, 3),
        ),
        opt=adam(1e-2),
    ),
    healthy(
        "forecast with an MLP over the window",
        bases.forecast,
        model=lambda: nn.Sequential(nn.Flatten(), *mlp(20, 32, 1)),
        opt=adam(5e-3),
        epochs=20,
    ),
    healthy(
        "tags with a sigmoid and BCELoss",
        bases.tags,
        model=lambda: mlp(20, 64, 5, last=[nn.Sigmoid()]),
        loss=nn.BCELoss(),
        read=read.chance,
    ),
    healthy("regression with the L1 loss", bases.friedman, loss=nn.L1Loss()),
    healthy("regression with the Huber loss", bases.friedman_sgd, loss=nn.HuberLoss()),
    healthy("a CNN with dropout", bases.shapes, model=lambda: ConvNet(12, 4, dropout=0.3)),
    healthy(
        "attention in two layers",
        bases.words,
        model=lambda: Attention(2, vocabulary=30, layers=2),
        opt=adam(3e-3),
    ),
]


class Turned(nn.Module):
    """From ``[n, length, channels]`` to ``[n, channels, length]``."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.transpose(1, 2)


if data.FASHION.exists():  # pragma: no cover
    CASES.append(
        healthy(
            "clothes, CNN",
            lambda seed: given(
                data.fashion(seed), lambda: ConvNet(28, 10), nn.CrossEntropyLoss(), adam(3e-3), epochs=6
            ),
        )
    )
