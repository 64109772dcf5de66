"""Dropout and maxout put into models: where they land, and what the model computes then."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from thalweg import models
from thalweg.errors import ModelError, OptionError
from thalweg.layers import Maxout, insert_batch_norm, insert_dropout, insert_maxout


def kinds(model: nn.Module) -> list[str]:
    return [type(each).__name__ for each in model.modules() if not list(each.children())]


def test_dropout_in_an_mlp_stands_behind_each_hidden_activation() -> None:
    model = models.build("mlp:8,6", (1, 4, 4), 3)
    assert insert_dropout(model, 0.25) == ("3", "5")
    assert kinds(model) == ["Flatten", "Linear", "ReLU", "Dropout", "Linear", "ReLU", "Dropout", "Linear"]
    assert {each.p for each in model.modules() if isinstance(each, nn.Dropout)} == {0.25}


def test_dropout_in_a_cnn_stands_before_the_last_layer() -> None:
    model = models.build("cnn:4,8", (1, 8, 8), 3)
    assert insert_dropout(model) == ("8",)
    assert kinds(model)[-3:] == ["Flatten", "Dropout", "Linear"]


def test_dropout_changes_training_alone_and_by_the_formula() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 400), nn.ReLU(), nn.Linear(400, 2)).double()
    x = torch.randn(3, 5, dtype=torch.float64)
    before = model(x)
    insert_dropout(model, 0.4)
    assert torch.equal(model.eval()(x), before)
    model.train()
    torch.manual_seed(7)
    out = model(x)
    hidden = torch.relu(model[0](x))
    torch.manual_seed(7)
    kept = torch.nn.functional.dropout(torch.ones_like(hidden), 0.4)
    assert set(kept.unique().tolist()) == {0.0, 1 / 0.6}
    top = model[2][1]
    torch.testing.assert_close(out, (hidden * kept) @ top.weight.T + top.bias)


class Own(nn.Module):
    """Reads like a person's own: attributes, a shared layer, torch's transformer layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 8)
        self.mixing = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.top = nn.Linear(8, 8)
        self.again = self.top

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.again(self.top(self.mixing(torch.relu(self.first(x)))))


def test_dropout_in_an_own_model() -> None:
    model = Own()
    assert insert_dropout(model, 0.1) == ("top",)
    assert isinstance(model.again, nn.Sequential)
    assert model.again is model.top
    assert isinstance(model.mixing.linear1, nn.Linear)
    assert model.eval()(torch.zeros(2, 3, 4)).shape == (2, 3, 8)
    assert not model.top[0].training
    named = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
    assert insert_dropout(named, 0.1, layers=["0"]) == ("0",)


def test_what_dropout_refuses() -> None:
    model = nn.Sequential(nn.Linear(2, 2))
    with pytest.raises(ModelError, match="no linear layer that takes hidden units"):
        insert_dropout(model)
    with pytest.raises(ModelError, match="no linear layer"):
        insert_dropout(nn.Conv2d(1, 1, 1))
    with pytest.raises(OptionError, match="there is no linear layer 'top'"):
        insert_dropout(model, layers=["top"])
    with pytest.raises(ModelError, match="itself the layer"):
        insert_dropout(nn.Linear(2, 2), layers=[""])
    with pytest.raises(OptionError, match="p = 1"):
        insert_dropout(model, 1)


@pytest.mark.parametrize("spec", ["mlp:8,6", "cnn:4,6"])
def test_maxout_takes_the_largest_of_its_pieces(spec: str) -> None:
    torch.manual_seed(0)
    model = models.build(spec, (1, 8, 8), 3).double()
    assert len(insert_maxout(model, 3)) == 2
    assert not any(isinstance(each, nn.ReLU) for each in model.modules())
    x = torch.randn(5, 1, 8, 8, dtype=torch.float64)
    h = x
    for layer in model:
        out = layer(h)
        if isinstance(layer, Maxout):
            columns = [h[:, 3 * unit : 3 * unit + 3].max(1).values for unit in range(h.shape[1] // 3)]
            assert torch.equal(out, torch.stack(columns, 1))
        h = out
    assert h.shape == (5, 3)


def test_maxout_copies_what_a_convolution_is_set_to() -> None:
    conv = nn.Conv2d(4, 6, (3, 1), stride=2, padding=(1, 0), groups=2, bias=False, padding_mode="reflect")
    model = nn.Sequential(conv, nn.Tanh())
    shape = model(torch.zeros(1, 4, 9, 9)).shape
    assert insert_maxout(model, 2) == ("0",)
    wide = model[0]
    assert wide.out_channels == 12
    assert wide.bias is None
    assert wide.groups == 2
    assert wide.padding_mode == "reflect"
    assert model(torch.zeros(1, 4, 9, 9)).shape == shape


def test_batch_norm_finds_its_way_behind_both() -> None:
    model = models.build("mlp:8,6", (4,), 3)
    insert_maxout(model, 2)
    insert_dropout(model, 0.1)
    assert list(insert_batch_norm(model).normalized.values()) == ["maxout", "maxout"]
    assert kinds(model) == [
        "Linear", "BatchNorm", "Maxout", "Dropout", "Linear", "BatchNorm", "Maxout", "Dropout", "Linear",
    ]  # fmt: skip


def test_what_maxout_refuses() -> None:
    with pytest.raises(ModelError, match="maxout has no place"):
        insert_maxout(Own())
    with pytest.raises(OptionError, match="pieces = 0"):
        insert_maxout(models.build("mlp:4", (2,), 2), 0)
