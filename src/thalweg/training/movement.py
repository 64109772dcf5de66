"""Whether a training has moved anything: weights at its beginning against those at its end."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from thalweg.run.movement import weighed_bits
from thalweg.runtimes.dtensors import is_dtensor
from thalweg.secondorder.closures import ClosureOptimizer
from thalweg.settings.tables import is_number

__all__ = ["checksums", "unmoved"]


def checksums(optimizer: torch.optim.Optimizer) -> list[int]:
    """Return a number for each parameter of an optimizer, from all its bits; a shard's, where it is sharded.

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
    local = parameter.to_local() if is_dtensor(parameter) else parameter
    return int(weighed_bits(local.unsqueeze(0)))


def unmoved(optimizer: torch.optim.Optimizer, updates: int, total: int) -> str:
    """Return what to say of a training that has left all weights as they were."""
    name = type(optimizer).__name__
    if updates == 0:
        return (
            f"no step was taken: one step of {name} takes more compute than the whole run, which has that of "
            f"{total} gradient steps; give more epochs, or an optimizer with cheaper steps"
        )
    steps = "the only step has" if updates == 1 else f"none of the {updates} steps has"
    said = f"{steps} moved any weight, and the model is still as it was at the start"
    if isinstance(optimizer, ClosureOptimizer) and optimizer.status is not None:
        return f"{said}; the last step of {name} ended with: {optimizer.status}"
    rates = _rates(group.get("lr") for group in optimizer.param_groups)
    asked = f"the learning rate, {max(rates):g} at last, is" if rates else "steps are"
    return (
        f"{said}; see whether gradients reach the parameters and are finite, and whether {asked} "
        "large enough to change a number of this precision"
    )


def _rates(given: Iterable[object]) -> list[float]:
    return [float(rate) for rate in given if is_number(rate) or isinstance(rate, Tensor)]
