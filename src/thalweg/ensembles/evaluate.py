"""Models as they lie on the disk, evaluated alone and together: scores, disagreement, calibration."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from thalweg.averaging import Ambiguity, disagreement
from thalweg.averaging.predictions import Activation, as_outputs, probabilities
from thalweg.calibration.assessment import Reliability, brier_parts, brier_score, reliability
from thalweg.data.examples import Examples
from thalweg.data.source import Prepared
from thalweg.layers.passing import outputs_of
from thalweg.objectives import Loss, Metric, Task
from thalweg.randomness.keyed import RunDraws
from thalweg.training.evaluate import keyed
from thalweg.training.loader import in_blocks
from thalweg.training.results import CalibrationRecord

__all__ = ["EnsembleEvaluation", "MemberEvaluation", "calibrated", "evaluate_models"]

_BLOCK = 256


@dataclass(frozen=True, kw_only=True)
class MemberEvaluation:
    """A member by itself: its scores by split, its calibration error and Brier score on test."""

    result: dict[str, float | None]
    error: float | None
    brier: float | None


@dataclass(frozen=True, kw_only=True)
class EnsembleEvaluation:
    """Models evaluated alone and together; see :class:`thalweg.training.results.EnsembleRecord`."""

    alone: list[MemberEvaluation]
    result: dict[str, float | None]
    growing: list[float | None]
    disagreement: list[list[float]] | None
    squared: Ambiguity | None
    calibration: CalibrationRecord | None
    pooled: CalibrationRecord | None
    # of each split averaged probabilities [N, C] and classes [N], where something is classified
    predicted: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict, repr=False)


def calibrated(bins: Reliability, p: Tensor, targets: Tensor) -> CalibrationRecord:
    """Write calibration down."""
    parts = brier_parts(p, targets)
    return CalibrationRecord(
        bins=bins.points(),
        error=bins.error,
        overconfidence=bins.overconfidence,
        brier=parts.score,
        reliability=parts.reliability,
        resolution=parts.resolution,
        uncertainty=parts.uncertainty,
        within=parts.within,
    )


def evaluate_models(
    models: Iterable[nn.Module],
    prepared: Prepared,
    *,
    loss: Loss,
    metric: Metric,
    activation: Activation,
    splits: Sequence[str] = ("validation", "test"),
    whole: Callable[[str], bool] = lambda own: False,
) -> EnsembleEvaluation:
    """Evaluate models alone and together on validation and test data, one model in memory at a time.

    Args:
        models: in evaluation mode; each is gone through once.
        prepared: the data.
        loss, metric: what outputs are scored by; together, what means the averaged probabilities.
        activation: from outputs to these.
        splits: on which data; all but scores is of the last one.
        whole: whether a person's own ``"loss"`` or ``"metric"`` is of all that a model returns, so that it
            has no value here: what is averaged is the part.
    """
    parts = {name: _MemberPart(getattr(prepared, name), prepared.task, activation, whole) for name in splits}
    last = splits[-1]
    test = parts[last]
    alone: list[MemberEvaluation] = []
    growing: list[float | None] = []
    for model in models:
        result: dict[str, float | None] = {}
        for name, part in parts.items():
            outputs = part.take(model)
            result |= part.scores(name, outputs, loss, metric)
        error = brier = None
        if test.classified:
            error = test.bins[-1].error
            brier = brier_score(test.last, test.targets)
        alone.append(MemberEvaluation(result=result, error=error, brier=brier))
        growing.append(test.together(last, loss, metric)[last])
    together: dict[str, float | None] = {}
    for name, part in parts.items():
        together |= part.together(name, loss, metric)
    calibration = pooled = differing = None
    if test.classified:
        calibration = calibrated(reliability(test.mean, test.targets), test.mean, test.targets)
        differing = disagreement(torch.stack(test.labels)).tolist()
        pooled = test.pooled()
    return EnsembleEvaluation(
        alone=alone, result=together, growing=growing, disagreement=differing, squared=test.squared(),
        calibration=calibration, pooled=pooled,
        predicted={name: (part.mean, part.targets.long()) for name, part in parts.items() if part.classified},
    )  # fmt: skip


@dataclass
class _MemberPart:
    """A split, and what members have predicted of it so far: running means, so that none has to be kept."""

    examples: Examples
    task: Task
    activation: Activation
    whole: Callable[[str], bool]
    count: int = 0
    labels: list[Tensor] = field(default_factory=list)
    bins: list[Reliability] = field(default_factory=list)
    spread: float = 0.0
    errors: float = 0.0
    sums: dict[str, float] = field(default_factory=dict)
    finite: bool = True
    mean: Tensor = field(default_factory=lambda: torch.zeros(()))
    last: Tensor = field(default_factory=lambda: torch.zeros(()))

    @property
    def classified(self) -> bool:
        return self.task.kind == "classification" and self.finite

    @torch.no_grad()
    def take(self, model: nn.Module) -> Tensor:
        """Let a model predict, and add it to the mean; return its outputs."""
        device = next((p.device for p in model.parameters()), torch.device("cpu"))
        forward_context = keyed(model, RunDraws(0, device))
        outputs, goals = [], []
        for inputs, targets in in_blocks(self.examples, _BLOCK):
            with forward_context():
                outputs.append(outputs_of(model, inputs))
            goals.append(targets)
        found, self.targets = torch.cat(outputs), torch.cat(goals)
        self.dtype = found.dtype
        p = probabilities(found, self.activation)
        self.finite = self.finite and bool(p.isfinite().all())
        if self.task.kind == "classification" and (p.ndim == 1 or p.shape[1] == 1):
            p = torch.stack([1 - p.flatten(), p.flatten()], 1)
        self.last = p
        self.count += 1
        before = self.mean
        self.mean = before + (p - before) / self.count
        # Welford's: what lies between the members' errors and that of their mean
        self.spread += float(((p - before) * (p - self.mean)).sum())
        if self.task.kind != "custom":
            self.errors += float((p - self._came()).square().sum())
        if self.classified:
            self.labels.append(p.argmax(1))
            self.bins.append(reliability(p, self.targets))
            for name, value in vars(brier_parts(p, self.targets)).items():
                self.sums[name] = self.sums.get(name, 0.0) + value
        return found

    def _came(self) -> Tensor:
        if self.task.kind == "classification":
            return torch.nn.functional.one_hot(self.targets.long(), self.mean.shape[1]).double()
        return self.targets.double().reshape(self.mean.shape)

    def scores(self, name: str, outputs: Tensor, loss: Loss, metric: Metric) -> dict[str, float | None]:
        with torch.no_grad():
            value = math.nan if self.whole("loss") else float(loss(outputs, self.targets))
            found = math.nan
            if not self.whole("metric"):
                found = float(metric.score(metric.reduce(outputs, self.targets), self.targets))
        return {name: _finite(found), f"{name}_loss": _finite(value)}

    def together(self, name: str, loss: Loss, metric: Metric) -> dict[str, float | None]:
        mean = self.mean
        if self.activation == "sigmoid" and self.task.kind == "classification":
            mean = mean[:, 1:]
        return self.scores(name, as_outputs(mean, self.activation, self.dtype), loss, metric)

    def squared(self) -> Ambiguity | None:
        if self.task.kind == "custom" or not self.finite:
            return None
        unit = 1.0 if self.classified else self.task.scale**2
        rows = len(self.targets)
        together = float((self.mean - self._came()).square().sum())
        each = unit / (self.count * rows)
        return Ambiguity(self.errors * each, self.spread * each, together * unit / rows)

    def pooled(self) -> CalibrationRecord:
        bins = Reliability.pooled(self.bins)
        means: dict[str, Any] = {name: value / self.count for name, value in self.sums.items()}
        score = means["reliability"] - means["resolution"] + means["uncertainty"] + means["within"]
        return CalibrationRecord(
            bins=bins.points(), error=bins.error, overconfidence=bins.overconfidence, brier=score, **means
        )


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
