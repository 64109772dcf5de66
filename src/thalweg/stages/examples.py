"""Data that stages are written from, as examples that can be had one by one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, default_collate

from thalweg.data.examples import DatasetExamples, Examples, TensorExamples, moved
from thalweg.data.labelled import as_given, common, separated
from thalweg.errors import DataError, OptionError, option
from thalweg.objectives.nests import leaves
from thalweg.settings.tables import whole_number

__all__ = ["example_blocks", "given_examples"]


def given_examples(data: Any, what: str, device: torch.device | None = None) -> Examples:
    """Return data as they were given for ``fit`` as examples that can be had one by one.

    Args:
        data: ``(inputs, targets)``, a dictionary, or a map-style Dataset.
        what: is to be had of them, for messages: "difficulties".
        device: where batches go.

    Raises:
        DataError: data that come in batches, or of another type.

    >>> given_examples(([[1.0], [2.0]], [0, 1]), "features").targets
    tensor([0, 1])
    """
    device = torch.device("cpu") if device is None else device
    if isinstance(data, DataLoader | IterableDataset):
        raise DataError(
            f"a {type(data).__name__} gives batches, but {what} are of examples that can be had one by "
            "one; give the Dataset itself"
        )
    if isinstance(data, (tuple, list, dict)):
        inputs, targets = separated(data)
        inputs, targets = (_tensors(part) for part in (inputs, targets))
        if not isinstance(targets, Tensor) or any(
            not leaf.ndim or len(leaf) != len(targets) for leaf in leaves(inputs)
        ):
            raise DataError(f"{option('data')} need an input and a target for each example")
        return TensorExamples(moved(inputs, device), common(targets).to(device))
    if all(hasattr(data, name) for name in ("batch", "targets", "__len__")):
        return cast(Examples, data)
    if isinstance(data, Dataset) or (hasattr(data, "__getitem__") and hasattr(data, "__len__")):
        count = np.arange(len(data))
        return DatasetExamples(data, count, default_collate, None, device)
    raise DataError(
        f"{what} can't be had of data of type {type(data).__name__}; give (inputs, targets) or a Dataset"
    )


def _tensors(part: Any) -> Any:
    if isinstance(part, Tensor):
        return part
    if isinstance(part, dict):
        return {name: _tensors(each) for name, each in part.items()}
    nested = isinstance(part, (tuple, list)) and all(isinstance(each, (Tensor, np.ndarray)) for each in part)
    if nested:
        return type(part)(_tensors(each) for each in part)
    return as_given(np.asarray(part))


def example_blocks(examples: Examples, batch_size: int) -> Iterator[tuple[Any, Tensor]]:
    """Yield inputs and targets of all examples, in order, so many at a time.

    Raises:
        OptionError: there are none.

    >>> examples = TensorExamples(torch.zeros(3, 1), torch.arange(3))
    >>> [len(targets) for _, targets in example_blocks(examples, 2)]
    [2, 1]
    """
    size = whole_number("batch_size", batch_size)
    if not len(examples):
        raise OptionError("the data hold no examples; give at least two")
    for some in torch.split(torch.arange(len(examples)), size):
        yield examples.batch(some)
