"""Linear classifiers and ridge regressions on features, each with a penalty that validation chooses."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from thalweg.errors import DataError, OptionError
from thalweg.randomness import streams
from thalweg.secondorder import minimize

__all__ = [
    "PENALTIES",
    "Estimate",
    "FeatureProbe",
    "LinearProbe",
    "difference",
    "fit_linear",
    "is_classes",
    "probe_features",
    "score_of",
]

PENALTIES = (1.0, 0.1, 0.01, 1e-3, 1e-4)
"""Penalties that are tried, from the strongest."""

# of 95 % intervals: the normal distribution's quantile at 0.975
_Z = 1.959963984540054
_ITERATIONS = 300
_GRADIENT = 1e-5


class Estimate(NamedTuple):
    """A number with its 95 % interval."""

    value: float
    low: float
    high: float

    def __repr__(self) -> str:
        return f"{self.value:.3f} ({self.low:.3f} to {self.high:.3f})"


# Fits ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class LinearProbe:
    """A linear map of standardized features: ``(x - mean) / scale @ weight + bias``.

    Args:
        mean, scale: of each of D features on the training examples; a scale of 1 where a feature is constant.
        weight: ``[D, C]``.
        bias: ``[C]``.
    """

    mean: Tensor
    scale: Tensor
    weight: Tensor
    bias: Tensor

    def __call__(self, features: Tensor) -> Tensor:
        """Return outputs ``[N, C]`` for features ``[N, D]``, in float64."""
        return (features.double() - self.mean) / self.scale @ self.weight + self.bias


def fit_linear(
    features: Tensor,
    targets: Tensor,
    penalties: Sequence[float] = PENALTIES,
    *,
    outputs: int | None = None,
) -> list[LinearProbe]:
    """Fit a linear map to each penalty p, in float64, on standardized features z.

    - Targets that are class numbers: ``mean_i CE(z_i W + b, y_i) + p/2 * ||W||^2``, by L-BFGS, all penalties
      side by side.
    - Others: ``mean_i ||z_i W + b - y_i||^2 / 2 + p/2 * ||W||^2``, ridge regression in closed form.

    The bias isn't penalized. scikit-learn's ``LogisticRegression`` has ``C = 1 / (N * p)``, its ``Ridge``
    ``alpha = N * p``.

    Args:
        features: ``[N, D]``.
        targets: class numbers, int64 ``[N]``; or numbers ``[N]`` or ``[N, C]``.
        penalties: above 0.
        outputs: how many classes; ``None``: up to the largest class number.

    Raises:
        DataError: no examples, features that aren't finite.
        OptionError: a penalty that isn't above 0.

    >>> x = torch.tensor([[0.0], [1.0], [2.0], [3.0]])
    >>> (probe,) = fit_linear(x, 2 * x[:, 0] + 1, [1e-12])
    >>> [round(value, 6) for value in probe(torch.tensor([[5.0]])).flatten().tolist()]
    [11.0]

    Source: P4 (S): a linear classifier on top layers.
    """
    if features.ndim != 2 or len(features) != len(targets) or not len(features):
        raise DataError(
            f"features of shape {list(features.shape)} and targets of shape {list(targets.shape)} are no "
            "examples to fit; give [N, D] and [N]"
        )
    if not features.isfinite().all():
        raise DataError("features aren't finite, so that nothing linear can be fitted to them")
    for penalty in penalties:
        if not 0 < penalty < math.inf:
            raise OptionError(f"a penalty is {penalty!r}, but must be a finite number above 0")
    x = features.detach().double()
    mean = x.mean(0)
    spread = x.std(0, correction=0)
    # what varies by rounding alone is constant
    constant = spread <= 1e-7 * x.abs().amax(0).clamp(min=1e-30)
    scale = torch.where(constant, torch.ones_like(spread), spread)
    z = torch.where(constant, torch.zeros_like(x), (x - mean) / scale)
    if is_classes(targets):
        count = max(int(targets.max()) + 1, outputs or 1)
        weights, biases = _logistic(z, targets, torch.tensor(penalties, dtype=torch.float64), count)
    else:
        weights, biases = _ridge(z, targets.double().reshape(len(z), -1), penalties)
    return [LinearProbe(mean, scale, w, b) for w, b in zip(weights, biases, strict=True)]


def is_classes(targets: Tensor) -> bool:
    """Say whether targets are class numbers: one whole number an example."""
    return targets.ndim == 1 and not targets.is_floating_point() and not targets.is_complex()


def _logistic(z: Tensor, targets: Tensor, penalties: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Weights ``[K, D, C]`` and biases ``[K, C]``."""
    lanes, features = len(penalties), z.shape[1]
    shares = torch.bincount(targets, minlength=count).double() / len(z)

    def value(x: dict[str, Tensor]) -> Tensor:
        weight, bias = x["weight"], x["bias"]
        logits = (z @ weight.transpose(0, 1).reshape(features, -1)).reshape(len(z), lanes, count) + bias
        chosen = logits.gather(2, targets[:, None, None].expand(-1, lanes, 1))[:, :, 0]
        entropy = (logits.logsumexp(2) - chosen).mean(0)
        return entropy + penalties / 2 * weight.square().sum((1, 2))

    start = {
        "weight": torch.zeros(lanes, features, count, dtype=torch.float64),
        # right where no feature tells anything
        "bias": shares.clamp(min=1 / (10 * len(z))).log().expand(lanes, -1).clone(),
    }
    found = minimize(value, start, lanes=True, tolerance=_GRADIENT, max_iterations=_ITERATIONS).x
    return found["weight"], found["bias"]


def _ridge(z: Tensor, y: Tensor, penalties: Sequence[float]) -> tuple[Tensor, Tensor]:
    """Weights ``[K, D, C]`` and biases ``[K, C]``, by one eigendecomposition for all penalties."""
    center = y.mean(0)
    values, vectors = torch.linalg.eigh(z.T @ z / len(z))
    turned = vectors.T @ (z.T @ (y - center) / len(z))
    weights = [vectors @ (turned / (values.clamp(min=0) + penalty)[:, None]) for penalty in penalties]
    return torch.stack(weights), center.expand(len(penalties), -1)


# How well they do ----------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class FeatureProbe:
    """What a linear map makes of features.

    Attributes:
        penalty: that is best on validation.
        score: accuracy, or of numbers R^2, on validation.
        train: the same on the training examples, with that penalty.
        errors: of each validation example, float64 ``[M]``: 0 or 1; or the squared error in variances
            of the targets. The score is one less their mean.
        linear: the map with that penalty.
    """

    penalty: float
    score: Estimate
    train: float
    errors: Tensor = field(repr=False)
    linear: LinearProbe = field(repr=False)


def probe_features(
    features: Tensor,
    targets: Tensor,
    validation: tuple[Tensor, Tensor],
    *,
    penalties: Sequence[float] = PENALTIES,
    outputs: int | None = None,
) -> FeatureProbe:
    """Fit linear maps to features and score the best one on validation.

    The penalty with the smallest loss on validation is taken. So that the score isn't better for having been
    chosen, each half of the validation examples is judged with the penalty that is best on the other half.
    The interval is Wilson's for accuracies; for R^2 it is normal.

    Args:
        features, targets, penalties, outputs: as for :func:`fit_linear`.
        validation: features and targets.

    Raises:
        DataError: as :func:`fit_linear`; of numbers that are all the same on validation.

    >>> x = torch.randn(40, 3, generator=torch.Generator().manual_seed(0))
    >>> y = (x[:, 0] > 0).long()
    >>> probe_features(x, y, (x, y)).score.value > 0.9
    True

    Source: P4 (S); Alain and Bengio, Understanding intermediate layers using linear classifier probes, 2016.
    """
    there, known = validation
    fitted = fit_linear(features, targets, penalties, outputs=outputs)
    spread = _variance(known) if not is_classes(targets) else None
    pairs = [_errors(probe(there), known, spread) for probe in fitted]
    errors, losses = (torch.stack([pair[which] for pair in pairs]) for which in (0, 1))
    best = int(losses.mean(1).argmin())
    half = torch.zeros(len(known), dtype=torch.bool)
    half[torch.from_numpy(streams.order(len(known), seed=0, epoch=0))[: len(known) // 2]] = True
    judged = errors[best].clone()
    if len(known) >= 2:
        for mine, other in ((half, ~half), (~half, half)):
            judged[mine] = errors[int(losses[:, other].mean(1).argmin())][mine]
    train, _ = _errors(fitted[best](features), targets, None if spread is None else _variance(targets))
    return FeatureProbe(
        penalty=float(penalties[best]),
        score=score_of(judged, classes=spread is None),
        train=1 - float(train.mean()),
        errors=judged,
        linear=fitted[best],
    )


def _errors(outputs: Tensor, targets: Tensor, spread: Tensor | None) -> tuple[Tensor, Tensor]:
    """The error of each example, and its loss, by which penalties are compared."""
    if spread is None:
        inside = targets < outputs.shape[1]
        chosen = outputs.gather(1, torch.where(inside, targets, 0)[:, None])[:, 0]
        # a class that no training example has is never right
        loss = torch.where(inside, outputs.logsumexp(1) - chosen, 50.0)
        return (outputs.argmax(1) != targets).double(), loss
    found = ((outputs - targets.double().reshape(len(outputs), -1)).square() / spread).mean(1)
    return found, found


def _variance(targets: Tensor) -> Tensor:
    found = targets.double().reshape(len(targets), -1).var(0, correction=0)
    if not (found > 0).all():
        raise DataError(
            f"all {len(targets)} targets are the same number, so that nothing can be told of features; give "
            "targets that differ"
        )
    return found


def score_of(errors: Tensor, *, classes: bool) -> Estimate:
    """Return one less the mean error of examples, with its 95 % interval.

    >>> score_of(torch.tensor([0.0, 0.0, 0.0, 1.0]), classes=True)
    0.750 (0.301 to 0.954)

    Source: Wilson, J. Am. Stat. Assoc. 22 (1927).
    """
    n, value = len(errors), 1 - float(errors.mean())
    if not classes:
        half = _Z * math.sqrt(float(errors.var(correction=1)) / n) if n > 1 else math.inf
        return Estimate(value, value - half, value + half)
    middle = (value + _Z**2 / (2 * n)) / (1 + _Z**2 / n)
    half = _Z / (1 + _Z**2 / n) * math.sqrt(value * (1 - value) / n + _Z**2 / (4 * n**2))
    return Estimate(value, max(middle - half, 0.0), min(middle + half, 1.0))


def difference(one: Tensor, other: Tensor) -> Estimate:
    """Return by how much the errors of one are larger on average, with its 95 % interval, example by example.

    Each of n examples counts as a draw: ``mean +- 1.96 * s / sqrt(n)`` of the n differences, where s isn't
    taken smaller than if one example more differed.

    >>> difference(torch.tensor([1.0, 1.0, 0.0, 1.0]), torch.tensor([0.0, 1.0, 0.0, 0.0]))
    0.500 (-0.193 to 1.193)
    """
    found = one - other
    n, value = len(found), float(found.mean())
    spread = math.sqrt((float((found - value).square().sum()) + 1) / n)
    half = _Z * spread / math.sqrt(n)
    return Estimate(value, value - half, value + half)
