"""Stacking modules, and refusing those that can't be stacked."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from thalweg.errors import ModelError
from thalweg.execution.lanes.stack import Stack, refusal
from thalweg.initial import initialize
from thalweg.run.problem import initial_module
from thalweg.run.spec import Run, Setting


def factory(shape: tuple[int, ...], outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(shape[0], 3), nn.BatchNorm1d(3), nn.Linear(3, outputs))


def runs(*seeds: int, initialization: dict[str, Any] | None = None) -> list[Run]:
    setting = Setting(optimizer="sgd", initialization=initialization or {})
    return [Run(identity=str(number), setting=setting, seed=seed) for number, seed in enumerate(seeds)]


def by_seed(factory: Any, shape: tuple[int, ...] = (4,), outputs: int = 2) -> Callable[[Run], nn.Module]:
    """What makes a run's module."""
    return lambda run: initial_module(factory, shape, outputs, run.seed, run.setting.initialization)


def test_rows_are_the_modules_of_their_seeds() -> None:
    stack = Stack.build(by_seed(factory), runs(5, 9, 5))
    for row, seed in enumerate((5, 9, 5)):
        alone = initial_module(factory, (4,), 2, seed)
        for name, tensor in alone.state_dict().items():
            assert torch.equal(stack.tensors[name][row], tensor)
    assert len(stack) == 3
    assert stack.trainable == [name for name, _ in alone.named_parameters()]
    assert all(p.requires_grad and p.is_contiguous() for p in stack.parameters)


def test_rows_begin_by_their_settings_initialization() -> None:
    begins: list[dict[str, Any]] = [{}, {"scheme": "sparse", "k": 2}, {"scheme": "normalized", "gain": 2.0}]
    rows = [runs(5, initialization=each)[0] for each in [*begins, begins[1]]]
    stack = Stack.build(by_seed(factory), rows)
    weights = stack.tensors["0.weight"]
    for row, each in zip(weights, [*begins, begins[1]], strict=True):
        alone = factory((4,), 2)
        if each:
            initialize(alone, each["scheme"], seed=5, **{k: v for k, v in each.items() if k != "scheme"})
        else:
            alone = initial_module(factory, (4,), 2, 5)
        assert torch.equal(row, alone[0].weight)
    assert (weights[1] != 0).sum(1).tolist() == [2, 2, 2]
    assert torch.equal(weights[1], weights[3])


def test_building_leaves_the_global_generator_alone() -> None:
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    Stack.build(by_seed(factory), runs(1, 2))
    assert torch.equal(torch.rand(2), expected)


def test_kept_rows_keep_their_values_and_need_gradients() -> None:
    stack = Stack.build(by_seed(factory), runs(1, 2, 3))
    before = {name: tensor.detach().clone() for name, tensor in stack.tensors.items()}
    stack.keep(torch.tensor([0, 2]))
    for name, tensor in stack.tensors.items():
        assert torch.equal(tensor, before[name][[0, 2]])
        assert tensor.requires_grad == (name in stack.trainable)
        assert tensor.is_leaf


def test_tied_parameters_are_stacked_once_and_frozen_ones_get_no_gradient() -> None:
    def tied(shape: tuple[int, ...], outputs: int) -> nn.Module:
        module = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, outputs))
        module[1].weight = module[0].weight
        module[2].weight.requires_grad_(False)
        return module

    stack = Stack.build(by_seed(tied, (3,)), runs(1, 2))
    assert set(stack.tensors) == {"0.weight", "0.bias", "1.bias", "2.weight", "2.bias"}
    assert set(stack.trainable) == {"0.weight", "0.bias", "1.bias", "2.bias"}
    assert not stack.tensors["2.weight"].requires_grad


@pytest.mark.parametrize(
    ("module", "said"),
    [
        (nn.Sequential(nn.Flatten(), nn.ReLU()), "no trainable parameters"),
        (nn.LazyLinear(3), "lazy"),
        (nn.LSTM(2, 3), "recurrent"),
        (nn.Embedding(3, 2, sparse=True), "sparse"),
        (nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2).double()), "several types"),
        (nn.Linear(2, 2, dtype=torch.complex64), "complex64"),
    ],
)
def test_a_refusal_says_why(module: nn.Module, said: str) -> None:
    assert said in (refusal(module) or "")
    if not isinstance(module, nn.LazyLinear):
        with pytest.raises(ModelError, match=said):
            Stack.build(by_seed(lambda shape, outputs: module, (2,)), runs(1))


def test_another_structure_under_another_seed_is_refused() -> None:
    def moody(shape: tuple[int, ...], outputs: int) -> nn.Module:
        return nn.Linear(2, 2 + torch.randint(0, 2**20, ()).item())

    with pytest.raises(ModelError, match="another random seed"):
        Stack.build(by_seed(moody, (2,)), runs(1, 2))
