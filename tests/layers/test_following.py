"""Which activation follows which layer."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from thalweg.layers.following import activated
from thalweg.layers.modes import evaluating


def nested() -> nn.Sequential:
    return nn.Sequential(
        nn.Sequential(nn.Conv2d(1, 2, 3), nn.Identity()),
        nn.ReLU(),
        nn.Sequential(nn.Conv2d(2, 2, 3), nn.BatchNorm2d(2), nn.ReLU()),
        nn.Sequential(nn.Sequential(nn.Conv2d(2, 3, 3), nn.LeakyReLU())),
        nn.Flatten(),
        nn.Linear(12, 4),
        nn.Softmax(1),
    )


def test_sequences_are_read_through_their_nesting() -> None:
    assert activated(nested()) == {"0.0": "relu", "3.0.0": "leaky_relu"}


def test_what_is_seen_is_what_is_read() -> None:
    assert activated(nested(), torch.zeros(1, 1, 8, 8)) == activated(nested())


class Own(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.d = (nn.Linear(3, 3) for _ in range(4))
        self.gate = nn.Sequential(nn.Linear(3, 3), nn.Sigmoid())
        self.drop = nn.Dropout(0.5)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        x = F.gelu(self.a(x)) + torch.relu_(self.b(y))
        x = torch.tanh(input=self.c(x)) * self.gate(x)
        out: Tensor = self.d(self.drop(x))
        return out


def test_functions_and_methods_are_seen() -> None:
    model = Own().train()
    model.drop.eval()
    x = torch.zeros(2, 3)
    assert activated(model, (x, x)) == {"a": "gelu", "b": "relu", "c": "tanh", "gate.0": "sigmoid"}
    assert model.training
    assert not model.drop.training
    assert activated(model) == {"gate.0": "sigmoid"}
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_evaluating_gives_each_part_its_own_mode_back() -> None:
    model = Own()
    model.gate.eval()
    with evaluating(model):
        assert not any(module.training for module in model.modules())
    assert [module.training for module in model.modules()].count(False) == 3
