"""Whether the learning signal gets through, and how the model is built."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from tests.diagnosis.cases import facts, inputs, net, numbers, setup, three_classes
from torch import Tensor, nn

from thalweg.diagnosis.signals import Signal, signal_of, suspect_signals
from thalweg.diagnosis.structure import suspect_structure
from thalweg.diagnosis.suspicion import Suspicion

X = inputs()
THREE, Y = three_classes(X), numbers(X)


def deep(layers: int, activation: Callable[[], nn.Module], *, norm: bool = False) -> nn.Sequential:
    torch.manual_seed(0)
    parts: list[nn.Module] = [nn.Linear(4, 16), activation()]
    for _ in range(layers - 2):
        parts += [nn.Linear(16, 16), *([nn.BatchNorm1d(16)] if norm else []), activation()]
    return nn.Sequential(*parts, nn.Linear(16, 3))


def seen(model: nn.Module, **options: Any) -> tuple[Signal, list[Suspicion]]:
    known = facts(model, (X, THREE), nn.CrossEntropyLoss(), **options)
    signal = signal_of(known)
    assert signal is not None
    return signal, [*suspect_signals(known, signal), *suspect_structure(known, signal)]


def strong(model: nn.Module, least: float = 0.75, **options: Any) -> list[str]:
    return [s.code for s in seen(model, **options)[1] if s.weight >= least]


def weights(model: nn.Sequential, change: Callable[[nn.Linear], Any]) -> nn.Sequential:
    with torch.no_grad():
        for part in model:
            if isinstance(part, nn.Linear):
                change(part)
    return model


def test_usual_nets_are_left_alone() -> None:
    for model in (
        net(3),
        deep(3, nn.ReLU),
        deep(6, nn.ReLU, norm=True),
        nn.Linear(4, 3),
        net(3, hidden=nn.GELU),
    ):
        assert strong(model) == []


def test_slopes_are_those_of_the_gradient() -> None:
    model = net(3)
    known = facts(model, (X, THREE), nn.CrossEntropyLoss())
    signal = signal_of(known)
    assert signal is not None
    parameters = dict(known.model.named_parameters())
    for name, slope in zip(signal.layers, signal.slopes, strict=True):
        grad = parameters[name].grad
        assert grad is not None
        assert slope == pytest.approx(float(grad.double().pow(2).mean().sqrt()))
    assert signal.layers == ["0.weight", "2.weight"]


def test_sigmoids_in_a_row_stop_the_signal() -> None:
    signal, _ = seen(deep(6, nn.Sigmoid))
    assert signal.vanishing
    assert "hidden-activation" in strong(deep(6, nn.Sigmoid))
    assert "hidden-activation" in strong(nn.Sequential(nn.Linear(4, 8), nn.Softmax(dim=1), nn.Linear(8, 3)))
    assert "hidden-activation" not in strong(net(3, hidden=nn.Tanh))


def test_linear_layers_alone() -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.1), nn.Linear(8, 8), nn.Linear(8, 3))
    given = setup(model, (X, THREE), nn.CrossEntropyLoss())
    (suspicion,) = [s for s in seen(model)[1] if s.code == "hidden-activation"]
    assert suspicion.remedy is not None
    mended = suspicion.remedy.apply(given).model().eval()
    by_hand = model[3](torch.relu(model[2](torch.relu(model[0](X)))))
    assert torch.equal(mended(X), by_hand)


def constant(value: float) -> Callable[[nn.Linear], Any]:
    return lambda part: nn.init.constant_(part.weight, value)


@pytest.mark.parametrize("value", [0.0, 0.1])
def test_equal_units(value: float) -> None:
    model = weights(net(3), constant(value))
    assert [s.code for s in seen(model)[1] if s.certain] == ["initialization"]
    # a last layer of zeros is usual, and a single layer has no units that could be equal
    last = net(3)
    nn.init.zeros_(last[2].weight)
    single = nn.Linear(4, 3)
    nn.init.zeros_(single.weight)
    for fine in (last, single):
        assert not any(s.certain for s in seen(fine)[1])


@pytest.mark.parametrize(
    "change",
    [
        lambda part: part.weight.mul_(30),
        lambda part: part.weight.mul_(0.05),
        lambda part: part.bias.fill_(-20),
    ],
)
def test_first_weights_of_another_size(change: Callable[[nn.Linear], Any]) -> None:
    assert "initialization" in strong(weights(deep(4, nn.ReLU), change))


def test_frozen_parts() -> None:
    model = net(3)
    model.requires_grad_(False)
    model[2].bias.requires_grad_(True)
    assert "frozen" in [s.code for s in seen(model)[1]]
    model.requires_grad_(False)
    known = facts(model, (X, THREE), nn.CrossEntropyLoss(), lambda p: torch.optim.SGD(list(p), lr=0.1))
    assert "frozen" in [s.code for s in suspect_signals(known, signal_of(known)) if s.certain]
    whole = net(3)
    partly = torch.optim.SGD(whole[2].parameters(), lr=0.1)
    known = facts(whole, (X, THREE), nn.CrossEntropyLoss(), partly)
    assert [(s.code, s.weight) for s in suspect_signals(known, signal_of(known)) if s.code == "frozen"] == [
        ("frozen", 0.97)
    ]


def test_gradients_that_are_cut_off() -> None:
    class Cut(nn.Module):
        def __init__(self, way: str) -> None:
            super().__init__()
            self.first, self.last, self.way = nn.Linear(4, 8), nn.Linear(8, 3), way

        def forward(self, x: Tensor) -> Tensor:
            if self.way == "no_grad":
                with torch.no_grad():
                    h = torch.relu(self.first(x))
                return self.last(h)
            h = torch.relu(self.first(x))
            return self.last(h.detach() if self.way == "detach" else h)

    for way in ("detach", "no_grad"):
        (suspicion,) = [s for s in seen(Cut(way))[1] if s.code == "frozen"]
        assert "first.weight" in suspicion.evidence[0]
    assert [s for s in seen(Cut("whole"))[1] if s.code == "frozen"] == []
    remedy = next(s for s in seen(Cut("detach"))[1] if s.code == "frozen").remedy
    assert remedy is not None
    mended = remedy.apply(setup(Cut("detach"), (X, THREE), nn.CrossEntropyLoss())).model()
    nn.functional.cross_entropy(mended(X), THREE).backward()
    assert all(p.grad is not None for p in mended.parameters())


def test_depth_dropout_decay_and_width() -> None:
    assert "depth" in strong(deep(14, nn.Tanh))
    assert "depth" not in [s.code for s in seen(deep(14, nn.ReLU, norm=True))[1]]
    assert "regularization" in strong(net(3, nn.Dropout(0.3)))
    dropped = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Dropout(0.9), nn.Linear(16, 3))
    assert "regularization" in strong(dropped)
    assert "regularization" in strong(
        net(3), optimizer=lambda p: torch.optim.SGD(p, lr=0.1, weight_decay=0.5)
    )
    assert strong(net(3), optimizer=lambda p: torch.optim.AdamW(p, weight_decay=0.01)) == []
    narrow = nn.Sequential(nn.Linear(4, 1), nn.ReLU(), nn.Linear(1, 3))
    assert "capacity" in strong(narrow)


def test_a_shorter_net_is_the_one_without_those_layers() -> None:
    model = deep(12, nn.Tanh)
    (suspicion,) = [s for s in seen(model)[1] if s.code == "depth"]
    assert suspicion.remedy is not None
    mended = suspicion.remedy.apply(setup(model, (X, THREE), nn.CrossEntropyLoss())).model()
    # of ten layers from 16 to 16, the last two stay
    kept = nn.Sequential(*model[:2], *model[2 + 2 * 8 :])
    assert torch.allclose(mended(X), kept(X))


@pytest.mark.parametrize("shape", [(4,), (1, 8, 8)])
def test_wider_nets_fit_their_inputs(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    if len(shape) == 1:
        model = nn.Sequential(nn.Linear(4, 2), nn.BatchNorm1d(2), nn.ReLU(), nn.Linear(2, 3))
    else:
        model = nn.Sequential(
            nn.Conv2d(1, 1, 3, padding=1), nn.BatchNorm2d(1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
            nn.Linear(16, 2), nn.ReLU(), nn.Linear(2, 3),
        )  # fmt: skip
    x = torch.randn(len(X), *shape)
    known = facts(model, (x, THREE), nn.CrossEntropyLoss())
    (suspicion,) = [s for s in suspect_structure(known, signal_of(known)) if s.code == "capacity"]
    assert suspicion.remedy is not None
    wide = suspicion.remedy.apply(known.setup).model()
    assert wide(x).shape == (len(X), 3)
    assert sum(p.numel() for p in wide.parameters()) > 4 * sum(p.numel() for p in model.parameters())


def test_batch_norm() -> None:
    def normed(momentum: float) -> nn.Sequential:
        return nn.Sequential(
            nn.Linear(4, 16), nn.BatchNorm1d(16, momentum=momentum), nn.ReLU(), nn.Linear(16, 3)
        )

    assert "batch-norm" in strong(normed(0.1), batch_size=2)
    assert "batch-norm" in strong(normed(0.001))
    assert "batch-norm" in strong(normed(0.99))
    assert strong(normed(0.1)) == []
