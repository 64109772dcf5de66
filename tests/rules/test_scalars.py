"""States that are one number: hoisted, float64, each lane's own; states that begin as the parameter."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from thalweg import optim, runtimes
from thalweg.errors import RuleError
from thalweg.rules import rule, trace, where


@rule(initial={"anchor": "w", "total": 0.5}, scalars=("total", "largest"))
def pulled(w, g, anchor, total, largest, *, lr=0.1, pull=0.25, t):
    """Descends, pulled back to where it began, by a rate over the sum of rates so far."""
    total = total + lr
    largest = where(lr > largest, lr, largest)
    return w - lr / total * g + pull * largest * (anchor - w), anchor, total, largest


def expected(start, slopes, rates):
    w, total, largest = start, 0.5, 0.0
    for g, lr in zip(slopes, rates, strict=True):
        total, largest = total + lr, max(lr, largest)
        w = w - lr / total * g + 0.25 * largest * (start - w)
    return w, total, largest


def test_a_scalar_state_is_no_tensor():
    program = trace(pulled, {}, frozenset())
    assert program.states == ("anchor",)
    assert program.scalar_states == ("total", "largest")
    assert program.inputs == ("p", "g", "anchor")
    assert pulled.scalars == ("total", "largest")
    assert runtimes.live_states(pulled, {}, {}) == ("anchor",)
    assert runtimes.live_scalars(pulled, {}, {}) == ("total", "largest")
    scalars, after = program.hoist({"lr": 0.5, "pull": 0.25, "total": 0.5, "largest": 0.1}, 1)
    assert sorted(scalars) == [0.125, 0.5]
    assert {name: float(value) for name, value in after.items()} == {"total": 1.0, "largest": 0.5}


def test_against_a_twin(drive):
    draws = np.random.default_rng(0)
    start, slopes, rates = draws.normal(size=5), draws.normal(size=(30, 5)), draws.uniform(0, 1, 30)
    path = drive(pulled, start, list(slopes), lambda t: {"lr": rates[t - 1]}, steps=30)
    np.testing.assert_allclose(path[-1], expected(start, slopes, rates)[0], rtol=1e-12)


@pytest.mark.parametrize("runtime", ["eager", "auto"])
def test_every_lane_has_its_own(runtime):
    rates = np.array([0.1, 0.7, 0.3])
    p = torch.arange(6, dtype=torch.float64).reshape(3, 2)
    start = p.numpy().copy()
    states = runtimes.initial_states(pulled, [p], {"lr": rates}, {}, lanes=True)
    assert states["total"][0].tolist() == [0.5] * 3
    assert torch.equal(states["anchor"][0], p)
    assert states["anchor"][0].data_ptr() != p.data_ptr()
    for _ in range(4):
        g = [torch.ones_like(p)]
        runtimes.apply(pulled, [p], g, states, {"lr": rates}, {}, 1, lanes=True, runtime=runtime)
    for lane, rate in enumerate(rates):
        w, total, largest = expected(start[lane], np.ones((4, 2)), [rate] * 4)
        np.testing.assert_allclose(p[lane].numpy(), w, rtol=1e-13)
        assert states["total"][0][lane].item() == total
        assert states["largest"][0][lane].item() == largest


def test_low_precision_parameters_keep_wide_numbers():
    p = torch.nn.Parameter(torch.ones(2, dtype=torch.bfloat16))
    optimizer = optim.from_rule(pulled)([p], lr=1e-9)
    for _ in range(3):
        p.grad = torch.ones_like(p)
        optimizer.step()
    assert optimizer.state[p]["total"].item() == 0.5 + 1e-9 + 1e-9 + 1e-9
    assert optimizer.state[p]["anchor"].dtype == torch.float32
    q = torch.nn.Parameter(p.detach().clone())
    other = optim.from_rule(pulled)([q], lr=1e-9)
    other.load_state_dict(optimizer.state_dict())
    assert other.state[q]["total"].item() == optimizer.state[p]["total"].item()


def test_parameters_that_began_later_have_other_numbers():
    first, second = (torch.nn.Parameter(torch.tensor([1.0], dtype=torch.float64)) for _ in range(2))
    optimizer = optim.from_rule(pulled)([first, second])
    rates = [0.1, 0.5, 0.2, 0.3]
    for step, rate in enumerate(rates):
        optimizer.param_groups[0]["lr"] = rate
        first.grad = torch.ones_like(first)
        second.grad = torch.ones_like(second) if step >= 2 else None
        optimizer.step()
    for p, used in ((first, rates), (second, rates[2:])):
        w, total, largest = expected(1.0, [1.0] * len(used), used)
        assert p.item() == pytest.approx(w, rel=1e-14)
        assert optimizer.state[p]["total"].item() == total
        assert optimizer.state[p]["largest"].item() == largest
    assert optimizer.state[first]["total"].shape == ()


def returns_a_tensor(p, g, total):
    return p, total + g


def asks(p, g, total):
    if total:
        return p, total
    return p - g, total


@pytest.mark.parametrize(
    ("function", "words"),
    [(returns_a_tensor, "total is one number, but is returned as something"), (asks, "has no answer here")],
)
def test_what_is_refused_while_tracing(function, words):
    with pytest.raises(RuleError, match=words):
        trace(rule(scalars=("total",))(function), {}, frozenset())


def test_what_is_refused_at_once():
    with pytest.raises(RuleError, match="scalars names 'totl', which is no state; did you mean 'total'"):
        rule(scalars=("totl",))(asks)
    with pytest.raises(RuleError, match="can't begin as the parameter"):
        rule(initial={"total": "p"}, scalars=("total",))(asks)
