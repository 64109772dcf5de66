"""Two faults at a time."""

from __future__ import annotations

from torch import nn
from torch.optim import SGD

from hospital import bases, sick_data
from hospital.bases import adam, sgd
from hospital.case import Case, read, reinputted, retargeted, sick
from hospital.nets import Attention, ConvNet, Recurrent, initialized, mlp

__all__ = ["CASES"]

_ANY = (
    "exploding-gradient oscillating-loss nonfinite-loss dying-relu cliff saturation constant-output "
    "vanishing-gradient slow-convergence underfitting saddle symmetric-units ill-conditioned "
    "gradient-noise overfitting"
)


def _pair(name: str, causes: str, base, change=None, /, **values) -> Case:  # type: ignore[no-untyped-def]
    return sick(name, causes, base, change, pair=True, also=_ANY, **values)


CASES = [
    _pair(
        "softmax over one unit, and raw columns",
        "output-activation input-scale output-units",
        bases.cancer,
        lambda found: reinputted(found, sick_data.raw_columns),
        model=lambda: mlp(30, 16, 1, last=[nn.Softmax(dim=1)]),
    ),
    _pair(
        "softmax before cross-entropy, and a low rate",
        "output-activation learning-rate-low epochs-few optimizer",
        bases.digits,
        model=lambda: mlp(64, 64, 32, 10, last=[nn.Softmax(dim=1)]),
        opt=sgd(1e-3),
    ),
    _pair(
        "inputs from 0 to 255, and a high rate",
        "input-scale learning-rate-high",
        bases.digit_images_sgd,
        lambda found: reinputted(found, lambda x: 255 * x),
        opt=sgd(0.5, 0.9),
        epochs=8,
    ),
    _pair(
        "prices in the 100,000s, and raw columns",
        "target-scale input-scale",
        bases.houses,
        lambda found: retargeted(reinputted(found, sick_data.raw_columns), lambda y: 120000 * y + 350000),
    ),
    _pair(
        "ReLU at the end, and a high rate",
        "output-activation learning-rate-high",
        bases.friedman,
        model=lambda: mlp(10, 48, 24, 1, last=[nn.ReLU()]),
        opt=adam(0.3),
    ),
    _pair(
        "deep sigmoids, and a low rate",
        "hidden-activation learning-rate-low depth initialization epochs-few",
        bases.digits,
        model=lambda: mlp(64, 40, 40, 40, 40, 10, act=nn.Sigmoid),
        opt=sgd(1e-3),
    ),
    _pair(
        "MSE on class numbers, and a bottleneck",
        "loss-function capacity output-units",
        bases.digits_adam,
        lambda found: retargeted(found, lambda y: y.float()[:, None]),
        model=lambda: mlp(64, 32, 1, 1),
        loss=nn.MSELoss(),
        read=read.nearest,
    ),
    _pair(
        "labels one row off, and a high rate",
        "labels learning-rate-high",
        bases.moons,
        lambda found: sick_data.labelled(found, lambda y: y.roll(1)),
        opt=adam(0.5),
    ),
    _pair(
        "no activation, and weight decay",
        "hidden-activation regularization capacity",
        bases.rings,
        model=lambda: mlp(2, 32, 32, 3, act=None),
        opt=adam(5e-3, weight_decay=0.5),
    ),
    _pair(
        "all weights zero, and a low rate",
        "initialization learning-rate-low symmetric-units epochs-few",
        bases.blobs,
        model=lambda: initialized(mlp(12, 48, 6), lambda value: nn.init.zeros_(value), biases=True),
        opt=sgd(1e-3),
    ),
    _pair(
        "sorted, and dropout far too strong",
        "order regularization",
        bases.digit_images,
        sick_data.in_order,
        model=lambda: ConvNet(8, 10, dropout=0.95),
        epochs=8,
    ),
    _pair(
        "only the head trained, and a low rate",
        "frozen learning-rate-low epochs-few",
        bases.waves,
        optimizer=lambda model: SGD(model.fc.parameters(), lr=1e-4),
        epochs=10,
    ),
    _pair(
        "one output for three targets of the 1,000s",
        "output-units target-scale loss-function",
        bases.machine,
        lambda found: retargeted(found, lambda y: 5000 * y + 20000),
        model=lambda: mlp(8, 64, 32, 1),
    ),
    _pair(
        "few epochs, and sequences in the thousands",
        "input-scale epochs-few learning-rate-low",
        bases.forecast,
        lambda found: reinputted(found, lambda x: 1000 * x + 5000),
        opt=adam(1e-3),
        epochs=2,
    ),
    _pair(
        "validation coded otherwise, and a high rate",
        "split-mismatch learning-rate-high labels",
        bases.digits,
        lambda found: sick_data.validated(found, lambda x: x, lambda y: (y + 3) % 10),
        opt=sgd(5.0),
        tried=False,
    ),
    _pair(
        "huge weights, and a high rate, attention",
        "initialization learning-rate-high",
        bases.words,
        model=lambda: initialized(Attention(2, vocabulary=30), lambda value: nn.init.normal_(value, std=3.0)),
        opt=adam(0.1),
        epochs=8,
    ),
    _pair(
        "sigmoid twice, and a low rate",
        "output-activation learning-rate-low loss-function epochs-few",
        bases.tags,
        model=lambda: mlp(20, 64, 5, last=[nn.Sigmoid()]),
        opt=adam(1e-4),
        epochs=15,
    ),
    _pair(
        "one hidden unit, and all examples a batch",
        "capacity batch-large epochs-few learning-rate-low",
        bases.recall,
        model=lambda: Recurrent(4, 4, hidden=1),
        batch_size=600,
    ),
]
