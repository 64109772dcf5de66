"""Rules over whole tensors: what they get, what they keep, and who can use them."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch

from thalweg import catalogue, optim, rules, runtimes
from thalweg.errors import OptionError
from thalweg.rules import MatrixRule, matrix_rule
from thalweg.rules.matrix import rows


def begin(p, hyper, options):
    kept = p.new_full((len(p),), 1.0) if options["remember"] else p.new_zeros(len(p), 0)
    return {"longest": kept * rows(hyper["first"], kept) if options["remember"] else kept}


@matrix_rule(begin=begin)
def normalized(p, g, longest, *, lr=0.1, first=0.5, remember=True, t):
    """The gradient over its norm, or over the longest so far."""
    size = torch.linalg.vector_norm(g.flatten(1), dim=1)
    if remember:
        longest = torch.maximum(longest, size)
        size = longest
    return p - rows(lr / t, p) * g / size.reshape(-1, *(1,) * (g.ndim - 1)), longest


def test_it_is_a_rule():
    assert isinstance(normalized, MatrixRule)
    assert normalized.states == ("longest",)
    assert normalized.uses_step
    assert normalized.__doc__.startswith("The gradient over its norm")
    assert repr(normalized) == "<rule normalized>"
    assert pickle.loads(pickle.dumps(rules.soap)) is rules.soap
    assert rules.as_rule(normalized) is normalized
    assert runtimes.live_states(normalized, {}, {}) == ("longest",)
    with pytest.raises(OptionError, match="no hyperparameter 'lrr'"):
        runtimes.apply(normalized, [], [], {"longest": []}, {"lrr": 1.0}, {}, 1)


@pytest.mark.parametrize("maximize", [False, True])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_one_step_after_the_other(dtype, maximize):
    p, q = torch.ones(2, 2, dtype=dtype), torch.ones(3, dtype=dtype)
    states = runtimes.initial_states(normalized, [p, q], {"first": 4.0}, {})
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    assert [s.dtype for s in states["longest"]] == [wide, wide]
    for t in (1, 2):
        grads = [torch.full_like(p, 4.0), torch.tensor([3.0, 0.0, 0.0], dtype=dtype)]
        runtimes.apply(normalized, [p, q], grads, states, {"first": 4.0, "lr": 0.5}, {}, t, maximize=maximize)
    sign = -1 if maximize else 1
    torch.testing.assert_close(p, torch.full_like(p, 1 - sign * 0.75 * 0.5))
    torch.testing.assert_close(q, torch.tensor([1 - sign * 0.75 * 0.75, 1.0, 1.0], dtype=dtype))
    assert [s.item() for s in states["longest"]] == [8.0, 4.0]


def test_lanes_have_numbers_of_their_own():
    rates, firsts = np.array([0.1, 0.5]), np.array([1.0, 10.0])
    p = torch.zeros(2, 3)
    hyper = {"lr": rates, "first": firsts}
    states = runtimes.initial_states(normalized, [p], hyper, {}, lanes=True)
    g = torch.tensor([[2.0, 0.0, 0.0], [0.0, 2.0, 0.0]])
    runtimes.apply(normalized, [p], [g], states, hyper, {}, 1, lanes=True)
    torch.testing.assert_close(p, torch.tensor([[-0.1, 0.0, 0.0], [0.0, -0.1, 0.0]]))
    assert states["longest"][0].tolist() == [2.0, 10.0]


def test_numbers_of_lanes_are_cast_once_and_broadcast():
    like = torch.zeros(2, 3, 4)
    assert rows(np.array([1.0, 2.0]), like).shape == (2, 1, 1)
    assert rows(np.array([1.0, 2.0]), like).dtype == torch.float32
    assert rows(np.array([1.0, 2.0]), like, torch.float64).dtype == torch.float64


@pytest.mark.parametrize("remember", [True, False])
def test_from_rule_and_a_checkpoint(remember):
    params = [torch.nn.Parameter(torch.ones(2, 2)), torch.nn.Parameter(torch.ones(3))]
    made = optim.from_rule(normalized, remember=remember)
    optimizer = made(params, lr=0.5)
    for _ in range(2):
        for p in params:
            p.grad = p.detach().clone()
        optimizer.step()
    copies = [torch.nn.Parameter(p.detach().clone()) for p in params]
    other = made(copies)
    other.load_state_dict(optimizer.state_dict())
    for each, chosen in ((optimizer, params), (other, copies)):
        for p in chosen:
            p.grad = torch.ones_like(p)
        each.step()
    assert all(map(torch.equal, params, copies))
    tracked = made(params, differentiable=True)
    with pytest.raises(OptionError, match="can't do with differentiable=True"):
        tracked.step()


def test_anybodys_can_be_raced():
    entry = catalogue.resolve(normalized)
    assert entry.rule is normalized
    assert entry.rule_hyperparameters({"lr": 0.2}) == {"lr": 0.2, "first": 0.5}
