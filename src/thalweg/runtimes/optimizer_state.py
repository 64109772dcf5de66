"""What our optimizers share with torch's: its methods, without its compiler, and how a state is loaded."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor

__all__ = ["Optimizer", "copied", "load_between", "uncompiled"]

_F = TypeVar("_F", bound=Callable[..., Any])


def uncompiled(method: _F) -> _F:
    """Return a method that ``torch.compile`` leaves alone, and that imports no compiler by itself.

    torch marks such methods by a wrapper that imports the compiler at the first call: as long as importing
    torch itself, in every process that makes an optimizer. While something is compiled the compiler is there,
    and the wrapper stands.

    Args:
        method: of torch with that wrapper around it, or one without.
    """
    bare = getattr(method, "__wrapped__", method)
    marked = method if bare is not method else torch._disable_dynamo(method)  # type: ignore[attr-defined]

    @functools.wraps(bare)
    def call(*given: Any, **named: Any) -> Any:
        if torch.compiler.is_compiling():
            return marked(*given, **named)
        return bare(*given, **named)

    return call  # type: ignore[return-value]


class Optimizer(torch.optim.Optimizer):
    """torch's, whose methods import no compiler."""

    add_param_group = uncompiled(torch.optim.Optimizer.add_param_group)
    load_state_dict = uncompiled(torch.optim.Optimizer.load_state_dict)
    state_dict = uncompiled(torch.optim.Optimizer.state_dict)
    zero_grad = uncompiled(torch.optim.Optimizer.zero_grad)


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
