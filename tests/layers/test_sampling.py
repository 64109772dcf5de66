"""Averaging out at test time by sampling: exact moments, nothing changed, the seed alone decides."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from thalweg.errors import ModelError, OptionError
from thalweg.layers.norm import BatchNorm
from thalweg.layers.residual import Skip, StochasticDepth
from thalweg.layers.sampling import sampled_prediction
from thalweg.layers.units import Dropout, FractionalMaxPool2d


def test_mean_and_spread_of_dropout_are_the_closed_form() -> None:
    """Of ``w . (x * mask) / (1 - p)``: mean ``w . x``, variance ``p / (1 - p) * sum (w x)^2``."""
    head = nn.Linear(6, 1, bias=False).double()
    model = nn.Sequential(nn.Dropout(0.25), head).eval()
    x = torch.randn(1, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    n = 1500
    result = sampled_prediction(model, x, samples=n, seed=1)
    terms = (head.weight * x).detach()
    deviation = math.sqrt(0.25 / 0.75 * float(terms.square().sum()))
    assert abs(float(result.mean) - float(terms.sum())) < 5 * deviation / math.sqrt(n)
    # a spread's relative error is at most that of a distribution with kurtosis 4
    assert abs(float(result.spread) / deviation - 1) < 5 * math.sqrt(3 / (4 * n))
    assert result.samples == n
    assert not model.training


def test_mean_and_spread_are_those_of_the_samples() -> None:
    model = nn.Sequential(nn.Linear(3, 4), Dropout(0.5, inverted=False), nn.Linear(4, 2))
    x = torch.randn(5, 3)
    seen: list[Tensor] = []

    def keep(outputs: Tensor) -> Tensor:
        seen.append(outputs.softmax(-1))
        return seen[-1]

    result = sampled_prediction(model, x, samples=7, seed=2, transform=keep)
    torch.testing.assert_close(result.mean, torch.stack(seen).mean(0))
    torch.testing.assert_close(result.spread, torch.stack(seen).std(0))
    first = list(seen)
    seen.clear()
    torch.rand(3)
    sampled_prediction(model, x, samples=9, seed=2, transform=keep)
    assert all(torch.equal(a, b) for a, b in zip(first, seen, strict=False))
    assert not torch.equal(seen[7], seen[8])


class Everything(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.pool = FractionalMaxPool2d()
        self.conv = nn.Conv2d(1, 4, 3)
        self.norm, self.other = BatchNorm(4), nn.BatchNorm1d(4)
        self.block = Skip(spectral_norm(nn.Linear(4, 4)), drop=StochasticDepth(0.5))
        self.rnn = nn.LSTM(4, 4, num_layers=2, dropout=0.5, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.conv(self.pool(x))).flatten(2).transpose(1, 2)
        out: Tensor = self.other(self.block(self.rnn(x)[0]).mean(1))
        return out


def test_nothing_is_changed_and_every_random_layer_draws() -> None:
    model = Everything()
    model.norm.eval()
    x = torch.randn(3, 1, 8, 8)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    generator = torch.random.get_rng_state()
    one = sampled_prediction(model, x, samples=3, seed=0)
    assert torch.equal(torch.random.get_rng_state(), generator)
    torch.rand(10)
    other = sampled_prediction(model, x, samples=3, seed=0)
    assert torch.equal(one.mean, other.mean)
    assert torch.equal(one.spread, other.spread)
    assert bool((one.spread > 0).all())
    assert [module.training for module in model.modules()] == modes
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name
    rnn = nn.LSTM(4, 4, num_layers=2, dropout=0.5)
    picked = nn.Module()
    picked.rnn = rnn
    picked.forward = lambda x: rnn(x)[0]
    assert bool((sampled_prediction(picked, torch.randn(3, 1, 4), samples=3).spread > 0).all())


def test_without_randomness_there_is_no_spread() -> None:
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    x = torch.randn(1, 3)
    result = sampled_prediction(model, x, samples=2)
    torch.testing.assert_close(result.mean, model.eval()(x))
    assert torch.equal(result.spread, torch.zeros(1, 2))


def test_what_cant_be_sampled_is_said() -> None:
    with pytest.raises(OptionError, match="samples = 1 isn't allowed"):
        sampled_prediction(nn.Linear(1, 1), torch.zeros(1, 1), samples=1)
    with pytest.raises(ModelError, match="the model gives a tuple"):
        sampled_prediction(nn.LSTM(1, 1), torch.zeros(1, 1, 1))
