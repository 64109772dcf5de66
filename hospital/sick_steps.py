"""Faults of rate, optimizer, number of steps and batch size."""

from __future__ import annotations

import functools

import torch
from torch import Tensor, nn

from hospital import bases, data
from hospital.bases import adam, sgd
from hospital.case import Given, given, read, reinputted, sick
from hospital.nets import Attention, ConvNet, Recurrent, mlp

__all__ = ["CASES"]

_WILD = "exploding-gradient oscillating-loss nonfinite-loss dying-relu cliff saturation constant-output"
_SLOW = "slow-convergence underfitting constant-output saddle"


def _of(kind: str, **options: float) -> object:
    return functools.partial(getattr(torch.optim, kind), **options)


def _grown(model: Recurrent) -> Recurrent:
    """Return a recurrent net whose recurrent weights were drawn too large."""
    nn.init.normal_(model.rnn.weight_hh_l0, std=0.5)
    return model


def _long(found: Given) -> Given:
    """Return the same with 28 steps of noise behind each sequence, so that it lasts 40."""
    draws = torch.Generator().manual_seed(5)

    def longer(x: Tensor) -> Tensor:
        return torch.cat([x, 0.5 * torch.randn(len(x), 28, x.shape[2], generator=draws)], 1)

    return reinputted(found, longer)


def _normed(seed: int, momentum: float) -> Given:
    """A regression with batch norm and batches of eight."""
    return given(
        data.friedman(seed),
        lambda: mlp(10, 48, 24, 1, norm=lambda width: nn.BatchNorm1d(width, momentum=momentum)),
        nn.MSELoss(),
        adam(5e-3),
        batch_size=8,
        epochs=15,
        read=read.number,
        scored="r2",
    )


CASES = [
    # far too high
    sick("SGD at 10, digits", "learning-rate-high", bases.digits, opt=sgd(10.0), also=_WILD),
    sick("SGD at 20, wine", "learning-rate-high", bases.wine, opt=sgd(20.0), also=_WILD),
    sick(
        "momentum at 1, CNN",
        "learning-rate-high",
        bases.digit_images_sgd,
        opt=sgd(1.0, 0.9),
        epochs=8,
        also=_WILD,
    ),
    sick(
        "momentum at 0.5, regression", "learning-rate-high", bases.friedman_sgd, opt=sgd(0.5, 0.9), also=_WILD
    ),
    sick("Adam at 0.3, CNN", "learning-rate-high", bases.shapes, opt=adam(0.3), epochs=8, also=_WILD),
    sick(
        "Adam at 0.5, LSTM forecast",
        "learning-rate-high",
        bases.forecast,
        opt=adam(0.5),
        epochs=8,
        also=_WILD,
    ),
    sick("Adam at 1, moons", "learning-rate-high", bases.moons, opt=adam(1.0), also=_WILD),
    sick("Adam at 0.2, attention", "learning-rate-high", bases.words, opt=adam(0.2), epochs=8, also=_WILD),
    sick(
        "RMSProp at 0.1, digits", "learning-rate-high", bases.digits, opt=_of("RMSprop", lr=0.1), also=_WILD
    ),
    sick(
        "RMSProp at 0.3, GRU",
        "learning-rate-high",
        bases.waves,
        opt=_of("RMSprop", lr=0.3),
        epochs=6,
        also=_WILD,
    ),
    sick("Adam at 0.5, tags", "learning-rate-high", bases.tags, opt=adam(0.5), also=_WILD),
    # far too low
    sick(
        "SGD at 1e-5, digits",
        "learning-rate-low epochs-few optimizer batch-large",
        bases.digits,
        opt=sgd(1e-5),
        also=_SLOW,
    ),
    sick(
        "SGD at 0.001, blobs",
        "learning-rate-low epochs-few optimizer batch-large",
        bases.blobs,
        opt=sgd(1e-3),
        also=_SLOW,
    ),
    sick(
        "Adam at 1e-6, CNN",
        "learning-rate-low epochs-few batch-large",
        bases.digit_images,
        opt=adam(1e-6),
        epochs=8,
        also=_SLOW,
    ),
    sick(
        "Adam at 1e-5, attention",
        "learning-rate-low epochs-few batch-large",
        bases.words,
        opt=adam(1e-5),
        also=_SLOW,
    ),
    sick(
        "momentum at 1e-6, regression",
        "learning-rate-low epochs-few batch-large",
        bases.friedman_sgd,
        opt=sgd(1e-6, 0.9),
        also=_SLOW,
    ),
    sick(
        "RMSProp at 1e-6, tags",
        "learning-rate-low epochs-few batch-large",
        bases.tags,
        opt=_of("RMSprop", lr=1e-6),
        also=_SLOW,
    ),
    sick(
        "Adam at 3e-6, GRU",
        "learning-rate-low epochs-few batch-large",
        bases.waves,
        opt=adam(3e-6),
        epochs=10,
        also=_SLOW,
    ),
    sick(
        "Adagrad at 1e-4, rings",
        "learning-rate-low epochs-few optimizer batch-large",
        bases.rings,
        opt=_of("Adagrad", lr=1e-4),
        also=_SLOW,
    ),
    sick(
        "Adam at 1e-6, logistic units",
        "learning-rate-low epochs-few batch-large",
        bases.cancer,
        opt=adam(1e-6),
        also=_SLOW,
    ),
    # the optimizer
    sick(
        "Adadelta at 0.001",
        "optimizer learning-rate-low epochs-few batch-large",
        bases.digits,
        opt=_of("Adadelta", lr=0.001),
        also=_SLOW,
    ),
    sick(
        "Rprop on batches of 16",
        "optimizer batch-small",
        bases.digits,
        opt=_of("Rprop", lr=0.01),
        batch_size=16,
        also="gradient-noise oscillating-loss nonfinite-loss",
    ),
    sick("momentum of 0.999", "optimizer learning-rate-high", bases.digits, opt=sgd(0.1, 0.999), also=_WILD),
    sick(
        "plain SGD for attention",
        "optimizer learning-rate-low epochs-few batch-large",
        bases.words,
        opt=sgd(0.01),
        also=_SLOW,
    ),
    sick(
        "plain SGD for spirals",
        "optimizer learning-rate-low epochs-few batch-large",
        bases.spirals,
        opt=sgd(0.01),
        also=_SLOW,
    ),
    sick(
        "plain SGD for a recurrent net",
        "optimizer learning-rate-low epochs-few batch-large",
        bases.recall,
        opt=sgd(0.01),
        also=_SLOW,
    ),
    # too few steps
    sick(
        "one epoch of SGD, digits",
        "epochs-few learning-rate-low batch-large optimizer",
        bases.digits,
        opt=sgd(0.03),
        epochs=1,
        also=_SLOW,
    ),
    sick(
        "one epoch, GRU",
        "epochs-few learning-rate-low batch-large",
        bases.waves,
        opt=adam(1e-3),
        epochs=1,
        also=_SLOW,
    ),
    sick(
        "two epochs, attention",
        "epochs-few learning-rate-low batch-large",
        bases.words,
        opt=adam(1e-3),
        epochs=2,
        also=_SLOW,
    ),
    sick(
        "two epochs, regression",
        "epochs-few learning-rate-low batch-large",
        bases.friedman,
        opt=adam(1e-3),
        epochs=2,
        also=_SLOW,
    ),
    # too large a batch
    sick(
        "all examples a batch, Adam",
        "batch-large epochs-few learning-rate-low",
        bases.digits_adam,
        opt=adam(1e-3),
        batch_size=1186,
        also=_SLOW,
    ),
    sick(
        "all examples a batch, CNN",
        "batch-large epochs-few learning-rate-low optimizer",
        bases.digit_images_sgd,
        opt=sgd(0.01, 0.9),
        batch_size=1186,
        epochs=15,
        also=_SLOW,
    ),
    sick(
        "batches of 512 of 650, regression",
        "batch-large epochs-few learning-rate-low",
        bases.friedman,
        opt=adam(1e-3),
        batch_size=512,
        also=_SLOW,
    ),
    sick(
        "all examples a batch, waves",
        "batch-large epochs-few learning-rate-low",
        bases.waves,
        opt=adam(2e-3),
        batch_size=600,
        also=_SLOW,
    ),
    # too small a batch
    sick(
        "batches of one at a rate for many",
        "batch-small learning-rate-high",
        bases.digits,
        opt=sgd(0.3),
        batch_size=1,
        epochs=6,
        also=f"{_WILD} gradient-noise",
    ),
    sick(
        "batches of one with momentum, regression",
        "batch-small learning-rate-high",
        bases.friedman_sgd,
        opt=sgd(0.02, 0.9),
        batch_size=1,
        epochs=10,
        also=f"{_WILD} gradient-noise",
    ),
    sick(
        "batch norm with batches of two",
        "batch-small batch-norm",
        bases.digit_images_norm,
        batch_size=2,
        epochs=3,
        also=f"gradient-noise learning-rate-high {_WILD}",
    ),
    sick(
        "batch norm with batches of two, table",
        "batch-small batch-norm",
        lambda seed: given(
            data.friedman(seed),
            lambda: mlp(10, 48, 24, 1, norm=nn.BatchNorm1d),
            nn.MSELoss(),
            adam(5e-3),
            epochs=15,
            read=read.number,
            scored="r2",
        ),
        batch_size=2,
        epochs=8,
        also="gradient-noise",
    ),
    sick(
        "batch norm that never learns what is usual",
        "batch-norm",
        bases.digit_images_norm,
        model=lambda: ConvNet(8, 10, norm=True, momentum=1e-5),
    ),
    sick(
        "batch norm that remembers one small batch",
        "batch-norm batch-small",
        lambda seed: _normed(seed, 0.1),
        model=lambda: mlp(10, 48, 24, 1, norm=lambda width: nn.BatchNorm1d(width, momentum=1.0)),
        also="gradient-noise",
    ),
    # recurrent nets that explode or forget
    sick(
        "a recurrent net with ReLU over 40 steps",
        "exploding-gradient learning-rate-high initialization hidden-activation optimizer",
        lambda seed: given(
            data.waves(seed, 40),
            lambda: Recurrent(1, 3, kind="GRU"),
            nn.CrossEntropyLoss(),
            adam(1e-2),
            epochs=10,
        ),
        model=lambda: _grown(Recurrent(1, 3, kind="RNN", hidden=24, nonlinearity="relu")),
        opt=sgd(0.05),
        also=f"{_WILD} depth",
    ),
    sick(
        "a plain recurrent net that must remember for 40 steps",
        "vanishing-gradient depth hidden-activation capacity initialization epochs-few batch-large",
        lambda seed: given(
            data.recall(seed, 12),
            lambda: Recurrent(4, 4, hidden=24),
            nn.CrossEntropyLoss(),
            adam(5e-3),
            epochs=10,
        ),
        _long,
        model=lambda: Recurrent(4, 4, hidden=24, kind="RNN"),
        also=_SLOW,
    ),
    sick(
        "Adam at 0.3, attention over waves",
        "learning-rate-high",
        bases.wave_attention,
        opt=adam(0.3),
        epochs=8,
        also=_WILD,
    ),
    sick(
        "SGD at 1e-5, colours",
        "learning-rate-low epochs-few optimizer batch-large",
        bases.colours,
        opt=sgd(1e-5),
        epochs=6,
        also=_SLOW,
    ),
    sick(
        "two epochs of SGD, words",
        "epochs-few learning-rate-low optimizer batch-large",
        bases.words,
        opt=sgd(0.05),
        epochs=2,
        model=lambda: Attention(2, vocabulary=30, layers=2),
        also=_SLOW,
    ),
]
