"""A step's effect against the loss itself, dense matrices, and the slide's chain of units."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from thalweg import optim
from thalweg.curvature import Hessian, step_of, step_prediction
from thalweg.errors import OptionError


@pytest.fixture(autouse=True)
def _float64() -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    yield
    torch.set_default_dtype(before)


def net() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))


def data(n: int = 20) -> tuple[Tensor, Tensor]:
    return torch.randn(n, 4), torch.randint(3, (n,))


def test_each_order_is_that_of_the_dense_matrix_and_the_rest_is_third() -> None:
    model, (x, y) = net(), data()
    batches = [(x[:13], y[:13]), (x[13:], y[13:])]
    direction = [torch.randn_like(p) for p in model.parameters()]
    flat = torch.cat([d.flatten() for d in direction])
    operator = Hessian(model, "cross-entropy", batches)
    gradient, dense = torch.cat([g.flatten() for g in operator.gradient()]), operator.to_dense()
    before = [p.detach().clone() for p in model.parameters()]
    rests = []
    for size in (1e-2, 5e-3):
        found = step_prediction(model, "cross-entropy", batches, [size * d for d in direction])
        assert found.whole.first == pytest.approx(size * float(gradient @ flat))
        assert found.whole.second == pytest.approx(size**2 * float(flat @ dense @ flat) / 2)
        rests.append(found.whole.rest)
        assert list(found.layers) == ["0", "2"]
        for name, rows in (("0", slice(0, 30)), ("2", slice(30, 51))):
            part = torch.zeros_like(flat)
            part[rows] = size * flat[rows]
            assert found.layers[name].first == pytest.approx(float(gradient @ part))
            assert found.layers[name].second == pytest.approx(float(part @ dense @ part) / 2)
            moved = net()
            with torch.no_grad():
                there = torch.cat([p.flatten() for p in before]) + part
                nn.utils.vector_to_parameters(there, moved.parameters())
            change = float((F.cross_entropy(moved(x), y) - F.cross_entropy(model(x), y)).detach())
            assert found.layers[name].actual == pytest.approx(change)
        cross = size**2 * float(flat[:30] @ dense[:30, 30:] @ flat[30:])
        assert found.second_order_interaction == pytest.approx(cross)
    assert rests[0] / rests[1] == pytest.approx(8, rel=0.05)
    assert all(torch.equal(p, old) for p, old in zip(model.parameters(), before, strict=True))


def test_a_chain_of_units_is_that_of_the_slide() -> None:
    # N 8.34: y = x w1 w2 w3; together the step brings terms up to order 3, alone none
    class Chain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList([nn.Linear(1, 1, bias=False) for _ in range(3)])

        def forward(self, x: Tensor) -> Tensor:
            for layer in self.layers:
                x = layer(x)
            return x

    model = Chain()
    w = torch.tensor([2.0, 3.0, 0.5])
    with torch.no_grad():
        for layer, value in zip(model.layers, w, strict=True):
            layer.weight.fill_(float(value))
    g = torch.tensor([w[1] * w[2], w[0] * w[2], w[0] * w[1]])
    e = 0.1
    found = step_prediction(
        model, lambda z, _: z.mean(), (torch.ones(1, 1), torch.ones(1)), list((-e * g).reshape(3, 1, 1))
    )
    assert found.whole.first == pytest.approx(-e * float(g @ g))
    assert found.whole.actual == pytest.approx(float((w - e * g).prod() - w.prod()))
    second = e * e * float(g[0] * g[1] * w[2] + g[0] * g[2] * w[1] + g[1] * g[2] * w[0])
    assert found.whole.second == pytest.approx(second)
    assert found.whole.rest == pytest.approx(-(e**3) * float(g.prod()))
    assert all(layer.second == 0 and abs(layer.rest) < 1e-12 for layer in found.layers.values())
    assert found.interaction == pytest.approx(second - e**3 * float(g.prod()))


def test_the_cost_of_a_step_is_half_its_gain_at_the_best_rate_and_equal_at_the_bound() -> None:
    model = nn.Linear(3, 1, bias=False)
    x = torch.tensor([[1.0, 0.0, 0.0]] * 2)
    gradient = Hessian(model, "mse", (x, torch.zeros(2))).gradient()[0]  # curvature 2
    for rate, cost in ((0.5, 0.5), (1.0, 1.0), (2.0, 2.0)):
        found = step_prediction(model, "mse", (x, torch.zeros(2)), [-rate * gradient], layers=False)
        assert found.whole.cost == pytest.approx(cost)
        assert found.whole.actual == pytest.approx(found.whole.predicted)
        assert found.layers == {}
    still = step_prediction(model, "mse", (x, torch.zeros(2)), [0 * gradient])
    assert math.isnan(still.whole.cost)


@pytest.mark.parametrize(
    "make",
    [
        lambda p: torch.optim.Adam(p, lr=0.1),
        lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
        lambda p: torch.optim.LBFGS(p, max_iter=3),
        lambda p: optim.SGD(p, lr=0.1, momentum=0.9, nesterov="lookahead"),
        lambda p: optim.AdamW(p, lr=0.1),
    ],
)
def test_a_step_that_would_be_taken_is_the_one_that_is_taken(make: Callable[..., Any]) -> None:
    model, (x, y) = nn.Sequential(*net(), nn.Dropout(0.2), nn.BatchNorm1d(3)), data()
    optimizer = make(model.parameters())

    def compute() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        return loss

    optimizer.step(compute)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state, generator = str(optimizer.state_dict()), torch.get_rng_state()
    grads = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    step = step_of(model, optimizer, compute)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert str(optimizer.state_dict()) == state
    assert torch.equal(torch.get_rng_state(), generator)
    assert all(
        torch.equal(p.grad, g) for p, g in zip(model.parameters(), grads, strict=True) if p.grad is not None
    )
    prediction = step_prediction(model, "cross-entropy", (x, y), step)
    assert torch.equal(torch.get_rng_state(), generator)
    optimizer.step(compute)
    for (name, p), d in zip(model.named_parameters(), step, strict=True):
        torch.testing.assert_close(p.detach(), before[name] + d)
    assert math.isfinite(prediction.whole.actual)


def test_dropout_draws_the_same_at_both_ends() -> None:
    model, (x, y) = nn.Sequential(*net(), nn.Dropout(0.5)), data()
    zero = [torch.zeros_like(p) for p in model.parameters()]
    assert step_prediction(model, "cross-entropy", (x, y), zero).whole.actual == 0.0


def test_what_is_wrong_is_said() -> None:
    model, batch = net(), data()
    with pytest.raises(OptionError, match="has 1 tensors, but 4 parameters"):
        step_prediction(model, "cross-entropy", batch, [torch.zeros(6, 4)])
    with pytest.raises(OptionError, match="holds no trained parameter of the model"):
        step_of(model, torch.optim.SGD(net().parameters(), lr=0.1), lambda: None)
