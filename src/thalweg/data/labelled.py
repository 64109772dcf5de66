"""Batches and items as inputs and targets: pairs, or dictionaries; arrays as tensors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from thalweg.errors import DataError, nearest, option, shortened
from thalweg.objectives.nests import described, entries_of

__all__ = ["TARGETS", "as_given", "common", "exact", "is_nest", "plain", "separated", "several_targets"]

TARGETS = ("labels", "label", "targets", "target", "y")
"""What targets are called in a dictionary, unless they are named."""


def separated(made: Any, target: str | None = None, *, what: str = "a batch") -> tuple[Any, Any]:
    """Return inputs and targets of a batch or item: a pair, or a dictionary with the targets in it.

    Args:
        made: the batch.
        target: name of the targets in a dictionary; by default one of :data:`TARGETS`.
        what: it is, for messages.

    Raises:
        DataError: it is neither; there are no targets in it, or several entries that could be; text.

    >>> separated({"x": [1.0], "label": 2})
    ({'x': [1.0]}, 2)
    """
    if isinstance(made, Mapping):
        name = _target(made, target, what)
        inputs = {key: plain(part, key, what) for key, part in made.items() if key != name}
        if not inputs:
            raise DataError(f"{what} holds {name!r} alone, which are the targets; give it inputs too")
        return inputs, plain(made[name], name, what)
    if not isinstance(made, (tuple, list)) or len(made) != 2:
        raise DataError(
            f"{what} has to be a pair, (inputs, targets), or a dictionary with targets in it; the data gave "
            f"{_described(made)}"
        )
    if target is not None:
        raise DataError(
            f"{option('target', target)} names the targets of {what} that is a dictionary, but the data gave "
            "a pair; leave it out"
        )
    return made[0], made[1]


def several_targets(targets: Any, what: str) -> DataError:
    """Return the error of several targets where runs of a race, sweep or recipe take one.

    Args:
        targets: of a batch, an item or all.
        what: whose they are.
    """
    return DataError(
        f"the targets of {what} are {described(targets)}, but races, sweeps and recipes take one tensor of "
        "them; train with thalweg.fit and a loss of your own, or let the data give one"
    )


def is_nest(value: Any) -> bool:
    """Whether inputs are several, by name or position, and not one array or tensor.

    >>> import torch
    >>> is_nest({"x": torch.ones(1)}), is_nest((torch.ones(1), torch.ones(2))), is_nest([1.0, 2.0])
    (True, True, False)
    """
    if isinstance(value, Mapping):
        return True
    return (
        isinstance(value, (tuple, list))
        and len(value) > 0
        and all(isinstance(part, (Tensor, np.ndarray)) and part.ndim > 0 for part in value)
    )


def _target(made: Mapping[Any, Any], target: str | None, what: str) -> Any:
    keys = [str(key) for key in made]
    if target is not None:
        if target not in made:
            raise DataError(
                f"{what} has no {target!r}, which {option('target')} names; {nearest(target, keys)}"
            )
        return target
    there = [name for name in TARGETS if name in made]
    if len(there) == 1:
        return there[0]
    held = shortened([repr(key) for key in made])
    if there:
        raise DataError(
            f"{what} holds {held}, of which {' and '.join(map(repr, there))} could be the targets; name "
            f"them, as {option('target', there[0])}"
        )
    example = keys[-1] if keys else "labels"
    raise DataError(
        f"{what} holds {held}, and none of it is called {', '.join(TARGETS[:-1])} or {TARGETS[-1]}; name the "
        f"targets, as {option('target', example)}"
    )


def plain(part: Any, name: Any, what: str, *, text: bool = False) -> Any:
    """Return a part of a batch with arrays as tensors.

    Args:
        part: any nest.
        name: of the part, for the message.
        what: it is part of.
        text: whether there may be some.

    Raises:
        DataError: it is text.
    """
    if isinstance(part, Tensor):
        return part
    if isinstance(part, (str, bytes)) and not text:
        raise DataError(
            f"in {what} {name!r} holds text, such as {str(part)[:20]!r}, with which no model computes; make "
            "numbers of it, or leave it out"
        )
    if isinstance(part, np.ndarray):
        return as_given(part)
    if isinstance(part, Mapping):
        return {key: plain(each, f"{name}.{key}", what, text=text) for key, each in part.items()}
    if isinstance(part, (tuple, list)):
        parts = [plain(each, name, what, text=text) for each in part]
        return type(part)(*parts) if hasattr(part, "_fields") else type(part)(parts)
    return part


def _described(made: Any) -> str:
    if isinstance(made, (tuple, list)):
        kinds = ", ".join(type(part).__name__ for part in made)
        return f"{type(made).__name__} of {len(made)} ({kinds})"
    listed = "" if not (entries := entries_of(made)) else f" of {shortened([str(name) for name in entries])}"
    return f"{type(made).__name__}{listed}"


def as_given(part: npt.NDArray[Any]) -> Tensor:
    """A tensor of the same values: float32 for fractions, as they are for whole numbers and booleans.

    Raises:
        DataError: values that aren't numbers, or beyond int64.
    """
    if part.dtype.kind not in "fiubc":
        raise DataError(
            f"an array of type {part.dtype} doesn't hold numbers; number classes from 0 on, as "
            "numpy.unique(labels, return_inverse=True)[1] does, and make numbers of what else there is"
        )
    if part.dtype.kind == "u" and part.dtype.itemsize > 1:
        # torch has the wide unsigned types in name alone
        if part.size and part.max() > np.iinfo(np.int64).max:
            raise DataError(f"an array holds {part.max()}, which is beyond what 64 bits with a sign can hold")
        part = part.astype(np.int64)
    return torch.tensor(part, dtype=torch.float32) if part.dtype.kind == "f" else torch.tensor(part)


def common(part: Tensor) -> Tensor:
    """Return whole numbers in a type that torch computes with: of wide unsigned ones it has names alone."""
    return part.long() if part.dtype in (torch.uint16, torch.uint32, torch.uint64) else part


def exact(data: Any) -> Any:
    """Return data with arrays of float64 as tensors of float64, which otherwise become float32."""
    if isinstance(data, np.ndarray):
        return torch.tensor(data) if data.dtype == np.float64 else data
    if isinstance(data, dict):
        return {name: exact(part) for name, part in data.items()}
    if type(data) in (tuple, list) and len(data) <= 64:
        return type(data)(exact(part) for part in data)
    return data
