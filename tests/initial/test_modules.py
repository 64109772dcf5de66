"""A scheme over a whole module: what is covered, what is left, and that names alone decide the numbers."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from thalweg.errors import ModelError, OptionError
from thalweg.initial.modules import initialize
from thalweg.initial.schemes import SCHEMES, draw


class Everything(nn.Module):
    """A layer of each kind."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)
        self.norm = nn.BatchNorm2d(8)
        self.up = nn.ConvTranspose2d(8, 4, 2, stride=2)
        self.table = nn.Embedding(50, 6, padding_idx=2)
        self.rnn = nn.LSTM(6, 5, proj_size=3, bidirectional=True)
        self.cell = nn.GRUCell(4, 7)
        self.attention = nn.MultiheadAttention(8, 2, add_bias_kv=True)
        self.prelu = nn.PReLU()
        self.head = nn.Linear(5, 2)


def test_every_parameter_is_done_or_left_and_said() -> None:
    torch.manual_seed(0)
    model = Everything()
    result = initialize(model, "normalized", seed=0, bias=0.25)
    names = {name for name, _ in model.named_parameters()}
    assert result.done.keys() | result.left.keys() == names
    assert not result.done.keys() & result.left.keys()
    assert set(result.left) == {
        "norm.weight",
        "norm.bias",
        "attention.bias_k",
        "attention.bias_v",
        "prelu.weight",
    }
    assert result.left["prelu.weight"] == "nothing is known of how a PReLU should begin"
    assert result.notes == (
        "embeddings were drawn from N(0, 1), which is no part of 'normalized': table.weight",
    )
    assert bool((model.norm.weight == 1).all())
    assert bool((model.head.bias == 0.25).all())
    assert bool((model.rnn.bias_ih_l0_reverse == 0.25).all())
    assert bool((model.rnn.bias_hh_l0_reverse == 0).all())  # the two are added
    assert bool((model.table.weight[2] == 0).all())


def test_weights_are_those_that_the_scheme_draws_under_their_name() -> None:
    model = Everything()
    initialize(model, "he", seed=4)
    assert torch.equal(model.head.weight, draw((2, 5), "he", seed=4, name="head.weight"))


def test_recurrent_and_attention_weights_are_drawn_gate_by_gate() -> None:
    model = nn.ModuleDict(
        {"rnn": nn.LSTM(6, 6), "attention": nn.MultiheadAttention(6, 2), "gru": nn.GRU(6, 6)}
    )
    initialize(model, "orthogonal", seed=0)
    for name, parameter in model.named_parameters():
        if parameter.ndim == 2:
            for gate in parameter.detach().split(6):
                torch.testing.assert_close(gate @ gate.T, torch.eye(6), msg=name)
    bound = math.sqrt(6 / 12)
    initialize(model, "normalized", seed=0)
    assert 0.95 * bound < float(model["rnn"].weight_hh_l0.detach().abs().max()) <= bound


def test_the_order_of_making_changes_nothing() -> None:
    torch.manual_seed(1)
    one = nn.ModuleDict({"a": nn.Linear(3, 4), "b": nn.Linear(3, 4)})
    torch.manual_seed(2)
    other = nn.ModuleDict({"b": nn.Linear(3, 4), "a": nn.Linear(3, 4), "c": nn.Linear(2, 2)})
    initialize(one, "he", seed=0)
    torch.rand(3)
    initialize(other, "he", seed=0)
    for name, parameter in one.named_parameters():
        assert torch.equal(parameter, other.get_parameter(name))
    assert not torch.equal(one["a"].weight, one["b"].weight)


def test_embeddings_get_a_scale_where_the_scheme_is_one() -> None:
    table = nn.Embedding(2000, 10)
    result = initialize(table, "gaussian", scale=0.02, seed=0)
    assert result.done == {"weight": "gaussian"}
    assert result.notes == ()
    assert abs(float(table.weight.detach().std()) / 0.02 - 1) < 5 * math.sqrt(1 / 40000)


@pytest.mark.parametrize("table_first", [True, False])
def test_a_table_shared_with_a_dense_layer_begins_as_the_layer(table_first: bool) -> None:
    table, head = nn.Embedding(40, 6), nn.Linear(6, 40, bias=False)
    head.weight = table.weight
    pair = {"table": table, "head": head} if table_first else {"head": head, "table": table}
    result = initialize(nn.ModuleDict(pair), "he", seed=0)
    assert list(result.done.values()) == ["he"]
    assert torch.equal(table.weight, draw((40, 6), "he", seed=0, name=next(iter(result.done))))


def test_few_inputs_are_all_used_by_the_sparse_scheme_and_said() -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 30), nn.Linear(30, 3))
    result = initialize(model, "sparse", k=5, seed=0)
    assert result.notes == ("0.weight: a unit has only 4 weights, so none of them is zero",)
    assert [(layer.weight != 0).sum(1).tolist() for layer in model] == [[4] * 8, [5] * 30, [5] * 3]


def test_only_a_part_and_biases_left() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    result = initialize(model, "he", seed=0, only="1.*", bias=None)
    assert result.done == {"1.weight": "he"}
    assert result.left == {"1.bias": "biases were to be left"}
    same = [name for name, parameter in model.named_parameters() if torch.equal(parameter, before[name])]
    assert same == ["0.weight", "0.bias", "1.bias"]


@pytest.mark.parametrize("scheme", SCHEMES)
def test_every_scheme_breaks_symmetry(scheme: str) -> None:
    model = nn.Sequential(nn.Linear(20, 16), nn.Tanh(), nn.Linear(16, 4))
    initialize(model, scheme, seed=0)
    for layer in (model[0], model[2]):
        rows = layer.weight.detach()
        assert len(torch.unique(rows, dim=0)) == len(rows)


def test_what_cant_be_initialized_is_said() -> None:
    with pytest.raises(ModelError, match=r"^weight has no shape yet: give the lazy model one batch"):
        initialize(nn.LazyLinear(3), "he", seed=0)
    with pytest.raises(ModelError, match=r"^weight has no memory yet: call model.to_empty"):
        initialize(nn.Linear(2, 3, device="meta"), "he", seed=0)
    with pytest.raises(OptionError, match=r"^'haed.\*' fits no parameter of the model, .*'head.bias'"):
        initialize(Everything(), "he", seed=0, only="haed.*")
    with pytest.raises(OptionError, match=r"^the scheme 'he' has no option 'scale'"):
        initialize(Everything(), "he", seed=0, scale=1)
