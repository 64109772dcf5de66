"""Weights of examples in a loss: what goes beside the targets, and losses that understand it."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from thalweg.errors import OptionError
from thalweg.layers.interface import part_of
from thalweg.objectives import Loss, activations
from thalweg.objectives.dividing import divided, reducing
from thalweg.objectives.nests import mapped
from thalweg.randomness.generators import undisturbed
from thalweg.run.targets import suited_loss

__all__ = ["WeightedLoss", "WeightedTargets", "example_losses"]


@dataclass(frozen=True, eq=False)
class WeightedTargets:
    """Targets of some examples, and what each of them counts for in the loss.

    It can be cut, put together and moved as a tensor of targets can be, so that a batch may be computed in
    parts or shared out over processes.

    Attributes:
        targets: ``[B, ...]``.
        weights: ``[B]``, at least 0.

    >>> both = WeightedTargets(torch.arange(3), torch.ones(3))
    >>> len(both), both[1:].targets
    (3, tensor([1, 2]))
    """

    targets: Tensor
    weights: Tensor

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, some: Any) -> WeightedTargets:
        return WeightedTargets(self.targets[some], self.weights[some])

    @property
    def device(self) -> torch.device:
        """Where they lie."""
        return self.targets.device

    @property
    def is_cuda(self) -> bool:
        """Whether that is an NVIDIA or AMD card."""
        return self.targets.is_cuda

    @property
    def ndim(self) -> int:
        """Axes of the targets."""
        return self.targets.ndim

    def to(self, *where: Any, **how: Any) -> WeightedTargets:
        """Move both."""
        return WeightedTargets(self.targets.to(*where, **how), self.weights.to(*where, **how))

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is not torch.cat:
            return NotImplemented
        parts = cast("Sequence[WeightedTargets]", args[0])
        return cls(torch.cat([part.targets for part in parts]), torch.cat([part.weights for part in parts]))


class WeightedLoss:
    """A loss in which examples count as much as their weights say.

    With l_i the loss of example i and w_i its weight, that of a batch is ``sum_i w_i * l_i / B`` where the
    loss is a mean over the B examples, and ``sum_i w_i * l_i`` where it is a sum. One of torch's losses
    divides by what it always does, such as the targets that aren't ignored: with weights of 1 it is the loss
    itself. Targets without weights are those of a plain loss, which is how validation data are scored.

    Args:
        loss: a name, or a function of outputs and targets, the mean or the sum over examples.

    Raises:
        OptionError: an unknown loss. When it is computed: one that is neither mean nor sum.

    >>> weighted = WeightedLoss("mse")
    >>> outputs, targets = torch.tensor([[1.0], [3.0]]), torch.zeros(2)
    >>> weighted(outputs, WeightedTargets(targets, torch.tensor([2.0, 0.0]))), weighted(outputs, targets)
    (tensor(1.), tensor(5.))

    Source: P8 (N): "assigning their contributions to the cost function larger coefficients".
    """

    def __init__(self, loss: Any) -> None:
        self._loss = suited_loss(loss, {})
        self._named = activations.family(loss) is not None
        self.__name__ = f"weighted {self._loss.name}"
        self._summed: bool | None = None

    def __call__(self, outputs: Any, targets: Any) -> Tensor:
        """Return the loss of a batch, a scalar tensor."""
        if self._named:
            outputs = part_of(outputs, None, f"the loss {self._loss.name!r}")
        if not isinstance(targets, WeightedTargets):
            return self._loss(outputs, targets)
        compared = self._loss.compare(outputs, targets.targets)
        with _Weighing(targets.weights) as weighing:
            value = self._loss.function(*compared)
        if any(value is each for each in weighing.values):
            return self._loss.scalar(value)
        each = example_losses(self._loss, outputs, targets.targets)
        if self._summed is None and len(each) > 1:
            self._summed = _is_sum(self._loss, compared, each)
        found = targets.weights.to(each.dtype) * each
        return found.sum() if self._summed else found.mean()


class _Weighing(TorchFunctionMode):
    """Lets torch's losses weigh examples, where they reduce what has a row for each."""

    def __init__(self, weights: Tensor) -> None:
        super().__init__()
        self.values: list[Tensor] = []
        self._weights = weights

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        named = kwargs or {}
        found = reducing(func, args, named)
        if found is None:
            return func(*args, **named)
        bound, _ = found
        given = bound.arguments
        with torch.no_grad():
            # also seen by whoever puts losses of parts together
            plain = divided(lambda outputs, targets: func(*args, **named), None, None)
        given.update({name: None for name in ("size_average", "reduce") if name in given}, reduction="none")
        each = func(*bound.args, **bound.kwargs)
        if not each.ndim or len(each) != len(self._weights):
            return func(*args, **named)
        weights = self._weights.to(each.dtype)
        value = (weights.view(-1, *[1] * (each.ndim - 1)) * each).sum()
        if plain.kind == "mean":
            divisor = plain.divisor
            # where all targets are ignored there is nothing to divide
            value = value / (divisor if divisor else 1.0)
        self.values.append(value)
        return value


def example_losses(loss: Loss, outputs: Any, targets: Tensor) -> Tensor:
    """Return the loss of each example alone, ``[B]``: that of a batch of it.

    Args:
        loss: any that can be computed of one example.
        outputs: of a model, of B examples.
        targets: ``[B, ...]``.

    >>> from thalweg.objectives import as_loss
    >>> example_losses(as_loss(torch.nn.MSELoss()), torch.tensor([1.0, 3.0]), torch.zeros(2))
    tensor([1., 9.])
    """
    outputs, targets = loss.compare(outputs, targets)
    count = len(targets)

    def one(some: Any, goal: Any) -> Tensor:
        return loss.scalar(loss.function(mapped(_alone, some), mapped(_alone, goal)))

    def rows(value: Any, number: int) -> Any:
        return mapped(lambda part: part[number] if part.ndim and len(part) == count else part, value)

    if isinstance(outputs, Tensor) and outputs.ndim and len(outputs) == count:
        try:
            with undisturbed(), warnings.catch_warnings():
                # of torch's operations that it computes one after another
                warnings.simplefilter("ignore")
                found: Tensor = torch.vmap(one)(outputs, targets)
            return found
        except (RuntimeError, ValueError, TypeError, NotImplementedError, OptionError):
            # such as a function that looks at numbers
            pass
    return torch.stack([one(rows(outputs, number), rows(targets, number)) for number in range(count)])


def _alone(part: Tensor) -> Tensor:
    return part.unsqueeze(0)


@torch.no_grad()
def _is_sum(loss: Loss, compared: tuple[Any, Any], each: Tensor) -> bool:
    """Whether a loss of a batch is the sum over examples; else it is the mean, or refused."""
    with undisturbed():
        whole, again = (float(loss.scalar(loss.function(*compared))) for _ in range(2))
    mean, total = float(each.mean()), float(each.sum())
    if whole != again or not math.isfinite(whole):
        # one that draws at random, or has diverged, tells nothing
        return False
    eps = torch.finfo(each.dtype).eps
    tolerance = max(1000 * eps, 1e-9) * max(abs(whole), float(each.abs().max()))
    if abs(whole - mean) <= tolerance:
        return False
    if abs(whole - total) <= tolerance * len(each):
        return True
    raise OptionError(
        f"the loss {loss.name!r} of a batch isn't the mean over its examples ({whole:.6g} against "
        f"{mean:.6g}), so that examples can't have weights in it; give a loss that is a mean or a sum over "
        "examples"
    )
