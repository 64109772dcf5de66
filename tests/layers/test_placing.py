"""Dropout, maxout and skips put into models: where they land, and what the model computes then."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from thalweg.errors import ModelError, OptionError
from thalweg.layers import (
    Maxout,
    Skip,
    insert_batch_norm,
    insert_dropout,
    insert_maxout,
    insert_skips,
    models,
)


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


def test_skips_go_around_blocks_that_give_what_they_take() -> None:
    torch.manual_seed(0)
    model = models.build("mlp:8,8,6,6", (4,), 3).double()
    first, second, third, fourth, top = (layer for layer in model if isinstance(layer, nn.Linear))
    assert insert_skips(model) == ("2", "6")
    # layers elsewhere keep their names
    assert [name for name, module in model.named_modules() if module in (first, third, top)] == [
        "0",
        "4",
        "8",
    ]
    assert isinstance(model[3], nn.Identity)
    x = torch.randn(5, 4, dtype=torch.float64)
    h = torch.relu(x @ first.weight.T + first.bias)
    h = h + torch.relu(h @ second.weight.T + second.bias)
    h = torch.relu(h @ third.weight.T + third.bias)
    h = h + torch.relu(h @ fourth.weight.T + fourth.bias)
    torch.testing.assert_close(model(x), h @ top.weight.T + top.bias)
    # what lies in a skip connection is left alone
    with pytest.raises(ModelError, match="skip connections have no place"):
        insert_skips(model)


CONVOLUTIONS = [
    (nn.Conv2d(4, 4, 3, padding=1), True),
    (nn.Conv2d(4, 4, 3), False),
    (nn.Conv2d(4, 4, 3, padding=1, stride=2), False),
    (nn.Conv2d(4, 4, 1), True),
    (nn.Conv2d(4, 4, 1, padding="valid"), True),
    (nn.Conv2d(4, 4, 2, padding="valid"), False),
    (nn.Conv2d(4, 4, 5, padding="same"), True),
    (nn.Conv2d(4, 4, (3, 5), padding=(2, 4), dilation=2), True),
    (nn.Conv2d(4, 4, (3, 5), padding=1), False),
    (nn.Conv2d(4, 8, 3, padding=1), False),
    (nn.Conv2d(4, 4, 3, padding=1, groups=2, bias=False), True),
    (nn.ConvTranspose2d(4, 4, 3, padding=1), False),
]


@pytest.mark.parametrize(("layer", "agrees"), CONVOLUTIONS, ids=[str(layer) for layer, _ in CONVOLUTIONS])
def test_skips_around_convolutions(layer: nn.Module, agrees: bool) -> None:
    norm = nn.BatchNorm2d(layer.out_channels)
    model = nn.Sequential(layer, norm, nn.Dropout2d(0.2), nn.SiLU()).eval()
    x = torch.randn(2, 4, 9, 8)
    out = model(x)
    if agrees:
        assert insert_skips(model) == ("0",)
        assert not any(module.training for module in model.modules())
        torch.testing.assert_close(model(x), x + out)
    else:
        with pytest.raises(ModelError, match="let neighbouring layers be equally wide"):
            insert_skips(model)


def test_skips_count_what_an_activation_makes_of_the_features() -> None:
    gated = nn.Sequential(nn.Linear(4, 4), nn.GLU())
    pooled = nn.Sequential(nn.Linear(4, 12), Maxout(3, axis=-1))
    with pytest.raises(ModelError):
        insert_skips(gated)
    x = torch.randn(3, 4)
    out = pooled(x)
    assert insert_skips(pooled) == ("0",)
    torch.testing.assert_close(pooled(x), x + out)
    # nothing but an activation ends a block
    for rest in ((), (nn.Flatten(),), (nn.Linear(4, 4),)):
        with pytest.raises(ModelError):
            insert_skips(nn.Sequential(nn.Linear(4, 4), *rest))


class Stage(nn.Sequential):
    """A chain of a person's own, as libraries have them."""


class Doubling(nn.Sequential):
    """One whose forward pass is more than its parts."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * super().forward(x)


def test_skips_among_containers() -> None:
    relu, whole = nn.ReLU(), Stage(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.ReLU())
    model = nn.Sequential(whole, nn.Sequential(nn.Linear(4, 4), relu, nn.Linear(4, 4)), relu).eval()
    x = torch.randn(3, 4)
    h = x + whole(x)
    second, third = model[1][0], model[1][2]
    h = h + torch.relu(second(h))
    h = h + torch.relu(third(h))
    # a container that is the block gives its place, else the first layer does
    assert insert_skips(model) == ("0", "1.0", "1.2")
    assert [type(each) for each in model] == [Skip, nn.Sequential, nn.Identity]
    torch.testing.assert_close(model(x), h)

    doubling = Doubling(nn.Linear(4, 4), nn.ReLU())
    with pytest.raises(ModelError):
        insert_skips(nn.Sequential(doubling, nn.Linear(4, 2)))
    inner = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
    held = nn.ModuleDict({"a": nn.ModuleList([inner]), "b": nn.Sequential(doubling, nn.Linear(4, 2))})
    assert insert_skips(held) == ("a.0.0",)


def test_a_container_that_is_held_twice_gets_one_skip() -> None:
    block = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 3))
    model = nn.Sequential(block[:2], block[:2], nn.Linear(4, 3))
    model[1] = model[0]
    layer, x = block[0], torch.randn(2, 4)
    h = x + torch.tanh(layer(x))
    h = h + torch.tanh(layer(h))
    insert_skips(model)
    torch.testing.assert_close(model(x), model[2](h))


def test_the_other_parts_find_their_places_in_skips() -> None:
    """As they do before: a line within a skip is one of its own."""
    model = models.build("mlp:8,8", (4,), 3)
    insert_skips(model)
    assert insert_dropout(model, 0.1) == ("2.body.0", "4")
    assert insert_batch_norm(model).normalized == {"0": "relu", "2.body.0.1": "relu"}
    model = models.build("mlp:8,8", (4,), 3)
    insert_skips(model)
    assert insert_maxout(model, 2) == ("0", "2.body.0")
    assert model(torch.zeros(2, 4)).shape == (2, 3)
