"""What a monitor has seen of a training, and what that says of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import nn

from thalweg.diagnosis.finding import Finding, Remedy, seen_as

__all__ = ["CUT", "FLAT", "MonitorReport", "conclusions"]

FLAT = (nn.Sigmoid, nn.Tanh, nn.Hardtanh, nn.Hardsigmoid)
"""Functions that are flat at both ends."""

CUT = (nn.ReLU, nn.ReLU6)
"""Functions that are zero below zero."""

# A layer is called dead, or saturated, where so much of it is.
_MOST = 0.5
_HIGH_RATIO, _LOW_RATIO = 0.1, 1e-6
_VANISHED = 1e-3
_EXPLODED = 100.0
_BROKEN = 1e30
# A loss so many times the first one has risen.
_RISEN = 10.0


@dataclass(kw_only=True)
class MonitorReport:
    """What was seen; lists have one value for each look.

    Attributes:
        losses: of each step.
        steps: at which norms were taken.
        gradients, updates, weights: norms over all parameters there.
        layers: by name, of each look at activations: their spread, and the share that is dead or saturated.
        of_layers: by parameter, norms of its gradients.
        noise: variance of the gradient from step to step over its squared mean, by the last looks at it.
        share: of the time of a step, that watching took.
        thinned: how many times rarer than asked for it looks, to keep to its share.
        findings: what is wrong by what was seen, worst first.
    """

    losses: list[float] = field(default_factory=list)
    steps: list[int] = field(default_factory=list)
    gradients: list[float] = field(default_factory=list)
    updates: list[float] = field(default_factory=list)
    weights: list[float] = field(default_factory=list)
    layers: dict[str, list[tuple[float, float]]] = field(default_factory=dict)
    of_layers: dict[str, list[float]] = field(default_factory=dict)
    noise: list[float] = field(default_factory=list)
    share: float = 0.0
    thinned: int = 1
    findings: list[Finding] = field(default_factory=list)

    def __str__(self) -> str:
        lines = [str(finding) for finding in self.findings] or ["Nothing is wrong by what was seen."]
        rarer = "" if self.thinned == 1 else f"; it looked at every {self.thinned}th step that it was due"
        return "\n".join([*lines, f"Watching took {100 * self.share:.1f} % of the time{rarer}."])


def conclusions(
    report: MonitorReport, model: nn.Module, optimizer: torch.optim.Optimizer, *, kept: tuple[int, int]
) -> list[Finding]:
    """Return what is wrong by what was seen, worst first.

    Args:
        report: of the training.
        model, optimizer: that were watched.
        kept: steps whose gradient was added to that of the step before, and steps that were looked at.
    """
    found = _of_the_loop(model, optimizer, *kept)
    losses, rates = report.losses, _rates(optimizer)
    broken = next((k for k, v in enumerate(losses) if not math.isfinite(v) or abs(v) > _BROKEN), None)
    ratios = [u / w for u, w in zip(report.updates, report.weights, strict=True) if w > 0]
    if broken == 0:
        # no step was taken before it
        found.append(
            Finding(
                code="input-values",
                severity="error",
                title="the loss isn't finite before anything is learnt",
                evidence=(f"the first loss was {losses[0]:g}",),
                cause="inputs, targets or first weights hold NaN or infinity, or the loss divides by 0",
                remedy=Remedy(text="look at inputs, targets and weights: torch.isfinite(inputs).all()"),
                confidence=0.9,
            )
        )
    elif broken is not None:
        said = f"the loss was {losses[broken]:g} at look {broken}, after {losses[0]:.4g} at the first"
        large = [r for r in ratios if not r <= _HIGH_RATIO]
        if large:
            found.append(
                Finding(
                    code="learning-rate-high",
                    severity="error",
                    title="the learning rate is too high",
                    evidence=(
                        said,
                        _far(large, ratios),
                    ),
                    cause="steps overshoot, along the steepest directions first",
                    remedy=Remedy(text=f"lower the learning rate{rates} to a tenth"),
                    confidence=0.8,
                )
            )
        found.append(replace(_mechanism("nonfinite-loss", said), severity="error"))
    elif report.gradients and max(report.gradients) == 0:
        found.append(
            replace(
                _mechanism("vanishing-gradient", f"exactly zero in all {len(report.gradients)} looks"),
                severity="error",
                title="the gradient is zero, and nothing is learnt",
            )
        )
    elif (risen := _risen(losses, ratios, rates)) is not None:
        found.append(risen)
    elif (middle := _middle(ratios)) is not None and middle < _LOW_RATIO:
        found.append(
            Finding(
                code="learning-rate-low",
                severity="risk",
                title="the learning rate is too low",
                evidence=(f"a step moves the weights by {middle:.1g} of their norm (median)",),
                cause="steps are so short that the training hardly leaves its start",
                remedy=Remedy(text=f"raise the learning rate{rates} tenfold, or more"),
                confidence=0.6,
            )
        )
    found += _mechanisms(report, model)
    order = {"error": 0, "risk": 1, "advice": 2}
    return sorted(found, key=lambda finding: order[finding.severity])


def _risen(losses: Sequence[float], ratios: Sequence[float], rates: str) -> Finding | None:
    """Name the rate where the loss rose far above its beginning after steps as long as the weights."""
    large = [ratio for ratio in ratios if ratio > _HIGH_RATIO]
    if not losses or not large or max(losses) < _RISEN * max(abs(losses[0]), 1e-12):
        return None
    return Finding(
        code="learning-rate-high",
        severity="risk",
        title="the learning rate is too high",
        evidence=(
            f"the loss rose to {max(losses):.4g}, from {losses[0]:.4g} at the first",
            _far(large, ratios),
        ),
        cause="steps overshoot, along the steepest directions first",
        remedy=Remedy(text=f"lower the learning rate{rates} to a tenth"),
        confidence=0.7,
    )


def _of_the_loop(
    model: nn.Module, optimizer: torch.optim.Optimizer, carried: int, checked: int
) -> list[Finding]:
    """What follows from the loop alone: whose parameters are trained, what is left in gradients."""
    found = []
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    own = [p for p in model.parameters() if p.requires_grad]
    if own and not any(id(p) in held for p in own):
        found.append(
            Finding(
                code="frozen",
                severity="error",
                title="the optimizer holds none of the model's parameters",
                evidence=(f"the model has {sum(p.numel() for p in own):,} that ask for gradients",),
                cause="the optimizer was made for another model, or before this one was made anew",
                remedy=Remedy(text="make it for this model", code="optimizer = ...(model.parameters())"),
            )
        )
    if checked and carried == checked:
        found.append(
            Finding(
                code="optimizer",
                severity="error",
                title="gradients of earlier steps are never set to zero",
                evidence=(
                    f"in {carried} of {checked} steps that were looked at, a gradient was "
                    "added to that of the step before",
                ),
                cause="backward adds to the gradients that are there, so that a step is made of all "
                "batches so far",
                remedy=Remedy(
                    text="set gradients to zero in each step",
                    code="optimizer.zero_grad()   # before backward",
                ),
                confidence=0.95,
            )
        )
    return found


def _mechanisms(report: MonitorReport, model: nn.Module) -> list[Finding]:
    found = []
    norms = [norm for norm in report.gradients if math.isfinite(norm)]
    middle = _middle(norms)
    if middle and max(norms) > _EXPLODED * middle and len(norms) > 10:
        found.append(
            _mechanism(
                "exploding-gradient",
                f"the largest gradient had {max(norms) / middle:.3g} times the median norm, {middle:.3g}",
            )
        )
    layers = [(name, _middle(values)) for name, values in report.of_layers.items()]
    first, last = (layers[0][1], layers[-1][1]) if len(layers) > 2 else (None, None)
    if first is not None and last and first < _VANISHED * last:
        found.append(
            _mechanism(
                "vanishing-gradient",
                f"the gradient of {layers[0][0]} had {first / last:.1g} times the norm of that of "
                f"{layers[-1][0]} (median)",
            )
        )
    parts = dict(model.named_modules())
    for code, kinds in (("dying-relu", CUT), ("saturation", FLAT)):
        ill = [
            f"{100 * looks[-1][1]:.0f} % of {name or 'the model'}"
            for name, looks in report.layers.items()
            if isinstance(parts.get(name), kinds) and looks[-1][1] > _MOST
        ]
        if ill:
            found.append(_mechanism(code, f"at the end: {', '.join(ill)}"))
    return found


def _rates(optimizer: torch.optim.Optimizer) -> str:
    rate = optimizer.param_groups[0].get("lr")
    return f" from {float(rate):g}" if isinstance(rate, (int, float)) else ""


def _far(large: Sequence[float], ratios: Sequence[float]) -> str:
    share = f"{100 * _HIGH_RATIO:g} %"
    return f"{len(large)} of {len(ratios)} steps moved the weights by more than {share} of their norm"


def _mechanism(code: str, said: str) -> Finding:
    return seen_as(code, said, cause="thalweg.diagnose says which cause is behind it", confidence=0.8)


def _middle(values: Sequence[float]) -> float | None:
    known = sorted(value for value in values if math.isfinite(value))
    return known[len(known) // 2] if known else None
