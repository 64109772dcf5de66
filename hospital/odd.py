"""Trainings that look ill and aren't: large rates, strange losses, raw inputs that do no harm, and more."""

from __future__ import annotations

import functools
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import SGD, Adam

from hospital import bases, data
from hospital.bases import adam, sgd
from hospital.case import Given, changed, given, healthy, read, reinputted, retargeted
from hospital.nets import Attention, ConvNet, Recurrent, initialized, mlp

__all__ = ["CASES"]


def _of(kind: str, **options: object) -> object:
    return functools.partial(getattr(torch.optim, kind), **options)


odd = functools.partial(healthy, odd=True)


class Scaled(nn.Module):
    """A net that divides pixels by 255 by itself."""

    def __init__(self, net: nn.Module, by: float = 255.0) -> None:
        super().__init__()
        self.net, self.by = net, by

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x / self.by)


class Both(nn.Module):
    """A number and the logarithm of its variance."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.mean, self.spread = mlp(10, 48, 24), nn.Linear(24, 1), nn.Linear(24, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.body(x))
        return torch.cat([self.mean(x), self.spread(x)], 1)


class Residual(nn.Module):
    """Deep, with shortcuts."""

    def __init__(self, inputs: int, width: int, outputs: int, depth: int) -> None:
        super().__init__()
        self.first, self.out = nn.Linear(inputs, width), nn.Linear(width, outputs)
        self.blocks = nn.ModuleList(mlp(width, width, width) for _ in range(depth))

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        for block in self.blocks:
            x = x + 0.3 * block(x)
        return self.out(F.relu(x))


class Tied(nn.Module):
    """An autoencoder whose decoder is the encoder turned round."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(24, 64) / 8)
        self.lower, self.upper = nn.Parameter(torch.zeros(24)), nn.Parameter(torch.zeros(64))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(torch.tanh(F.linear(x, self.weight, self.lower)), self.weight.t(), self.upper)


class Embedded(nn.Module):
    """A bag of words."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.out = nn.EmbeddingBag(30, 8), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.embed(x))


def _nll(outputs: Tensor, targets: Tensor) -> Tensor:
    """Gaussian likelihood with a variance of its own; it may be negative."""
    mean, spread = outputs[:, :1], outputs[:, 1:].clamp(-5, 5)
    return (0.5 * spread + 0.5 * (targets - mean) ** 2 * torch.exp(-spread)).mean()


def _hinge(outputs: Tensor, targets: Tensor) -> Tensor:
    return F.multi_margin_loss(outputs, targets)


def _focal(outputs: Tensor, targets: Tensor) -> Tensor:
    each = F.cross_entropy(outputs, targets, reduction="none")
    return ((1 - torch.exp(-each)) ** 2 * each).mean()


def _total(outputs: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(outputs, targets, reduction="sum")


def _poisson(seed: int) -> Given:
    """Counts, with the logarithm of their mean as the output."""
    found = data.friedman(seed).targets(lambda y: torch.exp(0.8 * y + 1).round())
    return given(
        found, lambda: mlp(10, 48, 1), nn.PoissonNLLLoss(), adam(5e-3), epochs=30, read=torch.exp, scored="r2"
    )


def _autoencoder(seed: int) -> Given:
    found = data.digits(seed)
    parts = (found.x, (found.validation[0],) * 2, (found.test[0],) * 2)
    made = replace(found, y=parts[0], validation=parts[1], test=parts[2])
    return given(
        made,
        lambda: mlp(64, 64, 24, 64, 64, act=nn.GELU, last=[nn.Sigmoid()]),
        nn.MSELoss(),
        adam(5e-3),
        epochs=60,
        read=read.number,
        scored="pooled",
    )


def _damaged(share: float, classes: int):  # type: ignore[no-untyped-def]
    def change(found: Given) -> Given:
        draws = torch.Generator().manual_seed(4)
        hit = torch.rand(len(found.y), generator=draws) < share
        other = torch.randint(classes, (len(found.y),), generator=draws)
        return replace(found, y=torch.where(hit, other, found.y))

    return change


def _rare(found: Given) -> Given:
    """Keep every twelfth example of class 1."""
    keep = (found.y.reshape(-1) == 0) | (torch.arange(len(found.y)) % 12 == 0)
    return replace(found, x=found.x[keep], y=found.y[keep])


def _one_hot(classes: int):  # type: ignore[no-untyped-def]
    return lambda found: retargeted(found, lambda y: F.one_hot(y, classes).float())


def _frozen_embedding() -> nn.Module:
    model = Attention(2, vocabulary=30, width=32)
    model.embed.weight.requires_grad_(False)
    return model


def _random_features() -> nn.Module:
    """A wide random layer that is meant to stay, and a head."""
    lower = mlp(2, 300, last=[nn.ReLU()])
    nn.init.normal_(lower[0].weight, std=1.5)
    nn.init.uniform_(lower[0].bias, -3, 3)
    for value in lower.parameters():
        value.requires_grad_(False)
    return nn.Sequential(lower, nn.Linear(300, 3))


def _constant_columns(x: Tensor) -> Tensor:
    return torch.cat([x, torch.ones(len(x), 1), torch.zeros(len(x), 3)], 1)


def _linear(seed: int) -> Given:
    """A linear world, with noise."""
    draws = torch.Generator().manual_seed(seed)
    weights = torch.randn(6, 1, generator=draws)
    found = data.houses(seed).inputs(lambda x: x)
    found = found.targets(lambda y: y)
    parts = [
        x @ weights + 0.4 * torch.randn(len(x), 1, generator=draws)
        for x in (found.x, found.validation[0], found.test[0])
    ]
    found = replace(
        found, y=parts[0], validation=(found.validation[0], parts[1]), test=(found.test[0], parts[2])
    )
    return given(
        found, lambda: nn.Linear(6, 1), nn.MSELoss(), sgd(0.05), epochs=20, read=read.number, scored="r2"
    )


CASES = [
    odd(
        "batch norm at a rate of 1",
        bases.digits,
        model=lambda: mlp(64, 64, 32, 10, norm=nn.BatchNorm1d),
        opt=sgd(1.0),
    ),
    odd(
        "batch norm at a rate of 0.5, CNN",
        bases.digit_images_norm,
        opt=sgd(0.5),
        epochs=12,
    ),
    odd(
        "batch norm, Adam at 0.03",
        bases.digits,
        model=lambda: mlp(64, 64, 32, 10, norm=nn.BatchNorm1d),
        opt=adam(0.03),
    ),
    odd("SGD at 1 on a linear model", bases.wine, model=lambda: mlp(13, 3), opt=sgd(0.5)),
    odd("Adam at 0.05 on a tiny net", bases.iris, model=lambda: mlp(4, 8, 3), opt=adam(0.05)),
    odd(
        "one hidden layer of sigmoids that learns",
        bases.digits,
        model=lambda: mlp(64, 48, 10, act=nn.Sigmoid),
        opt=sgd(0.5, 0.9),
    ),
    odd(
        "two layers of sigmoids, Adam",
        bases.digits_adam,
        model=lambda: mlp(64, 48, 32, 10, act=nn.Sigmoid),
        opt=adam(1e-2),
        epochs=25,
    ),
    odd(
        "forty examples", bases.iris, lambda found: replace(found, x=found.x[:40], y=found.y[:40]), epochs=120
    ),
    odd(
        "a hundred digits",
        bases.digits_adam,
        lambda found: replace(found, x=found.x[:150], y=found.y[:150]),
        epochs=60,
        cured=lambda seed: changed(
            bases.digits_adam(seed),
            x=data.digits(seed).x[:150],
            y=data.digits(seed).y[:150],
            opt=adam(1e-3),
            epochs=60,
        ),
    ),
    odd("a fifth of the labels wrong", bases.blobs, _damaged(0.2, 6), opt=adam(3e-3), epochs=12),
    odd("a tenth of the labels wrong, CNN", bases.digit_images, _damaged(0.1, 10), epochs=10),
    odd("heavy dropout", bases.digits_adam, model=lambda: mlp(64, 256, 10, dropout=0.7), epochs=30),
    odd(
        "dropout on the inputs",
        bases.digits_adam,
        model=lambda: nn.Sequential(nn.Dropout(0.3), *mlp(64, 96, 10)),
        epochs=25,
    ),
    odd(
        "one of twelve",
        bases.cancer_logit,
        _rare,
        scored="balanced",
        cured=lambda seed: changed(_rare(bases.cancer_logit(seed)), opt=adam(1e-3), scored="balanced"),
    ),
    odd(
        "one of twelve, weighed",
        bases.moons,
        _rare,
        loss=nn.CrossEntropyLoss(weight=torch.tensor([1.0, 12.0])),
        scored="balanced",
    ),
    odd(
        "one of twelve, BCE with pos_weight",
        bases.cancer_logit,
        _rare,
        scored="balanced",
        opt=adam(3e-3),
        loss=nn.BCEWithLogitsLoss(pos_weight=torch.tensor([12.0])),
    ),
    odd(
        "pixels from 0 to 16, Adam",
        bases.digits_adam,
        lambda found: reinputted(found, lambda x: 16 * x),
        opt=adam(1e-3),
    ),
    odd(
        "pixels from 0 to 255, batch norm first",
        bases.digits,
        lambda found: reinputted(found, lambda x: 255 * x),
        model=lambda: nn.Sequential(nn.BatchNorm1d(64), *mlp(64, 64, 32, 10)),
    ),
    odd(
        "pixels from 0 to 255, divided inside",
        bases.digit_images,
        lambda found: reinputted(found, lambda x: 255 * x),
        model=lambda: Scaled(ConvNet(8, 10)),
    ),
    odd(
        "pixels from 0 to 255, CNN with batch norm",
        bases.digit_images_norm,
        lambda found: reinputted(found, lambda x: 255 * x),
        opt=adam(3e-3),
        epochs=15,
    ),
    odd(
        "raw columns that do no harm", bases.iris, opt=adam(5e-3), epochs=80, model=lambda: mlp(4, 32, 16, 3)
    ),
    odd(
        "prices in thousands of thousands, standardized inside the loss",
        bases.houses,
        lambda found: retargeted(found, lambda y: 100 * y + 300),
        loss=lambda outputs, targets: F.mse_loss(outputs, (targets - 300) / 100),
        read=lambda outputs: 100 * outputs + 300,
    ),
    odd("batches of two", bases.blobs, batch_size=2, opt=sgd(0.02), epochs=8),
    odd("batches of one at a low rate", bases.digits, batch_size=1, opt=sgd(0.02), epochs=6),
    odd("all examples a batch, many epochs", bases.wine, batch_size=200, opt=adam(1e-2), epochs=150),
    odd(
        "all examples a batch, momentum at a large rate",
        bases.cancer_logit,
        batch_size=400,
        opt=sgd(0.5, 0.9),
        epochs=120,
    ),
    odd("half of the examples a batch", bases.friedman, batch_size=325, opt=adam(2e-2), epochs=150),
    odd("random features that are meant to stay", bases.rings, model=_random_features, opt=adam(1e-2)),
    odd("an embedding that is meant to stay", bases.words, model=_frozen_embedding),
    odd(
        "log-softmax before cross-entropy",
        bases.digits,
        model=lambda: mlp(64, 64, 32, 10, last=[nn.LogSoftmax(dim=1)]),
    ),
    odd("more outputs than classes", bases.wine, model=lambda: mlp(13, 16, 10)),
    odd("MSE on one-hot targets", bases.digits_adam, _one_hot(10), loss=nn.MSELoss()),
    odd(
        "MSE on probabilities",
        bases.wine,
        _one_hot(3),
        model=lambda: mlp(13, 16, 3, last=[nn.Softmax(dim=1)]),
        loss=nn.MSELoss(),
        opt=adam(1e-2),
    ),
    odd(
        "BCE on one-hot targets of many classes",
        bases.digits_adam,
        _one_hot(10),
        model=lambda: mlp(64, 64, 32, 10, last=[nn.Sigmoid()]),
        loss=nn.BCELoss(),
    ),
    odd("cross-entropy with probabilities as targets", bases.blobs, _one_hot(6)),
    odd("weight decay that is right", bases.diabetes, opt=_of("AdamW", lr=3e-3, weight_decay=0.3)),
    odd(
        "strong weight decay on few examples",
        bases.digits_adam,
        lambda found: replace(found, x=found.x[:300], y=found.y[:300]),
        opt=_of("AdamW", lr=5e-3, weight_decay=0.5),
        epochs=40,
        cured=lambda seed: changed(
            bases.digits_adam(seed), x=data.digits(seed).x[:300], y=data.digits(seed).y[:300], epochs=40
        ),
    ),
    odd("hinge loss", bases.digits_adam, loss=_hinge),
    odd("focal loss", bases.blobs, loss=_focal, opt=adam(5e-3)),
    odd("the sum of losses at a rate for sums", bases.digits, loss=_total, opt=sgd(0.003)),
    odd(
        "likelihood with a variance of its own",
        bases.friedman,
        model=Both,
        loss=_nll,
        read=lambda outputs: outputs[:, :1],
    ),
    odd("counts, Poisson", _poisson),
    odd("an autoencoder", _autoencoder),
    odd(
        "an autoencoder with tied weights",
        _autoencoder,
        model=Tied,
        opt=adam(5e-3),
        cured=lambda seed: changed(_autoencoder(seed), model=Tied, opt=adam(3e-3), epochs=60),
    ),
    odd("a bag of words", bases.words, model=Embedded, opt=adam(2e-2)),
    odd(
        "three levels in order, as numbers",
        bases.iris,
        lambda found: retargeted(found, lambda y: y.float()[:, None]),
        model=lambda: mlp(4, 16, 1),
        loss=nn.MSELoss(),
        read=read.nearest,
    ),
    odd(
        "columns that never change",
        bases.cancer_logit,
        lambda found: reinputted(found, _constant_columns),
        model=lambda: mlp(34, 16, 1),
    ),
    odd("a linear model of a linear world", _linear),
    odd("logistic regression", bases.cancer_logit, model=lambda: mlp(30, 1)),
    odd("softmax regression on digits", bases.digits, model=lambda: mlp(64, 10), opt=adam(1e-2)),
    odd("four hidden units", bases.wine, model=lambda: mlp(13, 4, 3), opt=adam(2e-2)),
    odd("a bottleneck that suffices", bases.digits_adam, model=lambda: mlp(64, 64, 12, 32, 10), epochs=25),
    odd(
        "sixteen layers with shortcuts",
        bases.digits_adam,
        model=lambda: Residual(64, 32, 10, 8),
        opt=adam(2e-3),
    ),
    odd(
        "ten layers with batch norm",
        bases.digits,
        model=lambda: mlp(64, *[32] * 9, 10, norm=nn.BatchNorm1d),
        opt=adam(3e-3),
    ),
    odd("wider than the data", bases.wine, model=lambda: mlp(13, 800, 3), opt=sgd(0.02, 0.9)),
    odd(
        "a net that knows all its examples by heart", bases.diabetes, model=lambda: mlp(10, 16, 1), epochs=30
    ),
    odd("no shuffling of mixed examples", bases.digits, lambda found: replace(found, shuffle=False)),
    odd(
        "leaky units, orthogonal weights",
        bases.digits,
        model=lambda: initialized(mlp(64, 64, 32, 10, act=lambda: nn.LeakyReLU(0.2)), nn.init.orthogonal_),
    ),
    odd("a last layer that begins at zero", bases.digits, model=lambda: _zero_head(mlp(64, 64, 32, 10))),
    odd(
        "hardly any noise, tiny loss",
        bases.forecast,
        model=lambda: Recurrent(1, 1, hidden=16),
        opt=adam(5e-3),
        epochs=20,
    ),
    odd(
        "a different rate for the head",
        bases.digit_images,
        optimizer=lambda model: Adam(
            [
                {"params": model.fc2.parameters(), "lr": 1e-2},
                {"params": [*model.conv1.parameters(), *model.conv2.parameters(), *model.fc1.parameters()]},
            ],
            lr=2e-3,
        ),
    ),
    odd(
        "only a head, on good features",
        bases.cancer_logit,
        model=lambda: _whitened(),
        optimizer=lambda model: SGD(model[1].parameters(), lr=0.1),
    ),
    odd(
        "a tanh at the end, targets within it",
        _autoencoder,
        model=lambda: mlp(64, 64, 24, 64, 64, act=nn.Tanh, last=[nn.Tanh()]),
    ),
    odd(
        "ReLU at the end, targets never negative",
        lambda seed: retargeted(bases.friedman(seed), lambda y: y + 3),
        model=lambda: _raised(mlp(10, 48, 24, 1, last=[nn.ReLU()])),
    ),
    odd(
        "counts of few values, MSE",
        lambda seed: retargeted(bases.friedman(seed), lambda y: (2 * y).round()),
        epochs=40,
    ),
    odd(
        "validation of another season, alike in all else",
        bases.forecast,
        lambda found: replace(found, validation=(found.validation[0][:40], found.validation[1][:40])),
    ),
]


def _zero_head(model: nn.Sequential) -> nn.Module:
    nn.init.zeros_(model[-1].weight)
    return model


def _raised(model: nn.Sequential) -> nn.Module:
    """Begin where the unit of the output lives."""
    nn.init.constant_(model[-2].bias, 3.0)
    return model


def _whitened() -> nn.Module:
    return nn.Sequential(mlp(30, 60, last=[nn.Tanh()]), nn.Linear(60, 1))
