"""Examples of one split: whole tensors, or a Dataset that a collate function makes batches of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from thalweg.errors import DataError

__all__ = ["DatasetExamples", "Examples", "Items", "TensorExamples", "as_given", "collated", "moved"]


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
        raise DataError("collate has to give a pair, (inputs, targets), whose targets are a tensor")
    return moved(made[0], device), made[1].to(device)


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
    """A tensor of the same values: float32 for fractions, as they are for whole numbers and booleans."""
    return torch.tensor(part, dtype=torch.float32) if part.dtype.kind == "f" else torch.tensor(part)
