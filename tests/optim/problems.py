"""Parameters and gradients that optimizers are compared on."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

SHAPES = ((3, 4), (4,), (), (0,), (2, 1, 3))


def parameters(
    dtype: torch.dtype = torch.float64, shapes: Sequence[tuple[int, ...]] = SHAPES
) -> list[torch.nn.Parameter]:
    generator = torch.Generator().manual_seed(3)
    return [torch.nn.Parameter(torch.randn(s, generator=generator, dtype=dtype)) for s in shapes]


def set_gradients(params: Sequence[Tensor], step: int, without: Sequence[int] = ()) -> None:
    """A pull towards zero with noise, the same for equal parameters; ``without`` get None."""
    generator = torch.Generator().manual_seed(1000 + step)
    for i, p in enumerate(params):
        noise = torch.randn(p.shape, generator=generator, dtype=torch.float64)
        if p.is_complex():
            noise = torch.complex(noise, torch.randn(p.shape, generator=generator, dtype=torch.float64))
        p.grad = None if i in without else 0.3 * p.detach() + noise.to(p.dtype)


def train(optimizer: Optimizer, params: Sequence[Tensor], steps: range) -> None:
    for step in steps:
        set_gradients(params, step)
        optimizer.step()


def close(ours: Any, theirs: Any, dtype: torch.dtype = torch.float64) -> None:
    """Compare tensors or trees of them, as tightly as the dtype allows after some fifty steps."""
    rtol = {torch.float64: 1e-12, torch.float32: 2e-5, torch.complex64: 2e-5}.get(dtype, 1e-12)
    if isinstance(ours, Tensor):
        torch.testing.assert_close(ours.detach(), theirs.detach(), rtol=rtol, atol=rtol)
    elif isinstance(ours, dict):
        assert ours.keys() == theirs.keys()
        for key in ours:
            close(ours[key], theirs[key], dtype)
    elif isinstance(ours, list | tuple):
        assert len(ours) == len(theirs)
        for a, b in zip(ours, theirs, strict=True):
            close(a, b, dtype)
    else:
        assert ours == theirs


def side_by_side(
    make_ours: Callable[[Any], Optimizer],
    make_theirs: Callable[[Any], Optimizer],
    dtype: torch.dtype = torch.float64,
    steps: int = 55,
) -> tuple[Optimizer, Optimizer]:
    """Train both, compare parameters after every step and states at the end."""
    a, b = parameters(dtype), parameters(dtype)
    ours, theirs = make_ours(a), make_theirs(b)
    for step in range(steps):
        set_gradients(a, step)
        set_gradients(b, step)
        ours.step()
        theirs.step()
        close(a, b, dtype)
    close(ours.state_dict()["state"], theirs.state_dict()["state"], dtype)
    return ours, theirs


def snapshot(optimizer: Optimizer) -> dict[str, Any]:
    return copy.deepcopy(optimizer.state_dict())
