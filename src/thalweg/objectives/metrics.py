"""Metrics by name and anybody's own: what models are evaluated by.

A metric works in two halves, so that it can be had for many lanes and many resamples of the examples at once:
``reduce`` turns each example's outputs into the one number that the metric needs, and ``score`` turns these
numbers into the metric, in float64 and in the target's own units, with a weight for each example.
"""

from __future__ import annotations

import copyreg
import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from thalweg.errors import OptionError, nearest
from thalweg.objectives.comparing import Forms, as_columns, for_numbers
from thalweg.objectives.given import KINDS, Kind, Task, default, found, names, one_of, remembered, usable
from thalweg.objectives.losses import Loss, binary, logit_of, per_class
from thalweg.objectives.nests import count_of, described

__all__ = ["Metric", "kind_of", "metric", "to_hand_on"]

# where a person's own metric may compute squares in float32
_FLOAT32_LEAST, _FLOAT32_MOST = 1e-15, 1e15


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
        function: a person's own, of outputs and targets.
    """

    name: str
    higher_is_better: bool
    best: float
    worst: float
    default_margin: float
    per_example: bool = True
    function: Callable[[Any, Any], Any] | None = field(default=None, repr=False)
    _reduce: Callable[[Tensor, Tensor], Tensor] = field(repr=False)
    _score: Callable[[Tensor, Tensor, Tensor, bool | None], Tensor] = field(repr=False)
    # a function and its arguments, which make this metric anew
    _made: tuple[Callable[..., Metric], tuple[Any, ...]] | None = field(
        default=None, repr=False, compare=False
    )

    def __reduce__(self) -> tuple[Any, ...]:
        """Travel as what makes it anew: the halves of a metric by name are no functions by name."""
        if self._made is not None:
            return self._made
        return copyreg.__newobj__, (type(self),), vars(self)  # type: ignore[attr-defined]

    def reduce(self, outputs: Any, targets: Any) -> Any:
        """Return the number an example needs.

        Args:
            outputs: ``[..., N, C]``; one number an example may be ``[N]``.
            targets: ``[N]`` or ``[N, 1]``.

        Returns:
            ``[..., N]``; NaN for an example with NaN among its outputs. For regression these are predictions
            in the target's own units, in float64, so that they can be compared between splits.
        """
        if self.per_example and not isinstance(targets, Tensor):
            raise OptionError(
                f"the targets are {described(targets)}, but the metric {self.name!r} compares with one "
                "tensor; give a function of outputs and targets of your own"
            )
        return self._reduce(outputs, targets)

    def score(
        self, reduced: Any, targets: Any, weights: Tensor | None = None, *, lanes: bool | None = None
    ) -> Tensor:
        """Return the metric.

        Args:
            reduced: ``[..., N]``, from :meth:`reduce`.
            targets: ``[N]`` or ``[N, 1]``.
            weights: ``[..., N]``, not negative, broadcast against ``reduced``: how often each example
                counts (default: once). Counts of a resample give the metric of the resample.
            lanes: for a person's own metric, whether all outputs have an axis of lanes in front; by default
                their shape tells.

        Returns:
            float64 tensor ``[...]``. NaN where an example is NaN, and where the metric is not defined: the
            area under the curve of one class alone, R2 of equal targets.
        """
        if not isinstance(targets, Tensor):
            # of several targets a person's own function alone makes something
            ones = torch.ones(count_of(targets), dtype=torch.float64)
            return self._score(reduced, targets, ones, lanes)
        if self.per_example and targets.ndim == 2 and targets.shape[1] == 1:
            targets = targets[:, 0]
        if weights is None:
            weights = torch.ones(targets.shape[0], dtype=torch.float64, device=targets.device)
        return self._score(reduced, targets, weights.to(torch.float64), lanes)


def _average(values: Tensor, weights: Tensor) -> Tensor:
    """Weighted mean over the last dimension."""
    total = (values.to(torch.float64) * weights).sum(-1)
    return total / weights.sum(-1)


def _is_right(outputs: Tensor, targets: Tensor) -> Tensor:
    outputs, targets = as_columns(outputs, targets)
    if outputs.shape[-1] == 1:
        top, predicted = outputs[..., 0], (outputs[..., 0] > 0).long()
    else:
        top, predicted = outputs.max(-1)
    return torch.where(top.isnan(), top, (predicted == targets).to(outputs.dtype))


def _surprise(outputs: Tensor, targets: Tensor) -> Tensor:
    outputs, targets = as_columns(outputs, targets)
    return binary(outputs, targets) if outputs.shape[-1] == 1 else per_class(outputs, targets)


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


def _unit(task: Task) -> float:
    """A power of two near the target's scale: in it squares neither overflow nor vanish, bit for bit."""
    return math.ldexp(1.0, max(-1000, min(1000, math.frexp(task.scale)[1])))


def _make(name: str, task: Task) -> Metric:
    # In float64 and the target's own units, so that predictions of different splits compare.
    def own(prepared: Tensor) -> Tensor:
        return task.center + task.scale * prepared.to(torch.float64)

    def predicted(outputs: Tensor, targets: Tensor) -> Tensor:
        called = f"the metric {name!r}"
        if task.columns > 1:
            if outputs.shape[outputs.ndim - targets.ndim :] != targets.shape:
                for_numbers(outputs, targets, name=called)
            return own(outputs)
        columns, _ = as_columns(outputs, targets, name=called)
        if columns.shape[-1] != 1:
            raise OptionError(
                f"{called} needs one output for each example, not {columns.shape[-1]}; let the model give "
                "one, or write a metric of your own"
            )
        return own(columns[..., 0])

    def over(errors: Tensor) -> Tensor:
        return errors.mean(-1) if task.columns > 1 else errors

    def mean(reduced: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
        return _average(reduced, weights)

    unit = _unit(task)

    def root(reduced: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
        return unit * _average(over(((reduced - own(targets)) / unit).square()), weights).sqrt()

    def distance(reduced: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
        return _average(over((reduced - own(targets)).abs()), weights)

    def explained(reduced: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
        if task.columns > 1:
            columns = zip((reduced / unit).unbind(-1), (own(targets) / unit).unbind(-1), strict=True)
            return torch.stack([_explained(*column, weights) for column in columns]).mean(0)
        return _explained(reduced / unit, own(targets) / unit, weights)

    def logit(outputs: Tensor, targets: Tensor) -> Tensor:
        return logit_of(as_columns(outputs, targets)[0])

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
        _score=lambda reduced, targets, weights, lanes: score(reduced, targets, weights),
    )


def _own_metric(name: str, function: Callable[[Any, Any], Any], task: Task) -> Metric:
    higher = bool(getattr(function, "higher_is_better", True))
    best, worst = (math.inf, -math.inf) if higher else (-math.inf, math.inf)
    forms = Forms(function)

    def reduce(outputs: Any, targets: Tensor) -> Any:
        # a model that squeezes gives a batch of one example as a bare number
        return outputs.reshape(1) if isinstance(outputs, Tensor) and not outputs.ndim else outputs

    def score(reduced: Any, targets: Tensor, weights: Tensor, lanes: bool | None) -> Tensor:
        if not isinstance(reduced, Tensor) or not isinstance(targets, Tensor):
            if (task.center, task.scale) != (0.0, 1.0):
                raise OptionError(
                    f"the model gives {type(reduced).__name__}, which can't be brought to the target's own "
                    f"units for the metric {name!r}; give a module whose forward returns one tensor"
                )
            assert bool((weights == 1).all()), "what isn't one tensor is never resampled"
            return torch.tensor(_number(function(reduced, targets), name), dtype=torch.float64)
        outputs, goal = reduced, targets
        if task.kind == "regression":
            if not _FLOAT32_LEAST <= max(abs(task.center), abs(task.scale)) <= _FLOAT32_MOST:
                # in the target's own units they would be nothing, or infinite
                outputs, goal = outputs.double(), goal.double()
            outputs, goal = task.center + task.scale * outputs, task.center + task.scale * goal
        own = _leading(outputs, goal, lanes)
        lead = np.broadcast_shapes(outputs.shape[:own], weights.shape[:-1])
        flat = outputs.expand(*lead, *outputs.shape[own:]).reshape(-1, *outputs.shape[own:])
        counts = weights.expand(*lead, weights.shape[-1]).reshape(len(flat), -1).long()
        values = []
        for one, count in zip(flat, counts, strict=True):
            given, came = one, goal
            if bool((count != 1).any()):
                chosen = torch.repeat_interleave(torch.arange(len(count), device=count.device), count)
                given, came = one[chosen], goal[chosen]
            values.append(_number(function(*forms(given, came)), name))
        return torch.tensor(values, dtype=torch.float64).reshape(lead)

    return Metric(
        name=name,
        higher_is_better=higher,
        best=float(getattr(function, "best", best)),
        worst=float(getattr(function, "worst", worst)),
        default_margin=float(getattr(function, "margin", 0.0)),
        per_example=False,
        function=function,
        _reduce=reduce,
        _score=score,
    )


def _leading(outputs: Tensor, targets: Tensor, lanes: bool | None) -> int:
    """How many axes of outputs stand before that of the examples."""
    if lanes is not None:
        return int(lanes)
    if targets.ndim == 1 and outputs.ndim > 1 and outputs.shape[-2] == len(targets):
        return outputs.ndim - 2
    return 0 if outputs.shape[0] == len(targets) else 1


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
        spec = default("metric", task)
    if not isinstance(spec, str):
        spec = remembered(usable(spec, "metric"))
    if spec not in KINDS["metric"]:
        if ":" in spec:
            return _own_metric(spec, found(spec, "metric"), task)
        raise OptionError(
            f"there is no metric {spec!r}; {nearest(spec, KINDS['metric'])} (your own: 'file.py:function')"
        )
    kind = kind_of(spec)
    if kind != task.kind and not (kind == "regression" and task.columns > 1):
        fitting = names("metric", task)
        own = "a function of outputs and targets, by name 'file.py:function'"
        choose = f"choose {one_of(fitting)}, or give {own}" if fitting else f"give {own}"
        raise OptionError(f"the metric {spec!r} is for {kind}, not for a {task.kind} task; {choose}")
    if spec == "auc" and len(task.classes) != 2:
        raise OptionError(f"the metric 'auc' is for two classes, not {len(task.classes)}; use 'log-loss'")
    return replace(_make(spec, task), _made=(metric, (spec, task)))


def kind_of(name: object) -> Kind | None:
    """Return which task a metric by name is for; ``None``: it is none of these.

    >>> kind_of("rmse")
    'regression'
    """
    known = KINDS["metric"]
    return known[name][0] if isinstance(name, str) and name in known else None


def _number(value: Any, name: str) -> float:
    try:
        return float(value)
    except (TypeError, ValueError, RuntimeError) as problem:
        raise OptionError(f"the metric {name!r} gave {type(value).__name__}, not a number") from problem


def to_hand_on(given: Any, found: Loss | Metric) -> Any:
    """Return a loss or metric as ``fit`` takes it: as given, or where data have settled it, by its name.

    >>> found = metric("r2", Task(kind="regression"))
    >>> to_hand_on(None, found), to_hand_on("rmse", found)
    ('r2', 'rmse')
    """
    if given is not None:
        return given
    known = names("loss" if isinstance(found, Loss) else "metric")
    return found.name if found.name in known else found
