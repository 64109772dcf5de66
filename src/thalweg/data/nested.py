"""A person's own data with several inputs: by name, in order, or nested."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import default_collate

from thalweg.data.arrays import ArraySource, from_arrays
from thalweg.data.examples import TensorExamples, moved
from thalweg.data.labelled import as_given, common, is_nest, separated
from thalweg.data.source import Indices, Prepared, Source, fingerprint_of
from thalweg.errors import DataError, shortened
from thalweg.objectives.nests import leaves, mapped

__all__ = ["NestedSource", "has_several", "of_several", "stacked"]


@dataclass(frozen=True, kw_only=True, eq=False)
class NestedSource(Source):
    """Several inputs and one target for each example, whole in memory.

    Attributes:
        inputs_of: the inputs, each ``[N, ...]``, and those of a test part.
        numbered: the same data with the number of each row for its inputs.
    """

    inputs_of: tuple[Any, Any]
    numbered: ArraySource

    @property
    def labels(self) -> Any:
        return self.numbered.labels

    def fit(self, indices: Mapping[str, Indices], device: torch.device) -> Prepared:
        made = self.numbered.fit(indices, device)
        first, second = self.inputs_of
        parts = {}
        for name in ("train", "validation", "test"):
            rows, targets = getattr(made, name).batch(torch.arange(len(getattr(made, name))))
            whole = second if name == "test" and second is not None else first
            places = rows.flatten().long().cpu()
            parts[name] = TensorExamples(
                moved(mapped(lambda leaf, at=places: leaf[at], whole), device), targets
            )
        each = list(leaves(first))
        # a single input is as good as no name for it
        shape = tuple(each[0].shape[1:]) if len(each) == 1 else ()
        return replace(
            made, train=parts["train"], validation=parts["validation"], test=parts["test"], input_shape=shape
        )

    def script(self, seed: int, replicate: int) -> None:
        return None


def has_several(value: Any) -> bool:
    """Whether data, or items of a Dataset, have inputs by name or in order.

    >>> has_several({"x": np.zeros(3), "y": np.zeros(3)}), has_several((np.zeros(3), np.zeros(3)))
    (True, False)
    """
    if isinstance(value, Mapping):
        return True
    return (
        isinstance(value, (tuple, list)) and len(value) == 2 and is_nest(value[0]) and not is_nest(value[1])
    )


def of_several(
    parts: list[Any],
    *,
    spec: str,
    name: str,
    target: str | None,
    task: str | None,
    stack: Callable[[Any], Any],
) -> NestedSource:
    """Make a source of data with several inputs.

    Args:
        parts: the data, and perhaps those of the test: ``(inputs, targets)``, dictionaries with the targets
            in them, or Datasets of such items.
        spec, name, target, task: as in :func:`thalweg.data.load`.
        stack: from a Dataset to one batch of all its items; ``None`` of what is none.

    Raises:
        DataError: an input hasn't a row for each target; there are no targets; text.
    """
    found = []
    for part in parts:
        inputs, targets = separated(stack(part), target, what=f"{spec!r}")
        inputs = _tensors(inputs)
        goals = targets.detach().cpu().numpy() if isinstance(targets, Tensor) else np.asarray(targets)
        for leaf in leaves(inputs):
            if not leaf.ndim or len(leaf) != len(goals):
                raise DataError(
                    f"an input of {spec!r} has shape {list(leaf.shape)}, but there are {len(goals)} "
                    "targets; there must be one for each"
                )
        found.append((inputs, goals))
    numbers = [array for inputs, goals in found for array in (np.arange(len(goals))[:, None], goals)]
    numbered = from_arrays(*numbers, spec=spec, name=name, task=task, own=True)
    first = found[0][0]
    names = (
        shortened([str(key) for key in first])
        if isinstance(first, Mapping)
        else str(len(list(leaves(first))))
    )
    tensors = [leaf for inputs, _ in found for leaf in leaves(inputs)]
    return NestedSource(
        spec=spec,
        name=name,
        task=numbered.task,
        rows=numbered.rows,
        test_rows=numbered.test_rows,
        inputs=f"several inputs ({names})",
        class_counts=numbered.class_counts,
        notes=numbered.notes,
        warnings=numbered.warnings,
        fingerprint=fingerprint_of([numbered.fingerprint, names, *tensors]),
        inputs_of=(first, found[1][0] if len(found) > 1 else None),
        numbered=numbered,
    )


def _tensors(inputs: Any) -> Any:
    if isinstance(inputs, Mapping):
        return {key: _tensors(part) for key, part in inputs.items()}
    if isinstance(inputs, (tuple, list)):
        made = [_tensors(part) for part in inputs]
        return type(inputs)(*made) if hasattr(inputs, "_fields") else type(inputs)(made)
    return common(inputs.detach().cpu()) if isinstance(inputs, Tensor) else as_given(np.asarray(inputs))


def stacked(dataset: Any, spec: str, said: Callable[[Exception], str]) -> Any:
    """Read all items of a Dataset as one batch."""
    try:
        return default_collate([dataset[position] for position in range(len(dataset))])
    except Exception as problem:
        raise DataError(
            f"the items of the Dataset {spec!r} can't be put together ({said(problem)[:200]}); give a "
            "collate function that makes batches of them"
        ) from problem
