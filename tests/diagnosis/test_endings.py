"""Output, loss and targets: what can't be right is certain, and what is right is left alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from tests.diagnosis.cases import facts, inputs, net, numbers, setup, three_classes, two_classes
from torch import Tensor, nn
from torch.nn import functional as F

from thalweg.diagnosis.endings import suspect_endings
from thalweg.diagnosis.facts import gather
from thalweg.diagnosis.suspicion import Suspicion

X = inputs()
TWO, THREE, Y = two_classes(X), three_classes(X), numbers(X)
FLOAT = TWO.float()[:, None]
TAGS = torch.stack([X[:, 0] > 0, X[:, 1] > 0, X[:, 2] > 0], 1).float()


def certain(model: nn.Module, targets: Tensor, loss: Any, **options: Any) -> list[Suspicion]:
    return [s for s in suspect_endings(facts(model, (X, targets), loss, **options)) if s.certain]


def minus(outputs: Tensor, targets: Tensor) -> Tensor:
    return -F.mse_loss(outputs, targets)


def by_hand(outputs: Tensor, targets: Tensor) -> Tensor:
    return ((outputs - targets) ** 2).mean()


def swapped(outputs: Tensor, targets: Tensor) -> Tensor:
    return F.binary_cross_entropy(targets, outputs.detach()) + 0 * outputs.sum()


def likelihood(outputs: Tensor, targets: Tensor) -> Tensor:
    return torch.log_softmax(outputs, 1).gather(1, targets[:, None]).mean()


# fault, model, targets, loss, code
# fmt: off
WRONG: list[tuple[str, Callable[[], nn.Module], Tensor, Any, str]] = [
    ("softmax of one", lambda: net(1, nn.Softmax(dim=1)), FLOAT, nn.BCELoss(), "output-activation"),
    ("softmax of one, mse", lambda: net(1, nn.Softmax(dim=1)), FLOAT, nn.MSELoss(), "output-activation"),
    ("softmax twice", lambda: net(3, nn.Softmax(dim=1)), THREE, nn.CrossEntropyLoss(), "output-activation"),
    ("softmax in the loss", lambda: net(3), THREE, lambda o, t: F.cross_entropy(o.softmax(1), t),
     "output-activation"),
    ("softmax in the loss and between layers",
     lambda: nn.Sequential(nn.Linear(4, 8), nn.Softmax(dim=1), nn.Linear(8, 3)), THREE,
     lambda o, t: F.cross_entropy(o.softmax(1), t), "output-activation"),
    ("softmax over the batch", lambda: net(3, nn.LogSoftmax(dim=0)), THREE, nn.NLLLoss(),
     "output-activation"),
    ("sigmoid, cross-entropy", lambda: net(3, nn.Sigmoid()), THREE, nn.CrossEntropyLoss(),
     "output-activation"),
    ("softmax, nll", lambda: net(3, nn.Softmax(dim=1)), THREE, nn.NLLLoss(), "output-activation"),
    ("logits, nll", lambda: net(3), THREE, nn.NLLLoss(), "output-activation"),
    ("sigmoid twice", lambda: net(1, nn.Sigmoid()), FLOAT, nn.BCEWithLogitsLoss(), "output-activation"),
    ("softmax, bce of logits", lambda: net(3, nn.Softmax(dim=1)), torch.eye(3)[THREE],
     nn.BCEWithLogitsLoss(), "output-activation"),
    ("softmax for tags", lambda: net(3, nn.Softmax(dim=1)), TAGS, nn.BCELoss(), "output-activation"),
    ("relu, bce of logits", lambda: net(1, nn.ReLU()), FLOAT, nn.BCEWithLogitsLoss(), "output-activation"),
    ("logits, bce", lambda: net(1), FLOAT, nn.BCELoss(), "output-activation"),
    ("relu, numbers", lambda: net(1, nn.ReLU()), Y, nn.MSELoss(), "output-activation"),
    ("sigmoid, numbers", lambda: net(1, nn.Sigmoid()), Y, nn.L1Loss(), "output-activation"),
    ("tanh, numbers, own loss", lambda: net(1, nn.Tanh()), 3 * Y, by_hand, "output-activation"),
    ("one unit for three classes", lambda: net(1), THREE, nn.CrossEntropyLoss(), "output-units"),
    ("two units for three classes", lambda: net(2), THREE, nn.CrossEntropyLoss(), "output-units"),
    ("one unit for three numbers", lambda: net(1), TAGS, nn.MSELoss(), "output-units"),
    ("classes from one", lambda: net(3), THREE + 1, nn.CrossEntropyLoss(), "labels"),
    ("classes -1 and 1, bce", lambda: net(1), 2 * FLOAT - 1, nn.BCEWithLogitsLoss(), "labels"),
    ("three classes, bce", lambda: net(1, nn.Sigmoid()), THREE.float()[:, None], nn.BCELoss(),
     "loss-function"),
    ("[n, 1] against [n]", lambda: net(1), Y[:, 0], nn.MSELoss(), "loss-function"),
    ("[n, 1] against [n] by hand", lambda: net(1), Y[:, 0], by_hand, "loss-function"),
    ("minus", lambda: net(1), Y, minus, "loss-function"),
    ("likelihood without minus", lambda: net(3), THREE, likelihood, "loss-function"),
    ("swapped", lambda: net(1, nn.Sigmoid()), FLOAT, swapped,
     "loss-function"),
    ("several classes, cross-entropy", lambda: net(3), TAGS, nn.CrossEntropyLoss(), "loss-function"),
    ("kl of probabilities", lambda: net(3, nn.Softmax(dim=1)), torch.eye(3)[THREE],
     nn.KLDivLoss(reduction="batchmean"), "loss-function"),
    ("softmax in the loss, kl", lambda: net(3), torch.eye(3)[THREE],
     lambda o, t: F.kl_div(o.softmax(1), t, reduction="batchmean"), "loss-function"),
    ("class numbers as fractions", lambda: net(3), THREE.float(), nn.CrossEntropyLoss(), "loss-function"),
    ("a number an example", lambda: net(1), Y, nn.MSELoss(reduction="none"), "loss-function"),
    ("class numbers [n, 1]", lambda: net(3), THREE[:, None], nn.CrossEntropyLoss(), "loss-function"),
    ("whole numbers, bce", lambda: net(1, nn.Sigmoid()), TWO[:, None], nn.BCELoss(), "loss-function"),
    ("[n, 1] against [n], bce", lambda: net(1), FLOAT[:, 0], nn.BCEWithLogitsLoss(), "loss-function"),
    ("detached", lambda: net(1), Y, lambda o, t: F.mse_loss(o.detach(), t), "frozen"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("model", "targets", "loss", "code"), [w[1:] for w in WRONG], ids=[w[0] for w in WRONG]
)
def test_what_cannot_be_right_is_certain(
    model: Callable[[], nn.Module], targets: Tensor, loss: Any, code: str
) -> None:
    found = certain(model(), targets, loss)
    assert found, "nothing was found"
    assert found[0].code == code


@pytest.mark.parametrize(
    ("model", "targets", "loss", "code"), [w[1:] for w in WRONG], ids=[w[0] for w in WRONG]
)
def test_its_remedy_takes_it_out(
    model: Callable[[], nn.Module], targets: Tensor, loss: Any, code: str
) -> None:
    given = setup(model(), (X, targets), loss)
    found = next(s for s in suspect_endings(gather(given, seed=0)) if s.certain)
    if found.remedy is None or found.remedy.change is None:
        assert code in ("frozen", "loss-function", "labels")
        return
    mended = gather(found.remedy.apply(given), seed=0)
    assert not mended.problem
    assert mended.loss == mended.loss
    assert any(norm > 0 for norm in mended.norms.values())
    assert (found.code, found.title) not in [(s.code, s.title) for s in suspect_endings(mended) if s.certain]
    # the set-up that was given stays what it was
    again = next(s for s in suspect_endings(gather(given, seed=0)) if s.certain)
    assert again.title == found.title


RIGHT: list[tuple[str, Callable[[], nn.Module], Tensor, Any]] = [
    ("logits", lambda: net(3), THREE, nn.CrossEntropyLoss()),
    ("log-softmax before cross-entropy", lambda: net(3, nn.LogSoftmax(dim=1)), THREE, nn.CrossEntropyLoss()),
    ("log-softmax, nll", lambda: net(3, nn.LogSoftmax(dim=1)), THREE, nn.NLLLoss()),
    ("more outputs than classes", lambda: net(7), THREE, nn.CrossEntropyLoss()),
    ("one-hot", lambda: net(3), torch.eye(3)[THREE], nn.CrossEntropyLoss()),
    ("label smoothing", lambda: net(3), THREE, nn.CrossEntropyLoss(label_smoothing=0.1)),
    ("ignored labels", lambda: net(3), torch.where(torch.arange(len(X)) % 9 == 0, -100, THREE),
     nn.CrossEntropyLoss()),
    ("sigmoid, bce", lambda: net(1, nn.Sigmoid()), FLOAT, nn.BCELoss()),
    ("logit, bce of logits", lambda: net(1), FLOAT, nn.BCEWithLogitsLoss()),
    ("softmax of two, bce", lambda: net(2, nn.Softmax(dim=1)), torch.eye(2)[TWO], nn.BCELoss()),
    ("softmax, mse of one-hot", lambda: net(3, nn.Softmax(dim=1)), torch.eye(3)[THREE], nn.MSELoss()),
    ("linear, mse", lambda: net(1), Y, nn.MSELoss()),
    ("relu, numbers above 0", lambda: net(1, nn.ReLU()), Y.abs(), nn.MSELoss()),
    ("tanh, numbers within", lambda: net(1, nn.Tanh()), torch.tanh(Y), nn.MSELoss()),
    ("softplus, numbers above 0", lambda: net(1, nn.Softplus()), Y.abs(), nn.HuberLoss()),
    ("poisson", lambda: net(1), Y.abs().round(), nn.PoissonNLLLoss()),
    ("tags", lambda: net(3), TAGS, nn.BCEWithLogitsLoss()),
    ("by hand", lambda: net(1), Y, by_hand),
    ("other units in the loss", lambda: net(1), 1e5 * Y + 5e5, lambda o, t: F.mse_loss(o, (t - 5e5) / 1e5)),
    ("logarithms in the loss", lambda: net(1), Y.abs() + 1, lambda o, t: F.l1_loss(o, t.log())),
    ("likelihood by hand", lambda: net(3), THREE, lambda o, t: -likelihood(o, t)),
    ("named", lambda: net(1), Y[:, 0], "mse"),
    ("log-probabilities, kl", lambda: net(3, nn.LogSoftmax(dim=1)), torch.eye(3)[THREE],
     nn.KLDivLoss(reduction="batchmean")),
    ("three counts as numbers", lambda: net(1), X[:, :1].round().clamp(-1, 1), nn.MSELoss()),
]  # fmt: skip


@pytest.mark.parametrize(("model", "targets", "loss"), [r[1:] for r in RIGHT], ids=[r[0] for r in RIGHT])
def test_what_is_right_is_left_alone(model: Callable[[], nn.Module], targets: Tensor, loss: Any) -> None:
    assert [
        (s.code, s.title) for s in suspect_endings(facts(model(), (X, targets), loss)) if s.weight > 0.75
    ] == []


def test_targets_that_are_only_brought_to_another_shape_are_compared_as_they_are() -> None:
    for loss in ("mse", lambda o, t: F.mse_loss(o.flatten(), t.view(-1))):
        found = facts(net(1), (X, Y[:, 0]), loss)
        assert found.direct
        assert found.judge.kind == "numbers"
    assert not facts(net(1), (X, Y), lambda o, t: F.mse_loss(o, t / 7)).direct


def test_names_and_amounts_are_told_apart_by_their_neighbours() -> None:
    centers = 4 * torch.randn(6, 4, generator=torch.Generator().manual_seed(3))
    number = torch.arange(len(X)) % 6
    names, line = centers[number] + X, torch.linspace(-6, 6, 6)[number, None] + 0.3 * X
    found = list(suspect_endings(facts(net(1), (names, number.float()[:, None]), nn.MSELoss())))
    assert [(s.code, s.certain) for s in found] == [("loss-function", True)]
    found = list(suspect_endings(facts(net(1), (line, number.float()[:, None]), nn.MSELoss())))
    assert not any(s.certain for s in found)


def test_remedies_keep_what_the_person_meant() -> None:
    """Probabilities of the mended model are the softmax, sigmoid or identity that was asked for twice."""
    model = net(3, nn.Softmax(dim=1))
    given = setup(model, (X, THREE), nn.CrossEntropyLoss())
    remedy = certain(model, THREE, nn.CrossEntropyLoss())[0].remedy
    assert remedy is not None
    mended = remedy.apply(given).model()
    assert torch.equal(mended(X), model[:3](X))
    both = setup(net(1), (X, Y[:, 0]), nn.MSELoss())
    remedy = certain(net(1), Y[:, 0], nn.MSELoss())[0].remedy
    assert remedy is not None
    outputs = torch.randn(len(X), 1)
    assert torch.equal(remedy.apply(both).loss(outputs, Y[:, 0]), F.mse_loss(outputs[:, 0], Y[:, 0]))
