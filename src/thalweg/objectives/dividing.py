"""What a loss divides by, so that the loss of a batch can be put together from those of its parts.

A batch is computed in parts where it is accumulated, shared out over processes, or evaluated block by block.
With L_i the loss of part i and d_i what it divides by,

    L = sum_i d_i * L_i / sum_i d_i

is the loss of the whole: d_i is the number of examples for a mean over examples, but the sum of the weights
of those targets that aren't ignored for cross-entropy with ``weight`` and ``ignore_index``. A sum over
examples is the sum over parts. Torch's own losses say what they divide by, wherever a person's function
calls them; any other function is tried once, the whole against its parts.

Nothing is divided that isn't asked to be: a loss that can't be is trained on whole batches, and evaluated
on all outputs at once. What a class of targets weighs is known only once the loss is computed, so that
:func:`thalweg.training.steps.make_step` divides the gradient by it behind the last part.

Source: E1 (empirical risk, mean over examples).
"""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import _reduction
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from thalweg.errors import OptionError
from thalweg.objectives.comparing import CLASSES, NUMBERS
from thalweg.objectives.nests import count_of, cut, joined, mapped
from thalweg.randomness.generators import undisturbed

__all__ = ["Divided", "Divisible", "Division", "divided", "reducing"]

_AGAIN = 64
"""Parts between two comparisons of a whole with its parts, once powers of two are further apart; of parts of
one example batches are counted."""

_PER_EXAMPLE = frozenset({F.multi_margin_loss, F.multilabel_soft_margin_loss, F.multilabel_margin_loss})


class Divided(NamedTuple):
    """A loss, and what it divides by.

    Attributes:
        value: the loss, a scalar.
        divisor: what it divides by; ``None``: it is a sum, or that isn't known.
        kind: ``"mean"`` over what is counted by ``divisor``, ``"sum"``, or ``"unknown"``.
        inner: where unknown, what the one torch loss within it divides by, if there is just one.
        positions: numbers or classes that an example has, so that ``divisor / positions`` is of the order of
            the number of examples.
    """

    value: Tensor
    divisor: Tensor | float | None
    kind: Literal["mean", "sum", "unknown"]
    inner: Tensor | float | None = None
    positions: float = 1.0


def divided(
    function: Callable[[Any, Any], Any], outputs: Any, targets: Any, *, lanes: bool = False
) -> Divided:
    """Compute a loss, and notice what it divides by.

    It is known where what the function returns is what one of torch's losses has returned to it.

    Args:
        function: of outputs and targets.
        outputs, targets: of a batch.
        lanes: whether this is under ``vmap``, where numbers can't be looked at.

    >>> loss = functools.partial(F.cross_entropy, ignore_index=0)
    >>> found = divided(loss, torch.zeros(3, 2), torch.tensor([0, 1, 1]))
    >>> found.kind, float(found.divisor)
    ('mean', 2.0)
    """
    with _Watch(lanes) as watch:
        value = function(outputs, targets)
    mine = [call for call in watch.calls if call.value is value]
    if mine:
        found = mine[-1]
        return Divided(value, found.divisor, found.kind, positions=found.positions)
    inner = watch.calls[0] if len(watch.calls) == 1 and watch.calls[0].kind == "mean" else None
    if inner is None:
        return Divided(value, None, "unknown")
    return Divided(value, None, "unknown", inner.divisor, inner.positions)


class _Watch(TorchFunctionMode):
    """Notes every call of one of torch's losses."""

    def __init__(self, lanes: bool) -> None:
        super().__init__()
        self.calls: list[Divided] = []
        self._lanes = lanes

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        named = kwargs or {}
        found = reducing(func, args, named)
        if found is None:
            return func(*args, **named)
        bound, reduction = found
        given = bound.arguments
        if reduction == "sum":
            value = func(*args, **named)
            self.calls.append(Divided(value, None, "sum"))
            return value
        divisor, positions = _divisor(func, given, reduction)
        empty = isinstance(divisor, Tensor) and not self._lanes and not bool(divisor)
        if empty:
            # a part whose targets are all ignored adds nothing, where the mean over none is NaN
            value = func(*args, **{**named, "reduction": "sum"})
        else:
            value = func(*args, **named)
        self.calls.append(Divided(value, divisor, "mean", positions=positions))
        return value


def reducing(
    function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[inspect.BoundArguments, str] | None:
    """Return the arguments of a call of one of torch's losses, and whether it takes a sum or a mean.

    ``None``: it is a call of another function, or has ``reduction="none"``.
    """
    if not (function in CLASSES or function in NUMBERS or function in _PER_EXAMPLE):
        return None
    bound = _signature_of(function).bind(*args, **kwargs)
    bound.apply_defaults()
    given = bound.arguments
    reduction = given["reduction"]
    if given.get("size_average") is not None or given.get("reduce") is not None:
        reduction = _reduction.legacy_get_string(given.get("size_average"), given.get("reduce"), False)
    return None if reduction == "none" else (bound, reduction)


@functools.cache
def _signature_of(function: Callable[..., Any]) -> inspect.Signature:
    return inspect.signature(function)


def _divisor(func: Any, given: dict[str, Any], reduction: str) -> tuple[Tensor | float, float]:
    """What the mean of a loss divides by, and how many numbers or classes an example has."""
    scores, targets = given["input"], given["target"]
    examples = max(1, scores.shape[0] if scores.ndim else 1)
    if func in CLASSES:
        if targets.is_floating_point():
            count = scores.numel() / scores.shape[1 if scores.ndim > 1 else 0]
            return float(count), count / examples
        counts = targets != given["ignore_index"]
        if given["weight"] is not None:
            found = given["weight"].double()[targets.clamp_min(0).where(counts, 0)]
            total = (found * counts).sum()
        else:
            total = counts.sum().double()
        return total, max(1.0, targets.numel() / examples)
    if func in _PER_EXAMPLE or reduction == "batchmean":
        count = float(examples if scores.ndim > 1 or reduction == "batchmean" else 1)
        if func is F.multilabel_soft_margin_loss:
            count = scores.numel() / scores.shape[-1]
        return count, count / examples
    if func in (F.mse_loss, F.l1_loss) and given.get("weight") is not None:
        return given["weight"].double().sum(), max(1.0, scores.numel() / examples)
    count = float(math.prod(np.broadcast_shapes(scores.shape, targets.shape)))
    return count, count / examples


# A loss of parts ---------------------------------------------------------------------------------------


class Divisible(Protocol):
    """A loss in two steps, as :class:`thalweg.objectives.Loss` has them."""

    @property
    def name(self) -> str: ...

    @property
    def function(self) -> Callable[[Any, Any], Tensor]: ...

    def compare(self, outputs: Any, targets: Any) -> tuple[Any, Any]: ...

    def scalar(self, value: Any) -> Tensor: ...


class Division:
    """Weighs the losses of parts of a batch, so that together they are the loss of the whole.

    Args:
        loss: of outputs and targets, in two steps: ``loss.compare(outputs, targets)`` gives what
            ``loss.function`` takes.
        remedy: what to do about a loss that can't be divided, as the end of a sentence.
    """

    def __init__(self, loss: Divisible, *, remedy: str) -> None:
        self._loss, self._remedy = loss, remedy
        self._way: Literal["inner", "examples", "sum"] | None = None
        # nothing larger than one example was tried, which tells a sum from a mean and no more
        self._alone = True
        # in the parts that were tried, examples and what a torch loss within divides by came to the same
        self._open = True
        self._draws = False
        self._taken = self._batches = 0

    def due(self, least: int) -> bool:
        """Take note of a batch, and say whether to look at the whole of it beside its parts.

        Args:
            least: examples in its smallest part. Parts of several show what those of one can't.
        """
        self._batches += 1
        return self._alone or (least < 2 and _anew(self._batches))

    @property
    def unknown(self) -> bool:
        """Whether the loss doesn't say what it divides by, so that only comparing a whole batch tells."""
        return self._alone or (self._way is not None and not self._draws)

    @property
    def way(self) -> str:
        """How parts are put together, as far as that is known."""
        return self._way or "inner"

    def part(self, outputs: Any, targets: Any) -> Divided:
        """Compute the loss of a part, with its divisor; ``None`` of a sum.

        Raises:
            OptionError: the loss can't be divided.
        """
        found = self._divided(outputs, targets)
        if found.kind != "unknown":
            self._alone = False
            return found
        count = float(count_of(targets))
        inner = None if found.inner is None else float(found.inner)
        if self._way is None and inner == 0.0:
            # of ignored targets alone nothing can be learnt
            return found._replace(kind="mean", divisor=0.0)
        self._taken += 1
        # a first batch without padding, or of equal weights, doesn't tell what later ones will be
        if (
            (_anew(self._taken) and count > 1)
            or self._way is None
            or (self._open and inner is not None and inner != found.positions * count)
        ):
            self.settle(outputs, targets)
        if self._way == "sum":
            return found._replace(kind="sum")
        if self._way == "inner" and found.inner is not None:
            return found._replace(kind="mean", divisor=found.inner)
        return found._replace(kind="mean", divisor=count, positions=1.0)

    @torch.no_grad()
    def settle(self, outputs: Any, targets: Any) -> None:
        """Compare the loss of a batch with those of two parts of it.

        Raises:
            OptionError: the loss of the whole doesn't come of the parts.
        """
        count = count_of(targets)
        with undisturbed():
            try:
                tried = self._compared(_widened(outputs), _widened(targets), count)
            except Exception:
                tried = self._compared(outputs, targets, count)
        whole, parts, tolerance = tried
        if not tolerance:
            # a loss that draws at random has no one value to compare
            self._way, self._alone, self._open, self._draws = "examples", False, False, True
            return
        if not math.isfinite(whole):
            # what has diverged tells nothing
            return
        ways: list[Literal["inner", "examples", "sum"]] = ["inner", "examples", "sum"]
        if self._way is not None:
            # it stands while it holds
            ways.sort(key=lambda way: way != self._way)
            if not self._open and not self._alone:
                ways = ways[:1]
        for way in ways:
            together = _together(way, parts)
            if together is not None and abs(together - whole) <= tolerance:
                self._way, self._alone = way, self._alone and count < 2
                self._open = self._open and way == "inner" and not _tells(parts)
                return
        together = _together("examples", parts)
        raise OptionError(
            f"the loss {self._loss.name!r} of a batch isn't the mean over its parts ({whole:.6g} against "
            f"{together:.6g}), so that it can't be computed in parts; {self._remedy}"
        )

    def _divided(self, outputs: Any, targets: Any) -> Divided:
        given = self._loss.compare(outputs, targets)
        found = divided(self._loss.function, *given)
        return found._replace(value=self._loss.scalar(found.value))

    def _compared(
        self, outputs: Any, targets: Any, count: int
    ) -> tuple[float, list[tuple[int, Divided]], float]:
        """The loss of a batch, those of two parts, how near is equal (0: it differs from itself)."""
        if count < 2:
            # two copies of the one example tell a sum from a mean at least
            outputs, targets = joined([outputs, outputs]), joined([targets, targets])
            count = 2
        place = max(1, count // 3)
        one = self._divided(outputs, targets)
        whole = float(one.value)
        parts = []
        for begin, end in ((0, place), (place, count)):
            some = cut(outputs, count, begin, end), cut(targets, count, begin, end)
            parts.append((end - begin, self._divided(*some)))
        again = float(self._divided(outputs, targets).value)
        if again != whole:
            return whole, parts, 0.0
        eps = torch.finfo(one.value.dtype).eps
        size = max(abs(whole), *(abs(float(found.value)) for _, found in parts))
        return whole, parts, max(200 * eps, 1e-9) * size + torch.finfo(one.value.dtype).tiny


def _anew(count: int) -> bool:
    return count & (count - 1) == 0 or count % _AGAIN == 0


def _together(way: str, parts: Sequence[tuple[int, Divided]]) -> float | None:
    values = [float(found.value) for _, found in parts]
    if way == "sum":
        return sum(values)
    weights: list[float] = []
    for count, found in parts:
        if way == "inner":
            if found.inner is None:
                return None
            weights.append(float(found.inner))
        else:
            weights.append(float(count))
    total = sum(weights)
    if not total:
        return None
    return sum(weight * value for weight, value in zip(weights, values, strict=True) if weight) / total


def _tells(parts: Sequence[tuple[int, Divided]]) -> bool:
    """Whether these parts tell a mean over examples from one over what a torch loss within divides by."""
    shares = [float(found.inner or 0.0) / count for count, found in parts]
    return shares[0] != shares[1]


def _widened(value: Any) -> Any:
    return mapped(lambda part: part.double() if part.is_floating_point() else part, value)
