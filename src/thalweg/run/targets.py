"""What losses and metrics ask of targets: class numbers, numbers, and what can be understood as such.

Data in batches show their targets one batch at a time, tensors all at once; what can't be meant is refused in
either case before anything is learnt from it.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from thalweg.data.finite import not_finite
from thalweg.errors import DataError, OptionError
from thalweg.layers.interface import part_of
from thalweg.objectives import Loss, Metric, Task, activations, as_loss, default
from thalweg.objectives import loss as loss_named
from thalweg.objectives import metric as metric_named
from thalweg.objectives.comparing import is_one_hot

if TYPE_CHECKING:
    from thalweg.data.source import Prepared

__all__ = [
    "Suited",
    "check_pairing",
    "check_targets",
    "class_numbers",
    "ignored_by",
    "loss_of",
    "objective_of",
    "suited_loss",
    "suited_metric",
    "tasks_of",
]

_IGNORED = -100
_SPLITS = ("training", "validation", "test")
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
        other = _by_position(there) or _classes(there, two=False)
    elif judged == "classification" and family == "classes":
        other = _by_position(there) or mine
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


def _by_position(there: Sequence[Tensor]) -> Task | None:
    """The task where each example has a class at each of several positions, such as tokens or pixels."""
    count = 0
    for targets in there:
        several = targets.ndim > 1 and targets[0].numel() > 1 and not targets.is_complex()
        if not several or is_one_hot(targets) or not _are_whole(targets):
            return None
        count = max(count, int(targets.max()) + 1)
    if count < 1:
        return None
    return Task(kind="classification", classes=tuple(map(str, range(count))), by_position=True)


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

    def _compare(self, outputs: Any, targets: Any) -> tuple[Any, Any]:
        if self.family is None or not isinstance(targets, Tensor):
            # which refuses several targets
            return self.function.compare(outputs, targets)
        if not isinstance(outputs, Tensor):
            outputs = part_of(outputs, None, f"the loss {self.name!r}")
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
    function = loss_named(loss, task) if isinstance(loss, str) else as_loss(loss)
    return Suited(
        function, loss, {name: targets for name, targets in known.items() if targets is not None}
    ).loss


def ignored_by(loss: Any) -> int:
    """Return the class number that a loss leaves out.

    >>> ignored_by(torch.nn.CrossEntropyLoss(ignore_index=3)), ignored_by("cross-entropy")
    (3, -100)
    """
    if isinstance(loss, Loss):
        loss = loss.function
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

    Examples whose target is ``ignored`` don't count, as they don't for the loss. Where an example has a class
    at each of several positions, outputs are ``[N, C, ...]`` and targets ``[N, ...]``, and every position
    that isn't ignored counts once.
    """
    if not metric.per_example or task.kind != "classification":
        return metric

    def classes(targets: Tensor) -> Tensor:
        numbers = targets.long() if task.by_position else class_numbers(targets)
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
        numbers = torch.where(numbers == ignored, 0, numbers) if len(numbers) else numbers
        if not task.by_position:
            return reduce(outputs, numbers)
        rows = _scores_of_positions(outputs, numbers, metric.name).flatten(0, -2)
        return reduce(rows, numbers.flatten()).view(numbers.shape)

    def scored(found: Tensor, targets: Tensor, weights: Tensor, lanes: bool | None) -> Tensor:
        numbers = classes(targets)
        if (axes := numbers.ndim - 1) > 0:
            # a position counts as often as its example
            weights = weights[(..., *[None] * axes)].expand(*weights.shape, *numbers.shape[1:])
            weights, found = weights.flatten(-1 - axes), found.flatten(-1 - axes)
            numbers = numbers.flatten()
        counts = numbers != ignored
        if bool(counts.all()):
            return score(found, numbers, weights, lanes)
        return score(found[..., counts], numbers[counts], weights[..., counts], lanes)

    made = functools.partial(suited_metric, ignored=ignored), (metric, task)
    return replace(metric, _reduce=reduced, _score=scored, _made=made)


def _scores_of_positions(outputs: Tensor, numbers: Tensor, name: str) -> Tensor:
    """Scores ``[N, ..., C]`` of classes at each position, from torch's ``[N, C, ...]``, or already so."""
    one, other = tuple(outputs.shape), tuple(numbers.shape)
    if len(one) == len(other) + 1 and (*one[:1], *one[2:]) == other:
        return outputs.movedim(1, -1)
    if one[:-1] == other:
        return outputs
    raise OptionError(
        f"the metric {name!r} can't compare outputs of shape {one} with classes of shape {other}: it needs "
        f"outputs of shape {(*other[:1], 'classes', *other[1:])}, or a function of both as the metric"
    )


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


def objective_of(
    loss: Any, metric: Any, prepared: Prepared, splits: Sequence[str] = _SPLITS
) -> tuple[Loss, Metric]:
    """Return the loss and the metric of prepared data.

    Of targets in a form of their own (several columns, a class at each position, classes of which some don't
    count) they are what :func:`thalweg.fit` makes of the same names and functions.

    Args:
        loss, metric: names, functions, or what this has returned; ``None`` for the task's own.
        prepared: the data.
        splits: whose targets the loss is of.

    Raises:
        UserError: they don't fit the data, in one sentence.

    >>> from thalweg import data
    >>> y = torch.randn(60, 2)
    >>> prepared = data.prepare(data.load((torch.randn(60, 3), y)), seed=0, replicate=0)
    >>> squared, rmse = objective_of("mse", "rmse", prepared)
    >>> targets = prepared.test.targets
    >>> round(rmse.score(rmse.reduce(targets + 2, targets), targets).item(), 6)
    2.0
    """
    task = prepared.task
    if isinstance(loss, Loss) and isinstance(metric, Metric):
        return loss, metric
    loss = default("loss", task) if loss is None else loss
    check_pairing(loss, metric)
    if task.kind != "custom" and not task.by_position:
        return loss_of(loss, prepared, splits), metric_named(metric, task)
    known = _known(prepared, metric)
    made = _custom(loss, prepared, {name: known[name] for name in splits if name in known})
    if isinstance(metric, Metric):
        return made, metric
    _, judged = tasks_of(made, metric, list(known.values()))
    return made, suited_metric(metric_named(metric, judged), judged, ignored=ignored_by(made))


def loss_of(loss: Any, prepared: Prepared, splits: Sequence[str] = _SPLITS) -> Loss:
    """Return the loss of prepared data alone, as :func:`objective_of` does; it raises the same."""
    task, known = prepared.task, _known(prepared, None, splits)
    loss = default("loss", task) if loss is None else loss
    if task.kind == "custom" or task.by_position:
        return _custom(loss, prepared, known)
    made = loss_named(loss, task)
    if activations.torchs_name(made) in (None, made.name):
        return made
    # a function of torch's has types of its own that targets have to have
    return Suited(made, made, known).loss


def _custom(loss: Any, prepared: Prepared, known: dict[str, Tensor]) -> Loss:
    """The loss of targets in a form of their own."""
    two = Task(kind="classification", classes=("0", "1"))
    made = loss_named(loss, two if loss == "bce" else prepared.task)
    if isinstance(loss, Loss):
        return made
    return replace(Suited(made, made, known).loss, per_example=None)


def _known(prepared: Prepared, metric: Any, wanted: Sequence[str] = _SPLITS) -> dict[str, Tensor]:
    """The targets of each split that are known all at once; for a metric by name those of validation are."""
    parts = dict(zip(_SPLITS, (prepared.train, prepared.validation, prepared.test), strict=True))
    known = {name: targets for name in wanted if (targets := parts[name].targets) is not None}
    if not known and activations.kind_of_metric(metric) is not None:
        every = torch.split(torch.arange(len(prepared.validation)), 256)
        known["validation"] = torch.cat([prepared.validation.batch(some)[1] for some in every])
    return known
