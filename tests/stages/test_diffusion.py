"""Recurrent nets under noise on their weights: closed forms, against quadrature and draws."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy import integrate
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence

import thalweg
from thalweg.errors import ModelError, OptionError
from thalweg.stages import Diffused, diffusion
from thalweg.stages.diffusion import smoothed_relu, smoothed_tanh


@pytest.mark.parametrize("mean", [-2.0, -0.3, 0.0, 0.7, 3.0])
@pytest.mark.parametrize("variance", [0.01, 1.0, 25.0])
def test_means_over_a_normal(mean: float, variance: float) -> None:
    deviation = math.sqrt(variance)

    def expected(function: Any) -> float:
        def integrand(z: float) -> float:
            return float(function(mean + deviation * z)) * math.exp(-z * z / 2) / math.sqrt(2 * math.pi)

        kink = [-mean / deviation] if abs(mean) < 10 * deviation else None
        return float(integrate.quad(integrand, -10, 10, points=kink, limit=200)[0])

    m, v = (torch.tensor(value, dtype=torch.float64) for value in (mean, variance))
    assert float(smoothed_relu(m, v)) == pytest.approx(expected(lambda z: max(z, 0.0)), abs=1e-8)
    assert float(smoothed_tanh(m, v)) == pytest.approx(expected(np.tanh), abs=0.02)
    # exact for the function of which tanh is taken to be
    from scipy.special import erf

    slope = math.sqrt(math.pi) / 2
    exact = expected(lambda z: erf(slope * z))
    assert exact == pytest.approx(erf(slope * mean / math.sqrt(1 + 2 * slope**2 * variance)), abs=1e-8)


def test_no_noise_is_the_plain_function_and_gradients_stay_finite() -> None:
    mean = torch.tensor([-1.0, 0.0, 2.0], requires_grad=True)
    nothing = torch.zeros(3)
    torch.testing.assert_close(smoothed_relu(mean, nothing), mean.relu(), rtol=0, atol=1e-15)
    assert torch.equal(smoothed_tanh(mean, nothing), mean.tanh())
    smoothed_relu(mean, nothing).sum().backward()
    assert mean.grad is not None
    assert mean.grad.isfinite().all()


@pytest.mark.parametrize("nonlinearity", ["tanh", "relu"])
def test_a_step_is_the_mean_over_noise_on_all_its_weights(nonlinearity: str) -> None:
    torch.manual_seed(0)
    rnn = nn.RNN(3, 4, nonlinearity=nonlinearity, batch_first=True).double()
    x, h, sigma = torch.randn(2, 1, 3).double(), torch.randn(1, 2, 4).double(), 0.7
    diffused = Diffused(rnn, sigma)
    found, last = diffused((x, h))
    diffused.close()
    state, total, squares = {name: p.detach() for name, p in rnn.named_parameters()}, 0.0, 0.0
    draws = 4000
    for _ in range(draws):
        noisy = {name: p + sigma * torch.randn_like(p) for name, p in state.items()}
        value = torch.func.functional_call(rnn, noisy, (x, h))[0].detach()
        total, squares = total + value, squares + value.square()
    mean = total / draws
    error = ((squares / draws - mean.square()) / draws).sqrt()
    slack = 0.02 if nonlinearity == "tanh" else 0.0
    assert ((found - mean).abs() <= 4.5 * error + slack).all()
    assert torch.equal(found[:, -1], last[0])


@pytest.mark.parametrize(
    "options",
    [
        {}, {"batch_first": True}, {"num_layers": 2}, {"bidirectional": True, "num_layers": 2},
        {"bias": False, "nonlinearity": "relu"},
    ],
    ids=str,
)  # fmt: skip
@pytest.mark.parametrize("form", ["batch", "single", "with a state"])
def test_with_next_to_no_noise_it_is_torchs(options: dict[str, Any], form: str) -> None:
    torch.manual_seed(1)
    rnn = nn.RNN(3, 4, **options).double()
    x = torch.randn(5, 3).double() if form == "single" else torch.randn(2, 5, 3).double()
    given: tuple[Tensor, ...] = (x,)
    if form == "with a state":
        given = (
            x,
            torch.randn(
                rnn.num_layers * (2 if rnn.bidirectional else 1), 2 if rnn.batch_first else 5, 4
            ).double(),
        )
    expected = rnn(*given)
    diffused = Diffused(rnn, 1e-9)
    for found, wanted in zip(diffused(given if len(given) > 1 else x), expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-7, atol=1e-7)
    diffused.eval()
    for found, wanted in zip(diffused(given if len(given) > 1 else x), expected, strict=True):
        assert torch.equal(found, wanted)


def test_what_is_frozen_has_no_noise_and_copies_go_their_own_way() -> None:
    rnn = nn.RNN(2, 3)
    x = torch.randn(4, 2, 2)
    expected = rnn(x)[0]
    for p in rnn.parameters():
        p.requires_grad_(False)
    diffused = Diffused(rnn, 3.0)
    torch.testing.assert_close(diffused(x)[0], expected)
    for p in rnn.parameters():
        p.requires_grad_(True)
    other = copy.deepcopy(diffused)
    other.follow(progress=0.0, step=0, seed=0)
    assert torch.equal(other(x)[0], diffused(x)[0])
    diffused.close()
    assert type(rnn) is nn.RNN
    assert not torch.equal(other(x)[0], rnn(x)[0])


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.head = nn.RNN(1, 8, batch_first=True), nn.Linear(8, 1)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.head(self.rnn(x)[0][:, -1])
        return found


def test_trained_in_stages_the_model_is_a_plain_one() -> None:
    torch.manual_seed(0)
    x = torch.rand(64, 6, 1)
    y = x.sum(1)
    model = Net()
    before = (model(x) - y).square().mean().item()
    fitted = thalweg.fit(
        model, (x, y), "mse", "adam", hyperparameters={"lr": 0.01}, epochs=10, validation=(x, y),
        stages=diffusion(model, [0.3, 0]),
    )  # fmt: skip
    assert type(model.rnn) is nn.RNN
    assert [stage.name for stage in fitted.stages] == ["diffusion 1", "diffusion 2"]
    assert fitted.final["validation_loss"] is not None
    assert fitted.final["validation_loss"] < before / 4


def test_what_can_not_be_is_said() -> None:
    with pytest.raises(ModelError, match=r"LSTM has no torch\.nn\.RNN"):
        diffusion(nn.LSTM(1, 2), [0.1])
    with pytest.raises(OptionError, match="sigmas is empty"):
        diffusion(Net(), [])
    rnn = nn.RNN(1, 2)
    diffused = Diffused(rnn, 0.1)
    with pytest.raises(ModelError, match="packed"):
        rnn(pack_padded_sequence(torch.ones(3, 2, 1), torch.tensor([3, 2])))
    diffused.close()
