"""Averages of the points that training visits: uniform, exponential, tail.

Every average here is a running one, ``average += weight(t) * (value - average)``, and the kinds differ in
their weights alone. So an update is one foreach lerp over all tensors, whatever the kind; with sharded
parameters each process averages its own shards.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

from thalweg.errors import ModelError, OptionError
from thalweg.runtimes.dtensors import is_dtensor

__all__ = ["Average", "AverageKind", "ExponentialAverage", "Tail", "Uniform", "tensors_of", "update"]


class AverageKind(Protocol):
    """A kind of average: what weight the t-th value gets, t from 1."""

    def weight(self, t: int) -> float:
        """Return the weight of value t in ``average += weight * (value - average)``; 1 at t = 1."""
        ...


@dataclass(frozen=True, kw_only=True)
class Uniform:
    """The mean of all values so far: ``weight(t) = 1/t``.

    >>> Uniform().weight(4)
    0.25

    Source: A1 (N, S); Polyak and Juditsky 1992.
    """

    def weight(self, t: int) -> float:
        """Return 1/t."""
        return 1 / t


@dataclass(frozen=True, kw_only=True)
class ExponentialAverage:
    """An exponentially decaying average, ``average = a * average + (1 - a) * value``.

    As (8.39) has it the first value keeps the weight ``a**(t-1)``, nearly 1 for long. Against that:
    ``"ramp"``, a decay of ``min(a, (1 + t) / (10 + t))``, or ``"corrected"``, the weighted mean with weights
    ``a**(t-i)`` that sum to 1: the running average of zeros, divided by ``1 - a**t``.

    Args:
        decay: a, in ``[0, 1)``. It looks back over about ``1 / (1 - a)`` values.
        warmup: ``"ramp"``, ``"corrected"`` or ``"none"``.

    Raises:
        OptionError: a value that isn't allowed.

    >>> kind = ExponentialAverage(decay=0.9, warmup="corrected")
    >>> [round(kind.weight(t), 4) for t in (1, 2, 1000)]
    [1.0, 0.5263, 0.1]

    Source: A1 (N 8.39, S); the ramp is TensorFlow's, the correction Adam's (Kingma and Ba 2015).
    """

    decay: float = 0.999
    warmup: Literal["ramp", "corrected", "none"] = "ramp"

    def __post_init__(self) -> None:
        if not 0 <= self.decay < 1:
            raise OptionError(f"decay = {self.decay} isn't allowed: give one in [0, 1), such as 0.999")
        if self.warmup not in ("ramp", "corrected", "none"):
            raise OptionError(f"warmup = {self.warmup!r} isn't known: 'ramp', 'corrected' and 'none' are")

    def weight(self, t: int) -> float:
        """Return 1 - a, or more early on."""
        if t == 1:
            return 1.0
        if self.warmup == "ramp":
            return 1 - min(self.decay, (1 + t) / (10 + t))
        if self.warmup == "none" or self.decay == 0:
            return 1 - self.decay
        return (1 - self.decay) / -math.expm1(t * math.log(self.decay))


@dataclass(frozen=True, kw_only=True)
class Tail:
    """The mean of the values from ``start`` on; until then the value itself.

    Args:
        start: number of the first value that counts, from 1.

    Raises:
        OptionError: a start below 1.

    >>> [Tail(start=10).weight(t) for t in (1, 9, 10, 11)]
    [1.0, 1.0, 1.0, 0.5]

    Source: A1 (N); Jain, Kakade, Kidambi, Netrapalli and Sidford 2018.
    """

    start: int

    def __post_init__(self) -> None:
        if self.start < 1:
            raise OptionError(f"start = {self.start} isn't allowed: values are counted from 1")

    def weight(self, t: int) -> float:
        """Return 1 before ``start``, then 1/1, 1/2, 1/3, ..."""
        return 1 / max(t - self.start + 1, 1)


@torch.no_grad()
def update(averages: Sequence[Tensor], values: Sequence[Tensor], weight: float) -> None:
    """Move averages towards values in place: ``average += weight * (value - average)``.

    One foreach lerp over all. Values of other types are brought to their average's; what isn't floating is
    copied. Of sharded tensors, which must lie alike, each process moves its own part.

    Args:
        averages: tensors that are changed.
        values: as many, of the same shapes.
        weight: in ``[0, 1]``.

    >>> average = torch.zeros(2)
    >>> update([average], [torch.tensor([4.0, 8.0])], 0.25)
    >>> average.tolist()
    [1.0, 2.0]
    """
    kept: list[Tensor] = []
    seen: list[Tensor] = []
    for average, value in zip(averages, values, strict=True):
        if is_dtensor(average):
            average, value = average.to_local(), _local(value)
        dtype = average.dtype
        if dtype.is_floating_point or dtype.is_complex:
            kept.append(average)
            seen.append(value if value.dtype is dtype else value.to(dtype))
        else:
            average.copy_(value)
    if kept:
        torch._foreach_lerp_(kept, seen, weight)


def _local(tensor: Tensor) -> Tensor:
    return tensor.to_local() if is_dtensor(tensor) else tensor


class Average:
    """The running average of a model's parameters and buffers.

    It begins with the first :meth:`update`. Half-precision tensors are averaged in float32, since steps of
    ``1 - decay`` would be lost in rounding. Numbers that aren't floating, such as counts, are the latest.

    Args:
        model: any; read at each update.
        kind: :class:`Uniform`, :class:`ExponentialAverage`, :class:`Tail`, or anything with ``weight(t)``.
        buffers: ``"average"``, or ``"latest"`` to copy them. The statistics of batch norm under averaged
            weights aren't the average of its statistics; these
            :func:`~thalweg.layers.norm_statistics.estimate_batch_norm` finds.

    >>> model = nn.Linear(1, 1, bias=False)
    >>> average = Average(model, Uniform())
    >>> for value in (1.0, 2.0, 6.0):
    ...     _ = model.weight.data.fill_(value)
    ...     average.update()
    >>> with average.swapped():
    ...     print(model.weight.item())
    3.0
    >>> model.weight.item()
    6.0

    Source: A1 (N 8.39, S).
    """

    def __init__(
        self, model: nn.Module, kind: AverageKind, *, buffers: Literal["average", "latest"] = "average"
    ) -> None:
        if buffers not in ("average", "latest"):
            raise OptionError(f"buffers = {buffers!r} isn't known: 'average' and 'latest' are")
        self.model, self.kind, self.buffers = model, kind, buffers
        self.count = 0
        self._averages: dict[str, Tensor] = {}
        self._slots: dict[str, _Slot] = {}
        self._known: _Form | None = None
        self._swapped = False

    @torch.no_grad()
    def update(self) -> None:
        """Take the model's present point into the average.

        Raises:
            ModelError: the model's parameters or buffers aren't those that it had.
        """
        assert not self._swapped, "the model holds the average: leave the block first"
        values = self._values()
        if self.count == 0:
            self._averages = {
                name: _wide(value.detach()).clone() for name, value in zip(self._slots, values, strict=True)
            }
        else:
            averages, weight = list(self._averages.values()), self.kind.weight(self.count + 1)
            if self.buffers == "latest":
                latest = self._latest()
                for name, average, value in zip(self._slots, averages, values, strict=True):
                    if name in latest:
                        average.copy_(value)
                kept = [n for n, name in enumerate(self._slots) if name not in latest]
                averages, values = [averages[n] for n in kept], [values[n] for n in kept]
            update(averages, values, weight)
        self.count += 1

    def _values(self) -> list[Tensor]:
        """The model's tensors in the order of the averages; names are sought anew where its parts changed."""
        form = _form(self.model)
        if form != self._known:
            self._slots, self._known = _slots(self.model), form
        values: list[Any] = [held.get(own) for held, own in self._slots.values()]
        gone = any(value is None for value in values)
        if gone:
            self._slots = _slots(self.model)
        if gone or (self.count and list(self._slots) != list(self._averages)):
            raise ModelError(
                f"{_odd(self._slots, self._averages)!r} isn't among what was averaged, or isn't there any "
                "more: the model must keep its tensors"
            )
        return values

    def _latest(self) -> frozenset[str]:
        return frozenset(name for name, _ in self.model.named_buffers())

    @torch.no_grad()
    def copy_to(self, model: nn.Module) -> None:
        """Write the average into a model for good.

        Args:
            model: with the same parameters and buffers.

        Raises:
            ModelError: nothing was averaged yet, or the model has others.
        """
        for target, average in self._pairs(model):
            target.copy_(average)

    @contextmanager
    def swapped(self, model: nn.Module | None = None) -> Iterator[None]:
        """Let the model hold the average inside of a block, and what it held before afterwards.

        Costs one tensor of memory at a time, and a copy of half-precision tensors. What changes the model
        inside changes the average, as
        :func:`~thalweg.layers.norm_statistics.estimate_batch_norm` is meant to.

        Args:
            model: with the same parameters and buffers; by default the one that is averaged.

        Raises:
            ModelError: nothing was averaged yet, or the model has others.
        """
        assert not self._swapped, "the model holds the average already"
        pairs = self._pairs(self.model if model is None else model)
        held = [_show(target, average) for target, average in pairs]
        self._swapped = True
        try:
            yield
        finally:
            for (target, average), values in zip(pairs, held, strict=True):
                _give_back(target, average, values)
            self._swapped = False

    def _pairs(self, model: nn.Module) -> list[tuple[Tensor, Tensor]]:
        if self.count == 0:
            raise ModelError("nothing was averaged yet: call update() after a training step")
        targets = tensors_of(model)
        if targets.keys() != self._averages.keys():
            raise ModelError(
                f"{_odd(targets, self._averages)!r} isn't in both the model and the average: they must have "
                "one form"
            )
        return [(targets[name], average) for name, average in self._averages.items()]

    def state_dict(self) -> dict[str, Any]:
        """Return the count and the averages by name; sharded ones stay so."""
        assert not self._swapped, "the model holds the average: leave the block first"
        return {"count": self.count, "averages": dict(self._averages)}

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where :meth:`state_dict` was taken; the kind isn't part of it.

        Raises:
            ModelError: the state is another model's.
        """
        given: Mapping[str, Tensor] = state["averages"]
        values = tensors_of(self.model)
        if state["count"] and given.keys() != values.keys():
            changed = sorted(given.keys() ^ values.keys())[0]
            raise ModelError(
                f"{changed!r} isn't in both the model and the saved average: it is another model's"
            )
        loaded = {}
        for name in values if given else ():
            average = given[name]
            if average.shape != values[name].shape:
                raise ModelError(
                    f"the saved average of {name!r} has the shape {list(average.shape)}, the model's has "
                    f"{list(values[name].shape)}: it is another model's"
                )
            loaded[name] = torch.empty_like(_wide(values[name].detach())).copy_(average)
        self.count, self._averages = int(state["count"]), loaded


def tensors_of(model: nn.Module) -> dict[str, Tensor]:
    """Return parameters and buffers by name, each under its first."""
    return {name: held[own] for name, (held, own) in _slots(model).items()}


_Slot = tuple[dict[str, Any], str]
_Form = tuple[list[nn.Module | None], int]


def _slots(model: nn.Module) -> dict[str, _Slot]:
    """Where each tensor is held: what lies there may be exchanged for another tensor."""
    found: dict[str, _Slot] = {}
    seen: set[int] = set()
    for prefix, module in model.named_modules():
        for held in (module._parameters, module._buffers):
            for own, tensor in held.items():
                if tensor is not None and id(tensor) not in seen:
                    seen.add(id(tensor))
                    found[f"{prefix}.{own}" if prefix else own] = (held, own)
    return found


def _form(model: nn.Module) -> _Form:
    """The model's parts and how many tensors they hold: quick to find, and another where parts are."""
    parts: list[nn.Module | None] = [model]
    count = 0
    for module in parts:  # grows meanwhile
        if module is not None:
            parts += module._modules.values()
            count += len(module._parameters) + len(module._buffers)
    return parts, count


def _odd(one: Mapping[str, object], other: Mapping[str, object]) -> str:
    """The first name that only one of them has; without one, the order differs."""
    return next(iter(sorted(one.keys() ^ other.keys()) or one))


def _wide(value: Tensor) -> Tensor:
    return value.float() if value.dtype in (torch.float16, torch.bfloat16) else value


@torch.no_grad()
def _show(target: Tensor, average: Tensor) -> Tensor | None:
    """Put the average into its target; what that held comes into its place, or back where types differ."""
    held = target.detach().clone()
    target.copy_(average)
    if target.dtype != average.dtype:
        return held
    average.copy_(held)
    return None


@torch.no_grad()
def _give_back(target: Tensor, average: Tensor, held: Tensor | None) -> None:
    now = target.detach().clone()
    if held is None:
        target.copy_(average)
        average.copy_(now)
        return
    target.copy_(held)
    # what wasn't changed keeps the precision that the target hasn't
    changed = now != average.to(now.dtype)
    average.copy_(torch.where(changed, now.to(average.dtype), average))
