"""Constants of a start, against closed forms, and against what the layers then compute."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from thalweg.errors import ModelError, OptionError
from thalweg.initial.biases import (
    marginals,
    open_gates,
    output_bias,
    positive_biases,
    set_constants,
    set_output_bias,
)
from thalweg.initial.modules import initialize

SHARES = torch.tensor([0.7, 0.2, 0.09, 0.01], dtype=torch.float64)


@pytest.mark.parametrize(
    ("activation", "statistics", "forward"),
    [
        ("softmax", SHARES, lambda b: torch.softmax(b, 0)),
        ("sigmoid", SHARES, torch.sigmoid),
        ("identity", SHARES - 0.5, lambda b: b),
        ("exp", 50 * SHARES, torch.exp),
        ("softplus", 50 * SHARES, F.softplus),
    ],
)
def test_the_activation_of_the_bias_is_the_statistic(
    activation: str, statistics: Tensor, forward: object
) -> None:
    result = output_bias(statistics, activation)
    assert result.notes == ()
    torch.testing.assert_close(forward(result.values), statistics, rtol=1e-12, atol=1e-12)


def test_softmax_takes_counts_and_gives_the_shortest_solution() -> None:
    b = output_bias(1000 * SHARES, "softmax").values
    torch.testing.assert_close(torch.softmax(b, 0), SHARES)
    assert abs(float(b.sum())) < 1e-12


def test_softplus_of_a_tiny_and_of_a_huge_mean() -> None:
    statistics = torch.tensor([1e-9, 1e4], dtype=torch.float64)
    b = output_bias(statistics, "softplus").values
    assert float(b[0]) == pytest.approx(math.log(1e-9), abs=1e-9)
    assert float(b[1]) == 1e4


def test_classes_that_never_occur_count_as_half_an_example_and_are_named() -> None:
    shares = marginals(torch.tensor([0, 0, 2, 0]), classes=4)
    result = output_bias(shares, "softmax", examples=4)
    assert result.notes == ("outputs [1, 3] never occur and count as half an example",)
    expected = torch.tensor([3.0, 0.5, 1.0, 0.5], dtype=torch.float64)
    torch.testing.assert_close(torch.softmax(result.values, 0), expected / expected.sum())


def test_always_and_never_under_sigmoid() -> None:
    result = output_bias(torch.tensor([0.0, 1.0, 0.5]), "sigmoid", examples=50)
    assert result.notes == (
        "outputs [0] never occur and count as half an example",
        "outputs [1] always occur and count as half an example less",
    )
    torch.testing.assert_close(torch.sigmoid(result.values), torch.tensor([0.01, 0.99, 0.5]).double())
    assert "a share of 1e-06" in output_bias(torch.tensor([0.0]), "exp").notes[0]


@pytest.mark.parametrize(
    ("activation", "statistics", "said"),
    [
        ("softmax", [0.5, -0.1], "can't be those of softmax outputs: give finite numbers from 0 to inf"),
        ("softmax", [0.0, 0.0], "sum to 0"),
        ("sigmoid", [1.1], "can't be those of sigmoid outputs: give finite numbers from 0 to 1"),
        ("identity", [math.nan], "can't be those of identity outputs"),
        ("exp", [-1.0], "can't be those of exp outputs"),
        ("exp", [], "can't be those of exp outputs"),
        ("sofmax", [1.0], "there is no output activation 'sofmax'; did you mean 'softmax'?"),
    ],
)
def test_impossible_statistics_are_refused(activation: str, statistics: list[float], said: str) -> None:
    with pytest.raises(OptionError) as caught:
        output_bias(torch.tensor(statistics), activation)
    assert said in str(caught.value)


def test_marginals() -> None:
    assert marginals(torch.tensor([[1.0, 4.0], [3.0, 0.0]])).tolist() == [2.0, 2.0]
    assert marginals(torch.tensor([True, False, False, False])).tolist() == [0.25]
    with pytest.raises(OptionError, match="class number 3 is outside of 0 to 2"):
        marginals(torch.tensor([0, 3]), classes=3)
    with pytest.raises(OptionError, match="are no class numbers"):
        marginals(torch.tensor([0.0, 1.0]), classes=3)
    with pytest.raises(OptionError, match="there are no targets"):
        marginals(torch.tensor([]))


def test_a_network_begins_at_the_marginals_and_at_their_entropy() -> None:
    model = nn.Sequential(nn.Linear(20, 64), nn.ReLU(), nn.Linear(64, 4)).double()
    initialize(model, "he", seed=0)
    x = torch.randn(4000, 20, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    targets = torch.multinomial(SHARES, 4000, replacement=True, generator=torch.Generator().manual_seed(1))
    shares = marginals(targets, classes=4)
    entropy = -float((shares * shares.log()).sum())
    with torch.no_grad():
        assert float(F.cross_entropy(model(x), targets)) > entropy + 0.3
    result = set_output_bias(model[2], shares, "softmax", examples=4000)
    assert len(result.notes) == 1
    assert "were scaled down to 0.1" in result.notes[0]
    # outputs vary by 0.1 times the hidden units' size, about 1: the loss by half of the square
    with torch.no_grad():
        assert abs(float(F.cross_entropy(model(x), targets)) - entropy) < 0.02
        torch.testing.assert_close(torch.softmax(model(x), 1).mean(0), shares, atol=0.05, rtol=0)


def test_small_weights_stay_and_large_ones_stay_when_told() -> None:
    layer = nn.Linear(10, 3)
    with torch.no_grad():
        layer.weight.fill_(0.01)
        layer.weight[1].fill_(1.0)
    before = layer.weight.detach().clone()
    said = set_output_bias(layer, torch.ones(3), "exp", largest_norm=None).notes
    assert said == (
        "weights into outputs [1] have norms up to 3.16: outputs begin at the statistics only up to as much, "
        "times the size of the inputs",
    )
    assert torch.equal(layer.weight, before)
    set_output_bias(layer, torch.ones(3), "exp")
    assert torch.equal(layer.weight[0], before[0])
    torch.testing.assert_close(layer.weight[1].norm(), torch.tensor(0.1))


def test_weights_of_transposed_convolutions_are_scaled_by_their_output() -> None:
    layer = nn.ConvTranspose2d(4, 6, 3, groups=2)
    with torch.no_grad():
        layer.weight.fill_(1e-3)
        layer.weight[2:, 1].fill_(1.0)  # into output 3 + 1, of the second group
    said = set_output_bias(layer, torch.zeros(6), "identity").notes
    assert said[0].startswith("weights into outputs [4] had norms up to 4.24")
    torch.testing.assert_close(layer.weight[2:, 1].norm(), torch.tensor(0.1))
    torch.testing.assert_close(layer.weight[:2], torch.full((2, 3, 3, 3), 1e-3))


def test_layers_that_cant_have_an_output_bias_are_refused() -> None:
    with pytest.raises(ModelError, match="a Linear without weight or bias"):
        set_output_bias(nn.Linear(3, 2, bias=False), torch.ones(2), "softmax")
    with pytest.raises(ModelError, match="a ReLU without weight or bias"):
        set_output_bias(nn.ReLU(), torch.ones(2), "softmax")
    with pytest.raises(OptionError, match="3 statistics don't fit 2 outputs"):
        set_output_bias(nn.Linear(3, 2), torch.ones(3), "softmax")


class Functional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.three = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.three(torch.tanh(self.two(self.one(x).relu())))
        return out


def test_positive_biases_go_to_layers_before_a_relu_alone() -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 1))
    others = [model[2].bias.clone(), model[4].bias.clone()]
    assert positive_biases(model, 0.05) == ("0.bias",)
    assert torch.equal(model[0].bias, torch.full((3,), 0.05))
    assert torch.equal(model[2].bias, others[0])
    assert torch.equal(model[4].bias, others[1])
    assert positive_biases(Functional(), example=torch.zeros(1, 4)) == ("one.bias",)
    with pytest.raises(ModelError, match="give an example batch"):
        positive_biases(Functional())
    with pytest.raises(OptionError, match="value = 0 isn't allowed"):
        positive_biases(model, 0)


@pytest.mark.parametrize("value", [1.0, 3.0])
def test_an_open_forget_gate_keeps_the_cell(value: float) -> None:
    rnn = nn.LSTM(3, 4, num_layers=2, bidirectional=True).double()
    with torch.no_grad():
        for parameter in rnn.parameters():
            parameter.zero_()
    done = open_gates(rnn, forget=value, input=-20.0)
    assert len(done) == 8
    h = torch.zeros(4, 1, 4, dtype=torch.float64)
    c = torch.randn(4, 1, 4, dtype=torch.float64)
    steps = 5
    _, (_, after) = rnn(torch.zeros(steps, 1, 3, dtype=torch.float64), (h, c))
    kept = 1 / (1 + math.exp(-value))
    torch.testing.assert_close(after, c * kept**steps, rtol=1e-7, atol=1e-7)


def silent(layer: nn.Module, **candidate: float) -> nn.Module:
    """With every parameter at zero but the candidate's bias."""
    with torch.no_grad():
        for name, parameter in layer.double().named_parameters():
            parameter.zero_()
            for kind, value in candidate.items():
                if name.startswith(kind):
                    parameter[6:9] = value
    return layer


@pytest.mark.parametrize("whole", [False, True])
def test_every_gate_stands_where_torch_has_it(whole: bool) -> None:
    """Against the formulas, written out: c' = f*c + i*tanh(g), h' = o*tanh(c')."""
    layer = silent(nn.LSTM(2, 3) if whole else nn.LSTMCell(2, 3), bias_ih=0.7)
    open_gates(layer, forget=0.3, input=-0.4, output=1.2)
    c, x = torch.tensor([[0.5, -1.0, 2.0]], dtype=torch.float64), torch.zeros(1, 2, dtype=torch.float64)
    if whole:
        hidden, (_, after) = layer(x, (torch.zeros_like(c), c))
    else:
        hidden, after = layer(x, (torch.zeros_like(c), c))
    expected = c / (1 + math.exp(-0.3)) + math.tanh(0.7) / (1 + math.exp(0.4))
    torch.testing.assert_close(after, expected)
    torch.testing.assert_close(hidden, torch.tanh(expected) / (1 + math.exp(-1.2)))


@pytest.mark.parametrize("whole", [False, True])
def test_an_open_update_gate_keeps_the_state_of_a_gru(whole: bool) -> None:
    # the candidate's part behind the reset gate
    layer = silent(nn.GRU(2, 3) if whole else nn.GRUCell(2, 3), bias_hh=0.9)
    own = "bias_ih_l0" if whole else "bias_ih"
    assert open_gates(layer, update=2.0, reset=-1.0) == (f"{own}: reset", f"{own}: update")
    h, x = torch.tensor([[0.5, -1.0, 2.0]], dtype=torch.float64), torch.zeros(1, 2, dtype=torch.float64)
    z, r = 1 / (1 + math.exp(-2.0)), 1 / (1 + math.exp(1.0))
    after = layer(x, h)[0] if whole else layer(x, h)
    torch.testing.assert_close(after, (1 - z) * math.tanh(0.9 * r) + z * h)


def test_gates_that_arent_named_and_other_layers_stay() -> None:
    model = nn.ModuleDict({"rnn": nn.LSTM(2, 3), "plain": nn.RNN(2, 3)})
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    assert open_gates(model) == ("rnn.bias_ih_l0: forget",)
    for name, parameter in model.named_parameters():
        same = parameter == before[name]
        if name in ("rnn.bias_ih_l0", "rnn.bias_hh_l0"):
            assert bool(same[:3].all())
            assert bool(same[6:].all())
        else:
            assert bool(same.all())
    with pytest.raises(ModelError, match="there is no LSTM or GRU"):
        open_gates(nn.LSTM(2, 3, bias=False))


class Head(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.log_variance = nn.Parameter(torch.full((2,), 9.0))
        self.raw_scale = nn.Parameter(torch.full((3,), 9.0))


def test_constants_are_given_as_what_the_model_makes_of_them() -> None:
    head = Head()
    assert set_constants(head, {"log_*": 2.0}, activation="exp") == ("log_variance",)
    torch.testing.assert_close(head.log_variance.exp(), torch.full((2,), 2.0))
    set_constants(head, {"raw_scale": 0.5}, activation="softplus")
    torch.testing.assert_close(F.softplus(head.raw_scale), torch.full((3,), 0.5))
    set_constants(head, {"*": 1.5})
    assert head.raw_scale.tolist() == [1.5] * 3
    with pytest.raises(
        OptionError,
        match=r"^'log_varianc' fits no parameter of the model, whose names are such as 'log_variance'",
    ):
        set_constants(head, {"log_varianc": 0.0})
    with pytest.raises(OptionError, match="can't begin at 0"):
        set_constants(head, {"log_variance": 0.0}, activation="exp")
    with pytest.raises(OptionError, match="softmax"):
        set_constants(head, {"log_variance": 0.0}, activation="softmax")
