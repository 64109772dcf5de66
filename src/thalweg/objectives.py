"""Losses and metrics by name: what training lowers, and what people judge by.

A loss is the mean over examples of what torch computes, in the units of the prepared targets. A metric works
in two halves, so that it can be had for many lanes and many resamples of the examples at once: ``reduce``
turns each example's outputs into the one number that the metric needs, and ``score`` turns these numbers
into the metric, in float64 and in the target's own units, with a weight for each example.

Source: E1 (empirical risk, mean over examples).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from thalweg.errors import OptionError, nearest, option
from thalweg.plugins import load_object

__all__ = ["Loss", "Metric", "Task", "default_loss", "default_metric", "loss", "metric", "names"]

Kind = Literal["classification", "regression", "custom"]


@dataclass(frozen=True, kw_only=True)
class Task:
    """What is to be predicted.

    Attributes:
        kind: ``custom`` where targets are neither one class nor one number an example.
        classes: names of the classes, in the order of the outputs.
        target: name of the column, where there is one.
        spread: standard deviation of a regression target over all rows, in its own units.
        columns: numbers to be predicted of an example; with several, regression's metrics are over all.
        center, scale: a regression target is ``center + scale * prepared``; of one split's training part,
            and 0 and 1 before there is a split and where the targets are taken as they are.
    """

    kind: Kind
    classes: tuple[str, ...] = ()
    target: str | None = None
    spread: float = 1.0
    center: float = 0.0
    scale: float = 1.0
    columns: int = 1


@dataclass(frozen=True)
class Loss:
    """A loss: ``loss(outputs [B, C], targets [B])`` is the mean over the batch.

    Attributes:
        name: as given.
        function: outputs and targets to a scalar tensor.
        per_example: ``(outputs [..., B, C], targets [..., B]) -> [..., B]``, whose mean over the last
            dimension is the loss of each lane; ``None`` for a person's own function. Targets without
            the leading dimensions are shared by all lanes.
    """

    name: str
    function: Callable[[Tensor, Tensor], Tensor]
    per_example: Callable[[Tensor, Tensor], Tensor] | None = None

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the mean loss of a batch, as a scalar tensor."""
        return self.function(outputs, targets)


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A metric in two halves.

    Attributes:
        name: as given.
        higher_is_better: which way is better.
        best, worst: what it can't exceed by definition; infinite where it has no bound.
        default_margin: difference below which two optimizers count as equal, unless said otherwise.
        per_example: whether ``reduce`` gives one number an example; a person's own function needs all
            outputs, so that ``reduce`` hands them on, ``[..., N, C]``.
    """

    name: str
    higher_is_better: bool
    best: float
    worst: float
    default_margin: float
    per_example: bool = True
    _reduce: Callable[[Tensor, Tensor], Tensor] = field(repr=False)
    _score: Callable[[Tensor, Tensor, Tensor], Tensor] = field(repr=False)

    def reduce(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the number an example needs.

        Args:
            outputs: ``[..., N, C]``.
            targets: ``[N]``.

        Returns:
            ``[..., N]``; NaN for an example with NaN among its outputs. For regression these are predictions
            in the target's own units, in float64, so that they can be compared between splits.
        """
        return self._reduce(outputs, targets)

    def score(self, reduced: Tensor, targets: Tensor, weights: Tensor | None = None) -> Tensor:
        """Return the metric.

        Args:
            reduced: ``[..., N]``, from :meth:`reduce`.
            targets: ``[N]``.
            weights: ``[..., N]``, not negative, broadcast against ``reduced``: how often each example
                counts (default: once). Counts of a resample give the metric of the resample.

        Returns:
            float64 tensor ``[...]``. NaN where an example is NaN, and where the metric is not defined: the
            area under the curve of one class alone, R2 of equal targets.
        """
        if weights is None:
            weights = torch.ones(targets.shape[0], dtype=torch.float64, device=reduced.device)
        return self._score(reduced, targets, weights.to(torch.float64))


# Losses ------------------------------------------------------------------------------------------------


def _per_class(outputs: Tensor, targets: Tensor) -> Tensor:
    targets = targets.expand(outputs.shape[:-1])
    each = F.cross_entropy(outputs.reshape(-1, outputs.shape[-1]), targets.reshape(-1), reduction="none")
    return each.reshape(targets.shape)


def _cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(outputs, targets)


def _logit(outputs: Tensor) -> Tensor:
    """One logit for two classes: the only output, or how much the second exceeds the first."""
    return outputs[..., 0] if outputs.shape[-1] == 1 else outputs[..., 1] - outputs[..., 0]


def _binary(outputs: Tensor, targets: Tensor) -> Tensor:
    logit = _logit(outputs)
    goal = targets.to(logit.dtype).expand(logit.shape)
    return F.binary_cross_entropy_with_logits(logit, goal, reduction="none")


_Pointwise = Callable[..., Tensor]


def _pointwise(function: _Pointwise, outputs: Tensor, targets: Tensor) -> Tensor:
    predicted = outputs[..., 0]
    return function(predicted, targets.expand(predicted.shape), reduction="none")


def _pointwise_mean(function: _Pointwise, outputs: Tensor, targets: Tensor) -> Tensor:
    # Targets of several numbers an example (a custom task) are met output by output.
    return function(outputs if outputs.ndim == targets.ndim else outputs[..., 0], targets)


def _pair(function: _Pointwise) -> tuple[Callable[[Tensor, Tensor], Tensor], ...]:
    return (
        lambda outputs, targets: _pointwise_mean(function, outputs, targets),
        lambda outputs, targets: _pointwise(function, outputs, targets),
    )


_LOSSES: dict[str, tuple[frozenset[Kind], tuple[Callable[[Tensor, Tensor], Tensor], ...]]] = {
    "cross-entropy": (frozenset({"classification", "custom"}), (_cross_entropy, _per_class)),
    "bce": (
        frozenset({"classification"}),
        (lambda outputs, targets: _binary(outputs, targets).mean(), _binary),
    ),
    "mse": (frozenset({"regression", "custom"}), _pair(F.mse_loss)),
    "mae": (frozenset({"regression", "custom"}), _pair(F.l1_loss)),
    "huber": (frozenset({"regression", "custom"}), _pair(F.huber_loss)),
}


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

    >>> loss("mse", Task(kind="regression"))(torch.tensor([[1.0], [3.0]]), torch.tensor([1.0, 1.0]))
    tensor(2.)
    """
    if isinstance(spec, Loss):
        return spec
    if spec is None:
        spec = default_loss(task)
    if not isinstance(spec, str):
        spec = _remember(_callable(spec, "loss"))
    if spec not in _LOSSES:
        if ":" in spec:
            return Loss(spec, _find(spec, "loss"))
        raise OptionError(
            f"there is no loss {spec!r}; {nearest(spec, _LOSSES)} (your own: 'file.py:function')"
        )
    kinds, functions = _LOSSES[spec]
    if task.kind not in kinds:
        raise OptionError(
            f"the loss {spec!r} doesn't fit {task.kind}; choose {_or(names('loss', task))}, "
            "or 'file.py:function'"
        )
    if spec == "bce" and len(task.classes) != 2:
        raise OptionError(f"the loss 'bce' is for two classes, not {len(task.classes)}; use 'cross-entropy'")
    if task.kind == "custom":
        return Loss(spec, functions[0])
    return Loss(spec, *functions)


# Metrics -----------------------------------------------------------------------------------------------


def _average(values: Tensor, weights: Tensor) -> Tensor:
    """Weighted mean over the last dimension."""
    total = (values.to(torch.float64) * weights).sum(-1)
    return total / weights.sum(-1)


def _is_right(outputs: Tensor, targets: Tensor) -> Tensor:
    if outputs.shape[-1] == 1:
        top, predicted = outputs[..., 0], (outputs[..., 0] > 0).long()
    else:
        top, predicted = outputs.max(-1)
    return torch.where(top.isnan(), top, (predicted == targets).to(outputs.dtype))


def _surprise(outputs: Tensor, targets: Tensor) -> Tensor:
    return _binary(outputs, targets) if outputs.shape[-1] == 1 else _per_class(outputs, targets)


def _balanced(classes: int) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    def score(reduced: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
        most = max(classes, int(targets.max()) + 1)  # validation may hold a class that training doesn't
        belongs = F.one_hot(targets, most).to(torch.float64)
        there = weights @ belongs
        recall = ((reduced.to(torch.float64) * weights) @ belongs) / there
        present = (there > 0).expand(recall.shape)
        return recall.where(present, torch.zeros_like(recall)).sum(-1) / present.sum(-1)

    return score


def _area(reduced: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    """Weight of the pairs (one of each class) that are in order, ties by half, as part of all pairs."""
    ordered, places = reduced.contiguous().sort(dim=-1)
    below = torch.searchsorted(ordered, ordered)
    upto = torch.searchsorted(ordered, ordered, right=True)
    shape = np.broadcast_shapes(reduced.shape, weights.shape)
    places, below, upto = (part.expand(shape) for part in (places, below, upto))
    positive = (weights * targets).expand(shape).gather(-1, places)
    negative = (weights * (1 - targets)).expand(shape).gather(-1, places)
    passed = F.pad(negative.cumsum(-1), (1, 0))
    won = (positive * (passed.gather(-1, below) + passed.gather(-1, upto)) / 2).sum(-1)
    area = won / (positive.sum(-1) * negative.sum(-1))
    return area.masked_fill(reduced.isnan().any(-1), math.nan)


def _explained(reduced: Tensor, goal: Tensor, weights: Tensor) -> Tensor:
    middle = _average(goal, weights).unsqueeze(-1)
    return 1 - _average((reduced - goal).square(), weights) / _average((goal - middle).square(), weights)


def _make(name: str, task: Task) -> Metric:
    # In float64 and the target's own units, so that predictions of different splits compare.
    def own(prepared: Tensor) -> Tensor:
        return task.center + task.scale * prepared.to(torch.float64)

    def predicted(outputs: Tensor, targets: Tensor) -> Tensor:
        return own(outputs if task.columns > 1 else outputs[..., 0])

    def over(errors: Tensor) -> Tensor:
        return errors.mean(-1) if task.columns > 1 else errors

    def mean(reduced: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
        return _average(reduced, weights)

    def root(reduced: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
        return _average(over((reduced - own(targets)).square()), weights).sqrt()

    def distance(reduced: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
        return _average(over((reduced - own(targets)).abs()), weights)

    def explained(reduced: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
        if task.columns > 1:
            columns = zip(reduced.unbind(-1), own(targets).unbind(-1), strict=True)
            return torch.stack([_explained(*column, weights) for column in columns]).mean(0)
        return _explained(reduced, own(targets), weights)

    def logit(outputs: Tensor, targets: Tensor) -> Tensor:
        return _logit(outputs)

    made: dict[str, tuple[bool, float, float, float, Any, Any]] = {
        "accuracy": (True, 1.0, 0.0, 0.01, _is_right, mean),
        "balanced-accuracy": (True, 1.0, 0.0, 0.01, _is_right, _balanced(len(task.classes))),
        "log-loss": (False, 0.0, math.inf, 0.02, _surprise, mean),
        "auc": (True, 1.0, 0.0, 0.01, logit, _area),
        "rmse": (False, 0.0, math.inf, 0.02 * task.spread, predicted, root),
        "r2": (True, 1.0, -math.inf, 0.02, predicted, explained),
        "mae": (False, 0.0, math.inf, 0.02 * task.spread, predicted, distance),
    }
    higher, best, worst, margin, reduce, score = made[name]
    return Metric(
        name=name,
        higher_is_better=higher,
        best=best,
        worst=worst,
        default_margin=margin,
        _reduce=reduce,
        _score=score,
    )


def _own_metric(name: str, function: Callable[[Tensor, Tensor], Any], task: Task) -> Metric:
    higher = bool(getattr(function, "higher_is_better", True))
    best, worst = (math.inf, -math.inf) if higher else (-math.inf, math.inf)

    def reduce(outputs: Tensor, targets: Tensor) -> Tensor:
        return outputs

    def score(reduced: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
        outputs, goal = reduced, targets
        if task.kind == "regression":
            outputs, goal = task.center + task.scale * outputs, task.center + task.scale * goal
        lead = np.broadcast_shapes(outputs.shape[:-2], weights.shape[:-1])
        flat = outputs.expand(*lead, *outputs.shape[-2:]).reshape(-1, *outputs.shape[-2:])
        counts = weights.expand(*lead, weights.shape[-1]).reshape(len(flat), -1).long()
        found = []
        for one, count in zip(flat, counts, strict=True):
            if bool((count != 1).any()):
                chosen = torch.repeat_interleave(torch.arange(len(count), device=count.device), count)
                found.append(_number(function(one[chosen], goal[chosen]), name))
            else:
                found.append(_number(function(one, goal), name))
        return torch.tensor(found, dtype=torch.float64).reshape(lead)

    return Metric(
        name=name,
        higher_is_better=higher,
        best=float(getattr(function, "best", best)),
        worst=float(getattr(function, "worst", worst)),
        default_margin=float(getattr(function, "margin", 0.0)),
        per_example=False,
        _reduce=reduce,
        _score=score,
    )


def metric(spec: str | Callable[[Tensor, Tensor], Any] | Metric | None, task: Task) -> Metric:
    """Find a metric.

    Classification: ``accuracy``, ``balanced-accuracy`` (mean recall of the classes that occur),
    ``log-loss`` (mean negative log-likelihood, natural), ``auc`` (area under the curve, two classes).
    Regression, in the target's own units: ``rmse``, ``r2``, ``mae``. Default margins: 0.01; 0.02 for
    log-loss and R2; 0.02 of the target's standard deviation for the other two.

    Args:
        spec: a name, ``file.py:function`` or ``package.module:function`` (``f(outputs [N, C],
            targets [N])`` to a number, in the target's own units; higher is better unless the function
            has an attribute ``higher_is_better = False``; attributes ``best``, ``worst`` and ``margin``
            are heeded), such a function, or ``None`` for the task's own: ``accuracy`` or ``rmse``.
        task: what is to be predicted; of a split (``Prepared.task``), where a regression target was
            standardised by it.

    Raises:
        OptionError: an unknown name, a metric that doesn't fit the task, a custom task without one.

    >>> accuracy = metric("accuracy", Task(kind="classification", classes=("no", "yes")))
    >>> outputs, targets = torch.tensor([[2.0, 1.0], [0.0, 1.0], [3.0, 1.0]]), torch.tensor([0, 1, 1])
    >>> right = accuracy.reduce(outputs, targets)
    >>> right.tolist(), accuracy.score(right, targets, weights=torch.tensor([1, 1, 2])).item()
    ([1.0, 1.0, 0.0], 0.5)
    """
    if isinstance(spec, Metric):
        return spec
    if spec is None:
        spec = default_metric(task)
    if not isinstance(spec, str):
        spec = _remember(_callable(spec, "metric"))
    if spec not in _METRICS:
        if ":" in spec:
            return _own_metric(spec, _find(spec, "metric"), task)
        raise OptionError(
            f"there is no metric {spec!r}; {nearest(spec, _METRICS)} (your own: 'file.py:function')"
        )
    if _METRICS[spec] != task.kind and not (_METRICS[spec] == "regression" and task.columns > 1):
        fitting = names("metric", task)
        choose = f"choose {_or(fitting)}, or 'file.py:function'" if fitting else "write 'file.py:function'"
        raise OptionError(
            f"the metric {spec!r} is for {_METRICS[spec]}, not for a {task.kind} task; {choose}"
        )
    if spec == "auc" and len(task.classes) != 2:
        raise OptionError(f"the metric 'auc' is for two classes, not {len(task.classes)}; use 'log-loss'")
    return _make(spec, task)


_METRICS: dict[str, Kind] = {
    "accuracy": "classification",
    "balanced-accuracy": "classification",
    "log-loss": "classification",
    "auc": "classification",
    "rmse": "regression",
    "r2": "regression",
    "mae": "regression",
}


def names(what: Literal["loss", "metric"], task: Task | None = None) -> tuple[str, ...]:
    """Return the names of the losses or metrics that fit ``task``, or of all.

    >>> names("metric", Task(kind="regression"))
    ('rmse', 'r2', 'mae')
    """
    fitting: list[str] = []
    if what == "loss":
        fitting = [name for name, (kinds, _) in _LOSSES.items() if task is None or task.kind in kinds]
    else:
        fitting = [name for name, kind in _METRICS.items() if task is None or task.kind == kind]
    if task is not None and len(task.classes) != 2:
        fitting = [name for name in fitting if name not in ("bce", "auc")]
    return tuple(fitting)


def default_loss(task: Task) -> str:
    """Return the loss that a task has unless told: ``cross-entropy`` or ``mse``.

    Raises:
        OptionError: the task is custom.
    """
    if task.kind == "custom":
        raise OptionError(
            f"this data doesn't settle the loss; give one, as {option('loss', 'file.py:function')}"
        )
    return "cross-entropy" if task.kind == "classification" else "mse"


def default_metric(task: Task) -> str:
    """Return the metric that a task has unless told: ``accuracy`` or ``rmse``.

    Raises:
        OptionError: the task is custom.
    """
    if task.kind == "custom":
        raise OptionError(
            f"this data doesn't settle the metric; give one, as {option('metric', 'file.py:function')}"
        )
    return "accuracy" if task.kind == "classification" else "rmse"


# What runs are described by has to be text, so functions given as Python objects are kept under a name.
_GIVEN: dict[str, Callable[..., Any]] = {}


def _remember(function: Callable[..., Any]) -> str:
    name = f"python:{getattr(function, '__name__', type(function).__name__)}"
    spec, count = name, 1
    while _GIVEN.setdefault(spec, function) is not function:
        count += 1
        spec = f"{name}-{count}"
    return spec


def _find(spec: str, what: str) -> Callable[..., Any]:
    return _GIVEN[spec] if spec in _GIVEN else _callable(load_object(spec, what, OptionError), what)


def _callable(found: object, what: str) -> Callable[..., Any]:
    if isinstance(found, type) and issubclass(found, nn.Module):
        found = found()
    if not callable(found):
        raise OptionError(f"the {what} {found!r} isn't a function of (outputs, targets)")
    return found


def _number(value: Any, name: str) -> float:
    try:
        return float(value)
    except (TypeError, ValueError, RuntimeError) as problem:
        raise OptionError(f"the metric {name!r} gave {type(value).__name__}, not a number") from problem


def _or(choices: tuple[str, ...]) -> str:
    return " or ".join(repr(choice) for choice in choices)
