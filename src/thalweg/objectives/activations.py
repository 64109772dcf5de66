"""What a loss makes of a model's outputs: which losses are known, what they compare with, which activation.

Source: E1; the losses are torch's, and those of :mod:`thalweg.objectives` by name.
"""

from __future__ import annotations

import functools
from typing import Any, Literal

from torch import nn
from torch.nn import functional as F

from thalweg.objectives.given import Kind, Task, found, names
from thalweg.objectives.losses import Loss
from thalweg.objectives.metrics import Metric, kind_of
from thalweg.settings.choices import Activation

__all__ = [
    "Activation",
    "Family",
    "activation",
    "activation_of_task",
    "family",
    "kind_of_metric",
    "torchs_name",
]

Family = Literal["classes", "two classes", "numbers"]

_FAMILIES: dict[Family, tuple[str, ...]] = {
    "classes": ("cross-entropy", "cross_entropy", "nll_loss", "CrossEntropyLoss", "NLLLoss"),
    "two classes": (
        "bce", "binary_cross_entropy_with_logits", "binary_cross_entropy", "BCEWithLogitsLoss", "BCELoss",
    ),
    "numbers": (
        "mse", "mae", "huber", "mse_loss", "l1_loss", "huber_loss", "smooth_l1_loss", "MSELoss", "L1Loss",
        "HuberLoss", "SmoothL1Loss",
    ),
}  # fmt: skip
_PROBABILITIES = ("binary_cross_entropy", "BCELoss")


def torchs_name(loss: Any) -> str | None:
    """Return by which name a loss is known: one of ours, or one of torch's functions and classes.

    >>> torchs_name(nn.MSELoss()), torchs_name(F.mse_loss), torchs_name(lambda outputs, targets: 0)
    ('MSELoss', 'mse_loss', None)
    """
    if isinstance(loss, Loss):
        loss = loss.name if loss.name in names("loss") else loss.function
    while isinstance(loss, functools.partial):
        loss = loss.func
    if isinstance(loss, str) and loss.startswith("python:"):
        return torchs_name(found(loss, "loss"))
    for family in _FAMILIES.values():
        for name in family:
            kind = getattr(nn, name, None)
            if (
                loss == name
                or loss is getattr(F, name, name)
                or (kind is not None and isinstance(loss, kind))
            ):
                return name
    return None


def family(loss: Any) -> Family | None:
    """Say what a loss compares outputs with: class numbers, two classes, or numbers; ``None``: unknown.

    >>> family("bce"), family(F.l1_loss), family(functools.partial(F.cross_entropy, label_smoothing=0.1))
    ('two classes', 'numbers', 'classes')
    """
    name = torchs_name(loss)
    return next((which for which, names in _FAMILIES.items() if name in names), None)


def activation(loss: Any, outputs: int | None = None) -> Activation | None:
    """Return what a loss makes of outputs, where that is known.

    Cross-entropy: ``"softmax"``. Torch's binary cross-entropy of logits: ``"sigmoid"``. ``bce`` by name takes
    one logit or the difference of two outputs: ``"sigmoid"`` of one, ``"softmax"`` of two. Losses of numbers,
    and torch's binary cross-entropy of probabilities: ``"identity"``.

    Args:
        loss: a name, a :class:`Loss`, or a function or module of torch's.
        outputs: how many numbers the model gives for an example; of ``bce`` ``None`` stands for two.

    Returns:
        ``None`` for a person's own loss.

    >>> activation("bce", 1), activation("bce", 2), activation(nn.BCEWithLogitsLoss(), 1), activation("mse")
    ('sigmoid', 'softmax', 'sigmoid', 'identity')
    """
    name, kind = torchs_name(loss), family(loss)
    if kind is None:
        return None
    if name == "bce":
        return "sigmoid" if outputs == 1 else "softmax"
    if name in _PROBABILITIES or kind == "numbers":
        return "identity"
    return "softmax" if kind == "classes" else "sigmoid"


def activation_of_task(task: Task, outputs: int | None) -> Activation:
    """Return what outputs of a person's own loss are taken for: probabilities of classes, or numbers.

    >>> activation_of_task(Task(kind="classification", classes=("no", "yes")), 1)
    'sigmoid'
    """
    if task.kind != "classification":
        return "identity"
    return "sigmoid" if outputs == 1 else "softmax"


def kind_of_metric(metric: Any) -> Kind | None:
    """Say what a metric by name judges; ``None`` for a person's own.

    >>> kind_of_metric("auc"), kind_of_metric("r2"), kind_of_metric(print)
    ('classification', 'regression', None)
    """
    return kind_of(metric.name if isinstance(metric, Metric) else metric)
