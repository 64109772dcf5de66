"""What several claims measure with: the way of an optimizer over a function, its curvatures, and draws."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from thalweg.randomness import streams
from thalweg.secondorder.minimizing import minimize

__all__ = ["curvatures", "minimizing", "normal", "uniform", "walk"]


def walk(
    make: Callable[[list[Tensor]], Optimizer],
    function: Callable[[Tensor], Tensor],
    start: Tensor,
    steps: int,
    *,
    rates: Iterable[float] | None = None,
) -> Tensor:
    """Return the points ``[steps + 1, ...]`` that an optimizer visits.

    Args:
        make: makes the optimizer of a list of tensors, as ``functools.partial(SGD, lr=0.1)`` does.
        function: of a point; where it returns several values, of independent parts of it, they are summed.
        start: where it starts.
        steps: how many it takes.
        rates: the learning rate of each step; by default the optimizer's own.
    """
    x = start.clone().requires_grad_()
    optimizer = make([x])
    planned = None if rates is None else iter(rates)
    path = [start.clone()]

    def closure() -> Any:
        optimizer.zero_grad()
        value = function(x).sum()
        torch.autograd.backward(value)
        return value

    for _ in range(steps):
        if planned is not None:
            optimizer.param_groups[0]["lr"] = next(planned)
        optimizer.step(closure)
        path.append(x.detach().clone())
    return torch.stack(path)


def minimizing(function: Callable[[Tensor], Tensor], start: Tensor, **options: Any) -> Tensor:
    """Return the points ``[steps + 1, ...]`` that ``minimize`` with these options visits."""
    path = [start.clone()]
    minimize(function, start, callback=lambda record: path.append(record.x), **options)
    return torch.stack(path)


def curvatures(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Return the eigenvalues of the Hessian at a point ``[n]``, ascending."""
    derive: Any = torch.autograd.functional.hessian
    hessian: Tensor = derive(function, x)
    values: Tensor = torch.linalg.eigvalsh(hessian)
    return values


def normal(*shape: int, seed: int, of: str = "") -> Tensor:
    """Return float64 draws of a standard normal distribution; ``of`` keeps several of a seed apart."""
    return streams.normal(shape, seed=seed, stream=f"claims {of}", dtype=torch.float64)


def uniform(*shape: int, seed: int, low: float = 0.0, high: float = 1.0, of: str = "") -> Tensor:
    """Return float64 draws between two numbers."""
    draws = streams.uniform(shape, seed=seed, stream=f"claims {of}", dtype=torch.float64)
    return low + (high - low) * draws
