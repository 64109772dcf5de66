"""Faults of the network: activations, width, depth, initialization, regularization, what isn't trained."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import SGD, Adam

from hospital import bases, data
from hospital.bases import adam, sgd
from hospital.case import changed, given, sick
from hospital.nets import Attention, ConvNet, Recurrent, initialized, mlp

__all__ = ["CASES"]

_FADES = "vanishing-gradient saturation slow-convergence underfitting constant-output saddle symmetric-units"
_WILD = "exploding-gradient oscillating-loss nonfinite-loss dying-relu cliff saturation constant-output"
_WEAK = "underfitting slow-convergence constant-output"


class Listed(nn.Module):
    """Its hidden layers stand in a plain list, so that nobody trains them."""

    def __init__(self, inputs: int, width: int, outputs: int) -> None:
        super().__init__()
        self.layers = [nn.Linear(inputs, width), nn.Linear(width, width)]
        self.narrow = [nn.Linear(width, 6)]
        self.out = nn.Linear(6, outputs)

    def forward(self, x: Tensor) -> Tensor:
        for layer in (*self.layers, *self.narrow):
            x = F.relu(layer(x))
        return self.out(x)


class Split(nn.Module):
    """A net whose lower part is cut off from the loss, in ``forward``."""

    def __init__(self, lower: nn.Module, upper: nn.Module, *, detach: bool = True) -> None:
        super().__init__()
        self.lower, self.upper, self.detach = lower, upper, detach

    def forward(self, x: Tensor) -> Tensor:
        if self.detach:
            return self.upper(self.lower(x).detach())
        with torch.no_grad():
            x = self.lower(x)
        return self.upper(x)


class AlwaysDropping(nn.Module):
    """``F.dropout`` without ``training=self.training``: it drops in use, too."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.fc1, self.fc2, self.fc3, self.p = nn.Linear(64, 48), nn.Linear(48, 48), nn.Linear(48, 10), p

    def forward(self, x: Tensor) -> Tensor:
        x = F.dropout(F.relu(self.fc1(x)), self.p)
        x = F.dropout(F.relu(self.fc2(x)), self.p)
        return self.fc3(x)


def _frozen(model: nn.Module, count: int) -> nn.Module:
    """Return a model whose first so many parameters aren't to be trained."""
    for value in list(model.parameters())[:count]:
        value.requires_grad_(False)
    return model


def _layers(width: int, number: int) -> list[int]:
    return [width] * number


def _normal(std: float) -> Callable[[Tensor], object]:
    return lambda value: nn.init.normal_(value, std=std)


def _to(number: float) -> Callable[[Tensor], object]:
    return lambda value: nn.init.constant_(value, number)


def _with_bias(model: nn.Module, bias: float) -> nn.Module:
    for layer in list(model.modules()):
        if isinstance(layer, nn.Linear) and layer.out_features > 10:
            nn.init.constant_(layer.bias, bias)
    return model


def _deep_colours() -> nn.Module:
    layers: list[nn.Module] = [nn.Conv2d(3, 8, 3, padding=1), nn.Sigmoid()]
    for _ in range(5):
        layers += [nn.Conv2d(8, 8, 3, padding=1), nn.Sigmoid()]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(8 * 64, 3))


def _flat_conv(act: Callable[[], nn.Module]) -> nn.Module:
    """Convolutions and the mean over all places, so that a linear one can't tell shapes apart."""
    return nn.Sequential(
        nn.Conv2d(1, 12, 5),
        act(),
        nn.Conv2d(12, 16, 3),
        act(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, 4),
    )


CASES = [
    # activations
    sick(
        "six layers of sigmoids, SGD",
        "hidden-activation depth initialization",
        bases.digits,
        model=lambda: mlp(64, *_layers(40, 6), 10, act=nn.Sigmoid),
        also=_FADES,
    ),
    sick(
        "five layers of sigmoids, regression",
        "hidden-activation depth initialization",
        bases.friedman_sgd,
        model=lambda: mlp(10, *_layers(24, 5), 1, act=nn.Sigmoid),
        also=_FADES,
    ),
    sick(
        "six convolutions with sigmoids",
        "hidden-activation depth initialization",
        bases.colours,
        model=_deep_colours,
        opt=sgd(0.05, 0.9),
        epochs=6,
        also=_FADES,
    ),
    sick(
        "no activation between layers, rings",
        "hidden-activation capacity",
        bases.rings,
        model=lambda: mlp(2, 32, 32, 3, act=None),
        also=_WEAK,
    ),
    sick(
        "no activation between layers, moons",
        "hidden-activation capacity",
        bases.spirals,
        model=lambda: mlp(2, 48, 48, 2, act=None),
        also=_WEAK,
        epochs=20,
    ),
    sick(
        "no activation between layers, regression",
        "hidden-activation capacity",
        bases.machine,
        model=lambda: mlp(8, 64, 32, 3, act=None),
        also=_WEAK,
    ),
    sick(
        "softmax between layers",
        "hidden-activation",
        bases.digits,
        model=lambda: mlp(64, 64, 32, 10, act=lambda: nn.Softmax(dim=1)),
        also=_FADES,
    ),
    sick(
        "convolutions without activation",
        "hidden-activation capacity",
        lambda seed: given(
            data.shapes(seed), lambda: _flat_conv(nn.ReLU), nn.CrossEntropyLoss(), adam(5e-3), epochs=15
        ),
        model=lambda: _flat_conv(nn.Identity),
        also=_WEAK + " overfitting",
    ),
    # capacity
    sick(
        "a bottleneck of one unit, digits",
        "capacity",
        bases.digits,
        model=lambda: mlp(64, 64, 1, 32, 10),
        also=_WEAK + " dying-relu",
    ),
    sick(
        "a width of two, spirals",
        "capacity",
        bases.spirals,
        model=lambda: mlp(2, 2, 2),
        epochs=20,
        also=_WEAK,
    ),
    sick(
        "one hidden unit, GRU",
        "capacity",
        bases.adding,
        model=lambda: Recurrent(2, 1, hidden=1),
        epochs=8,
        also=_WEAK,
    ),
    sick(
        "a CNN of one channel and two units",
        "capacity",
        bases.shapes,
        model=lambda: ConvNet(12, 4, width=1, hidden=2),
        also=_WEAK + " dying-relu",
    ),
    sick(
        "a linear model of a curved world",
        "capacity hidden-activation",
        bases.rings,
        model=lambda: mlp(2, 3),
        also=_WEAK,
    ),
    # depth
    sick(
        "twenty layers of ReLU, SGD",
        "depth initialization vanishing-gradient",
        bases.digits,
        model=lambda: mlp(64, *_layers(32, 20), 10),
        also=_FADES + " dying-relu",
    ),
    sick(
        "thirty layers of tanh",
        "depth initialization vanishing-gradient hidden-activation",
        bases.blobs,
        model=lambda: mlp(12, *_layers(24, 30), 6, act=nn.Tanh),
        epochs=10,
        also=_FADES,
    ),
    sick(
        "fifteen layers, regression",
        "depth initialization vanishing-gradient",
        bases.friedman_sgd,
        model=lambda: mlp(10, *_layers(24, 15), 1),
        epochs=20,
        also=_FADES + " dying-relu",
    ),
    # initialization
    sick(
        "all weights zero, digits",
        "initialization symmetric-units",
        bases.digits_adam,
        model=lambda: initialized(mlp(64, 64, 32, 10), _to(0.0), biases=True),
        also=_FADES + " dying-relu",
    ),
    sick(
        "all weights zero, forecast",
        "initialization symmetric-units",
        bases.friedman,
        model=lambda: initialized(mlp(10, 48, 24, 1), _to(0.0), biases=True),
        also=_FADES + " dying-relu",
    ),
    sick(
        "all weights one half, moons",
        "initialization symmetric-units",
        bases.spirals,
        epochs=25,
        model=lambda: initialized(mlp(2, 48, 48, 2), _to(0.5)),
        also=_FADES + " exploding-gradient",
    ),
    sick(
        "all weights one tenth, CNN",
        "initialization symmetric-units",
        bases.digit_images,
        epochs=8,
        model=lambda: initialized(ConvNet(8, 10), _to(0.1)),
        also=_FADES + " exploding-gradient",
    ),
    sick(
        "weights with a deviation of two, digits",
        "initialization learning-rate-low epochs-few",
        bases.digits,
        model=lambda: initialized(mlp(64, 64, 32, 10), _normal(2.0)),
        opt=sgd(0.01),
        cured=bases.digits,
        also=_WILD + " overfitting",
    ),
    sick(
        "huge weights, tanh",
        "initialization",
        bases.blobs,
        cured=bases.blobs,
        model=lambda: initialized(mlp(12, 48, 48, 6, act=nn.Tanh), _normal(5.0)),
        opt=sgd(0.01),
        also=_WILD + " overfitting",
    ),
    sick(
        "huge weights, CNN",
        "initialization",
        bases.shapes,
        model=lambda: initialized(ConvNet(12, 4), _normal(5.0)),
        opt=adam(1e-3),
        epochs=10,
        cured=bases.shapes,
        also=_WILD + " overfitting slow-convergence",
    ),
    sick(
        "tiny weights, five layers",
        "initialization",
        bases.digits,
        model=lambda: initialized(mlp(64, 32, 32, 32, 32, 10), _normal(1e-3)),
        also=_FADES + " dying-relu",
    ),
    sick(
        "biases of minus ten",
        "initialization dying-relu",
        bases.digits_adam,
        model=lambda: _with_bias(mlp(64, 64, 32, 10), -10.0),
        also=_FADES,
    ),
    sick(
        "biases of minus five, CNN",
        "initialization dying-relu",
        bases.digit_images,
        epochs=8,
        model=lambda: ConvNet(8, 10, bias=-5.0),
        also=_FADES,
    ),
    # regularization
    sick(
        "weight decay of one",
        "regularization",
        bases.digits_adam,
        opt=adam(3e-3, weight_decay=1.0),
        also=_WEAK,
    ),
    sick(
        "weight decay of a half, SGD, regression",
        "regularization",
        bases.friedman_sgd,
        opt=sgd(0.02, 0.9, weight_decay=0.5),
        also=_WEAK,
    ),
    sick(
        "weight decay of ten, AdamW",
        "regularization",
        bases.waves,
        epochs=8,
        opt=lambda parameters: torch.optim.AdamW(parameters, lr=1e-2, weight_decay=30.0),
        also=_WEAK,
    ),
    sick(
        "nineteen of twenty units dropped",
        "regularization",
        bases.digits,
        model=lambda: mlp(64, 64, 32, 10, dropout=0.95),
        also=_WEAK + " gradient-noise",
    ),
    sick(
        "dropout of 0.9 in a small regression",
        "regularization",
        bases.friedman,
        model=lambda: mlp(10, 48, 24, 1, dropout=0.9),
        also=_WEAK + " gradient-noise",
    ),
    sick(
        "dropout of 0.95, CNN",
        "regularization",
        bases.shapes,
        model=lambda: ConvNet(12, 4, dropout=0.97),
        epochs=6,
        also=_WEAK + " gradient-noise",
    ),
    sick(
        "dropout of 0.9, attention",
        "regularization",
        bases.words,
        model=lambda: Attention(2, vocabulary=30, dropout=0.9),
        epochs=12,
        also=_WEAK + " gradient-noise",
    ),
    sick(
        "dropout that never ends",
        "regularization",
        bases.digits,
        model=lambda: AlwaysDropping(0.8),
        also=_WEAK + " gradient-noise",
    ),
    # what isn't trained
    sick(
        "hidden layers in a plain list", "frozen", bases.digits, model=lambda: Listed(64, 32, 10), also=_WEAK
    ),
    sick(
        "only the last bias goes to the optimizer",
        "frozen",
        bases.digits_adam,
        optimizer=lambda model: Adam([model[-1].bias], lr=3e-3),
        also=_WEAK,
    ),
    sick(
        "only the head goes to the optimizer, GRU",
        "frozen",
        bases.waves,
        optimizer=lambda model: SGD(model.fc.parameters(), lr=0.1),
        also=_WEAK,
    ),
    sick(
        "frozen from the start, CNN",
        "frozen",
        bases.shapes,
        model=lambda: _frozen(ConvNet(12, 4, width=4, hidden=16), 6),
        cured=lambda seed: changed(bases.shapes(seed), model=lambda: ConvNet(12, 4, width=4, hidden=16)),
        also=_WEAK,
    ),
    sick(
        "all but the last bias frozen",
        "frozen",
        bases.blobs,
        model=lambda: _frozen(mlp(12, 48, 6), 3),
        also=_WEAK,
    ),
    sick(
        "features detached",
        "frozen",
        bases.spirals,
        epochs=25,
        model=lambda: Split(mlp(2, 32, 8, last=[nn.ReLU()]), mlp(8, 2)),
        also=_WEAK,
    ),
    sick(
        "features under no_grad",
        "frozen",
        bases.machine,
        model=lambda: Split(mlp(8, 32, 16, last=[nn.Tanh()]), mlp(16, 3), detach=False),
        also=_WEAK,
    ),
    sick(
        "the optimizer of another copy of the model",
        "frozen",
        bases.moons,
        optimizer=lambda model: Adam(mlp(2, 24, 24, 2).parameters(), lr=5e-3),
        also=_WEAK,
    ),
]
