"""Loading an optimizer's state in torch's way, with a say before torch casts it and after."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

__all__ = ["copied", "load_between"]


def load_between(
    optimizer: torch.optim.Optimizer,
    load: Callable[[dict[str, Any]], None],
    state_dict: dict[str, Any],
    *,
    before: Callable[[dict[str, Any]], dict[str, Any] | None],
    after: Callable[[dict[str, Any]], None],
) -> None:
    """Load a state by torch's own method, within hooks that are gone afterwards.

    Args:
        optimizer: that loads.
        load: torch's method.
        state_dict: to be loaded.
        before: told the state once the hooks of others have had their say about it; returns what torch is to
            load in its place, if it is to.
        after: told that state when torch has loaded, before the hooks of others.
    """
    seen: list[dict[str, Any]] = []

    def receive(_: Any, given: dict[str, Any]) -> dict[str, Any] | None:
        seen.append(given)
        return before(given)

    hooks = [
        optimizer.register_load_state_dict_pre_hook(receive),
        optimizer.register_load_state_dict_post_hook(lambda _: after(seen[-1]), prepend=True),
    ]
    try:
        load(state_dict)
    finally:
        for hook in hooks:
            hook.remove()


def copied(value: Any, device: torch.device) -> Any:
    """Copy a state of tensors, containers and other objects; tensors keep their types.

    >>> copied({"a": [torch.ones(2), 3]}, torch.device("cpu"))
    {'a': [tensor([1., 1.]), 3]}
    """
    if isinstance(value, Tensor):
        return value.detach().to(device, copy=True)
    if isinstance(value, dict):
        return {key: copied(inner, device) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(copied(inner, device) for inner in value)
    return copy.deepcopy(value)
