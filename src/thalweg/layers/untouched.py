"""Looking at a training without leaving a trace: everything is afterwards as it was before."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from thalweg.layers.modes import modes_of, set_modes
from thalweg.randomness.generators import undisturbed

__all__ = ["untouched"]


@contextmanager
def untouched(
    model: nn.Module,
    optimizer: torch.optim.Optimizer | None = None,
    *own: object,
    parameters: bool = True,
) -> Iterator[None]:
    """Take everything back that is done to a model and its optimizer, also where an error ends it.

    Parameters, gradients (those that are ``None`` too), buffers whether saved or not, the mode of every part,
    plain attributes of the parts such as counts and hidden states, the optimizer with its state and options,
    and random generators are afterwards as they were. Tensors stay the same objects. It takes the memory of a
    copy of them.

    Args:
        model: any.
        optimizer: over its parameters, where it is stepped.
        own: what has generators of its own, as for :func:`thalweg.randomness.generators.undisturbed`.
        parameters: whether values of parameters are copied; of no need where nothing changes them.

    >>> model = nn.Sequential(nn.Linear(1, 1), nn.BatchNorm1d(1))
    >>> with untouched(model):
    ...     model(torch.rand(8, 1)).sum().backward()
    >>> model[0].weight.grad, model[1].num_batches_tracked.item()
    (None, 0)
    """
    parts = list(model.modules())
    modes = modes_of(model)
    seen: dict[int, Any] = {}
    # an optimizer may hold parameters that the model doesn't
    groups = [] if optimizer is None else optimizer.param_groups
    everyone = {id(p): p for p in [*model.parameters(), *(p for group in groups for p in group["params"])]}
    backs = [_parameter(p, seen, copied=parameters) for p in everyone.values() if not is_lazy(p)]
    # a lazy layer becomes another one by its first batch, which can't be taken back
    backs += [_kept(vars(part), seen) for part in parts if not _lazy(part)]
    if optimizer is not None:
        backs.append(_kept(vars(optimizer), seen))
    with undisturbed(*own):
        try:
            yield
        finally:
            # first, since a layer may change its tensors in train and eval, as merged adapters do; these are
            # put back after them
            set_modes(modes)
            with torch.no_grad():
                for back in backs:
                    back()
            if optimizer is not None and hasattr(optimizer, "_begin_here"):
                # ours keep tables of addresses, and counts side by side, which are found anew
                optimizer._begin_here()


def _lazy(part: nn.Module) -> bool:
    tensors = [*part._parameters.values(), *part._buffers.values()]
    return any(tensor is not None and is_lazy(tensor) for tensor in tensors)


_Back = Callable[[], Any]


def _parameter(parameter: nn.Parameter, seen: dict[int, Any], *, copied: bool) -> _Back:
    """What brings a parameter back with its gradient."""
    gradient, needed = parameter.grad, parameter.requires_grad
    value = parameter.detach()
    values = value.clone() if copied else None
    slopes = None if gradient is None else gradient.detach().clone()
    seen[id(parameter)] = parameter

    def back() -> None:
        if type(value) is Tensor and parameter.data_ptr() != value.data_ptr():
            parameter.data = value
        if values is not None:
            value.copy_(values)
        if gradient is not None and slopes is not None:
            gradient.detach().copy_(slopes)
        parameter.grad = gradient
        parameter.requires_grad_(needed)

    return back


def _kept(value: Any, seen: dict[int, Any]) -> _Back:
    """What brings a value back: tensors and containers in place, anything else as the object that it is."""
    if id(value) in seen:
        return lambda: value
    if isinstance(value, Tensor):
        seen[id(value)] = value
        copy = value.detach().clone()

        def refill() -> Tensor:
            with torch.no_grad():
                value.detach().copy_(copy)
            return value

        return refill
    if isinstance(value, dict):
        seen[id(value)] = value
        items = [(key, _kept(item, seen)) for key, item in value.items()]

        def reform() -> Any:
            before = [(key, item()) for key, item in items]
            value.clear()
            value.update(before)
            return value

        return reform
    if isinstance(value, set):
        seen[id(value)] = value
        members = set(value)

        def regather() -> Any:
            value.clear()
            value.update(members)
            return value

        return regather
    if isinstance(value, np.ndarray):
        seen[id(value)] = value
        array = value.copy()

        def rewrite() -> Any:
            value[...] = array
            return value

        return rewrite
    if isinstance(value, (list, deque)):
        seen[id(value)] = value
        entries = [_kept(item, seen) for item in value]

        def relist() -> Any:
            before = [entry() for entry in entries]
            value.clear()
            value.extend(before)
            return value

        return relist
    if type(value) is tuple:
        entries = [_kept(item, seen) for item in value]
        return lambda: [entry() for entry in entries] and value
    return lambda: value
