"""What lanes take of a split: batches, and blocks for an evaluation."""

from __future__ import annotations

import torch
from torch import Tensor

from thalweg.data.examples import ArrayExamples, Examples, in_tensors
from thalweg.errors import ModelError

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
        self._inputs = None if inputs is None else inputs.to(device)
        self.targets = targets.to(device)

    def at(self, places: Tensor) -> tuple[Tensor, Tensor]:
        """Copies of the examples at some places."""
        if self._inputs is not None:
            return self._inputs.index_select(0, places), self.targets.index_select(0, places)
        x, y = self._examples.batch(places)
        return x.to(self._device), y.to(self._device)

    def between(self, begin: int, end: int) -> tuple[Tensor, Tensor]:
        """Examples as they lie."""
        if self._inputs is not None:
            return self._inputs[begin:end], self.targets[begin:end]
        return self.at(torch.arange(begin, end))
