"""Which examples each step of a run takes, how many steps there are, and after which it is evaluated."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, TypeAlias

import numpy as np
import torch
from torch import Tensor

from thalweg.errors import DataError
from thalweg.randomness.streams import order

__all__ = [
    "Batches",
    "Order",
    "OrderOf",
    "default_batch_size",
    "evaluation_points",
    "orders",
    "steps_an_epoch",
]


class Order(Protocol):
    """Which examples each step of a run takes; a function of the seed and of what :meth:`state` returns.

    Attributes:
        seed: of the run.
        epoch: that the last batch belongs to: what is drawn for an example depends on it and the example.
    """

    seed: int
    epoch: int

    def take(self, share: float, times: float = 1.0) -> Tensor:
        """Return the indices of the next batch, int64 ``[B]``; ``share`` of the run is done.

        ``times`` the usual size is wanted.
        """

    def state(self) -> tuple[int, int]:
        """Return two numbers that say where it is."""

    def load(self, state: tuple[int, int]) -> None:
        """Go on from what :meth:`state` returned."""


OrderOf: TypeAlias = Callable[[int, int, int], Order]
"""From the number of examples, the seed of a run and the size of a usual batch to an order."""


def default_batch_size(examples: int) -> int:
    """Return the batch size for a training split of this many examples: a power of two (E2)."""
    for most, size in ((200, 16), (5_000, 32), (20_000, 64)):
        if examples < most:
            return size
    return 128


def steps_an_epoch(examples: int, batch_size: int) -> int:
    """Return how many whole batches an epoch has; the ragged rest is dropped.

    Raises:
        DataError: there is not one whole batch.

    >>> steps_an_epoch(100, 32)
    3
    """
    if not examples:
        raise DataError("the training data hold no examples; give at least one")
    if examples < batch_size:
        raise DataError(
            f"the training split has {examples} examples, fewer than one batch of {batch_size}; "
            f"give a batch size of at most {examples}"
        )
    return examples // batch_size


def evaluation_points(total: int, evaluations: int) -> list[int]:
    """Return the numbers of finished steps at which the splits are evaluated.

    ``0``, then ``round(total * i / evaluations)`` for i in 1 .. evaluations, each once.

    >>> evaluation_points(10, 4)
    [0, 2, 5, 8, 10]
    >>> evaluation_points(2, 20)
    [0, 1, 2]
    """
    if evaluations >= total:
        return list(range(total + 1))
    return sorted({round(total * i / evaluations) for i in range(evaluations + 1)} | {0, total})


def orders(examples: int, seeds: Sequence[int], epoch: int) -> torch.Tensor:
    """Return the orders of one epoch as int64 ``[len(seeds), examples]``."""
    return torch.from_numpy(np.stack([order(examples, seed=seed, epoch=epoch) for seed in seeds]))


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
        self._examples, self.seed, self._size = examples, seed, size
        self._factor, self._growth = factor, growth
        self.epoch, self.position = 0, 0
        self._order: tuple[int, Tensor] | None = None

    def size(self, share: float, times: float = 1.0) -> int:
        """Return how many examples the next batch has; ``times`` as many as without."""
        wanted: float = self._size * self._factor * self._growth**share * times
        return max(1, min(self._examples, round(wanted)))

    def take(self, share: float, times: float = 1.0) -> Tensor:
        """Return the indices of the next batch, and go on behind it."""
        size = self.size(share, times)
        if self.position + size > self._examples:
            self.epoch, self.position = self.epoch + 1, 0
        if self._order is None or self._order[0] != self.epoch:
            self._order = self.epoch, orders(self._examples, [self.seed], self.epoch)[0]
        self.position += size
        return self._order[1][self.position - size : self.position]

    def state(self) -> tuple[int, int]:
        """Return epoch and position."""
        return self.epoch, self.position

    def load(self, state: tuple[int, int]) -> None:
        """Go on from what :meth:`state` returned."""
        self.epoch, self.position = state
