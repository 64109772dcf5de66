"""How an optimizer takes a step on a batch, whatever it has to be given for it; and which batches."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from thalweg.catalogue import Entry
from thalweg.lanes.course import orders
from thalweg.objectives import Loss
from thalweg.secondorder.closures import ClosureOptimizer
from thalweg.secondorder.solution import BACKWARD, CURVED, FORWARD

__all__ = ["FORWARD_BACKWARD", "Batches", "Step", "Surroundings", "least_work", "stepping"]

FORWARD_BACKWARD = FORWARD + BACKWARD
"""Work of a forward with a backward pass: two matrix products more for each one forward."""

Surroundings: TypeAlias = Callable[[], AbstractContextManager[Any]]
Step: TypeAlias = Callable[[Any, Tensor, float], tuple[Tensor, float]]
"""From a batch, and the work there is room for, to the loss before the step and its work.

Work is in forward passes over the batch. Who can be told to end a step early is; others may go beyond.
"""


def stepping(
    entry: Entry,
    optimizer: torch.optim.Optimizer,
    model: nn.Module,
    loss: Loss,
    surroundings: Surroundings = nullcontext,
) -> Step:
    """Return what takes a step of an optimizer on a batch.

    Args:
        entry: says what the optimizer needs.
        optimizer: made by the entry, over parameters of ``model``.
        model: from inputs to outputs.
        loss: from outputs and targets to a scalar.
        surroundings: of every forward pass; a step on one batch draws the same numbers in all of them.
    """
    if isinstance(optimizer, ClosureOptimizer):
        # trial points leave batch norm's running statistics alone
        optimizer.track(model)

    def loss_of(inputs: Any, targets: Tensor) -> Tensor:
        with surroundings():
            return loss(model(inputs), targets)

    most = [group.get("max_eval") for group in optimizer.param_groups]

    def by_gradient(inputs: Any, targets: Tensor, room: float) -> tuple[Tensor, float]:
        optimizer.zero_grad()
        value = loss_of(inputs, targets)
        value.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        return value.detach(), FORWARD_BACKWARD

    def by_closure(inputs: Any, targets: Tensor, room: float) -> tuple[Tensor, float]:
        values: list[Tensor] = []
        for group, own in zip(optimizer.param_groups, most, strict=True):
            if own is not None:
                group["max_eval"] = int(max(1, min(own, room // FORWARD_BACKWARD)))

        def closure() -> Tensor:
            optimizer.zero_grad()
            value = loss_of(inputs, targets)
            value.backward()  # type: ignore[no-untyped-call]
            values.append(value.detach())
            return value.detach()

        _quietly(optimizer, closure)
        return values[0], FORWARD_BACKWARD * len(values)

    def by_graph(inputs: Any, targets: Tensor, room: float) -> tuple[Tensor, float]:
        before = optimizer.passes  # type: ignore[attr-defined]
        value = _quietly(optimizer, lambda: loss_of(inputs, targets))
        return value, optimizer.passes - before  # type: ignore[attr-defined]

    def by_outputs(inputs: Any, targets: Tensor, room: float) -> tuple[Tensor, float]:
        def closure() -> tuple[Tensor, Callable[[Tensor], Tensor]]:
            with surroundings():
                return model(inputs), lambda outputs: loss(outputs, targets)

        before = optimizer.passes  # type: ignore[attr-defined]
        value = _quietly(optimizer, closure)
        return value, optimizer.passes - before  # type: ignore[attr-defined]

    steps: Mapping[str, Step] = {
        "gradient": by_gradient,
        "closure": by_closure,
        "graph": by_graph,
        "outputs": by_outputs,
    }
    return steps[entry.needs]


def _quietly(optimizer: torch.optim.Optimizer, closure: Callable[[], Any]) -> Any:
    """A step that finds no way down on its batch says so each time; the next batch is another function."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", f"{type(optimizer).__name__}: ", UserWarning)
        return optimizer.step(closure)


def least_work(entry: Entry, parameters: int) -> float:
    """Return the forward passes over a batch that a step takes at least, for so many parameters.

    >>> from thalweg import catalogue
    >>> least_work(catalogue.get("adam"), 1000), least_work(catalogue.get("newton"), 1000)
    (3.0, 6006.0)
    """
    if entry.needs == "graph" and entry.dense:
        return 2 * FORWARD_BACKWARD + CURVED * parameters
    return FORWARD_BACKWARD


class Batches:
    """Which examples each step of a run takes: the next so many of its order, epoch after epoch.

    What is left at the end of an epoch and is no whole batch is dropped. A batch has
    ``size * factor * growth**share`` examples, at most all of them, with ``share`` the part of the run that
    is done (E2, E3).

    Args:
        examples: in the training split.
        seed: of the run, which decides the orders.
        size: the batch size that all runs of a race share.
        factor: how many of these are one batch of this run.
        growth: by how much that has grown at the end.

    >>> batches = Batches(10, seed=0, size=4)
    >>> [len(batches.take(0.0)) for _ in range(3)], batches.epoch, batches.position
    ([4, 4, 4], 1, 4)
    >>> len(Batches(100, seed=0, size=4, factor=2, growth=4).take(1.0))
    32
    """

    def __init__(
        self, examples: int, *, seed: int, size: int, factor: float = 1.0, growth: float = 1.0
    ) -> None:
        self._examples, self._seed, self._size = examples, seed, size
        self._factor, self._growth = factor, growth
        self.epoch, self.position = 0, 0
        self._order: tuple[int, Tensor] | None = None

    def size(self, share: float) -> int:
        """Return how many examples the next batch has."""
        wanted: float = self._size * self._factor * self._growth**share
        return max(1, min(self._examples, round(wanted)))

    def take(self, share: float) -> Tensor:
        """Return the indices of the next batch, and go on behind it."""
        size = self.size(share)
        if self.position + size > self._examples:
            self.epoch, self.position = self.epoch + 1, 0
        if self._order is None or self._order[0] != self.epoch:
            self._order = self.epoch, orders(self._examples, [self._seed], self.epoch)[0]
        self.position += size
        return self._order[1][self.position - size : self.position]

    def state(self) -> tuple[int, int]:
        """Return epoch and position."""
        return self.epoch, self.position

    def load(self, state: tuple[int, int]) -> None:
        """Go on from what :meth:`state` returned."""
        self.epoch, self.position = state
