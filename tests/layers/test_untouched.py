"""Looking leaves no trace: parameters, gradients, buffers, modes, attributes, generators, optimizers."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from thalweg import catalogue
from thalweg.errors import ModelError
from thalweg.layers import activated, sampled_prediction
from thalweg.layers.untouched import untouched
from thalweg.strategies import rate_range_test

X = torch.randn(48, 3, generator=torch.Generator().manual_seed(0))
Y = X.sum(1, keepdim=True)


class Counting(nn.Module):
    """Changes whatever a module can change in a pass, and draws from everything."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.norm = nn.Linear(3, 3), nn.BatchNorm1d(3)
        self.register_buffer("seen", torch.zeros(()))
        self.register_buffer("passed", torch.zeros(()), persistent=False)
        self.hidden, self.calls, self.log = torch.zeros(2), 0, [0]
        self.array = np.zeros(2)

    def forward(self, x: Tensor) -> Tensor:
        self.seen += 1
        self.passed = self.passed + 1
        self.hidden.add_(1)
        self.calls += 1
        self.log.append(self.calls)
        self.array += random.random() + np.random.rand()  # noqa: NPY002
        out: Tensor = self.norm(self.layer(x)) + 0.1 * torch.randn(len(x), 3)
        return nn.functional.dropout(out, 0.5, training=self.training).sum(1, keepdim=True)


def model() -> nn.Module:
    torch.manual_seed(0)
    made = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), Counting())
    made[2].norm.eval()
    made[0].weight.grad = torch.ones(3, 3)
    made[0].bias.requires_grad_(False)
    return made


def everything(made: nn.Module, optimizer: torch.optim.Optimizer | None = None, *own: Any) -> Any:
    """All that there is, as values and identities."""
    tensors = [*made.parameters(), *made.buffers(), *(p.grad for p in made.parameters())]
    counting = made[2]
    state: list[Any] = []
    if optimizer is not None:
        state = [
            [{k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups],
            [
                {k: v.clone() if isinstance(v, Tensor) else v for k, v in optimizer.state[p].items()}
                if p in optimizer.state
                else None
                for p in made.parameters()
            ],
        ]
    return [
        [None if t is None else (id(t), t.requires_grad, t.detach().clone()) for t in tensors],
        [part.training for part in made.modules()],
        [counting.hidden.clone(), counting.calls, list(counting.log), counting.array.copy()],
        [torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()],  # noqa: NPY002
        [generator.get_state() for generator in own],
        state,
    ]


def same(one: Any, other: Any) -> bool:
    if isinstance(one, (Tensor, np.ndarray)):
        return bool((torch.as_tensor(one) == torch.as_tensor(other)).all())
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(same(a, b) for a, b in zip(one, other, strict=True))
    return bool(one == other)


def loss(outputs: Tensor, targets: Tensor) -> Tensor:
    return nn.functional.mse_loss(outputs, targets)


def raising(outputs: Tensor, targets: Tensor) -> Tensor:
    raise RuntimeError("on purpose")


def of(name: str, made: nn.Module) -> torch.optim.Optimizer:
    trained = [p for p in made.parameters() if p.requires_grad]
    if name == "torch":
        return torch.optim.Adam(trained, lr=0.1)
    return catalogue.get(name).make(trained, lr=0.1)


@pytest.mark.parametrize("stepped", [False, True])
@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("name", ["torch", "adam", "nadam", "soap", "schedule-free", "rprop"])
def test_a_range_test_leaves_no_trace(name: str, fails: bool, stepped: bool) -> None:
    made = model()
    optimizer = of(name, made)
    generator = torch.Generator().manual_seed(4)
    loader = DataLoader(TensorDataset(X, Y), batch_size=16, shuffle=True, generator=generator)
    if stepped:
        loss(made(X), Y).backward()
        optimizer.step()
    before = everything(made, optimizer, generator)
    if fails:
        with pytest.raises(RuntimeError, match="on purpose"):
            rate_range_test(made, loader, raising, optimizer, steps=5)
    else:
        rate_range_test(made, loader, loss, optimizer, steps=5)
    assert same(before, everything(made, optimizer, generator))


@pytest.mark.parametrize("name", ["torch", "adam", "nadam", "soap", "schedule-free", "muon"])
def test_a_range_test_between_two_steps_changes_no_bit_of_the_second(name: str) -> None:
    results = []
    for tested in (False, True):
        made = model()
        optimizer = of(name, made)
        for step in range(3):
            if tested and step:
                rate_range_test(made, [(X, Y)], loss, optimizer, steps=5)
            optimizer.zero_grad()
            loss(made(X), Y).backward()
            optimizer.step()
        results.append(everything(made)[0])
    for one, other in zip(*results, strict=True):
        assert (one is None) == (other is None)
        assert one is None or torch.equal(one[2], other[2])


@pytest.mark.parametrize("fails", [False, True])
def test_looks_leave_no_trace(fails: bool) -> None:
    made, bad = model(), torch.zeros(2, 7)
    for look in (
        lambda x: sampled_prediction(made, x, samples=2),
        lambda x: activated(made, x),
    ):
        before = everything(made)
        if fails:
            with pytest.raises(ModelError):
                look(bad)
        else:
            look(X)
        assert same(before, everything(made))


def test_gradients_that_were_none_are_none_again_and_containers_stay_themselves() -> None:
    made = model()
    log, counting = made[2].log, made[2]
    parameter, value = made[0].weight, made[0].weight.detach().clone()
    with untouched(made):
        loss(made(X), Y).backward()
        made[0].weight.data = torch.zeros(3, 3)
        made[0] = nn.Linear(3, 3)
        counting.new = 1
        made.train()
    assert made[0].weight is parameter
    assert torch.equal(parameter, value)
    assert counting.layer.weight.grad is None
    assert counting.log is log
    assert log == [0]
    assert not hasattr(counting, "new")
    assert not counting.norm.training
