"""Nests of tensors: tuples, lists, dictionaries, dataclasses, outputs of Hugging Face's, in each other.

Torch's own trees take a class that nobody has registered for a leaf, so that a dataclass of tensors would be
passed by silently where its tensors have to be cut, moved or put together.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from thalweg.errors import shortened

__all__ = [
    "bottom",
    "count_of",
    "cut",
    "described",
    "entries_of",
    "joined",
    "leaves",
    "mapped",
    "of_examples",
    "rebuilt",
]

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


def described(outputs: Any) -> str:
    """Say what a nest is, as ``"a dict (loss, logits)"``."""
    entries, kind = entries_of(outputs), type(outputs).__name__
    kind = f"{'an' if kind[:1].lower() in 'aeiou' else 'a'} {kind}"
    if entries is None:
        return "None" if outputs is None else kind
    if all(isinstance(name, int) for name in entries):
        return f"{kind} of {len(entries)}"
    return f"{kind} ({shortened([str(name) for name in entries])})"


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
    return _with(
        first,
        {name: mapped(function, part, *(other[name] for other in others)) for name, part in entries.items()},
    )


def _with(first: Any, made: dict[Any, Any]) -> Any:
    """A nest like the first with other parts."""
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


# Examples of a batch -----------------------------------------------------------------------------------


def of_examples(value: Any) -> bool:
    """Say whether a nest is a list with an entry for each example, such as the boxes of each image.

    >>> of_examples([{"boxes": torch.ones(3, 4)}, {"boxes": torch.ones(1, 4)}]), of_examples([torch.ones(2)])
    (True, False)
    """
    return isinstance(value, list) and bool(value) and all(isinstance(each, Mapping) for each in value)


def count_of(value: Any) -> int:
    """Return how many examples there are in a nest: entries of a list of them, else rows of a tensor.

    >>> count_of({"box": torch.zeros(3, 4), "scale": torch.tensor(1.0)})
    3
    >>> count_of([{"box": torch.zeros(5, 4)}])
    1
    """
    if of_examples(value) or (isinstance(value, list) and not value):
        return len(value)
    return next((len(leaf) for leaf in leaves(value) if leaf.ndim), 1)


def cut(value: Any, count: int, begin: int, end: int) -> Any:
    """Return some of the examples of a batch; what hasn't an entry for each is that of all.

    Args:
        value: any nest.
        count: how many examples it has.
        begin, end: which are wanted.
    """
    if of_examples(value) and len(value) == count:
        return value[begin:end]
    if isinstance(value, list) and len(value) == count and not any(True for _ in leaves(value)):
        # such as names, which go with examples too
        return value[begin:end]
    if isinstance(value, Tensor):
        return value[begin:end] if value.ndim and len(value) == count else value
    entries = entries_of(value)
    if entries is None or of_examples(value):
        return value
    return _with(value, {name: cut(part, count, begin, end) for name, part in entries.items()})


def joined(values: Sequence[Any]) -> Any:
    """Put batches one after another, wherever tensors or lists of examples are in them."""
    first, *others = values
    if not others:
        return first
    listed = isinstance(first, list) and (of_examples(first) or not any(True for _ in leaves(first)))
    if listed:
        return [each for value in values for each in value]
    if isinstance(first, Tensor):
        return torch.cat(list(values)) if first.ndim else first
    entries = entries_of(first)
    if entries is None:
        return first
    each = [entries_of(value) or {} for value in values]
    return _with(first, {name: joined([one[name] for one in each]) for name in entries})
