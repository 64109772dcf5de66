"""What lanes take of a split: batches, and blocks for an evaluation."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from thalweg.data.examples import ArrayExamples, Examples, in_tensors, moved
from thalweg.errors import ModelError
from thalweg.objectives.nests import mapped

__all__ = ["DeviceSplit"]


class DeviceSplit:
    """A split on a device: of tensors, or made of an array batch by batch."""

    def __init__(self, examples: Examples, device: torch.device) -> None:
        inputs, targets = None, examples.targets
        if not in_tensors(examples) or targets is None:
            raise ModelError(
                "the examples are not held as whole tensors, which lanes need; use the loop engine"
            )
        if not isinstance(examples, ArrayExamples):
            inputs = examples.inputs
        self._examples, self._device = examples, device
        self._inputs = None if inputs is None else moved(inputs, device)
        self.targets = targets.to(device)

    def at(self, places: Tensor) -> tuple[Any, Tensor]:
        """Copies of the examples at some places."""
        if self._inputs is not None:
            chosen = mapped(lambda leaf: leaf.index_select(0, places), self._inputs)
            return chosen, self.targets.index_select(0, places)
        x, y = self._examples.batch(places)
        return moved(x, self._device), y.to(self._device)

    def between(self, begin: int, end: int) -> tuple[Any, Tensor]:
        """Examples as they lie."""
        if self._inputs is not None:
            return mapped(lambda leaf: leaf[begin:end], self._inputs), self.targets[begin:end]
        return self.at(torch.arange(begin, end))
