"""Parts put into models by name: order, the same for every build, and what is refused."""

from __future__ import annotations

import pickle

import pytest
import torch
from torch import nn

from thalweg import models
from thalweg.equipment import Equipment, equip, equipped
from thalweg.errors import ModelError
from thalweg.lanes.course import initial_module

ALL = Equipment(batch_norm=True, dropout=0.3, maxout=2)


class Own(nn.Module):
    """A person's own, whose activations are functions."""

    def __init__(self, outputs: int = 3) -> None:
        super().__init__()
        self.lower, self.upper = nn.Linear(4, 8), nn.Linear(8, outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.upper(torch.relu(self.lower(x)))


class Tokens(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table, self.top = nn.Embedding(10, 4), nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.top(torch.relu(self.table(x).mean(1)))


def test_nothing_is_nothing() -> None:
    factory = models.factory("mlp:4")
    assert equipped(factory, Equipment()) is factory
    assert not Equipment(dropout=0.0, maxout=1).given()


def test_every_build_is_alike_and_another_process_can_make_it() -> None:
    factory = equipped(models.factory("cnn:4,8"), ALL)
    again = pickle.loads(pickle.dumps(factory))
    one, two = (initial_module(each, (1, 8, 8), 10, 5) for each in (factory, again))
    assert str(one) == str(two)
    for (name, a), (other, b) in zip(one.state_dict().items(), two.state_dict().items(), strict=True):
        assert name == other
        assert torch.equal(a, b)
    # no convolution under batch norm has a bias that the mean would take away
    assert all(each.bias is None for each in one.modules() if isinstance(each, nn.Conv2d))


def test_an_own_model_is_seen_on_zeros() -> None:
    model = equip(Own(), Equipment(batch_norm=True, dropout=0.2), input_shape=(4,))
    found = [type(each).__name__ for each in model.modules() if not list(each.children())]
    assert found == ["Linear", "BatchNorm", "Dropout", "Linear"]
    x = torch.randn(50, 4)
    lower = model.lower(x)
    torch.testing.assert_close(lower.mean(0), torch.zeros(8), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("model", "equipment", "words"),
    [
        (Own, Equipment(maxout=2), r"model\.maxout can't be had: no layer and activation"),
        (Own, Equipment(batch_norm=True), r"model\.batch_norm can't be had: no layer was found"),
        (lambda: nn.Sequential(nn.Linear(4, 2)), Equipment(dropout=0.5), r"model\.dropout can't be had"),
    ],
)
def test_what_has_no_place(model, equipment, words) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ModelError, match=words):
        equip(model(), equipment)


def test_a_model_that_takes_no_zeros() -> None:
    with pytest.raises(ModelError, match=r"batch_norm can't be had: the model raises on a batch of zeros"):
        equip(Tokens(), Equipment(batch_norm=True), input_shape=(6,))
    assert len(list(equip(Tokens(), Equipment(dropout=0.1)).modules())) == 5
