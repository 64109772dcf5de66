"""Losses by name and anybody's own: what training lowers, in the units of the prepared targets.

A loss is the mean over examples of what torch computes, or what torch's own losses divide by instead
(:mod:`thalweg.objectives.dividing`).

Source: E1 (empirical risk, mean over examples).
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from thalweg.errors import OptionError, nearest
from thalweg.objectives.comparing import CLASSES, NUMBERS, Forms, for_classes, for_numbers
from thalweg.objectives.given import KINDS, Task, default, found, names, one_of, remembered, usable
from thalweg.objectives.nests import described

__all__ = [
    "Loss",
    "as_loss",
    "binary",
    "logit_of",
    "loss",
    "no_gradient",
    "per_class",
]


@dataclass(frozen=True)
class Loss:
    """A loss: ``loss(outputs [B, C], targets [B])`` is the mean over the batch.

    Attributes:
        name: as given.
        function: outputs and targets to a scalar tensor, of what ``compare`` gives.
        per_example: ``(outputs [..., B, C], targets [..., B]) -> [..., B]``, whose mean over the last
            dimension is the loss of each lane; ``None`` for a person's own function. Targets without
            the leading dimensions are shared by all lanes.
        compare: brings outputs and targets to the shapes that ``function`` compares
            (:mod:`thalweg.objectives.comparing`).
    """

    name: str
    function: Callable[[Any, Any], Tensor]
    per_example: Callable[[Tensor, Tensor], Tensor] | None = None
    compare: Callable[[Any, Any], tuple[Any, Any]] = field(
        default=lambda outputs, targets: (outputs, targets), repr=False, compare=False
    )

    def __call__(self, outputs: Any, targets: Any) -> Tensor:
        """Return the mean loss of a batch, as a scalar tensor.

        Raises:
            OptionError: the shapes can't be compared, or what comes of them is no single number.
        """
        return self.scalar(self.function(*self.compare(outputs, targets)))

    def scalar(self, value: Any) -> Tensor:
        """Return a loss as a scalar tensor, and refuse what is none."""
        if isinstance(value, Tensor) and not value.ndim:
            return value
        if isinstance(value, Tensor) and value.numel() == 1:
            return value.reshape(())
        shape = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
        raise OptionError(
            f"the loss {self.name!r} gives {shape}, but training needs a scalar tensor: leave "
            "reduction='none' out, or end with .mean()"
        )


_Pointwise = Callable[..., Tensor]


def per_class(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return cross-entropy ``[..., B]`` of scores ``[..., B, C]`` and classes ``[B]``."""
    targets = targets.expand(outputs.shape[:-1])
    each = F.cross_entropy(outputs.reshape(-1, outputs.shape[-1]), targets.reshape(-1), reduction="none")
    return each.reshape(targets.shape)


def logit_of(outputs: Tensor) -> Tensor:
    """One logit for two classes: the only output, or how much the second exceeds the first."""
    return outputs[..., 0] if outputs.shape[-1] == 1 else outputs[..., 1] - outputs[..., 0]


def binary(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return cross-entropy ``[..., B]`` of two classes from one logit or two scores."""
    logit = logit_of(outputs)
    goal = targets.to(logit.dtype).expand(logit.shape)
    return F.binary_cross_entropy_with_logits(logit, goal, reduction="none")


def _binary_mean(logits: Tensor, targets: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(logits, targets.to(logits.dtype))


def _pointwise(function: _Pointwise) -> _Pointwise:
    def each(outputs: Tensor, targets: Tensor) -> Tensor:
        predicted = outputs[..., 0]
        return function(predicted, targets.expand(predicted.shape), reduction="none")

    return each


def _for_binary(outputs: Tensor, targets: Tensor, *, name: str) -> tuple[Tensor, Tensor]:
    if targets.ndim == 2 and targets.shape[1] == 1 and outputs.ndim == 2:
        targets = targets[:, 0]
    if outputs.ndim == 2 and outputs.shape[1] == 2 and targets.ndim == 1:
        outputs = logit_of(outputs)
    return for_numbers(outputs, targets, name=name)


_Compare = Callable[..., tuple[Tensor, Tensor]]
_Named = tuple[_Compare, Callable[[Tensor, Tensor], Tensor], _Pointwise]
_LOSSES: dict[str, _Named] = {
    "cross-entropy": (for_classes, F.cross_entropy, per_class),
    "bce": (_for_binary, _binary_mean, binary),
    "mse": (for_numbers, F.mse_loss, _pointwise(F.mse_loss)),
    "mae": (for_numbers, F.l1_loss, _pointwise(F.l1_loss)),
    "huber": (for_numbers, F.huber_loss, _pointwise(F.huber_loss)),
}


def _compared(compare: _Compare, name: str) -> Callable[[Any, Any], tuple[Any, Any]]:
    called = f"the loss {name!r}"

    def together(outputs: Any, targets: Any) -> tuple[Tensor, Tensor]:
        if not isinstance(outputs, Tensor):
            raise OptionError(
                f"the model gives {type(outputs).__name__}, but {called} needs one tensor; give a function "
                "of your own"
            )
        if not isinstance(targets, Tensor):
            raise OptionError(
                f"the targets are {described(targets)}, but {called} compares with one tensor; give a "
                "function of outputs and targets of your own"
            )
        return compare(outputs, targets, name=called)

    return together


def as_loss(function: Callable[[Any, Any], Any] | Loss, name: str | None = None) -> Loss:
    """Return a function of outputs and targets as a loss.

    Torch's own losses compare by their own rule; anybody else's function is given the shapes that it means.

    Args:
        function: ``f(outputs, targets)`` to a scalar, the mean or the sum over examples.
        name: to call it by.

    Raises:
        OptionError: a loss of torch's that gives one number an example, as ``reduction="none"`` says.

    >>> import torch
    >>> as_loss(F.mse_loss)(torch.tensor([[1.0], [3.0]]), torch.tensor([1.0, 1.0]))
    tensor(2.)
    """
    if isinstance(function, Loss):
        return function
    called = name or str(getattr(function, "__name__", type(function).__name__))
    inner: Any = function
    options: dict[str, Any] = {}
    while isinstance(inner, functools.partial):
        options = {**inner.keywords, **options}
        inner = inner.func
        called = name or str(getattr(inner, "__name__", called))
    if type(inner).__module__ == nn.MSELoss.__module__:
        options = {**vars(inner), **options}
        inner = _MODULES.get(type(inner).__name__, inner)
    torchs = inner in CLASSES or inner in NUMBERS
    if options.get("reduction") == "none" and (torchs or isinstance(function, nn.Module)):
        raise OptionError(
            f"the loss {called!r} has reduction='none', which gives a number for each example, but training "
            "needs one for the batch; say reduction='mean', or leave it out"
        )
    if torchs:
        compare = _compared(for_classes if inner in CLASSES else for_numbers, called)
        return Loss(called, function, None, compare)
    return Loss(called, function, None, Forms(function))


_MODULES: dict[str, Callable[..., Tensor]] = {
    "MSELoss": F.mse_loss, "L1Loss": F.l1_loss, "SmoothL1Loss": F.smooth_l1_loss,
    "HuberLoss": F.huber_loss, "BCELoss": F.binary_cross_entropy,
    "BCEWithLogitsLoss": F.binary_cross_entropy_with_logits, "KLDivLoss": F.kl_div,
    "PoissonNLLLoss": F.poisson_nll_loss, "SoftMarginLoss": F.soft_margin_loss,
    "HingeEmbeddingLoss": F.hinge_embedding_loss, "CrossEntropyLoss": F.cross_entropy,
    "NLLLoss": F.nll_loss,
}  # fmt: skip


def loss(spec: str | Callable[[Tensor, Tensor], Tensor] | Loss | None, task: Task) -> Loss:
    """Find a loss.

    ``cross-entropy`` (of logits, natural logarithm), ``bce`` (the same for two classes, from one logit;
    of two outputs it takes the difference), ``mse``, ``mae``, ``huber`` (squared within one unit, linear
    beyond). Regression losses see the prepared targets, which are standardised where they come from files.

    Args:
        spec: a name, ``file.py:function`` or ``package.module:function`` (``f(outputs, targets)`` to a
            scalar tensor; a class is made without arguments), such a function, or ``None`` for the
            task's own: ``cross-entropy`` or ``mse``.
        task: what is to be predicted.

    Raises:
        OptionError: an unknown name, a loss that doesn't fit the task, a custom task without a loss.

    >>> import torch
    >>> loss("mse", Task(kind="regression"))(torch.tensor([[1.0], [3.0]]), torch.tensor([1.0, 1.0]))
    tensor(2.)
    """
    if isinstance(spec, Loss):
        return spec
    if spec is None:
        spec = default("loss", task)
    if not isinstance(spec, str):
        spec = remembered(usable(spec, "loss"))
    if spec not in _LOSSES:
        if ":" in spec:
            return as_loss(found(spec, "loss"), spec)
        raise OptionError(
            f"there is no loss {spec!r}; {nearest(spec, _LOSSES)} (your own: 'file.py:function')"
        )
    compare, function, each = _LOSSES[spec]
    if task.kind not in KINDS["loss"][spec]:
        raise OptionError(
            f"the loss {spec!r} doesn't fit {task.kind}; choose {one_of(names('loss', task))}, "
            "or 'file.py:function'"
        )
    if spec == "bce" and len(task.classes) != 2:
        raise OptionError(f"the loss 'bce' is for two classes, not {len(task.classes)}; use 'cross-entropy'")
    return Loss(spec, function, None if task.kind == "custom" else each, _compared(compare, spec))


def no_gradient(name: str) -> OptionError:
    """Return what to raise where a loss has no gradient."""
    return OptionError(
        f"the loss {name!r} doesn't depend on any parameter that is trained, so that there is no gradient; "
        "compute it from the model's outputs, by torch functions, without detach() or item()"
    )
