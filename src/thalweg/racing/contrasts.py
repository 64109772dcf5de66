"""Differences between optimizers and how well they are known, from replicates with splits of their own.

Everything here is oriented: bigger is better.

References: Nadeau and Bengio, "Inference for the generalization error", Machine Learning 52 (2003). Conover
and Iman, Am. Stat. 35 (1981), rank transformation.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

__all__ = ["Contrasts", "correction", "overlap", "rank_scores", "split_contrasts"]

Array = NDArray[np.float64]

_LEAST_OVERLAP = 0.25


@dataclass(frozen=True, kw_only=True)
class Contrasts:
    """Means of P optimizers and how well their differences are known. NaN: can't be averaged.

    Attributes:
        means: mean score of each optimizer, bigger is better, [P].
        mean_variances: variance of each mean, [P].
        mean_dof: degrees of freedom of those, [P].
        variances: variance of ``means[p] - means[q]``, symmetric, [P, P].
        dof: degrees of freedom of those, [P, P].
        mean_replicate_variances: the part of ``mean_variances`` that is due to replicates, [P].
        replicate_variances: likewise of ``variances``, [P, P].
        example: by how much one test example moves a difference of means, in effect; 0 where scores are
            continuous.
        floored: whether two optimizers agreed more closely than one test example can show, so that their
            variance is that of one example, [P, P].
    """

    means: Array
    mean_variances: Array
    mean_dof: Array
    variances: Array
    dof: Array
    mean_replicate_variances: Array
    replicate_variances: Array
    example: float
    floored: NDArray[np.bool_]

    @property
    def differences(self) -> Array:
        """``means[p] - means[q]``, [P, P]."""
        return self.means[:, None] - self.means[None, :]

    def stretched(self, factor: float) -> Contrasts:
        """Return the same with all variances multiplied."""
        return replace(
            self,
            mean_variances=factor * self.mean_variances,
            variances=factor * self.variances,
            mean_replicate_variances=factor * self.mean_replicate_variances,
            replicate_variances=factor * self.replicate_variances,
            example=factor * self.example,
        )


def overlap(n_train: int, n_test: int) -> float:
    """Return the correlation between splits that a verdict assumes, ``max(n_test/(n_train + n_test), 1/4)``.

    Args:
        n_train: examples that the procedure learns from in one split, those for validation included.
        n_test: test examples in one split.

    >>> overlap(800, 200), overlap(600, 400)
    (0.25, 0.4)

    Source: Nadeau and Bengio (2003), section 3. Deviation: never less than 1/4. Theirs is a guess as well,
    and for one split in five, 0.2, a verdict that is right at just that loses its level at a little more.
    """
    assert n_train >= 1
    return max(n_test / (n_train + n_test), _LEAST_OVERLAP)


def correction(replicates: int, correlation: float) -> float:
    """Return the variance factor of the corrected resampled t, ``1/J + r/(1 - r)``.

    Args:
        replicates: number of splits J, at least 1.
        correlation: r, of scores of the same optimizer between splits, 0 to below 1.

    >>> correction(5, 0.2)
    0.45

    Source: Nadeau and Bengio (2003), section 3.
    """
    assert replicates >= 1
    assert 0 <= correlation < 1
    return 1 / replicates + correlation / (1 - correlation)


def split_contrasts(scores: ArrayLike, factor: float, *, resolution: float = 0.0) -> Contrasts:
    """Compare optimizers on replicates that each have their own test split.

    ``variance = factor * max(s**2, resolution**2)``, s the standard deviation of the J differences.

    Args:
        scores: score of each optimizer in each replicate, seeds averaged, [P, J]; NaN where one diverged.
        factor: from :func:`correction`.
        resolution: by how much one test example can change one replicate's score (accuracy: one over the
            number of test examples): five splits that happen to agree don't prove more than that.

    Returns:
        Contrasts with J - 1 degrees of freedom; a single replicate has infinite variances.

    >>> both = split_contrasts([[0.9, 0.8, 0.9], [0.7, 0.7, 0.7]], correction(3, 0.25))
    >>> round(float(both.differences[0, 1]), 4), round(float(both.variances[0, 1]), 6)
    (0.1667, 0.002222)
    """
    y = np.asarray(scores, dtype=np.float64)
    optimizers, replicates = y.shape
    floored = np.zeros((optimizers, optimizers), dtype=bool)
    if replicates > 1:
        spread = np.var(y[:, None] - y[None], axis=-1, ddof=1)
        floored = spread < resolution**2
        variances = factor * np.maximum(spread, resolution**2)
        own = factor * np.maximum(np.var(y, axis=-1, ddof=1), resolution**2)
    else:
        variances = np.full((optimizers, optimizers), np.inf)
        own = np.full(optimizers, np.inf)
    dof = float(max(1, replicates - 1))
    return Contrasts(
        means=y.mean(axis=-1),
        mean_variances=own,
        mean_dof=np.full(optimizers, dof),
        variances=variances,
        dof=np.full((optimizers, optimizers), dof),
        mean_replicate_variances=own,
        replicate_variances=variances,
        example=factor * resolution,
        floored=floored,
    )


def rank_scores(scores: ArrayLike) -> Array:
    """Replace scores by ranks within each replicate, so that a diverged run can take part.

    An optimizer any of whose confirmation runs of a replicate diverged is last there, behind all that
    didn't; several of them share the lowest rank, 1. The others are ranked by their mean over seeds,
    ties sharing their mean rank. Bigger is better.

    Args:
        scores: [P, J, S], NaN where a run diverged.

    Returns:
        Ranks from 1 to P, [P, J].

    >>> rank_scores([[[0.9, np.nan]], [[0.5, 0.6]], [[0.7, 0.8]]]).tolist()
    [[1.0], [2.0], [3.0]]
    """
    means = np.asarray(scores, dtype=np.float64).mean(axis=-1)
    diverged = np.isnan(means)
    ranks = stats.rankdata(np.where(diverged, -np.inf, means), axis=0)
    return np.where(diverged, 1.0, ranks)
