"""Examples of one split: whole tensors, or a Dataset that a collate function makes batches of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import default_collate

from thalweg.data.held import Held, blocks
from thalweg.errors import DataError

__all__ = [
    "ArrayExamples",
    "DatasetExamples",
    "Examples",
    "Items",
    "TensorExamples",
    "as_given",
    "collated",
    "common",
    "in_tensors",
    "moved",
    "pair",
    "whole",
]


class Items(Protocol):
    """A map-style Dataset: it has a length, and an item at each position."""

    def __len__(self) -> int: ...

    def __getitem__(self, position: int, /) -> Any: ...


class Examples(Protocol):
    """Examples of one split.

    Attributes:
        inputs: all inputs ``[N, ...]``, or ``None`` where batches come from a collate function.
        targets: all targets, or ``None`` where they are known in batches alone.
    """

    @property
    def inputs(self) -> Tensor | None: ...

    @property
    def targets(self) -> Tensor | None: ...

    def __len__(self) -> int: ...

    def batch(self, indices: Tensor) -> tuple[Any, Tensor]:
        """Return inputs and targets of the examples at ``indices``, an int64 tensor ``[B]``."""
        ...


@dataclass(frozen=True)
class TensorExamples:
    """Examples as two tensors on one device.

    >>> examples = TensorExamples(torch.arange(6.0).reshape(3, 2), torch.tensor([0, 1, 0]))
    >>> examples.batch(torch.tensor([2, 0]))
    (tensor([[4., 5.],
            [0., 1.]]), tensor([0, 0]))
    """

    inputs: Tensor
    targets: Tensor

    def __len__(self) -> int:
        return len(self.targets)

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Return inputs ``[B, ...]`` and targets ``[B, ...]`` of the examples at ``indices``."""
        if not self.inputs.is_cpu:
            indices = indices.to(self.inputs.device)
        return self.inputs[indices], self.targets[indices]


@dataclass(frozen=True, eq=False)
class ArrayExamples:
    """Examples that lie in an array as it was read; inputs are made of a batch's rows when it is taken.

    A large array so takes its own size alone, or that of its file's pages where it is mapped.

    Attributes:
        held: the array ``[M, ...]``.
        rows: of these examples in it, int64 ``[N]``.
        prepare: from rows of the array to inputs.
        targets: ``[N, ...]``.
        device: where batches go.

    >>> from thalweg.data.held import Held
    >>> examples = ArrayExamples(
    ...     Held(np.arange(6.0).reshape(3, 2)), np.array([2, 0]), as_given, torch.tensor([0, 1])
    ... )
    >>> examples.batch(torch.tensor([0]))
    (tensor([[4., 5.]]), tensor([0]))
    """

    held: Held
    rows: npt.NDArray[np.int64]
    prepare: Callable[[npt.NDArray[Any]], Tensor]
    targets: Tensor
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def inputs(self) -> Tensor:
        """All inputs, made anew each time."""
        return whole(self.held.array, self.rows, self.prepare, self.device)

    def __len__(self) -> int:
        return len(self.rows)

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Return inputs ``[B, ...]`` and targets ``[B, ...]`` of the examples at ``indices``."""
        part = self.held.array[self.rows[indices.cpu().numpy()]]
        return self.prepare(part).to(self.device), self.targets[indices.to(self.targets.device)]

    def at(self, places: Tensor) -> ArrayExamples:
        """Return the examples at some places, which may repeat."""
        return replace(
            self, rows=self.rows[places.cpu().numpy()], targets=self.targets[places.to(self.targets.device)]
        )


def in_tensors(examples: Examples) -> bool:
    """Say whether whole tensors of inputs can be had; nothing is made for it.

    >>> in_tensors(TensorExamples(torch.zeros(2, 1), torch.zeros(2)))
    True
    """
    return isinstance(examples, ArrayExamples) or examples.inputs is not None


def whole(
    array: npt.NDArray[Any],
    rows: npt.NDArray[np.int64],
    prepare: Callable[[npt.NDArray[Any]], Tensor],
    device: torch.device,
) -> Tensor:
    """Make inputs of all rows, block by block, so that they and the array are all that is in memory."""
    made: Tensor | None = None
    for begin, part in blocks(array, rows):
        inputs = prepare(part)
        if len(inputs) == len(rows):
            return inputs.to(device)
        if made is None:
            made = torch.empty((len(rows), *inputs.shape[1:]), dtype=inputs.dtype, device=device)
        made[begin : begin + len(inputs)] = inputs
    return prepare(array[rows]).to(device) if made is None else made


@dataclass(frozen=True)
class DatasetExamples:
    """Examples that stay in a Dataset; each batch is read anew and goes through ``collate``.

    Attributes:
        dataset: with a length and an item at each position.
        positions: of these examples in it.
        collate: a list of items to ``(inputs, targets)``; inputs may be any nest of tuples, lists and
            dictionaries of tensors.
        targets: ``[N]``, where each item has a class or a number as its second part.
        device: where batches go.
    """

    dataset: Items
    positions: npt.NDArray[np.int64]
    collate: Callable[[list[Any]], Any]
    targets: Tensor | None = None
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def inputs(self) -> None:
        """There are none but in batches."""

    def __len__(self) -> int:
        return len(self.positions)

    def batch(self, indices: Tensor) -> tuple[Any, Tensor]:
        """Return what ``collate`` makes of the items at ``indices``, moved to the device.

        Raises:
            DataError: ``collate`` raises, or gives something else than a pair with a tensor of targets.
        """
        return collated(self.dataset, self.positions[indices.cpu().numpy()], self.collate, self.device)


def collated(
    dataset: Items, positions: Sequence[int] | npt.NDArray[np.int64], collate: Callable[[list[Any]], Any],
    device: torch.device,
) -> tuple[Any, Tensor]:  # fmt: skip
    """Read items, hand them to ``collate`` and move what it gives to the device."""
    items = [dataset[int(position)] for position in positions]
    try:
        made = collate(items)
    except Exception as problem:
        said = f"{type(problem).__name__}: {' '.join(str(problem).split())}"
        raise DataError(f"collate raises on {len(items)} items: {said}") from problem
    if not isinstance(made, tuple | list) or len(made) != 2 or not isinstance(made[1], Tensor):
        pair = "a pair, (inputs, targets), whose targets are a tensor"
        if collate is not default_collate:
            raise DataError(f"collate has to give {pair}, but gave {_described(made)}; let it return one")
        raise DataError(
            f"items have to become {pair}, but {_described(made)} came of them; let the Dataset's items be "
            "pairs, or give a function collate that makes pairs of them"
        )
    return moved(made[0], device), made[1].to(device)


def _described(made: Any) -> str:
    if isinstance(made, dict):
        return f"a dictionary of {', '.join(map(repr, made))}"
    if isinstance(made, (tuple, list)):
        kinds = ", ".join(type(part).__name__ for part in made)
        return f"{type(made).__name__} of {len(made)} ({kinds})"
    return type(made).__name__


def moved(value: Any, device: torch.device) -> Any:
    """Move tensors to a device, wherever they are in a nest of tuples, lists and dictionaries."""
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, dict):
        return {key: moved(part, device) for key, part in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(moved(part, device) for part in value))
    if isinstance(value, tuple | list):
        return type(value)(moved(part, device) for part in value)
    return value.to(device) if hasattr(value, "to") else value


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


def pair(made: Any, device: torch.device) -> tuple[Any, Tensor]:
    """Return a batch as inputs and targets on a device.

    Raises:
        DataError: it is no such pair.
    """
    if not isinstance(made, (tuple, list)) or len(made) != 2 or not isinstance(made[1], Tensor):
        raise DataError(
            "a batch has to be a pair, (inputs, targets), whose targets are a tensor; "
            f"the data gave {type(made).__name__}"
        )
    return moved(made[0], device), common(made[1]).to(device)
