"""Whether probabilities mean what they say: reliability, calibration error, Brier score and its parts.

All functions take probabilities ``[N, C]``, or ``[N]`` of the second of two classes, and targets ``[N]``
(class numbers), and compute in float64.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from thalweg.errors import OptionError

__all__ = ["BrierParts", "Reliability", "brier_parts", "brier_score", "reliability"]


@dataclass(frozen=True)
class Reliability:
    """Predictions in bins of equal width by their confidence.

    Attributes:
        counts: of predictions in each bin, int64 ``[B]``.
        confidence: sum of their confidences, float64 ``[B]``.
        correct: how many of them were right, float64 ``[B]``.
    """

    counts: Tensor
    confidence: Tensor
    correct: Tensor

    @property
    def error(self) -> float:
        """The expected calibration error ``sum_b n_b/N * |right_b/n_b - confidence_b/n_b|``."""
        return float((self.correct - self.confidence).abs().sum() / self.counts.sum())

    @property
    def largest(self) -> float:
        """The largest gap ``|right_b/n_b - confidence_b/n_b|`` of a bin that holds anything."""
        held = self.counts > 0
        return float(((self.correct - self.confidence).abs()[held] / self.counts[held]).max())

    @property
    def overconfidence(self) -> float:
        """Mean confidence less the share that was right: positive where predictions promise too much."""
        return float((self.confidence - self.correct).sum() / self.counts.sum())

    def points(self) -> list[tuple[float, float, int]]:
        """Return mean confidence, share that was right, and count of each bin that holds anything."""
        return [
            (confidence / n, correct / n, n)
            for n, confidence, correct in zip(
                self.counts.tolist(), self.confidence.tolist(), self.correct.tolist(), strict=True
            )
            if n
        ]

    @classmethod
    def pooled(cls, parts: Iterable[Reliability]) -> Reliability:
        """Return the reliability of all these predictions together."""
        each = list(parts)
        return cls(
            sum((one.counts for one in each[1:]), each[0].counts),
            sum((one.confidence for one in each[1:]), each[0].confidence),
            sum((one.correct for one in each[1:]), each[0].correct),
        )


def reliability(probabilities: Tensor, targets: Tensor, bins: int = 15) -> Reliability:
    """Put predictions into bins by the probability of the class they chose.

    With confidence ``c_i = max_k p_ik``, bin b holds the examples with ``b/B < c_i <= (b+1)/B``. Drawn as
    mean confidence against the share that was right, bin by bin, this is the reliability diagram; predictions
    that mean what they say lie on the diagonal.

    Args:
        probabilities: ``[N, C]`` or ``[N]``, see above.
        targets: ``[N]``.
        bins: B, at least 1.

    Raises:
        OptionError: shapes that don't fit, probabilities outside [0, 1], no example or no bin.

    >>> p = torch.tensor([[0.9, 0.1], [0.3, 0.7], [0.8, 0.2]])
    >>> found = reliability(p, torch.tensor([0, 1, 1]), bins=2)
    >>> found.counts.tolist(), round(found.error, 6), round(found.overconfidence, 6)
    ([0, 3], 0.133333, 0.133333)

    Source: A2 (S) asks how sure an ensemble is; Naeini, Cooper and Hauskrecht 2015; Guo, Pleiss, Sun and
    Weinberger 2017.
    """
    p, goal = _checked(probabilities, targets)
    if bins < 1:
        raise OptionError(f"bins = {bins} isn't allowed: give at least 1")
    confidence, chosen = p.max(1)
    edges = torch.arange(1, bins, dtype=torch.float64, device=p.device) / bins
    place = torch.bucketize(confidence, edges)
    right = (chosen == goal).double()
    zero = torch.zeros(bins, dtype=torch.float64, device=p.device)
    return Reliability(
        torch.bincount(place, minlength=bins).cpu(),
        zero.index_add(0, place, confidence).cpu(),
        zero.index_add(0, place, right).cpu(),
    )


def brier_score(probabilities: Tensor, targets: Tensor) -> float:
    """Return the mean squared distance of probabilities from what came.

    ``mean_i sum_k (p_ik - [y_i = k])^2``, from 0 to 2. Of two classes it is twice what scikit-learn's
    ``brier_score_loss`` gives.

    Raises:
        OptionError: as for :func:`reliability`.

    >>> brier_score(torch.tensor([[1.0, 0.0], [0.5, 0.5]]), torch.tensor([0, 1]))
    0.25

    Source: Brier 1950.
    """
    p, goal = _checked(probabilities, targets)
    return float((p - _came(goal, p.shape[1])).square().sum(1).mean())


@dataclass(frozen=True)
class BrierParts:
    """Parts of a Brier score; ``reliability - resolution + uncertainty + within`` is the score.

    Attributes:
        reliability: how far stated probabilities are from what came, bin by bin; 0 is best.
        resolution: how far what came differs between bins; larger is better.
        uncertainty: of the data, whatever is predicted.
        within: what differs inside bins: the variance of probabilities less twice their covariance with what
            came. It vanishes with narrower bins.
    """

    reliability: float
    resolution: float
    uncertainty: float
    within: float

    @property
    def score(self) -> float:
        """The Brier score."""
        return self.reliability - self.resolution + self.uncertainty + self.within


def brier_parts(probabilities: Tensor, targets: Tensor, bins: int = 15) -> BrierParts:
    """Take a Brier score apart.

    For each class, with probability f and o = 1 where it came, else 0, over bins b of equal width by f::

        reliability = sum_b n_b/N (mean_b f - mean_b o)^2
        resolution  = sum_b n_b/N (mean_b o - mean o)^2
        uncertainty = mean o (1 - mean o)
        within      = mean (f - mean_b f)^2 - 2 mean (f - mean_b f)(o - mean_b o)

    and the parts of all classes are added up. The sum is exact, whatever the bins.

    Args:
        probabilities, targets, bins: as for :func:`reliability`.

    Raises:
        OptionError: likewise.

    >>> parts = brier_parts(torch.tensor([[1.0, 0.0], [0.5, 0.5]]), torch.tensor([0, 1]), bins=4)
    >>> parts.reliability, parts.resolution, parts.uncertainty, parts.within, parts.score
    (0.25, 0.5, 0.5, 0.0, 0.25)

    Source: Murphy 1973; the part within bins is Stephenson, Coelho and Jolliffe 2008.
    """
    p, goal = _checked(probabilities, targets)
    if bins < 1:
        raise OptionError(f"bins = {bins} isn't allowed: give at least 1")
    came = _came(goal, p.shape[1])
    rows, classes = p.shape
    edges = torch.arange(1, bins, dtype=torch.float64, device=p.device) / bins
    place = torch.bucketize(p, edges)
    shape = torch.zeros(bins, classes, dtype=torch.float64, device=p.device)
    counts = shape.scatter_add(0, place, torch.ones_like(p))
    held = counts.clamp_min(1)
    stated = shape.scatter_add(0, place, p) / held
    seen = shape.scatter_add(0, place, came) / held
    overall = came.mean(0)
    off, surprise = p - stated.gather(0, place), came - seen.gather(0, place)
    return BrierParts(
        reliability=float((counts * (stated - seen).square()).sum() / rows),
        resolution=float((counts * (seen - overall).square()).sum() / rows),
        uncertainty=float((overall * (1 - overall)).sum()),
        within=float((off.square() - 2 * off * surprise).sum() / rows),
    )


def _checked(probabilities: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    p = probabilities.detach().double()
    if p.ndim == 1:
        p = torch.stack([1 - p, p], 1)
    if p.ndim != 2 or targets.shape != p.shape[:1] or not len(p):
        raise OptionError(
            f"probabilities of shape {list(probabilities.shape)} don't go with targets of shape "
            f"{list(targets.shape)}; give [N, C] and [N], with at least one example"
        )
    # rounding may leave a probability a little outside
    if not bool(((p >= -1e-6) & (p <= 1 + 1e-6)).all()):
        raise OptionError("there are probabilities outside 0 to 1; give the softmax of outputs")
    return p.clamp(0, 1), targets.long()


def _came(targets: Tensor, classes: int) -> Tensor:
    return torch.nn.functional.one_hot(targets, classes).double()
