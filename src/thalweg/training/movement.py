"""Whether a training has moved anything: weights at its beginning against those at its end."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from thalweg.secondorder.closures import ClosureOptimizer

__all__ = ["checksums", "unmoved"]

_WHOLE = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
_AT_ONCE = 1 << 20


def checksums(optimizer: torch.optim.Optimizer) -> list[int]:
    """Return a number for each parameter of an optimizer, from all its bits; a shard's, where it is sharded.

    Bits are weighed by odd numbers of their own and added modulo 2**64, so that a change of a single element
    always shows, and one of several all but always.

    >>> w = torch.nn.Parameter(torch.zeros(3))
    >>> sgd = torch.optim.SGD([w], lr=0.1)
    >>> before = checksums(sgd)
    >>> checksums(sgd) == before
    True
    >>> with torch.no_grad():
    ...     _ = w[1].add_(1e-30)
    >>> checksums(sgd) == before
    False
    """
    return [_of(p.detach()) for group in optimizer.param_groups for p in group["params"]]


def _of(parameter: Tensor) -> int:
    local = parameter.to_local() if isinstance(parameter, DTensor) else parameter
    plain = torch.view_as_real(local) if local.is_complex() else local
    bits = plain.contiguous().reshape(-1).view(_WHOLE[plain.element_size()])
    total = 0
    for number, part in enumerate(torch.split(bits, _AT_ONCE)):
        total += _weighed(part, number)
    return total % 2**64


def _weighed(bits: Tensor, number: int) -> int:
    begin = number * _AT_ONCE
    weights = torch.arange(begin, begin + len(bits), device=bits.device).mul_(2 * 0x9E3779B1).add_(1)
    return int((bits.long() * weights).sum())


def unmoved(optimizer: torch.optim.Optimizer, updates: int, total: int) -> str:
    """Return what to say of a training that has left all weights as they were."""
    name = type(optimizer).__name__
    if updates == 0:
        return (
            f"no step was taken: one step of {name} is more work than the whole run, which is as much as "
            f"{total} gradient steps; give more epochs, or an optimizer with cheaper steps"
        )
    steps = "the only step has" if updates == 1 else f"none of the {updates} steps has"
    said = f"{steps} moved any weight, and the model is as it was at the beginning"
    if isinstance(optimizer, ClosureOptimizer) and optimizer.status is not None:
        return f"{said}; the last step of {name} ended with: {optimizer.status}"
    rates = _rates(group.get("lr") for group in optimizer.param_groups)
    asked = f"the learning rate, {max(rates):g} at last, is" if rates else "steps are"
    return (
        f"{said}; see whether gradients reach the parameters and are finite, and whether {asked} "
        "large enough to change a number of this precision"
    )


def _rates(given: Iterable[object]) -> list[float]:
    return [float(rate) for rate in given if isinstance(rate, (int, float, Tensor))]
