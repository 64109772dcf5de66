"""Faults of the last layer, the loss, and the units of the targets."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hospital import bases, data
from hospital.bases import adam, sgd
from hospital.case import Given, changed, given, read, retargeted, sick
from hospital.nets import Attention, ConvNet, Recurrent, Times, mlp

__all__ = ["CASES"]


class Clamped(nn.Module):
    """A CNN whose last layer has an activation too many, written in ``forward``."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 16, 3), nn.ReLU(), nn.MaxPool2d(2)
        )
        self.fc1 = nn.Linear(64, 32)
        self.fc2 = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.fc1(self.features(x).flatten(1)))
        return F.softmax(self.fc2(x), dim=1)


def _flat(outputs: Tensor, targets: Tensor) -> Tensor:
    """A loss of ``[n, 1]`` against ``[n]``: broadcast to ``[n, n]``."""
    return ((outputs - targets) ** 2).mean()


def _upside_down(outputs: Tensor, targets: Tensor) -> Tensor:
    return F.log_softmax(outputs, dim=1)[torch.arange(len(targets)), targets].mean()


def _minus(outputs: Tensor, targets: Tensor) -> Tensor:
    return -F.mse_loss(outputs, targets)


def _unguarded(outputs: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy by hand, without a guard against the logarithm of zero."""
    p = torch.exp(outputs) / torch.exp(outputs).sum(1, keepdim=True)
    chosen = F.one_hot(targets, outputs.shape[1])
    return -(chosen * torch.log(p) + (1 - chosen) * torch.log(1 - p)).mean()


def _kl(outputs: Tensor, targets: Tensor) -> Tensor:
    """KL divergence with probabilities where it asks for their logarithms."""
    return F.kl_div(
        F.softmax(outputs, 1), F.one_hot(targets, outputs.shape[1]).float(), reduction="batchmean"
    )


def _total(outputs: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(outputs, targets, reduction="sum")


def _one_number(found: Given) -> Given:
    """Class numbers as floats, as one number to be predicted."""
    return retargeted(found, lambda y: y.float()[:, None])


def _tags_softmaxed(seed: int) -> Given:
    return given(
        data.tags(seed),
        lambda: mlp(20, 64, 5, last=[nn.Sigmoid()]),
        nn.BCELoss(),
        adam(5e-3),
        epochs=40,
        read=read.chance,
        scored="labels",
    )


def _digit_probabilities(seed: int) -> Given:
    return given(
        data.digits(seed),
        lambda: mlp(64, 32, 10, last=[nn.LogSoftmax(1)]),
        nn.NLLLoss(),
        sgd(0.1),
        epochs=25,
    )


CASES = [
    sick(
        "softmax over one unit, BCELoss",
        "output-activation output-units",
        bases.cancer,
        model=lambda: mlp(30, 16, 1, last=[nn.Softmax(dim=1)]),
    ),
    sick(
        "softmax over one unit, MSELoss, moons",
        "output-activation output-units loss-function",
        bases.moons_one,
        model=lambda: mlp(2, 24, 24, 1, last=[nn.Softmax(dim=1)]),
        loss=nn.MSELoss(),
    ),
    sick(
        "softmax over one unit, recurrent",
        "output-activation output-units",
        lambda seed: given(
            data.forecast(seed).targets(lambda y: (y > 0).float()),
            lambda: nn.Sequential(Recurrent(1, 1), nn.Sigmoid()),
            nn.BCELoss(),
            adam(1e-2),
            epochs=8,
            read=read.chance,
        ),
        model=lambda: nn.Sequential(Recurrent(1, 1), nn.Softmax(dim=-1)),
    ),
    sick(
        "softmax, then cross-entropy, CNN with SGD",
        "output-activation loss-function",
        lambda seed: given(
            data.digit_images(seed),
            lambda: nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(288, 10)),
            nn.CrossEntropyLoss(),
            sgd(0.05),
            epochs=10,
        ),
        model=Clamped,
        also="slow-convergence",
    ),
    sick(
        "softmax, then cross-entropy, wine",
        "output-activation loss-function",
        bases.wine,
        model=lambda: mlp(13, 16, 3, last=[nn.Softmax(dim=1)]),
        opt=sgd(0.01),
        epochs=20,
        cured=lambda seed: changed(bases.wine(seed), opt=sgd(0.01), epochs=20),
    ),
    sick(
        "softmax, then cross-entropy, blobs",
        "output-activation loss-function",
        lambda seed: changed(bases.blobs(seed), opt=sgd(0.05), epochs=12),
        model=lambda: mlp(12, 48, 6, last=[nn.Softmax(dim=-1)]),
    ),
    sick(
        "softmax into NLLLoss",
        "output-activation loss-function",
        _digit_probabilities,
        model=lambda: mlp(64, 32, 10, last=[nn.Softmax(1)]),
        epochs=10,
    ),
    sick(
        "raw outputs into NLLLoss",
        "output-activation loss-function",
        _digit_probabilities,
        model=lambda: mlp(64, 32, 10),
        also="nonfinite-loss",
    ),
    sick(
        "sigmoid, then BCEWithLogitsLoss, tags",
        "output-activation loss-function",
        bases.tags,
        model=lambda: mlp(20, 64, 5, last=[nn.Sigmoid()]),
        read=read.chance,
    ),
    sick(
        "sigmoid, then cross-entropy of ten classes",
        "output-activation loss-function",
        lambda seed: changed(bases.digits(seed), epochs=10),
        model=lambda: mlp(64, 64, 32, 10, last=[nn.Sigmoid()]),
    ),
    sick(
        "ReLU at the end of a regression",
        "output-activation",
        bases.friedman,
        model=lambda: mlp(10, 48, 24, 1, last=[nn.ReLU()]),
        also="constant-output dying-relu",
    ),
    sick(
        "ReLU at the end of a forecast",
        "output-activation",
        bases.forecast,
        model=lambda: nn.Sequential(Recurrent(1, 1, kind="LSTM"), nn.ReLU()),
        also="constant-output dying-relu",
    ),
    sick(
        "ReLU at the end of a classifier",
        "output-activation",
        bases.digits,
        model=lambda: mlp(64, 64, 32, 10, last=[nn.ReLU()]),
        also="dying-relu",
    ),
    sick(
        "ReLU before BCEWithLogitsLoss",
        "output-activation",
        bases.cancer_logit,
        model=lambda: mlp(30, 16, 1, last=[nn.ReLU()]),
        also="constant-output dying-relu",
    ),
    sick(
        "sigmoid at the end of a regression beyond one",
        "output-activation target-scale",
        bases.machine,
        model=lambda: mlp(8, 64, 32, 3, last=[nn.Sigmoid()]),
        also="saturation",
    ),
    sick(
        "tanh at the end of a regression beyond one",
        "output-activation target-scale",
        lambda seed: retargeted(bases.friedman(seed), lambda y: 3 * y),
        model=lambda: mlp(10, 48, 24, 1, last=[nn.Tanh()]),
        also="saturation",
    ),
    sick(
        "no sigmoid before BCELoss",
        "output-activation loss-function",
        bases.cancer,
        model=lambda: mlp(30, 16, 1),
        raises=True,
    ),
    sick(
        "MSE on class numbers, digits",
        "loss-function output-units",
        bases.digits_adam,
        _one_number,
        model=lambda: mlp(64, 64, 32, 1),
        loss=nn.MSELoss(),
        read=read.nearest,
    ),
    sick(
        "L1 loss on class numbers, blobs",
        "loss-function output-units",
        bases.blobs,
        _one_number,
        model=lambda: mlp(12, 48, 1),
        loss=nn.L1Loss(),
        read=read.nearest,
    ),
    sick(
        "MSE on class numbers, attention over waves",
        "loss-function output-units",
        bases.wave_attention,
        _one_number,
        model=lambda: Attention(1, inputs=1),
        loss=nn.MSELoss(),
        read=read.nearest,
    ),
    sick(
        "fewer outputs than classes",
        "output-units labels",
        bases.digit_images,
        model=lambda: ConvNet(8, 9),
        raises=True,
    ),
    sick(
        "cross-entropy over one unit",
        "output-units loss-function output-activation",
        bases.cancer_logit,
        loss=nn.CrossEntropyLoss(),
        also="constant-output",
    ),
    sick(
        "one output for three targets",
        "output-units loss-function",
        bases.machine,
        model=lambda: mlp(8, 64, 32, 1),
    ),
    sick(
        "outputs [n, 1] against targets [n]",
        "loss-function output-units labels",
        bases.friedman,
        lambda found: retargeted(found, lambda y: y[:, 0]),
        loss=_flat,
        also="constant-output",
    ),
    sick(
        "outputs [n, 1] against targets [n], LSTM with nn.MSELoss",
        "loss-function output-units labels",
        bases.forecast,
        lambda found: retargeted(found, lambda y: y[:, 0]),
        loss=nn.MSELoss(),
        also="constant-output",
    ),
    sick(
        "likelihood without its minus",
        "loss-function",
        bases.iris,
        loss=_upside_down,
        also="nonfinite-loss",
    ),
    sick("loss with a wrong sign", "loss-function", bases.houses, loss=_minus, also="nonfinite-loss"),
    sick(
        "logarithm of zero in a loss by hand",
        "loss-function learning-rate-high",
        bases.digits,
        loss=_unguarded,
        model=lambda: mlp(64, 64, 32, 10, last=[Times(60.0)]),
        also="nonfinite-loss exploding-gradient",
    ),
    sick(
        "KL divergence of probabilities",
        "loss-function output-activation",
        bases.digits,
        loss=_kl,
        epochs=8,
        cured=lambda seed: changed(bases.digits(seed), epochs=8),
    ),
    sick(
        "the sum of losses with the rate of a mean",
        "learning-rate-high loss-function",
        bases.digits,
        loss=_total,
        also="exploding-gradient oscillating-loss nonfinite-loss dying-relu cliff",
    ),
    sick(
        "softmax over labels of which several hold",
        "output-activation loss-function",
        _tags_softmaxed,
        model=lambda: mlp(20, 64, 5, last=[nn.Softmax(1)]),
    ),
    sick(
        "targets in the 100,000s, Adam",
        "target-scale learning-rate-low epochs-few",
        bases.houses,
        lambda found: retargeted(found, lambda y: 120000 * y + 350000),
        also="slow-convergence underfitting",
    ),
    sick(
        "targets in the 100,000s, SGD",
        "target-scale learning-rate-high",
        lambda seed: changed(bases.houses(seed), opt=sgd(0.02)),
        lambda found: retargeted(found, lambda y: 120000 * y + 350000),
        also="exploding-gradient nonfinite-loss cliff oscillating-loss",
    ),
    sick(
        "three targets of very different scale",
        "target-scale",
        bases.machine,
        lambda found: retargeted(
            found, lambda y: y * torch.tensor([1.0, 1000.0, 0.02]) + torch.tensor([0.0, 500.0, 0.0])
        ),
    ),
    sick(
        "targets far from zero, recurrent",
        "target-scale learning-rate-low epochs-few",
        bases.forecast,
        lambda found: retargeted(found, lambda y: 400 * y + 20000),
        also="slow-convergence underfitting constant-output",
    ),
    sick(
        "outputs stopped by detach",
        "frozen loss-function",
        bases.moons,
        loss=lambda outputs, targets: F.cross_entropy(outputs.detach(), targets),
        raises=True,
    ),
]
