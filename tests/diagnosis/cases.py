"""Set-ups for tests of a diagnosis: small, with a fault where the test says so."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from thalweg.diagnosis import Setup
from thalweg.diagnosis.facts import Facts, gather

N = 240


def inputs(seed: int = 0, columns: int = 4) -> Tensor:
    return torch.randn(N, columns, generator=torch.Generator().manual_seed(seed))


def two_classes(x: Tensor) -> Tensor:
    return (x[:, 0] + 0.5 * x[:, 1] > 0).long()


def three_classes(x: Tensor) -> Tensor:
    return torch.stack([x[:, 0], x[:, 1], -x[:, 0] - x[:, 1]], 1).argmax(1)


def numbers(x: Tensor) -> Tensor:
    return x[:, :1] - 2 * x[:, 1:2] + 0.5 * x[:, 2:3] ** 2


def net(outputs: int, *end: nn.Module, columns: int = 4, hidden: type[nn.Module] = nn.ReLU) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(columns, 16), hidden(), nn.Linear(16, outputs), *end)


def setup(
    model: nn.Module | Callable[[], nn.Module],
    data: Any,
    loss: Any,
    optimizer: Any = None,
    **options: Any,
) -> Setup:
    made = (lambda p: torch.optim.Adam(p, lr=0.01)) if optimizer is None else optimizer
    options = {"batch_size": 32, "epochs": 5, **options}
    return Setup.of(model, data, loss, made, **options)


def facts(*given: Any, **options: Any) -> Facts:
    return gather(setup(*given, **options), seed=0)
