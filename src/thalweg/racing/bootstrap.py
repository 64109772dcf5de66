"""Comparing optimizers on one fixed test set: test examples and replicates are resampled together.

Reference: Owen, "The pigeonhole bootstrap", Ann. Appl. Stat. 1 (2007).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from thalweg.racing.statistics import Contrasts, split_contrasts

__all__ = ["bootstrap_contrasts", "with_test_noise"]

Array = NDArray[np.float64]

_MOST_DOF = 1e6


def bootstrap_contrasts(
    score: Callable[[NDArray[np.int64]], ArrayLike],
    shape: tuple[int, int, int],
    n_test: int,
    *,
    seed: int,
    draws: int = 1000,
) -> Contrasts:
    """Compare optimizers on one fixed test set by resampling test examples and replicates together.

    A draw takes ``n_test`` examples and, independently, J - 1 of the J replicates (with replacement; one
    fewer makes the variance unbiased), the same for all optimizers. Degrees of freedom after Satterthwaite:
    ``(J - 1) * (V / V_r)**2`` with V the bootstrap's variance and V_r the part due to replicates alone,
    which is the only part that few replicates know badly.

    Args:
        score: given how often each test example is drawn, [n_test], returns the score of every run,
            [P * J * S], in the order optimizer, replicate, seed; bigger is better; NaN where it diverged.
        shape: (P, J, S).
        n_test: number of test examples.
        seed: of the draws.
        draws: how many.

    Returns:
        Contrasts; a single replicate has infinite variances.

    >>> import numpy as np
    >>> def score(weights):  # two optimizers, three replicates, one seed; right or wrong on four examples
    ...     right = np.array([[1, 1, 1, 1], [1, 1, 1, 0], [1, 1, 1, 1],
    ...                       [0, 1, 1, 1], [1, 0, 1, 1], [1, 1, 0, 0]])
    ...     return right @ weights / weights.sum()
    >>> found = bootstrap_contrasts(score, (2, 3, 1), 4, seed=0, draws=200)
    >>> [round(float(mean), 3) for mean in found.means]
    [0.917, 0.667]

    Source: Owen (2007) for two crossed factors. It errs on the wide side by the interaction of the two.
    """
    optimizers, replicates, _ = shape

    def by_replicate(weights: NDArray[np.int64]) -> Array:
        runs: Array = np.asarray(score(weights), dtype=np.float64).reshape(shape)
        return np.asarray(runs.mean(axis=-1), dtype=np.float64)

    alone = split_contrasts(by_replicate(np.ones(n_test, dtype=np.int64)), 1 / replicates)
    if replicates == 1:
        return alone
    random = np.random.default_rng(seed)
    samples = np.empty((draws, optimizers))
    for draw in range(draws):
        examples = np.bincount(random.integers(n_test, size=n_test), minlength=n_test)
        chosen = random.integers(replicates, size=replicates - 1)
        samples[draw] = by_replicate(examples)[:, chosen].mean(axis=-1)
    averaged = ~np.isnan(alone.means)
    # a metric may not be defined on a resample (the area under the curve of one class alone)
    defined = ~np.isnan(samples[:, averaged]).any(axis=1)
    covariance = np.atleast_2d(np.cov(samples[defined], rowvar=False))
    own = np.diag(covariance)
    own_variances = np.maximum(own, alone.mean_variances)
    variances = np.maximum(own[:, None] + own[None, :] - 2 * covariance, alone.variances)
    return Contrasts(
        means=alone.means,
        mean_variances=own_variances,
        mean_dof=_satterthwaite(own_variances, alone.mean_variances, replicates - 1),
        variances=variances,
        dof=_satterthwaite(variances, alone.variances, replicates - 1),
    )


def with_test_noise(contrasts: Contrasts, like: Contrasts, replicates: int) -> Contrasts:
    """Add the noise of one fixed test set where the runs can't be scored anew on a resample.

    ``variance + V - V_r``, with ``V - V_r`` the part of ``like``'s variance that isn't due to replicates,
    read from its degrees of freedom.

    Args:
        contrasts: from :func:`~thalweg.racing.statistics.split_contrasts` with factor 1/J.
        like: from :func:`bootstrap_contrasts`: the same optimizers on the same test set, at another budget.
        replicates: J.
    """
    if replicates == 1:
        return contrasts

    def both(part: Array, total: Array, dof: Array) -> tuple[Array, Array]:
        wider = part + total * (1 - np.sqrt((replicates - 1) / dof))
        return wider, _satterthwaite(wider, part, replicates - 1)

    mean_variances, mean_dof = both(contrasts.mean_variances, like.mean_variances, like.mean_dof)
    variances, dof = both(contrasts.variances, like.variances, like.dof)
    return replace(contrasts, mean_variances=mean_variances, mean_dof=mean_dof, variances=variances, dof=dof)


def _satterthwaite(total: Array, part: Array, dof: int) -> Array:
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(part > 0, total / part, np.inf)
        found = np.minimum(dof * ratio**2, _MOST_DOF)
    return np.asarray(np.where(np.isnan(total), dof, found), dtype=np.float64)
