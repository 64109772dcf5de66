"""Names of what a model has: parameters and saved buffers, and parts that stand for all of theirs."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor, nn

from thalweg.stages.freezing import plain_name

__all__ = ["parameters_of", "shortest_names", "state_of"]


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
