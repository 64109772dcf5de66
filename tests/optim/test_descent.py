"""Momentum's spellings and Nesterov's gradient, against the slides and against each other."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from thalweg import optim

from .problems import close, parameters, set_gradients

STEPS = 60


def follow(optimizer: torch.optim.Optimizer, rates: Callable[[int], tuple[float, float]]) -> list[Tensor]:
    """Train under a schedule of (lr, momentum); return the first parameter after each step."""
    params = optimizer.param_groups[0]["params"]
    path = []
    for step in range(STEPS):
        group = optimizer.param_groups[0]
        group["lr"], group["momentum"] = rates(step)
        set_gradients(params, step)
        optimizer.step()
        path.append(params[0].detach().clone())
    return path


def constant(step: int) -> tuple[float, float]:
    return 0.02, 0.9


def scheduled(step: int) -> tuple[float, float]:
    return 0.05 / (1 + 0.1 * step), 0.5 + 0.45 * step / STEPS


@pytest.mark.parametrize("rates", [constant, scheduled])
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_spellings_against_the_slides(
    rates: Callable[[int], tuple[float, float]], weight_decay: float
) -> None:
    paths = {
        spelling: follow(optim.Momentum(parameters(), spelling=spelling, weight_decay=weight_decay), rates)
        for spelling in ("inside", "outside", "average")
    }
    for spelling, path in paths.items():
        params = [torch.nn.Parameter(p.detach().clone()) for p in parameters()]
        v = [torch.zeros_like(p) for p in params]
        for step in range(STEPS):
            lr, momentum = rates(step)
            set_gradients(params, step)
            for i, p in enumerate(params):
                assert p.grad is not None
                g = p.grad + weight_decay * p.detach()
                if spelling == "inside":
                    v[i] = momentum * v[i] - lr * g
                    change = v[i]
                elif spelling == "outside":
                    v[i] = momentum * v[i] + g
                    change = -lr * v[i]
                else:
                    v[i] = momentum * v[i] + (1 - momentum) * g
                    change = -lr * v[i]
                p.data += change
            close(path[step], params[0].detach())


def test_spellings_are_equal_at_constant_rates_and_differ_under_a_schedule() -> None:
    def path(spelling: str, rates: Callable[[int], tuple[float, float]]) -> list[Tensor]:
        return follow(optim.Momentum(parameters(), spelling=spelling), rates)  # type: ignore[arg-type]

    close(path("inside", constant), path("outside", constant))
    close(path("inside", constant), path("average", lambda step: (0.02 / (1 - 0.9), 0.9)))
    apart = (path("inside", scheduled)[-1] - path("outside", scheduled)[-1]).abs().max()
    assert apart > 1e-3


@pytest.mark.parametrize("rates", [constant, scheduled])
def test_nesterov_walks_on_the_look_ahead_points(rates: Callable[[int], tuple[float, float]]) -> None:
    """x + y*v of the form with look-ahead (K) is where the form without it stands, also under a schedule."""

    def gradient(x: Tensor, step: int) -> Tensor:
        return torch.tensor([1.0, 0.1], dtype=torch.float64) * x + 0.1 * torch.sin(torch.tensor(step) + x)

    start = torch.tensor([1.0, -2.0], dtype=torch.float64)
    p = torch.nn.Parameter(start.clone())
    optimizer = optim.Nesterov([p])
    x, v = start.clone(), torch.zeros_like(start)
    for step in range(STEPS):
        lr, momentum = rates(step)
        # The form without look-ahead already stands where this step's gradient is taken, so what it is
        # told at a step is the momentum of the look-ahead that follows.
        ahead = x + momentum * v
        close(p.detach(), ahead)
        p.grad = gradient(p.detach(), step)
        v = momentum * v - lr * gradient(ahead, step)
        x = x + v
        optimizer.param_groups[0]["lr"] = lr
        optimizer.param_groups[0]["momentum"] = rates(step + 1)[1]
        optimizer.step()


def test_nesterov_equals_torchs_at_constant_momentum() -> None:
    ours = follow(optim.Nesterov(parameters()), constant)
    theirs = follow(torch.optim.SGD(parameters(), momentum=0.9, nesterov=True, foreach=False), constant)
    close(ours, theirs)
    ours = follow(optim.Nesterov(parameters()), scheduled)
    theirs = follow(torch.optim.SGD(parameters(), momentum=0.9, nesterov=True, foreach=False), scheduled)
    assert (ours[-1] - theirs[-1]).abs().max() > 1e-3


def test_a_skipped_parameter_keeps_how_far_it_looked_ahead() -> None:
    """With the momentum scheduled and a gradient missing for a step, x and v of the twin stay right."""
    p, q = (torch.nn.Parameter(torch.tensor([1.0], dtype=torch.float64)) for _ in range(2))
    optimizer = optim.Nesterov([p, q], lr=0.1)
    x, v, looked = 1.0, 0.0, 0.0
    for step, momentum in enumerate((0.5, 0.9, 0.3, 0.7)):
        optimizer.param_groups[0]["momentum"] = momentum
        p.grad = p.detach().clone()
        q.grad = None if step == 1 else q.detach().clone()
        optimizer.step()
        if step != 1:
            v = looked * v - 0.1 * q.grad.item()  # type: ignore[union-attr]
            x = x + v
            looked = momentum
        assert q.item() == pytest.approx(x + looked * v, abs=1e-14)
