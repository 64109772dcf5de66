"""Nests of tensors: tuples, lists, dictionaries, dataclasses, outputs of Hugging Face's, in each other.

Torch's own trees take a class that nobody has registered for a leaf, so that a dataclass of tensors would be
passed by silently where its tensors have to be cut, moved or put together.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

__all__ = ["bottom", "entries_of", "leaves", "mapped", "rebuilt"]

_BARE = (Tensor, str, bytes, bool, int, float, complex, type, torch.nn.Module, torch.dtype, torch.device)


def entries_of(value: Any) -> dict[Any, Any] | None:
    """Return the parts of a nest by name or position; ``None``: it is none.

    >>> entries_of((1, 2)), entries_of({"logits": 3}), entries_of(4)
    ({0: 1, 1: 2}, {'logits': 3}, None)
    """
    if value is None or isinstance(value, _BARE):
        return None
    if isinstance(value, Mapping):
        return dict(value.items())
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return dict(zip(value._fields, value, strict=True))
    if isinstance(value, (tuple, list)):
        return dict(enumerate(value))
    if dataclasses.is_dataclass(value):
        return {each.name: getattr(value, each.name) for each in dataclasses.fields(value)}
    names = {name: part for name, part in getattr(value, "__dict__", {}).items() if not name.startswith("_")}
    return names or None


def mapped(function: Callable[..., Any], *values: Any) -> Any:
    """Return a nest like the first with ``function`` of the tensors that stand in the same place of all.

    What is neither a nest nor a tensor is that of the first.

    >>> mapped(lambda one, other: one + other, {"a": [torch.ones(1)]}, {"a": [torch.ones(1)]})
    {'a': [tensor([2.])]}
    """
    first = values[0]
    if isinstance(first, Tensor):
        return function(*values)
    entries = entries_of(first)
    if entries is None:
        return first
    others = [entries_of(value) or {} for value in values[1:]]
    made = {
        name: mapped(function, part, *(other[name] for other in others)) for name, part in entries.items()
    }
    if isinstance(first, tuple) and hasattr(first, "_fields"):
        return type(first)(*made.values())
    if isinstance(first, (tuple, list)):
        return type(first)(made.values())
    if type(first) is dict:
        return made
    again = copy.copy(first)
    for name, part in made.items():
        if isinstance(first, Mapping):
            again[name] = part
        else:
            # a frozen dataclass lets nobody else
            object.__setattr__(again, name, part)
    return again


def rebuilt(value: Any, tensors: Iterable[Tensor]) -> Any:
    """Return a nest like this with other tensors, in the order of :func:`leaves`."""
    others = iter(tensors)
    return mapped(lambda _: next(others), value)


def leaves(value: Any) -> Iterator[Tensor]:
    """Go through the tensors of a nest.

    >>> [len(leaf) for leaf in leaves({"a": [torch.ones(1), 3], "b": torch.ones(2)})]
    [1, 2]
    """
    return (part for part in bottom(value) if isinstance(part, Tensor))


def bottom(value: Any) -> Iterator[Any]:
    """Go through everything in a nest that is none itself.

    >>> list(bottom({"a": [1, "b"]}))
    [1, 'b']
    """
    entries = None if isinstance(value, Tensor) else entries_of(value)
    if entries is None:
        yield value
    else:
        for part in entries.values():
            yield from bottom(part)
