"""SGD that really looks ahead: the slide's own form, equal to those that needn't look."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from thalweg import optim
from thalweg.errors import OptionError

from .problems import close, parameters, snapshot

STEPS = 50


def constant(step: int) -> tuple[float, float]:
    return 0.02, 0.9


def scheduled_momentum(step: int) -> tuple[float, float]:
    return 0.02, 0.5 + 0.45 * step / STEPS


def scheduled(step: int) -> tuple[float, float]:
    return 0.05 / (1 + 0.1 * step), 0.5 + 0.45 * step / STEPS


def loss_at(params: list[Any], step: int) -> Tensor:
    """Not quadratic, and different at each step, so that it matters where the gradient is taken."""
    terms = [(torch.cosh(p) + torch.sin(p + step)).sum() for p in params]
    return torch.stack(terms).sum()


def made(params: Any, **options: Any) -> optim.SGD:
    return optim.SGD(params, **{"lr": 0.02, "momentum": 0.9, "nesterov": "lookahead", **options})


def by_closure(optimizer: optim.SGD, params: list[torch.nn.Parameter], step: int) -> Tensor:
    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = loss_at(params, step)
        loss.backward()
        return loss

    given: Tensor = optimizer.step(closure)
    return given


def by_context(optimizer: optim.SGD, params: list[torch.nn.Parameter], step: int) -> Tensor:
    optimizer.zero_grad()
    with optimizer.look_ahead():
        loss = loss_at(params, step)
        loss.backward()
    optimizer.step()
    return loss


every_way = pytest.mark.parametrize("way", [by_closure, by_context])


@every_way
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize("rates", [constant, scheduled_momentum, scheduled])
def test_against_the_slide(
    way: Any, weight_decay: float, rates: Callable[[int], tuple[float, float]]
) -> None:
    """K, S 2: the gradient at x + y*v; here with the rate outside the velocity, v = -lr * buffer."""
    params = parameters()
    twin = [p.detach().clone() for p in params]
    velocity = [torch.zeros_like(p) for p in twin]
    optimizer = made(params, weight_decay=weight_decay)
    for step in range(STEPS):
        lr, y = rates(step)
        optimizer.param_groups[0].update(lr=lr, momentum=y)
        loss = way(optimizer, params, step)
        ahead = [(x - lr * y * v).requires_grad_() for x, v in zip(twin, velocity, strict=True)]
        expected = loss_at(ahead, step)
        slopes = torch.autograd.grad(expected, ahead)
        close(loss, expected)
        for i, (a, g) in enumerate(zip(ahead, slopes, strict=True)):
            velocity[i] = y * velocity[i] + g + weight_decay * a.detach()
            twin[i] = twin[i] - lr * velocity[i]
        close([p.detach() for p in params], twin)


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize("rates", [constant, scheduled_momentum])
def test_one_sequence_with_the_form_without_look_ahead(
    weight_decay: float, rates: Callable[[int], tuple[float, float]]
) -> None:
    ours, other = parameters(), parameters()
    optimizer = made(ours, weight_decay=weight_decay)
    without = optim.Nesterov(other, weight_decay=weight_decay)
    for step in range(STEPS):
        lr, y = rates(step)
        optimizer.param_groups[0].update(lr=lr, momentum=y)
        # Nesterov stands at the look-ahead point already, and is told the momentum of the next one.
        without.param_groups[0].update(lr=lr, momentum=rates(step + 1)[1])
        with optimizer.look_ahead():
            close(ours, other)
        by_closure(optimizer, ours, step)
        without.zero_grad()
        loss_at(other, step).backward()
        without.step()


def test_torchs_form_is_one_sequence_while_rate_and_momentum_are_constant() -> None:
    ours, other = parameters(), parameters()
    optimizer = made(ours)
    theirs = torch.optim.SGD(other, lr=0.02, momentum=0.9, nesterov=True, foreach=False)
    for step in range(STEPS):
        with optimizer.look_ahead():
            close(ours, other)
        by_context(optimizer, ours, step)
        theirs.zero_grad()
        loss_at(other, step).backward()
        theirs.step()


def test_the_gradient_differs_from_one_taken_where_the_parameters_rest() -> None:
    looking, blind = parameters(), parameters()
    optimizer, momentum = made(looking), optim.SGD(blind, lr=0.02, momentum=0.9)
    for step in range(10):
        by_closure(optimizer, looking, step)
        by_closure(momentum, blind, step)
    assert max((a - b).abs().max().item() for a, b in zip(looking, blind, strict=True) if a.numel()) > 1e-3


def test_parameters_come_back_to_the_bit_also_after_an_error() -> None:
    params = parameters(torch.float32)
    optimizer = made(params)
    by_closure(optimizer, params, 0)
    before = [p.detach().clone() for p in params]
    with optimizer.look_ahead():
        ahead = params[0].detach().clone()
        with optimizer.look_ahead():  # within itself it does nothing
            assert torch.equal(params[0], ahead)
        assert torch.equal(params[0], ahead)
    assert not torch.equal(ahead, before[0])
    assert all(map(torch.equal, params, before))
    with pytest.raises(ZeroDivisionError):
        optimizer.step(lambda: 1 / 0)
    assert all(map(torch.equal, params, before))


def test_a_gradient_that_was_not_computed_ahead_is_refused() -> None:
    params = parameters()
    optimizer = made(params)
    loss_at(params, 0).backward()
    with pytest.raises(OptionError, match=r"needs the gradient of the look-ahead point"):
        optimizer.step()
    by_context(optimizer, params, 0)
    with pytest.raises(OptionError, match=r"look_ahead\(\)"):
        optimizer.step()
    optimizer.zero_grad()
    optimizer.step()


def test_backward_after_the_context_is_noticed() -> None:
    model = torch.nn.Linear(3, 1)
    optimizer = made(model.parameters())
    for _ in range(2):
        optimizer.zero_grad()
        with optimizer.look_ahead():
            loss = (model(torch.ones(2, 3)) @ model.weight).sum()
            if not optimizer.state:
                loss.backward()
        if optimizer.state:
            with pytest.raises(RuntimeError, match="modified by an inplace operation"):
                loss.backward()
        else:
            optimizer.step()


def test_groups_that_look_and_groups_that_do_not() -> None:
    params, other = parameters(), parameters()
    options: list[dict[str, Any]] = [
        {"params": params[:2]},
        {"params": params[2:], "nesterov": False, "momentum": 0.5},
    ]
    optimizer = made(options)
    apart = made(other[:2]), optim.SGD(other[2:], lr=0.02, momentum=0.5)
    for step in range(8):
        by_context(optimizer, params, step)
        by_context(apart[0], other[:2], step)
        by_closure(apart[1], other[2:], step)
    close(params, other)


def test_a_checkpoint_goes_on_to_the_bit() -> None:
    params = parameters()
    optimizer = made(params)
    for step in range(5):
        by_closure(optimizer, params, step)
    copies = [torch.nn.Parameter(p.detach().clone()) for p in params]
    other = made(copies)
    other.load_state_dict(snapshot(optimizer))
    for step in range(5, 9):
        by_closure(optimizer, params, step)
        by_context(other, copies, step)
    assert all(map(torch.equal, params, copies))
