"""Where the batches of a training come from, and where in the data it is."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import (
    DataLoader,
    Dataset,
    DistributedSampler,
    IterableDataset,
    TensorDataset,
    default_collate,
)

from thalweg.data.examples import (
    ArrayExamples,
    DatasetExamples,
    Examples,
    NestedExamples,
    TensorExamples,
    moved,
    pair,
)
from thalweg.data.finite import as_float32
from thalweg.data.labelled import TARGETS, as_given, common, is_nest, plain, separated
from thalweg.errors import DataError, option
from thalweg.objectives.nests import count_of, leaves, mapped, of_examples
from thalweg.randomness import streams
from thalweg.randomness.generators import apart, own_generators, seed_torch
from thalweg.randomness.streams import seed32
from thalweg.run.sampler import Batches, Order, OrderOf, steps_an_epoch
from thalweg.strategies.base import Keys
from thalweg.training.steps import check_rows, shared

__all__ = [
    "Batch",
    "DataLoaderAdapter",
    "ExampleLoader",
    "Loader",
    "examples_in",
    "examples_of",
    "in_blocks",
    "loader_of",
    "taken",
]


class Batch(NamedTuple):
    """A process's share of a batch.

    Attributes:
        inputs, targets: of the share.
        weight: how many usual batches the whole one counts as.
        keys: which examples the share holds.
        whole: how many examples the whole one has.
    """

    inputs: Any
    targets: Tensor
    weight: float
    keys: Keys
    whole: int


class Loader(Protocol):
    """Gives batches, endlessly, and can say and find again where it is."""

    def divide(self, rank: int, world: int, parts: int) -> None:
        """Give from now on a process's share of each batch, which is computed in so many parts."""

    def take(self, share: float, times: float = 1.0) -> Batch:
        """Return the next batch; ``share`` of the run is done, ``times`` the usual size is wanted."""

    def steps_an_epoch(self) -> int:
        """Return how many usual batches a pass over the data has."""

    def inputs(self, count: int | None) -> Iterable[Any]:
        """Return the inputs of so many batches (``None``: of a whole pass), always the same ones."""

    def pairs(self) -> Iterable[tuple[Any, Tensor]]:
        """Return inputs and targets of a whole pass, always the same ones."""

    def batches(self, count: int | None) -> Iterator[tuple[Any, Tensor]]:
        """Return so many batches (``None``: of a whole pass), always the same ones, and move nothing."""

    def targets(self) -> Tensor | None:
        """Return all targets, where they are known."""

    def state(self) -> Any:
        """Return the place in the data, as plain values."""

    def load(self, state: Any) -> None:
        """Go to a place in the data."""


class ExampleLoader:
    """Batches of examples, by an order that is a function of the seed and the epoch.

    Args:
        examples: of the training split.
        batches: which of them come next.
        size: of a usual batch.

    >>> examples = TensorExamples(torch.arange(10.0), torch.arange(10))
    >>> loader = ExampleLoader(examples, Batches(10, seed=0, size=4), 4)
    >>> batch = loader.take(0.0)
    >>> len(batch.targets), batch.weight, loader.steps_an_epoch(), loader.state()
    (4, 1.0, 2, (0, 4))
    """

    def __init__(self, examples: Examples, batches: Order, size: int) -> None:
        self._examples, self._batches, self._size = examples, batches, size
        self._division: tuple[int, int, int] | None = None

    def divide(self, rank: int, world: int, parts: int) -> None:
        """Give from now on a process's share of each batch; nobody reads the others'."""
        self._division = parts, rank, world

    def take(self, share: float, times: float = 1.0) -> Batch:
        """Return the next batch of the order.

        Raises:
            OptionError: it has too few examples to be divided.
        """
        indices = self._batches.take(share, times)
        count = indices.shape[0]
        mine = indices if self._division is None else shared(indices, *self._division)
        inputs, targets = self._examples.batch(mine)
        return Batch(inputs, targets, count / self._size, Keys(self._batches.epoch, mine), count)

    def steps_an_epoch(self) -> int:
        """Return how many whole batches an epoch has.

        Raises:
            DataError: there is not one whole batch.
        """
        return steps_an_epoch(len(self._examples), self._size)

    def inputs(self, count: int | None) -> Iterator[Any]:
        """Return inputs in the order in which examples lie, the ragged rest of a whole pass included."""
        end = len(self._examples) if count is None else min(count * self._size, len(self._examples))
        for inputs, _ in in_blocks(self._examples, self._size, end):
            yield inputs

    def pairs(self) -> Iterator[tuple[Any, Tensor]]:
        """Return examples in the order in which they lie."""
        return in_blocks(self._examples, self._size)

    def batches(self, count: int | None) -> Iterator[tuple[Any, Tensor]]:
        """Return batches of an order that training never takes; the last of a whole pass may be smaller."""
        seed = self._batches.seed
        # examples may lie sorted by their class
        order = torch.from_numpy(streams.order(len(self._examples), seed=seed32(seed, "batches"), epoch=0))
        chosen = torch.split(order, self._size)[:count]
        return apart(lambda: map(self._examples.batch, chosen), seed, "batches")

    def targets(self) -> Tensor | None:
        """Return all targets, where they are known."""
        return self._examples.targets

    def state(self) -> tuple[int, int]:
        """Return epoch and position."""
        return self._batches.state()

    def load(self, state: Any) -> None:
        """Go to an epoch and a position."""
        self._batches.load((state[0], state[1]))


class DataLoaderAdapter:
    """Batches of a DataLoader, or of any iterable of ``(inputs, targets)`` that can be begun again and again.

    Each epoch's shuffling is drawn from the seed and the number of the epoch, so that taking a run up again
    means to begin its epoch anew and to pass over the batches that were taken. The key of an example is its
    place in the epoch, since a loader doesn't say which example it gives.

    Args:
        loader: gives pairs; with a length unless ``steps`` is given.
        seed: of the run.
        device: where batches go.
        steps: of an epoch.
        target: name of the targets in batches that are dictionaries, where that isn't a usual one.

    Raises:
        DataError: neither a length nor ``steps``, or something that can be gone through only once.
    """

    def __init__(
        self,
        loader: Iterable[Any],
        *,
        seed: int,
        device: torch.device,
        steps: int | None = None,
        target: str | None = None,
    ) -> None:
        if isinstance(loader, Iterator):
            raise DataError(
                "the data can be gone through only once, so that no second epoch could begin; give a "
                "DataLoader, a list of batches, or an object whose __iter__ starts over"
            )
        self._loader, self._seed, self._device, self._target = loader, seed, device, target
        self._steps = steps if steps is not None else _length(loader)
        self._epoch, self._position, self._seen = 0, 0, 0
        self._under_way: Iterator[Any] | None = None
        self._division: tuple[int, int, int] | None = None

    def divide(self, rank: int, world: int, parts: int) -> None:
        """Give from now on a process's share of each batch: what its sampler leaves it, or rows of it."""
        self._division = parts, rank, world

    def take(self, share: float, times: float = 1.0) -> Batch:
        """Return the loader's next batch, whatever size was wanted."""
        if times != 1.0:
            raise DataError(
                "the size of a loader's batches is its own; leave the batch size's schedule out, or give the "
                "Dataset itself"
            )
        for _ in range(2):
            try:
                made = self._next()
            except StopIteration:
                self._epoch, self._position, self._seen, self._under_way = self._epoch + 1, 0, 0, None
                continue
            return self._mine(*self._pair(made))
        raise DataError("the data hold no batches; give at least one")

    def steps_an_epoch(self) -> int:
        """Return how many batches an epoch has.

        Raises:
            DataError: none at all.
        """
        if self._steps < 1:
            raise DataError("the data hold no batches; give at least one")
        return self._steps

    def inputs(self, count: int | None) -> Iterator[Any]:
        """Return the inputs of an epoch of its own."""
        for inputs, _ in itertools.islice(self.pairs(), count):
            yield inputs

    def batches(self, count: int | None) -> Iterator[tuple[Any, Tensor]]:
        """Return the first batches of an epoch of its own."""
        return apart(
            lambda: itertools.islice(self.pairs(), count), self._seed, "batches", own=(self._loader,)
        )

    def pairs(self) -> Iterator[tuple[Any, Tensor]]:
        """Return the batches of an epoch of its own, always the same ones."""
        loader = self._loader
        if getattr(loader, "persistent_workers", False):
            # its workers are those of the epoch under way, which would be begun anew
            loader = copy.copy(loader)
            loader._iterator = None  # type: ignore[attr-defined]
        with self._seeded("statistics"):
            batches = iter(loader)
            first = next(batches, None)
        while first is not None:
            yield self._pair(first)
            first = next(batches, None)

    def targets(self) -> None:
        """They are known in batches alone."""

    def state(self) -> tuple[int, int]:
        """Return the epoch, and how many of its batches were taken."""
        return self._epoch, self._position

    def load(self, state: Any) -> None:
        """Begin an epoch anew, and pass over what was taken."""
        self._epoch, position = state[0], state[1]
        self._position, self._seen, self._under_way = 0, 0, None
        for _ in range(position):
            self._passed(self._pair(self._next())[1])

    def _pair(self, made: Any) -> tuple[Any, Tensor]:
        return pair(made, self._device, self._target)

    def _passed(self, targets: Tensor) -> int:
        """Count a batch; return how many examples of the epoch came before it."""
        begin = self._seen
        self._position, self._seen = self._position + 1, begin + count_of(targets)
        return begin

    def _mine(self, inputs: Any, targets: Tensor) -> Batch:
        begin = self._passed(targets)
        places, count = torch.arange(begin, self._seen), self._seen - begin
        if self._division is None:
            return Batch(inputs, targets, 1.0, Keys(self._epoch, places), count)
        _, rank, world = self._division
        if isinstance(getattr(self._loader, "sampler", None), DistributedSampler):
            # which deals examples out in turn
            return Batch(inputs, targets, 1.0, Keys(self._epoch, places * world + rank), count * world)
        mine = shared(torch.arange(count), *self._division)
        keys = Keys(self._epoch, places[mine])
        return Batch(taken(inputs, mine, count), taken(targets, mine, count), 1.0, keys, count)

    def _next(self) -> Any:
        if self._under_way is not None:
            return next(self._under_way)
        # samplers draw their order at the first batch
        with self._seeded(self._epoch):
            if hasattr(getattr(self._loader, "sampler", None), "set_epoch"):
                self._loader.sampler.set_epoch(self._epoch)  # type: ignore[attr-defined]
            self._under_way = iter(self._loader)
            return next(self._under_way)

    @contextmanager
    def _seeded(self, epoch: int | str) -> Iterator[None]:
        seed = seed32(self._seed, "loader", epoch)
        with own_generators(self._seed, "loader", epoch):
            seed_torch(seed)
            for owner in (self._loader, getattr(self._loader, "sampler", None)):
                generator = getattr(owner, "generator", None)
                if isinstance(generator, torch.Generator):
                    generator.manual_seed(seed)
            yield


def _length(loader: Iterable[Any]) -> int:
    try:
        return len(loader)  # type: ignore[arg-type]
    except TypeError as problem:
        # a DataLoader of an IterableDataset has a length that raises
        raise DataError(
            "the data don't say how many batches an epoch has; give them a length, or say how long to train "
            "by steps in place of epochs"
        ) from problem


def loader_of(
    data: Any,
    *,
    batch_size: int,
    seed: int,
    device: torch.device,
    collate: Callable[[list[Any]], Any] | None = None,
    steps: int | None = None,
    target: str | None = None,
    order: OrderOf | None = None,
) -> Loader:
    """Make a loader of whatever data a person has.

    Args:
        data: ``(inputs, targets)`` as tensors or arrays, of which inputs may be several; a dictionary with
            the targets in it; a map-style Dataset, :class:`Examples`, a DataLoader, or an iterable of
            batches.
        batch_size: of what doesn't come in batches.
        seed: of the run.
        device: where batches go.
        collate: from a list of a Dataset's items to ``(inputs, targets)``.
        steps: of an epoch, for iterables without a length.
        target: name of the targets in dictionaries, where that isn't a usual one.
        order: of examples, where that isn't the usual one.

    Raises:
        DataError: it is none of these, its parts don't fit, or there is an order for what comes in batches.
    """
    examples = examples_of(data, device, collate, target=target)
    if examples is None:
        if order is not None:
            raise DataError(
                f"{option('order')} is of examples that can be had one by one, and a "
                f"{type(data).__name__} gives batches; give the Dataset itself, or leave it out"
            )
        return DataLoaderAdapter(data, seed=seed, device=device, steps=steps, target=target)
    if order is not None:
        return ExampleLoader(examples, order(len(examples), seed, batch_size), batch_size)
    return ExampleLoader(examples, Batches(len(examples), seed=seed, size=batch_size), batch_size)


def examples_of(
    data: Any,
    device: torch.device,
    collate: Callable[[list[Any]], Any] | None = None,
    *,
    called: str = "training data",
    target: str | None = None,
) -> Examples | None:
    """Return data as examples that can be had one by one, or ``None`` where they come in batches.

    Raises:
        DataError: data that are neither.
    """
    if isinstance(data, (TensorExamples, NestedExamples, ArrayExamples, DatasetExamples)):
        return data
    if isinstance(data, TensorDataset) and len(data.tensors) == 2 and collate is None:
        data = data.tensors
    if (
        isinstance(data, Mapping)
        or (isinstance(data, tuple) and len(data) == 2 and is_nest(data[0]) and _is_array(data[1]))
        or _has_several_targets(data)
    ):
        return _of_nest(*separated(data, target, what=f"the {called}"), device, called)
    if isinstance(data, (tuple, list)) and len(data) == 2 and all(_is_array(part) for part in data):
        for part, which in zip(data, ("inputs", "targets"), strict=True):
            if isinstance(part, np.ndarray):
                as_float32(part, f"{called.removesuffix(' data')} {which}")
        inputs, targets = (part if isinstance(part, Tensor) else as_given(np.asarray(part)) for part in data)
        if len(inputs) != len(targets):
            raise DataError(
                f"there are {len(inputs)} inputs but {len(targets)} targets; there must be one for each"
            )
        return TensorExamples(common(inputs).to(device), common(targets).to(device))
    if isinstance(data, DataLoader) and collate is not None:
        raise DataError("a DataLoader has a collate function of its own; leave collate out")
    if isinstance(data, DataLoader | IterableDataset) or not hasattr(data, "__getitem__"):
        if not hasattr(data, "__iter__"):
            raise DataError(
                f"data of type {type(data).__name__} can't be trained on; give (inputs, targets), a Dataset "
                "or a DataLoader"
            )
        return None
    if isinstance(data, Dataset) or (hasattr(data, "__len__") and not isinstance(data, (tuple, list, dict))):
        made = collate or default_collate
        return DatasetExamples(data, np.arange(len(data)), made, None, device, target)  # type: ignore[arg-type]
    return None


def _has_several_targets(data: Any) -> bool:
    """Whether these are inputs with several targets, and not two batches."""
    if not isinstance(data, (tuple, list)) or len(data) != 2 or not is_nest(data[1]):
        return False
    named = isinstance(data[0], Mapping) and not any(name in data[0] for name in TARGETS)
    return _is_array(data[0]) or (named and isinstance(data[1], Mapping))


def _of_nest(inputs: Any, targets: Any, device: torch.device, called: str) -> Examples:
    """Several inputs or targets, by name or in order, each with a row for every example."""
    if is_nest(targets):
        both = mapped(common, plain((inputs, targets), "targets", f"the {called}"))
        rows = {len(leaf) if leaf.ndim else 0 for leaf in leaves(both)}
        if len(rows) > 1:
            raise DataError(
                f"the parts of the {called} have {' and '.join(map(str, sorted(rows)))} rows; there must be "
                "one for each example"
            )
        return NestedExamples(*moved(both, device))
    targets = targets if isinstance(targets, Tensor) else as_given(np.asarray(targets))
    if not isinstance(inputs, Mapping):
        inputs = type(inputs)(part if isinstance(part, Tensor) else as_given(part) for part in inputs)
    for leaf in leaves(inputs):
        if not leaf.ndim or len(leaf) != len(targets):
            raise DataError(
                f"an input of the {called} has shape {list(leaf.shape)}, but there are {len(targets)} "
                "targets; there must be one for each"
            )
    return TensorExamples(moved(inputs, device), common(targets).to(device))


def in_blocks(examples: Examples, size: int, end: int | None = None) -> Iterator[tuple[Any, Tensor]]:
    """Return examples as they lie, in batches of a size; the last one may be smaller."""
    end = len(examples) if end is None else end
    for begin in range(0, end, size):
        yield examples.batch(torch.arange(begin, min(begin + size, end)))


def taken(value: Any, indices: Tensor, count: int | None = None) -> Any:
    """Return some examples of a batch, tensors nested in tuples, lists and dictionaries.

    Args:
        value: the batch; a number in it is that of all examples.
        indices: which.
        count: how many examples it has, if that is known.

    Raises:
        DataError: something in it hasn't a row for each.

    >>> taken({"x": torch.arange(4)}, torch.tensor([3, 0]))
    {'x': tensor([3, 0])}
    """
    if isinstance(value, Tensor):
        return value[indices.to(value.device)]
    if of_examples(value):
        return [value[number] for number in indices.tolist()]
    check_rows(value, count, "shared out over processes; give a Dataset, whose items are", DataError)
    return mapped(lambda part: part[indices.to(part.device)] if part.ndim else part, value)


def examples_in(value: Any) -> int:
    """Return how many examples a batch has: the length of the first tensor in it.

    >>> examples_in([{"x": torch.zeros(3, 2)}])
    3
    """
    return next((len(leaf) for leaf in leaves(value) if leaf.ndim and len(leaf)), 0)


def _is_array(part: Any) -> bool:
    return isinstance(part, (Tensor, np.ndarray)) and part.ndim > 0
