"""What a model and a loss compute on one batch, operation by operation, whoever has written it.

Modules and functions alike are seen, since torch's own functions are watched and not the classes that call
them. Each operation knows which others its inputs came from, so that questions such as "what does the last
layer end with" or "is anything between these two layers" are answered from what was computed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from thalweg.diagnosis.sorts import LOSSES, MEASURED, Kind, kind_of
from thalweg.objectives.nests import leaves

__all__ = ["Operation", "Recording", "Statistics", "TracedBatch", "plain_name", "recording"]


@dataclass(frozen=True)
class Statistics:
    """Numbers of an operation's outputs on the batch.

    Attributes:
        mean, spread: of all elements.
        low, high: the ends.
        constant: whether all examples have the same.
        dead: share of units that are zero for every example.
        flat: share of elements where the function is flat: beyond 97 % of its range.
    """

    mean: float
    spread: float
    low: float
    high: float
    constant: bool
    dead: float
    flat: float


@dataclass
class Operation:
    """One call of a function of torch's.

    Attributes:
        name: of the function, without the underscore of one that works in place.
        occurrence: how many calls of this name came before, in the model or in the loss.
        of_loss: whether the loss has called it.
        kind: what sort it is.
        path: of the module in whose ``forward`` it was called.
        sources: numbers of the operations whose outputs it was given, in the order of its arguments; -1 for
            the batch's inputs, -2 for its targets.
        shape: of its first output.
        parameters: that it was given.
        options: arguments that are no tensors, by position or name.
        shapes: of all tensors that it was given.
        statistics: of its outputs, where they are numbers of the model.
    """

    name: str
    occurrence: int
    kind: Kind
    path: str
    sources: tuple[int, ...]
    shape: tuple[int, ...]
    shapes: tuple[tuple[int, ...], ...]
    of_loss: bool = False
    parameters: tuple[Tensor, ...] = field(repr=False, default=())
    options: dict[Any, Any] = field(repr=False, default_factory=dict)
    statistics: Statistics | None = None


class Recording(TorchFunctionMode):
    """Notes what is computed while it is entered."""

    def __init__(self, examples: int) -> None:
        super().__init__()
        self.operations: list[Operation] = []
        self.path: list[str] = []
        self._examples = examples
        self._of: dict[int, int] = {}
        # kept, since the number of an object that is gone may be given to another
        self._alive: list[Tensor] = []
        self._counts: dict[str, int] = {}
        self._of_loss = False

    def mark(self, value: Any, number: int) -> None:
        """Say where tensors come from that no operation has made."""
        for leaf in leaves(value):
            self._remember(leaf, number)

    def begin_loss(self) -> None:
        """Say that what follows is called by the loss."""
        self._counts, self._of_loss = {}, True

    def source(self, tensor: Tensor) -> int | None:
        """Return the operation that has made a tensor."""
        return self._of.get(id(tensor))

    def _remember(self, tensor: Tensor, number: int) -> None:
        self._of[id(tensor)] = number
        self._alive.append(tensor)

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        named = kwargs or {}
        name = plain_name(func)
        occurrence = self._counts.get(name, 0)
        self._counts[name] = occurrence + 1
        try:
            result = func(*args, **named)
        except Exception:
            # what a loss was given tells why it raises
            self._note(name, occurrence, args, named, None)
            raise
        self._note(name, occurrence, args, named, result)
        return result

    def _note(
        self, name: str, occurrence: int, args: tuple[Any, ...], named: dict[str, Any], result: Any
    ) -> None:
        made = list(leaves(result))
        given = [leaf for value in (*args, *named.values()) for leaf in leaves(value)]
        raised = result is None and name in LOSSES
        if not given or not (raised or any(leaf.dtype.is_floating_point for leaf in made)):
            # indices of targets go on being targets
            if made and given and (source := self._of.get(id(given[0]))) is not None:
                for leaf in made:
                    self._remember(leaf, source)
            return
        parameters = tuple(leaf for leaf in given if isinstance(leaf, nn.Parameter))
        learnt = tuple(leaf for leaf in given if leaf.is_leaf and leaf.requires_grad)
        sources = tuple(number for leaf in given if (number := self._of.get(id(leaf))) is not None)
        if not sources and not learnt:
            return
        kind = kind_of(name, sources=len(sources), weights=bool(parameters))
        options = {
            key: value
            for key, value in (*enumerate(args), *named.items())
            if not any(True for _ in leaves(value))
        }
        measured = kind in MEASURED and made
        self.operations.append(
            Operation(
                name=name,
                occurrence=occurrence,
                kind=kind,
                path=self.path[-1] if self.path else "",
                sources=sources,
                of_loss=self._of_loss,
                shape=tuple(made[0].shape) if made else (),
                shapes=tuple(tuple(leaf.shape) for leaf in given),
                parameters=learnt,
                options=options,
                statistics=_statistics(made[0], name, self._examples) if measured else None,
            )
        )
        for leaf in made:
            self._remember(leaf, len(self.operations) - 1)


def plain_name(func: Any) -> str:
    """Return a function's name, without the underscore of one that works in place."""
    name = str(getattr(func, "__name__", ""))
    return name if name.startswith("__") else name.rstrip("_")


@torch.no_grad()
def _statistics(value: Tensor, name: str, examples: int) -> Statistics | None:
    if not value.numel() or not value.dtype.is_floating_point:
        return None
    value = value.detach().double()
    by_example = value.ndim > 1 and value.shape[0] == examples
    rows = value.reshape(value.shape[0], -1) if by_example else value.reshape(1, -1)
    low, high = float(value.min()), float(value.max())
    still = by_example and len(rows) > 1 and bool((rows.max(0).values - rows.min(0).values <= 0).all())
    dead = 0.0
    if by_example and name in ("relu", "relu6"):
        # a unit is a channel, or a feature of the last axis
        units = value.transpose(0, 1 if value.ndim > 3 else -1).reshape(
            value.shape[1 if value.ndim > 3 else -1], -1
        )
        dead = float((units == 0).all(1).double().mean())
    flat = 0.0
    if name == "tanh":
        flat = float((value.abs() > 0.97).double().mean())
    elif name == "sigmoid":
        flat = float(((value - 0.5).abs() > 0.485).double().mean())
    return Statistics(
        mean=float(value.mean()),
        spread=float(value.std(correction=0)),
        low=low,
        high=high,
        constant=still,
        dead=dead,
        flat=flat,
    )


@contextmanager
def recording(model: nn.Module, examples: int) -> Iterator[Recording]:
    """Note what is computed within, with the paths of the model's modules."""
    seen = Recording(examples)
    handles = []

    def entering(path: str) -> Callable[..., None]:
        return lambda *_: seen.path.append(path)

    def leaving(*_: Any) -> None:
        seen.path.pop()

    for path, part in model.named_modules():
        handles.append(part.register_forward_pre_hook(entering(path)))
        handles.append(part.register_forward_hook(leaving, always_call=True))
    try:
        with seen:
            yield seen
    finally:
        for handle in handles:
            handle.remove()


@dataclass(frozen=True)
class TracedBatch:
    """What was computed on one batch.

    Attributes:
        operations: in order.
        output: number of the operation that has made the part of the outputs that the loss is given.
        begin: number of the first operation of the loss.
        reduced: shape of the outputs.
    """

    operations: tuple[Operation, ...]
    output: int | None
    begin: int
    shape: tuple[int, ...]

    def behind(self, number: int | None, *, through: tuple[Kind, ...] = ("passing",)) -> int | None:
        """Return what an output was made by, behind operations that only pass numbers on."""
        while number is not None and number >= 0 and self.operations[number].kind in through:
            sources = self.operations[number].sources
            number = sources[0] if sources else None
        return number if number is not None and number >= 0 else None

    def straight(self, number: int) -> int:
        """Return what numbers are, behind operations that only pass them on: -1 inputs, -2 targets."""
        while number >= 0 and self.operations[number].kind == "passing" and self.operations[number].sources:
            number = self.operations[number].sources[0]
        return number

    def all_behind(self, number: int) -> set[int]:
        """Return all operations that an operation rests on, itself too."""
        found: set[int] = set()
        left = [number]
        while left:
            here = left.pop()
            if here < 0 or here in found:
                continue
            found.add(here)
            left += self.operations[here].sources
        return found

    @property
    def model(self) -> tuple[Operation, ...]:
        """The model's operations."""
        return self.operations[: self.begin]

    @property
    def ending(self) -> Operation | None:
        """What the model's outputs end with, behind what only passes numbers on and dropout."""
        found = self.behind(self.output, through=("passing", "dropout"))
        return None if found is None else self.operations[found]

    @property
    def compared(self) -> int | None:
        """Number of the loss of torch's that outputs and targets go into, where it is one of these."""
        for number in range(self.begin, len(self.operations)):
            if self.operations[number].kind == "loss":
                return number
        return None

    @property
    def weights(self) -> list[int]:
        """Numbers of the operations with weights that the outputs rest on, in order."""
        if self.output is None or self.output < 0:
            return []
        behind = self.all_behind(self.output)
        return [n for n in sorted(behind) if self.operations[n].kind in ("weights", "recurrent", "attention")]

    def between(self, number: int) -> set[Kind] | None:
        """Return the kinds between an operation with weights and the one before it.

        ``None``: before it come the inputs, or several branches.
        """
        found: set[Kind] = set()
        sources = [s for s in self.operations[number].sources if s >= 0]
        while sources:
            here = self.operations[sources[0]]
            if here.kind in ("weights", "recurrent", "attention"):
                return found
            found.add(here.kind)
            sources = [s for s in here.sources if s >= 0]
        return None

    @property
    def nonlinear(self) -> bool:
        """Whether anything between inputs and outputs, but for what they end with, isn't linear."""
        weights = self.weights
        if not weights:
            return True
        bent = (
            "activation",
            "recurrent",
            "attention",
            "pooling",
            "nonlinear",
            "softmax",
            "log-softmax",
            "other",
        )
        inner = self.all_behind(weights[-1])
        return any(self.operations[number].kind in bent for number in inner)
