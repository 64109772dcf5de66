"""How much a model has learnt, as one number that any two trainings of a task can be compared by.

Skill is 0 for the best constant prediction and 1 for a perfect one, whatever the loss: remedies change
losses, and so no loss could compare them.

- **Classes**: ``(accuracy - a) / (1 - a)``, where a is the share of the most frequent class. Where that is
  more than ``_RARE``, its part of rank: ``2 * AUC - 1``, since nearly all is right by chance.
- **Numbers**: ``1 - sum (y - f)^2 / sum (y - mean)^2``, the share of variance that is explained, at least -1;
  of several columns the mean.
- **Anything else**: ``1 - L / L_0``, of the set-up's own loss L and that at the start, at least -1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor

__all__ = ["Judge", "TaskKind", "task_of"]

TaskKind: TypeAlias = Literal["classes", "several classes", "numbers", "other"]

_RARE = 0.75
_MOST_CLASSES = 1000


@dataclass(frozen=True, kw_only=True)
class Judge:
    """Says how good predictions are.

    Attributes:
        kind: of the task: one class of each example, several at once, numbers, or something else.
        classes: how many there are.
        values: the values that stand for classes, in order.
        start: the first loss, by which a task of any other kind is judged.
        logarithms: whether outputs are logarithms of the numbers that are predicted.
    """

    kind: TaskKind
    classes: int = 0
    values: tuple[float, ...] = ()
    start: float | None = None
    logarithms: bool = False

    def of_loss(self, loss: float) -> float:
        """Return the skill of a loss of the set-up's own: the share of the first one that is gone.

        A loss that goes below 0 counts as gone.
        """
        if self.start is None or not math.isfinite(loss):
            return -1.0 if not math.isfinite(loss) else math.nan
        return min(1.0, max(-1.0, (self.start - loss) / max(abs(self.start), 1e-12)))

    def numbers(self, targets: Any) -> Tensor | None:
        """Return classes as their numbers ``[M]``, one for each that is predicted."""
        if self.kind != "classes":
            return None
        if targets.ndim > 1 and targets.dtype.is_floating_point and targets.shape[-1] == self.classes > 1:
            most: Tensor = targets.argmax(-1).reshape(-1)
            return most
        flat = targets.reshape(-1).double()
        known = torch.tensor(self.values, dtype=torch.float64, device=flat.device)
        return torch.searchsorted(known, flat).clamp(max=self.classes - 1)

    @torch.no_grad()
    def __call__(self, outputs: Any, targets: Any) -> float:
        """Return the skill of outputs; -1 where they aren't finite, NaN where the task has no skill."""
        if not isinstance(outputs, Tensor) or not isinstance(targets, Tensor):
            return math.nan
        outputs = outputs.double()
        if not bool(torch.isfinite(outputs).all()):
            return -1.0
        if self.kind == "classes":
            return self._of_classes(outputs, targets)
        if self.kind == "several classes":
            return self._of_several(outputs, targets)
        if self.kind == "numbers":
            return _of_numbers(outputs.exp() if self.logarithms else outputs, targets.double())
        return math.nan

    def _of_classes(self, outputs: Tensor, targets: Tensor) -> float:
        found = self.numbers(targets)
        assert found is not None
        scores = _by_example(outputs, len(found))
        if scores is None:
            return math.nan
        counts = torch.bincount(found, minlength=self.classes).double()
        most = float(counts.max() / counts.sum())
        if most == 1:
            return math.nan
        width = scores.shape[1]
        if self.classes == 2 and most > _RARE and width <= 2:
            ranks = scores[:, -1] - (scores[:, 0] if width == 2 else 0)
            return 2 * _area(ranks, found == 1) - 1
        if width == 1:
            right = self._nearest(scores[:, 0]) == found
        else:
            right = scores.argmax(1) == found
        if most > _RARE:
            # of each class its share of right ones, so that the frequent one doesn't decide alone
            each = [float(right[found == c].double().mean()) for c in range(self.classes) if counts[c]]
            return (sum(each) / len(each) - 1 / len(each)) / (1 - 1 / len(each))
        return (float(right.double().mean()) - most) / (1 - most)

    def _nearest(self, scores: Tensor) -> Tensor:
        if self.classes == 2:
            # a probability, or a logit
            inside = bool(((scores >= 0) & (scores <= 1)).all())
            return (scores > (0.5 if inside else 0.0)).long()
        known = torch.tensor(self.values, dtype=torch.float64, device=scores.device)
        return (scores[:, None] - known).abs().argmin(1)

    def _of_several(self, outputs: Tensor, targets: Tensor) -> float:
        if outputs.shape != targets.shape:
            return math.nan
        found = []
        for scores, right in zip(outputs.flatten(1).T, targets.flatten(1).T > 0.5, strict=True):
            if bool(right.any()) and not bool(right.all()):
                found.append(2 * _area(scores, right) - 1)
        return sum(found) / len(found) if found else math.nan


def _by_example(outputs: Tensor, count: int) -> Tensor | None:
    """Return scores ``[M, C]``, wherever the axis of classes is."""
    if outputs.ndim <= 1 or outputs.shape[0] == count:
        if outputs.numel() % count:
            return None
        return outputs.reshape(count, -1) if outputs.ndim <= 2 else None
    if outputs.ndim > 2 and outputs.shape[0] * math.prod(outputs.shape[1:-1]) == count:
        return outputs.reshape(count, -1)
    if outputs.ndim > 2 and outputs.shape[0] * math.prod(outputs.shape[2:]) == count:
        return outputs.movedim(1, -1).reshape(count, -1)
    return outputs.reshape(count, -1) if outputs.numel() % count == 0 else None


def _area(scores: Tensor, positive: Tensor) -> float:
    """Return the chance that a positive example has the higher score, ties half."""
    _, places, counts = torch.unique(scores, return_inverse=True, return_counts=True)
    ends = counts.cumsum(0).double()
    ranks = (ends - (counts.double() - 1) / 2)[places]
    yes, no = int(positive.sum()), int((~positive).sum())
    return (float(ranks[positive].sum()) - yes * (yes + 1) / 2) / (yes * no) if yes and no else 0.5


def _of_numbers(outputs: Tensor, targets: Tensor) -> float:
    if outputs.numel() != targets.numel():
        return math.nan
    targets = targets.reshape(len(targets), -1)
    outputs = outputs.reshape(len(targets), -1)
    errors = ((outputs - targets) ** 2).mean(0)
    spread = targets.var(0, correction=0)
    known = spread > 0
    if not bool(known.any()):
        return math.nan
    return float((1 - errors[known] / spread[known]).clamp(min=-1).mean())


def task_of(
    targets: Any,
    loss_name: str | None,
    metric: Any,
    outputs: Any,
    *,
    direct: bool,
    logarithms: bool = False,
) -> Judge:
    """Say what is predicted.

    Args:
        targets: of all examples.
        loss_name: the function of torch's that the loss calls, where it does.
        metric: what the person calls good; the name of one of classes settles it.
        outputs: of a few examples.
        direct: whether the loss takes the difference of outputs and targets as they are.
        logarithms: whether the loss takes outputs for logarithms.

    Class numbers are taken for classes where the loss or the metric is one of classes, where they are of a
    whole-number type and few, or where they are 0 and 1 alone. Rows with a single 1 are classes too.
    """
    if not isinstance(targets, Tensor) or not isinstance(outputs, Tensor) or not targets.numel():
        return Judge(kind="other")
    of_classes = loss_name in _OF_CLASSES or _names_classes(metric)
    width = outputs.shape[-1] if outputs.ndim > 1 else 1
    binary = bool(((targets == 0) | (targets == 1)).all())
    if targets.ndim > 1 and targets.shape[-1] > 1 and binary and outputs.shape[1:] == targets.shape[1:]:
        flat = targets.reshape(-1, targets.shape[-1])
        if targets.ndim == 2 and bool((flat.sum(1) == 1).all()):
            return Judge(kind="classes", classes=flat.shape[1], values=tuple(range(flat.shape[1])))
        if (
            targets.ndim == 2
            and targets.shape[1] <= _MOST_CLASSES
            and (of_classes or not targets.dtype.is_floating_point)
        ):
            return Judge(kind="several classes", classes=targets.shape[-1])
    whole = not targets.dtype.is_floating_point or bool((targets == targets.round()).all())
    values = torch.unique(targets.reshape(-1)) if whole else None
    single = targets.ndim == 1 or math.prod(targets.shape[1:]) == 1
    if values is not None and 1 < len(values) <= _MOST_CLASSES and (single or width > 1):
        few = len(values) <= max(2, min(100, len(targets) // 5))
        integers = not targets.dtype.is_floating_point
        in_width = width > 1 and integers and int(values[0]) >= 0 and int(values[-1]) < width
        if loss_name is None and not _names_classes(metric) and width != len(values):
            # class numbers may also say which examples belong together, as losses of distances take them
            in_width = False
        if of_classes or (binary and single) or (integers and few and loss_name is not None) or in_width:
            if not integers and loss_name not in _OF_CLASSES and not binary and not _names_classes(metric):
                pass
            elif in_width or (loss_name in ("cross_entropy", "nll_loss") and int(values[0]) >= 0):
                most = max(width, int(values[-1]) + 1)
                return Judge(kind="classes", classes=most, values=tuple(map(float, range(most))))
            else:
                found = tuple(float(v) for v in values)
                return Judge(kind="classes", classes=len(found), values=found)
    if outputs.numel() == 0 or outputs.dtype.is_complex:
        return Judge(kind="other")
    same = math.prod(outputs.shape[1:]) == math.prod(targets.shape[1:])
    numeric = direct and (loss_name in _OF_NUMBERS or (loss_name is None and targets.dtype.is_floating_point))
    if same and loss_name == "poisson_nll_loss":
        return Judge(kind="numbers", logarithms=logarithms)
    return Judge(kind="numbers" if same and numeric else "other")


# fmt: off
_OF_CLASSES = frozenset((
    "cross_entropy", "nll_loss", "binary_cross_entropy", "binary_cross_entropy_with_logits",
    "multi_margin_loss", "multilabel_margin_loss", "multilabel_soft_margin_loss", "soft_margin_loss",
))
_OF_NUMBERS = frozenset(("mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss"))
# fmt: on
_CLASS_METRICS = ("accuracy", "auc", "f1", "precision", "recall", "log-loss", "kappa")


def _names_classes(metric: Any) -> bool:
    name = metric if isinstance(metric, str) else str(getattr(metric, "__name__", type(metric).__name__))
    return metric is not None and any(each in name.lower() for each in _CLASS_METRICS)
