"""A diagnosis leaves all that it is given, and all generators, as they were, to the last bit."""

from __future__ import annotations

import copy
import random
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

import thalweg


def model_of_all() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(5, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.2),
        nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 3),
    )  # fmt: skip


def data_of_all() -> tuple[Tensor, Tensor]:
    drawn = torch.Generator().manual_seed(1)
    inputs = torch.randn(120, 5, generator=drawn)
    return inputs, (inputs[:, 0] > 0).long() + (inputs[:, 1] > 0).long()


class Drawing(Dataset[tuple[Tensor, Tensor]]):
    """Draws in every example, from all three generators."""

    def __init__(self) -> None:
        self.inputs, self.targets = data_of_all()
        self.count = 0

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        noise = 0.1 * torch.randn(5) + random.random() + float(np.random.rand())  # noqa: NPY002
        return self.inputs[index] + noise, self.targets[index]


def everything(model: nn.Module, optimizer: torch.optim.Optimizer) -> list[Any]:
    numpys: Any = np.random.get_state()  # noqa: NPY002
    generators = [torch.get_rng_state(), numpys[1].tolist(), numpys[2], random.getstate()]
    parameters = [
        (p.detach().clone(), None if p.grad is None else p.grad.clone()) for p in model.parameters()
    ]
    buffers = [buffer.clone() for buffer in model.buffers()]
    modes = [
        (part.training, len(part._forward_hooks), len(part._forward_pre_hooks)) for part in model.modules()
    ]
    needs = [p.requires_grad for p in model.parameters()]
    return [generators, parameters, buffers, modes, needs, copy.deepcopy(optimizer.state_dict())]


def same(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


@pytest.mark.parametrize("form", ["tensors", "loader", "drawing", "broken"])
def test_all_is_as_it_was(form: str) -> None:
    model = model_of_all()
    model[4].eval()
    model[0].weight.requires_grad_(False)
    # its owner may be in the midst of a training
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    inputs, targets = data_of_all()
    nn.functional.cross_entropy(model(inputs), targets).backward()
    optimizer.step()
    loss: Any = nn.CrossEntropyLoss()
    data: Any = (inputs, targets)
    own = torch.Generator().manual_seed(7)
    if form == "loader":
        data = DataLoader(TensorDataset(inputs, targets), batch_size=16, shuffle=True, generator=own)
    elif form == "drawing":
        data = Drawing()
    elif form == "broken":
        loss = nn.NLLLoss()
        targets = targets + 5
        data = (inputs, targets)
    torch.manual_seed(3)
    np.random.seed(3)  # noqa: NPY002
    random.seed(3)
    before = [*everything(model, optimizer), own.get_state(), inputs.clone(), targets.clone()]
    thalweg.diagnose(model, data, loss, optimizer, batch_size=16, epochs=2, budget=120)
    assert same([*everything(model, optimizer), own.get_state(), inputs, targets], before)
