"""How many threads a training takes: by sizes alone, so that a recipe gives the same bits each time."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from thalweg.layers.modes import evaluating
from thalweg.layers.untouched import untouched

__all__ = ["FLOPS_A_THREAD", "PARAMETERS_A_THREAD", "largest_product", "threads_for"]

FLOPS_A_THREAD = 2**23
"""Floating point operations of one product that keep a thread busy for longer than sharing costs."""

PARAMETERS_A_THREAD = 2**20
"""Elements of an optimizer's step that do."""

_SAID = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")


def threads_for(model: nn.Module, inputs: Any, most: int) -> int:
    """Return how many threads of torch to train with: none that gets too little of the work to be worth it.

    A small model is trained several times faster by one thread than by all of a large machine, since each
    operation waits for the slowest of them. Measuring would find the best number, but not the same one each
    time, and the number decides the last bits of a sum: so sizes decide.

        threads = min(most, max(ceil(F / FLOPS_A_THREAD), ceil(P / PARAMETERS_A_THREAD)))

    with F the operations of the largest product in a forward pass, and P the number of parameters. Where the
    environment says a number (``OMP_NUM_THREADS``), it stays ``most``.

    Args:
        model: on a CPU; it is left as it was.
        inputs: of one batch.
        most: as many as torch takes now.
    """
    if most == 1 or any(os.environ.get(name) for name in _SAID):
        return most
    parameters = sum(p.numel() for p in model.parameters() if p.requires_grad)
    try:
        flops = largest_product(model, inputs)
    # a model of one's own may do what can't be watched; training it says what is wrong, if anything is
    except Exception:
        return most
    wanted = max(flops / FLOPS_A_THREAD, parameters / PARAMETERS_A_THREAD)
    return max(1, min(most, math.ceil(wanted)))


def largest_product(model: nn.Module, inputs: Any) -> int:
    """Return the floating point operations of the largest product (or convolution) in a forward pass.

    >>> largest_product(nn.Sequential(nn.Linear(10, 20), nn.ReLU(), nn.Linear(20, 5)), torch.zeros(8, 10))
    3200
    """
    with untouched(model), evaluating(model), torch.no_grad(), _Largest() as counted:
        model(inputs)
    return int(counted.flops)


class _Largest(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes the operations of the largest product that is computed."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.flops = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        given = dict(kwargs or {})
        out = func(*args, **given)
        count = flop_registry.get(func._overloadpacket)
        if count is not None:
            self.flops = max(self.flops, int(count(*args, **given, out_val=out)))
        elif "rnn" in str(func) or "lstm" in str(func) or "gru" in str(func):
            self.flops = max(self.flops, _recurrent(args))
        return out


def _recurrent(args: tuple[Any, ...]) -> int:
    """Of a recurrent layer all steps together: 2 for each weight and row of the inputs."""
    found: list[Tensor] = []
    for each in args:
        found += each if isinstance(each, list | tuple) else [each]
    tensors = [each for each in found if isinstance(each, Tensor)]
    weights = sum(each.numel() for each in tensors[1:] if each.ndim == 2)
    return 2 * weights * (tensors[0].numel() // max(1, tensors[0].shape[-1])) if tensors else 0
