"""Outputs and targets brought to one shape: the one rule of every loss, metric and score.

Shapes that agree but for a last axis of one mean the same: outputs ``[N, 1]`` and targets ``[N]``, ``[N]``
and ``[N, 1]``, ``[N, T, 1]`` and ``[N, T]``. Subtracted as they are, these would be compared with the wrong
examples, since ``[N, 1] - [N]`` is ``[N, N]``. All else that a loss can't compare is refused.

A person's own function is tried once to see which shapes it means (:class:`Forms`): ``outputs - targets``
is given ``[N]`` and ``[N]``, ``outputs[:, 0] - targets`` what it asks for. Whoever computes a loss or a
metric goes through ``Loss.compare``, or ``Metric.reduce`` and ``Metric.score``.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from thalweg.errors import OptionError
from thalweg.randomness.generators import undisturbed

__all__ = ["CLASSES", "NUMBERS", "Forms", "as_columns", "for_classes", "for_numbers", "is_one_hot"]

NUMBERS = frozenset({
    F.mse_loss, F.l1_loss, F.smooth_l1_loss, F.huber_loss, F.binary_cross_entropy,
    F.binary_cross_entropy_with_logits, F.kl_div, F.poisson_nll_loss, F.soft_margin_loss,
    F.hinge_embedding_loss,
})  # fmt: skip
"""Torch's losses that compare outputs and targets number by number."""

CLASSES = frozenset({F.cross_entropy, F.nll_loss})
"""Torch's losses that compare scores of classes, at axis 1, with a class."""


def for_numbers(
    outputs: Tensor, targets: Tensor, *, lanes: bool = False, name: str = "the loss"
) -> tuple[Tensor, Tensor]:
    """Return outputs and targets of one shape, to be compared number by number.

    Args:
        outputs, targets: ``[N, ...]``, equal in shape but for a last axis of one in either.
        lanes: whether both have an axis of lanes in front.
        name: of what compares them.

    Returns:
        Both in the shape of the one without that axis; at least ``[N]``.

    Raises:
        OptionError: they differ in more.

    >>> [tuple(part.shape) for part in for_numbers(torch.zeros(4, 1), torch.zeros(4))]
    [(4,), (4,)]
    """
    lead = int(lanes)
    one, other = tuple(outputs.shape[lead:]), tuple(targets.shape[lead:])
    if one == (*other, 1):
        outputs = outputs.squeeze(-1)
    elif other == (*one, 1):
        targets = targets.squeeze(-1)
    elif one != other:
        raise _cannot(one, other, name)
    if outputs.ndim == lead:
        # a model that squeezes gives a batch of one example as a bare number
        outputs, targets = outputs.unsqueeze(-1), targets.unsqueeze(-1)
    return outputs, targets


def for_classes(
    outputs: Tensor, targets: Tensor, *, lanes: bool = False, name: str = "the loss"
) -> tuple[Tensor, Tensor]:
    """Return scores ``[N, C, ...]`` and classes ``[N, ...]``, or probabilities of the scores' shape.

    Args:
        outputs: ``[N, C, ...]``.
        targets: ``[N, ...]``, with a last axis of one more or not; or ``[N, C, ...]``, probabilities.
        lanes: whether both have an axis of lanes in front.
        name: of what compares them.

    Raises:
        OptionError: the shapes don't fit.

    >>> [tuple(part.shape) for part in for_classes(torch.zeros(4, 3), torch.zeros(4, 1))]
    [(4, 3), (4,)]
    """
    lead = int(lanes)
    one, other = tuple(outputs.shape[lead:]), tuple(targets.shape[lead:])
    classes = (*one[:1], *one[2:])
    if other == classes or (other == one and targets.is_floating_point()):
        return outputs, targets
    if len(one) > 1 and other == (*classes, 1):
        return outputs, targets.squeeze(-1)
    remedy = f"it needs targets of shape {classes}, a class each, or {one}, probabilities as fractions"
    if len(one) < 2:
        remedy = "it needs outputs of shape (examples, classes, ...)"
    raise OptionError(f"{name} can't compare outputs of shape {one} with targets of shape {other}: {remedy}")


def as_columns(outputs: Tensor, targets: Tensor, *, name: str = "the metric") -> tuple[Tensor, Tensor]:
    """Return outputs ``[..., N, C]`` and targets ``[N]``, which is how metrics by name are given them.

    Args:
        outputs: ``[..., N, C]``; or one number an example, ``[N]``.
        targets: ``[N]`` or ``[N, 1]``.
        name: of what compares them.

    Raises:
        OptionError: the shapes don't fit.
    """
    goal = targets.squeeze(-1) if targets.ndim == 2 and targets.shape[-1] == 1 else targets
    columns = outputs.unsqueeze(-1) if outputs.ndim == goal.ndim == 1 else outputs
    if outputs.ndim == 0 and goal.shape == (1,):
        columns = outputs.reshape(1, 1)
    if goal.ndim != 1 or columns.ndim < 2 or columns.shape[-2] != len(goal):
        raise _cannot(tuple(outputs.shape), tuple(targets.shape), name)
    return columns, goal


def is_one_hot(targets: Tensor | npt.NDArray[Any]) -> bool:
    """Whether every row of targets ``[N, C]``, a tensor or an array, is 0 but for a single 1.

    >>> is_one_hot(torch.tensor([[0, 1], [1, 0]])), is_one_hot(torch.tensor([[1, 1], [1, 0]]))
    (True, False)
    """
    if targets.ndim != 2 or targets.shape[1] < 2 or not len(targets):
        return False
    ones = targets == 1
    return bool(((targets == 0) | ones).all()) and bool((ones.sum(1) == 1).all())


def _cannot(outputs: tuple[int, ...], targets: tuple[int, ...], name: str) -> OptionError:
    return OptionError(
        f"{name} can't compare outputs of shape {outputs} with targets of shape {targets}: shapes have to be "
        "equal, but for a last axis of one; reshape the targets, or let the model give what they need"
    )


# A person's own function -------------------------------------------------------------------------------


class Forms:
    """Gives outputs and targets to a person's own function in the shapes that it means.

    Where shapes differ by a last axis of one, ``outputs - targets`` would compare wrong examples, and has to
    be given ``[N]`` and ``[N]``, while ``outputs[:, 0] - targets`` means ``[N, 1]`` and ``[N]``. So the
    function is tried both ways, once: it is given one shape, unless it raises then, or the results differ
    and nothing in it has spread examples over each other.

    Args:
        function: of outputs and targets.
    """

    def __init__(self, function: Callable[[Any, Any], Any]) -> None:
        self._function = function
        self._found: dict[tuple[int, int], int] = {}

    def __call__(self, outputs: Any, targets: Any) -> tuple[Any, Any]:
        """Return both as the function is to be given them."""
        if not isinstance(outputs, Tensor) or not isinstance(targets, Tensor):
            return outputs, targets
        one, other = tuple(outputs.shape), tuple(targets.shape)
        equal = one == other
        if equal and not (len(one) == 1 or (len(one) == 2 and one[1] == 1)):
            return outputs, targets
        if not equal and one != (*other, 1) and other != (*one, 1):
            return outputs, targets
        key = len(one), len(other)
        number = self._found.get(key)
        if number is None:
            number = self._settled(outputs, targets)
            if max(one, default=1) > 1:
                # of a batch of one example every form gives the same, so that it decides nothing
                self._found[key] = number
        return _form(number, outputs, targets)

    def _settled(self, outputs: Tensor, targets: Tensor) -> int:
        """Number of the form that the function means."""
        given, targets = outputs.detach(), targets.detach()
        if outputs.shape == targets.shape and outputs.ndim > 1:
            found, spread, _ = self._tried(_AS_GIVEN, given, targets)
            if found is not None and not spread:
                return _AS_GIVEN
        # a form in which an [N, 1] meets an [N] is never what is meant, whatever it gives
        alike, _, left_torch = self._tried(_ALIKE, given, targets)
        columns, spread, _ = self._tried(_COLUMNS, given, targets)
        if alike is not None:
            if columns is None or spread or _close(alike, columns):
                return _ALIKE
            # the results differ: code that left torch may have spread examples unseen
            return _ALIKE if left_torch else _COLUMNS
        if columns is not None and not spread:
            return _COLUMNS
        for number in (_AS_GIVEN, _LONGER):
            found, spread, _ = self._tried(number, given, targets)
            if found is not None and not spread:
                return number
        return _AS_GIVEN

    def _tried(self, number: int, outputs: Tensor, targets: Tensor) -> tuple[Any, bool, bool]:
        """What the function gives (``None``: it raises), whether it spread examples, and left torch."""
        for recorded in (True, False):
            short = min(tuple(outputs.shape), tuple(targets.shape), key=len)
            if outputs.shape == targets.shape:
                short = short[:1]
            watch = _Spreading((*short, 1), short, recorded=recorded)
            try:
                # its gradient tells what comes of outputs, where there can be one
                source = outputs.clone().requires_grad_() if recorded else outputs
                pair = _form(number, source, targets)
                with undisturbed(), warnings.catch_warnings(), torch.set_grad_enabled(recorded), watch:
                    warnings.simplefilter("ignore")
                    found = self._function(*pair)
            except Exception:
                continue
            return (found.detach() if isinstance(found, Tensor) else found), watch.spread, watch.left_torch
        return None, False, False


# Outputs and targets: [N] and [N]; untouched; [N, 1] and [N]; [N, 1] and [N, 1].
_ALIKE, _AS_GIVEN, _COLUMNS, _LONGER = range(4)


def _form(number: int, outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    if number == _AS_GIVEN:
        return outputs, targets
    # of both the shape without the axis of one
    short = min(tuple(outputs.shape), tuple(targets.shape), key=len)
    if len(short) == 2 and outputs.shape == targets.shape:
        short = short[:1]
    tall = (*short, 1)
    return (
        outputs.reshape(short if number == _ALIKE else tall),
        targets.reshape(tall if number == _LONGER else short),
    )


class _Spreading(TorchFunctionMode):
    """Notices where ``[N, 1]`` meets ``[N]``, one of outputs and one of targets, and where torch is left."""

    def __init__(self, outputs: tuple[int, ...], targets: tuple[int, ...], *, recorded: bool) -> None:
        super().__init__()
        self._shapes = {outputs, targets}
        self._recorded = recorded
        self.spread = self.left_torch = False

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        tensors = [each for each in (*args, *(kwargs or {}).values()) if isinstance(each, Tensor)]
        result = func(*args, **(kwargs or {}))
        if getattr(func, "__name__", "") in ("numpy", "__array__", "tolist", "item", "__float__"):
            self.left_torch = True
        for number, one in enumerate(tensors):
            for other in tensors[number + 1 :]:
                if {tuple(one.shape), tuple(other.shape)} == self._shapes and len(self._shapes) == 2:
                    mixed = one.requires_grad != other.requires_grad or not self._recorded
                    whole = result.shape if isinstance(result, Tensor) else ()
                    wide = math.prod(whole) > max(one.numel(), other.numel())
                    self.spread |= mixed and (wide or func in NUMBERS)
        return result


def _close(one: Any, other: Any) -> bool:
    try:
        a, b = (torch.as_tensor(each).detach().double() for each in (one, other))
        return a.shape == b.shape and bool(torch.allclose(a, b, rtol=1e-5, atol=1e-12, equal_nan=True))
    except (TypeError, ValueError, RuntimeError):
        return bool(one is other)
