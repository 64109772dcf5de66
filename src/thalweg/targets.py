"""What losses and metrics ask of targets: class numbers, numbers, and what can be understood as such.

Data in batches show their targets one batch at a time, tensors all at once; what can't be meant is refused in
either case before anything is learnt from it.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from thalweg import activations
from thalweg.data.finite import not_finite
from thalweg.errors import DataError, OptionError
from thalweg.models import one_tensor
from thalweg.objectives import Loss, Metric, Task, as_loss
from thalweg.objectives import loss as loss_of
from thalweg.objectives.comparing import is_one_hot

__all__ = [
    "Suited",
    "check_pairing",
    "check_targets",
    "class_numbers",
    "ignored_by",
    "suited_loss",
    "suited_metric",
    "tasks_of",
]

_IGNORED = -100
# of the losses that compare scores with classes those that take no probabilities
_CLASSES_ALONE = ("nll_loss", "NLLLoss")


def class_numbers(targets: Tensor) -> Tensor | None:
    """Return targets as class numbers, int64 ``[N]``; ``None`` where they are something else.

    Class numbers may be of any integer type, boolean, or whole numbers among floats, ``[N]`` or ``[N, 1]``;
    or one-hot, ``[N, C]``.

    >>> class_numbers(torch.tensor([[0.0], [1.0]])), class_numbers(torch.tensor([[0, 1], [1, 0]]))
    (tensor([0, 1]), tensor([1, 0]))
    >>> class_numbers(torch.tensor([0.5, 1.0]))
    """
    if is_one_hot(targets):
        return targets.argmax(1)
    if targets.ndim == 2 and targets.shape[1] == 1:
        targets = targets[:, 0]
    if targets.ndim != 1 or targets.is_complex():
        return None
    if not _are_whole(targets):
        return None
    return targets.long()


def _are_whole(values: Tensor) -> bool:
    return not values.is_floating_point() or bool((values == values.round()).all())


def tasks_of(loss: Any, metric: Any, known: Sequence[Tensor | None]) -> tuple[Task, Task]:
    """Say what is predicted, as names of losses and of metrics have to know it.

    Args:
        loss, metric: as given to :func:`thalweg.fit`.
        known: the training targets and those of validation, where they are known all at once.

    Returns:
        The task of the loss, and that of the metric.
    """
    there = [targets for targets in known if targets is not None and len(targets)]
    family = activations.family(loss)
    judged = activations.kind_of_metric(metric)
    named = isinstance(loss, str)
    if family == "numbers":
        mine = _numbers(there)
    elif family is not None:
        mine = _classes(there, two=family == "two classes")
    else:
        mine = Task(kind="custom")
    if judged == "classification" and (family is None or (family == "numbers" and _all_one_hot(there))):
        other = _classes(there, two=False)
    elif judged == "regression" and family is None:
        other = _numbers(there)
    else:
        other = mine
    return (mine if named else Task(kind="custom")), other


def _all_one_hot(there: Sequence[Tensor]) -> bool:
    return bool(there) and all(is_one_hot(targets) for targets in there)


def _numbers(there: Sequence[Tensor]) -> Task:
    if not there or there[0].is_complex():
        return Task(kind="custom")
    targets = there[0]
    columns = targets[0].numel() if targets.ndim > 1 else 1
    spread = float(targets.double().std()) if targets.numel() > 1 else 1.0
    spread = spread if spread == spread and spread < float("inf") else 1.0
    if columns > 1:
        return Task(kind="custom", spread=spread, columns=columns if targets.ndim == 2 else 1)
    return Task(kind="regression", spread=spread)


def _classes(there: Sequence[Tensor], *, two: bool) -> Task:
    if two:
        several = any(targets.ndim > 1 and targets[0].numel() > 1 for targets in there)
        return Task(kind="custom") if several else Task(kind="classification", classes=("0", "1"))
    if not there:
        return Task(kind="custom")
    count = 0
    for targets in there:
        numbers = class_numbers(targets)
        if numbers is None:
            return Task(kind="custom")
        count = max(count, targets.shape[1] if is_one_hot(targets) else int(numbers.max()) + 1)
    return Task(kind="classification", classes=tuple(map(str, range(max(count, 1)))))


@dataclass
class Suited:
    """A loss that is given what it asks for: one tensor of outputs, and targets of the type it compares with.

    Args:
        function: the loss itself.
        spec: what was asked for, a name or the function.
        known: name of a split, to its targets, where they are known all at once.
    """

    function: Loss
    spec: Any
    known: dict[str, Tensor]
    family: activations.Family | None = field(init=False)
    name: str | None = field(init=False)
    checked: bool = field(init=False, default=False)

    def __post_init__(self) -> None:
        self.family, self.name = activations.family(self.spec), activations.torchs_name(self.spec)
        for split, targets in self.known.items():
            self._check(targets, None, split)

    @property
    def loss(self) -> Loss:
        """The loss, which brings what it is given into this form before it compares."""
        return replace(self.function, compare=self._compare)

    def _compare(self, outputs: Any, targets: Tensor) -> tuple[Any, Any]:
        if self.family is None:
            return self.function.compare(outputs, targets)
        outputs = one_tensor(outputs, f"the loss {self.name!r}")
        if not self.checked:
            for split, whole in self.known.items():
                self._check(whole, outputs, split)
        # on an accelerator looking at every batch would wait for it
        if not self.known and not (self.checked and targets.is_cuda):
            self._check(targets, outputs, "batch's")
        self.checked = True
        if targets.is_complex() and not outputs.is_complex():
            raise DataError(
                f"the targets are complex, but the model's outputs are {outputs.dtype}; give real numbers, "
                "or torch.view_as_real(targets) and as many outputs"
            )
        return self.function.compare(outputs, self._suited(outputs, targets))

    def _suited(self, outputs: Tensor, targets: Tensor) -> Tensor:
        if self.family == "classes":
            # of the outputs' shape they are probabilities, which cross-entropy takes
            fractions = targets.is_floating_point() and self.name not in _CLASSES_ALONE
            if fractions and targets.shape == outputs.shape:
                return targets
            if targets.shape == outputs.shape and targets.ndim == 2 and outputs.shape[1] > 1:
                return targets.long().argmax(1)
            if targets.ndim == outputs.ndim > 1 and targets.shape[1] == 1:
                targets = targets.squeeze(1)
            return targets.long()
        if self.name == "bce":
            targets = targets.squeeze(1) if targets.ndim == 2 and targets.shape[1] == 1 else targets
            return targets.long()
        if targets.is_complex():
            return targets
        if targets.is_floating_point() and (targets.dtype, outputs.dtype) != (torch.float64, torch.float32):
            return targets
        return targets.to(outputs.dtype if outputs.dtype == torch.float64 else torch.float32)

    def _check(self, targets: Tensor, outputs: Tensor | None, split: str) -> None:
        """Refuse values that the loss can't mean."""
        whose = f"the {split} targets"
        if self.family == "numbers" or self.family is None or not targets.numel() or targets.is_complex():
            return
        if (bad := not_finite([((), targets)], split)) is not None:
            raise DataError(f"{bad}; leave such rows out, or fill them in")
        takes = f"the loss {self.name!r} takes"
        if self.family == "two classes":
            low, high = float(targets.min()), float(targets.max())
            if low >= 0 and high <= 1 and (self.name != "bce" or _are_whole(targets)):
                return
            _refuse(targets, low, high, whose, f"{takes} 0 and 1", 2)
            return
        wide = None if outputs is None or outputs.ndim < 2 else outputs.shape[1]
        if targets.is_floating_point():
            if targets.ndim == 2 and targets.shape[1] > 1:
                if self.name in _CLASSES_ALONE and not is_one_hot(targets):
                    raise DataError(
                        f"{whose} are probabilities, but {takes} class numbers or one-hot rows; take the "
                        "loss 'cross-entropy', on outputs without log-softmax"
                    )
                return
            if not _are_whole(targets):
                odd = targets[targets != targets.round()].flatten()[0]
                raise DataError(
                    f"{whose} hold {odd:g}, but {takes} class numbers, from 0 on; give whole numbers, or "
                    "take the loss 'mse' for numbers"
                )
        elif wide is not None and wide > 1 and targets.ndim == 2 and targets.shape[1] == wide:
            if not is_one_hot(targets):
                raise DataError(
                    f"{whose} have the outputs' shape {list(targets.shape)} but aren't one-hot; {takes} a "
                    "class number for each example, or one-hot rows"
                )
            return
        counted = targets[targets != self._ignored] if self._ignored is not None else targets
        if not counted.numel():
            return
        low, high = float(counted.min()), float(counted.max())
        if low < 0 or (wide is not None and high >= wide):
            reach = "class numbers from 0 on" if wide is None else f"class numbers from 0 to {wide - 1}"
            also = "" if wide is None else f", for the model's {wide} outputs"
            _refuse(counted, low, high, whose, f"{takes} {reach}{also}", wide)

    @property
    def _ignored(self) -> int | None:
        return ignored_by(self.spec)


def suited_loss(loss: Any, known: Mapping[str, Tensor | None], metric: Any = None) -> Loss:
    """Return a loss that is given what it asks for, from a name or a function.

    Args:
        loss: as given to :func:`thalweg.fit`.
        known: name of a split, to its targets, where they are known all at once.
        metric: as given, which may tell what is predicted.

    Raises:
        UserError: there is no such loss, or targets that it can't mean.

    >>> suited_loss("mse", {})(torch.ones(3, 1), torch.zeros(3))
    tensor(1.)
    """
    task, _ = tasks_of(loss, metric, list(known.values()))
    if loss == "bce":
        # of several columns too, each a yes or no of its own
        task = Task(kind="classification", classes=("0", "1"))
    function = loss_of(loss, task) if isinstance(loss, str) else as_loss(loss)
    return Suited(
        function, loss, {name: targets for name, targets in known.items() if targets is not None}
    ).loss


def ignored_by(loss: Any) -> int:
    """Return the class number that a loss leaves out.

    >>> ignored_by(torch.nn.CrossEntropyLoss(ignore_index=3)), ignored_by("cross-entropy")
    (3, -100)
    """
    while isinstance(loss, functools.partial):
        if "ignore_index" in loss.keywords:
            return int(loss.keywords["ignore_index"])
        loss = loss.func
    return int(getattr(loss, "ignore_index", _IGNORED))


def _refuse(targets: Tensor, low: float, high: float, whose: str, rule: str, classes: int | None) -> None:
    """Say which values there are, and what they seem to be."""
    found = torch.unique(targets)
    if len(found) == 2 and (low, high) == (-1.0, 1.0):
        remedy = "give (targets > 0).long()"
    elif low == 1 and (classes is None or high == classes):
        remedy = "subtract 1"
    elif low >= 0 and classes is not None:
        remedy = f"let the model give {int(high) + 1} outputs"
        if "0 and 1" in rule:
            remedy = "take the loss 'cross-entropy' for more classes"
    else:
        remedy = "number the classes from 0 on"
    if "0 and 1" in rule and low >= 0 and high <= 1:
        remedy = "take torch.nn.BCEWithLogitsLoss() for probabilities"
    values = f"{low:g} and {high:g}" if len(found) == 2 else f"values from {low:g} to {high:g}"
    if len(found) == 1:
        values = f"{low:g} alone"
    raise DataError(f"{whose} are {values}, but {rule}; {remedy}")


def suited_metric(metric: Metric, task: Task, *, ignored: int = _IGNORED) -> Metric:
    """Return a metric by name whose targets may be class numbers in any form of :func:`class_numbers`.

    Examples whose target is ``ignored`` don't count, as they don't for the loss.
    """
    if not metric.per_example or task.kind != "classification":
        return metric

    def classes(targets: Tensor) -> Tensor:
        numbers = class_numbers(targets)
        if numbers is None:
            raise DataError(
                f"targets of shape {list(targets.shape)} and type {targets.dtype} are no class numbers, "
                f"which the metric {metric.name!r} needs; give a function of both as the metric"
            )
        if bool(((numbers < 0) & (numbers != ignored)).any()):
            raise DataError(
                f"there is a class number {int(numbers[numbers != ignored].min())}, but the metric "
                f"{metric.name!r} takes class numbers from 0 on; number the classes so, or give a function "
                "of outputs and targets as the metric"
            )
        return numbers

    reduce, score = metric._reduce, metric._score

    def reduced(outputs: Tensor, targets: Tensor) -> Tensor:
        numbers = classes(targets)
        # what doesn't count may be anything
        return reduce(outputs, torch.where(numbers == ignored, 0, numbers) if len(numbers) else numbers)

    def scored(found: Tensor, targets: Tensor, weights: Tensor, lanes: bool | None) -> Tensor:
        numbers = classes(targets)
        counts = numbers != ignored
        if bool(counts.all()):
            return score(found, numbers, weights, lanes)
        return score(found[..., counts], numbers[counts], weights.expand(found.shape)[..., counts], lanes)

    return replace(metric, _reduce=reduced, _score=scored)


def check_targets(loss: Any, known: Mapping[str, Tensor | None]) -> None:
    """Refuse targets that a loss can't mean, whatever the model's outputs are.

    Args:
        loss: a name or a function.
        known: name of a split, to its targets, where they are known all at once.

    Raises:
        DataError: what they are, and what the loss takes.

    >>> check_targets("cross-entropy", {"training": torch.tensor([0, -7])})
    Traceback (most recent call last):
    thalweg.errors.DataError: the training targets are -7 and 0, but the loss 'cross-entropy' takes class \
numbers from 0 on; number the classes from 0 on
    """
    # the function itself is never called: only values are looked at
    unused = as_loss(lambda outputs, targets: targets)
    Suited(unused, loss, {split: targets for split, targets in known.items() if targets is not None})


def check_pairing(loss: Any, metric: Any) -> None:
    """Refuse a metric by name that would read a loss's outputs otherwise than the loss does.

    Raises:
        OptionError: torch's binary cross-entropy of probabilities, with a metric of logits.
    """
    probabilities = activations.family(loss) == "two classes" and activations.activation(loss) == "identity"
    if probabilities and metric in ("accuracy", "balanced-accuracy", "log-loss"):
        raise OptionError(
            f"the loss {activations.torchs_name(loss)!r} takes probabilities as outputs, but the metric "
            f"{metric!r} takes logits; leave the model's sigmoid out and take the loss 'bce', or give a "
            "function as the metric"
        )
