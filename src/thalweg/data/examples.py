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
from thalweg.data.labelled import common, plain, separated
from thalweg.errors import DataError, OptionError
from thalweg.objectives.nests import count_of, leaves, mapped

__all__ = [
    "ArrayExamples",
    "DatasetExamples",
    "Examples",
    "Items",
    "NestedExamples",
    "TensorExamples",
    "at_places",
    "collated",
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
        inputs: all inputs, ``[N, ...]`` or several such by name or in order; ``None`` where batches come from
            a collate function.
        targets: all targets, or ``None`` where they are known in batches alone.
    """

    @property
    def inputs(self) -> Any: ...

    @property
    def targets(self) -> Tensor | None: ...

    def __len__(self) -> int: ...

    def batch(self, indices: Tensor) -> tuple[Any, Tensor]:
        """Return inputs and targets of the examples at ``indices``, an int64 tensor ``[B]``."""
        ...


@dataclass(frozen=True)
class TensorExamples:
    """Examples as tensors on one device; inputs may be several, by name or in order.

    >>> examples = TensorExamples(torch.arange(6.0).reshape(3, 2), torch.tensor([0, 1, 0]))
    >>> examples.batch(torch.tensor([2, 0]))
    (tensor([[4., 5.],
            [0., 1.]]), tensor([0, 0]))
    """

    inputs: Any
    targets: Tensor

    def __len__(self) -> int:
        return len(self.targets)

    def batch(self, indices: Tensor) -> tuple[Any, Tensor]:
        """Return inputs ``[B, ...]`` and targets ``[B, ...]`` of the examples at ``indices``."""
        if not self.targets.is_cpu:
            indices = indices.to(self.targets.device)
        if isinstance(self.inputs, Tensor):
            return self.inputs[indices], self.targets[indices]
        return mapped(lambda leaf: leaf[indices], self.inputs), self.targets[indices]


@dataclass(frozen=True, eq=False)
class NestedExamples:
    """Examples as tensors with several targets each, by name or in order; these are known in batches alone.

    >>> targets = {"class": torch.tensor([0, 1, 0]), "size": torch.ones(3)}
    >>> examples = NestedExamples(torch.arange(3.0), targets)
    >>> examples.batch(torch.tensor([1]))
    (tensor([1.]), {'class': tensor([1]), 'size': tensor([1.])})
    """

    whole_inputs: Any
    whole_targets: Any

    @property
    def inputs(self) -> None:
        """There are none but in batches."""

    @property
    def targets(self) -> None:
        """There are none but in batches."""

    def __len__(self) -> int:
        return count_of(self.whole_targets)

    def batch(self, indices: Tensor) -> tuple[Any, Any]:
        """Return inputs and targets of the examples at ``indices``."""
        both = self.whole_inputs, self.whole_targets
        inputs, targets = mapped(lambda leaf: leaf[indices.to(leaf.device)], both)
        return inputs, targets


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
    >>> from thalweg.data.labelled import as_given
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


def at_places(examples: Examples, places: Tensor) -> Examples:
    """Return the examples at some places, which may repeat, as in a resample.

    Args:
        examples: of a kind that is defined here.
        places: int64 ``[n]``.

    Raises:
        OptionError: examples of a kind of their own.

    >>> at_places(TensorExamples(torch.zeros(3, 1), torch.arange(3)), torch.tensor([2, 2])).targets
    tensor([2, 2])
    """
    if isinstance(examples, TensorExamples):
        return TensorExamples(*examples.batch(places))
    if isinstance(examples, NestedExamples):
        return NestedExamples(*examples.batch(places))
    if isinstance(examples, ArrayExamples):
        targets = examples.targets[places.to(examples.targets.device)]
        return replace(examples, rows=examples.rows[places.cpu().numpy()], targets=targets)
    if isinstance(examples, DatasetExamples):
        known = examples.targets
        targets_there = None if known is None else known[places.to(known.device)]
        positions = examples.positions[places.cpu().numpy()]
        return replace(examples, positions=positions, targets=targets_there)
    raise OptionError(
        f"examples of type {type(examples).__name__} can't be resampled or chosen from; give all of them as "
        "they are"
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
        collate: a list of items to ``(inputs, targets)``, or to a dictionary with the targets in it; inputs
            may be any nest of tuples, lists and dictionaries of tensors.
        targets: ``[N]``, where each item has a class or a number as its second part.
        device: where batches go.
        target: name of the targets in a dictionary, where that isn't a usual one.
    """

    dataset: Items
    positions: npt.NDArray[np.int64]
    collate: Callable[[list[Any]], Any]
    targets: Tensor | None = None
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    target: str | None = None

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
        return collated(
            self.dataset, self.positions[indices.cpu().numpy()], self.collate, self.device, self.target
        )


def collated(
    dataset: Items, positions: Sequence[int] | npt.NDArray[np.int64], collate: Callable[[list[Any]], Any],
    device: torch.device, target: str | None = None,
) -> tuple[Any, Tensor]:  # fmt: skip
    """Read items, hand them to ``collate`` and move what it gives to the device."""
    items = [dataset[int(position)] for position in positions]
    try:
        made = collate(items)
    except Exception as problem:
        said = f"{type(problem).__name__}: {' '.join(str(problem).split())}"
        raise DataError(f"collate raises on {len(items)} items: {said}") from problem
    what = "what comes of the items" if collate is default_collate else "what collate gives"
    return pair(made, device, target, what=what)


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


def pair(
    made: Any, device: torch.device, target: str | None = None, *, what: str = "a batch"
) -> tuple[Any, Tensor]:
    """Return a batch as inputs and targets on a device.

    Args:
        made: a pair, or a dictionary with the targets in it.
        device: where to.
        target: what the targets are called in a dictionary.
        what: it is, for messages.

    Raises:
        DataError: it is neither.
    """
    inputs, targets = separated(made, target, what=what)
    if not isinstance(targets, Tensor):
        targets = plain(targets, "targets", what, text=True)
        if any(True for _ in leaves(targets)):
            # several, which a loss of a person's own compares
            return moved(inputs, device), mapped(lambda leaf: common(leaf).to(device), targets)
        raise DataError(
            f"{what} has to be a pair, (inputs, targets), whose targets are a tensor or several, or a "
            f"dictionary with such targets in it; the data gave targets of type {type(targets).__name__}"
        )
    return moved(inputs, device), common(targets).to(device)
