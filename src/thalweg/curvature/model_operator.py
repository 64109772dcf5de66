"""What operators over a model's parameters have in common: they look at it without a trace."""

from __future__ import annotations

import gc
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils import _pytree as trees

from thalweg.curvature.differentiation import counted_bytes, differentiable_twice, outside_inference
from thalweg.curvature.parameter_vectors import ParameterVectors
from thalweg.layers.interface import Interface
from thalweg.layers.untouched import untouched
from thalweg.randomness.generators import generator_states, set_generator_states, undisturbed

__all__ = ["ModelOperator", "Share"]

Share: TypeAlias = tuple[Any, float | None]
"""What one batch gives, and what its loss divides by: None where losses of batches are summed."""

_MEMORY = 2**30


class ModelOperator(ABC):
    """What operators over a model's parameters have in common: it is looked at without a trace.

    Args:
        model: any; wrapped in DistributedDataParallel, what is computed is that of all processes' batches.
        own: what has generators that are given back.
        parameters: names of those that count; None: all that are trained.
    """

    def __init__(self, model: nn.Module, *own: object, parameters: Sequence[str] | None = None) -> None:
        # of a model in several processes, whose gradients hook on a backward pass of its own
        self.group = model.process_group if isinstance(model, DistributedDataParallel) else None
        if isinstance(model, DistributedDataParallel):
            model = model.module
        self.model, self._own, self._interface = model, own, Interface()
        self.vectors = ParameterVectors(model, type(self).__name__, parameters)
        self._generators = generator_states(self.vectors.device)
        self._held: list[Share] | None = None

    @abstractmethod
    def _computed(self) -> Iterator[Share]:
        """Compute what products need, batch by batch; within :meth:`_looking`."""

    @abstractmethod
    def _alone(self) -> bool:
        """Whether there is but one batch."""

    @contextmanager
    def held(self, memory: int | None = None) -> Iterator[None]:
        """Keep what one product has computed for the next ones, as long as parameters stay as they are.

        Within the context a product costs passes back only, about half of the work. Of several batches all
        are kept, where what their graphs hold comes to no more than ``memory``, which is estimated from the
        first; else nothing is. What is drawn from generators within the context is taken back behind it.

        Args:
            memory: bytes for graphs of several batches; None: 1 GiB. One batch alone is always kept.
        """
        if self._held is not None:
            yield
            return
        alone = self._alone()
        with ExitStack() as stack:
            stack.enter_context(self._looking())
            kept = list(self._computed()) if alone else self._kept(_MEMORY if memory is None else memory)
            if kept is None:
                # each product looks again from the beginning
                stack.close()
            self._held = kept
            try:
                yield
            finally:
                self._held = None

    def _kept(self, memory: int) -> list[Share] | None:
        """All batches' shares, or None where they take more memory."""
        if memory <= 0:
            return None
        with undisturbed(*self._own), counted_bytes() as counted:
            first = next(iter(self._computed()), None)
        if first is None or counted.total > memory:
            return None
        each = counted.total
        del first
        # what was counted is held by its hooks in a circle
        gc.collect()
        set_generator_states(self._generators, self.vectors.device)
        kept: list[Share] = []
        for share in self._computed():
            kept.append(share)
            if len(kept) * each > memory:
                return None
        return kept

    @contextmanager
    def _shares(self) -> Iterator[Iterable[Share]]:
        if self._held is not None:
            yield self._held
            return
        with self._looking():
            yield self._computed()

    @contextmanager
    def _looking(self) -> Iterator[None]:
        """Leave the model as it is, and let dropout draw the same masks in every product."""
        with (
            untouched(self.model, None, *self._own, parameters=False),
            self._interface.attached(self.model),
            torch.inference_mode(False),
            torch.enable_grad(),
            differentiable_twice(self.model),
        ):
            set_generator_states(self._generators, self.vectors.device)
            yield

    def _here(self, value: Any) -> Any:
        device = self.vectors.device
        return trees.tree_map_only(Tensor, lambda tensor: outside_inference(tensor).to(device), value)
