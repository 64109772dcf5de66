"""Names of what a model has: parameters and saved buffers, and parts that stand for all of theirs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from thalweg.stages.freezing import plain_name

__all__ = ["differing_name", "parameters_of", "shapes_of", "shortest_names", "state_of"]


def state_of(model: nn.Module) -> dict[str, Tensor]:
    """Return parameters and saved buffers by plain name; the very same objects."""
    state = model.state_dict(keep_vars=True)
    return {plain_name(name): value for name, value in state.items() if isinstance(value, Tensor)}


def parameters_of(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """Return parameters by plain name."""
    return [(plain_name(name), p) for name, p in model.named_parameters()]


def shortest_names(model: nn.Module, names: Iterable[str]) -> list[str]:
    """Return names of parameters and buffers, those of a part that has no others by the part's name."""
    everyone, left, found = list(state_of(model)), list(names), []
    for name, _ in model.named_modules():
        plain = plain_name(name)
        inside = [key for key in everyone if key.startswith(f"{plain}.")]
        if plain and inside and set(inside) <= set(left):
            found.append(plain)
            left = [key for key in left if key not in inside]
    return [*found, *left]


def shapes_of(model: nn.Module) -> dict[str, Any]:
    """Return shape and type of parameters and saved buffers by plain name; ``None`` of what is lazy."""
    return {
        name: None if is_lazy(value) else (tuple(value.shape), value.dtype)
        for name, value in state_of(model).items()
    }


def differing_name(before: Mapping[str, Any], after: Mapping[str, Any]) -> str | None:
    """Return the first name in which two of :func:`shapes_of` differ; what was lazy may have any shape.

    >>> differing_name(shapes_of(nn.Linear(2, 2)), shapes_of(nn.Linear(2, 3)))
    'weight'
    """
    for name in [*after, *before]:
        if name not in before or name not in after:
            return name
        if before[name] is not None and before[name] != after[name]:
            return name
    return None
