"""Comparing optimizers on one fixed test set: the test examples are resampled, replicates counted beside.

Reference: Owen, "The pigeonhole bootstrap", Ann. Appl. Stat. 1 (2007).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from thalweg.racing.contrasts import Contrasts, split_contrasts

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
    resolution: float = 0.0,
) -> Contrasts:
    """Compare optimizers on one fixed test set by resampling test examples.

    A draw takes ``n_test`` examples with replacement, the same for all runs. With V_e the variance of a
    difference of means over draws, V_r its variance due to replicates, ``s**2 / J``, n examples and r what
    one of them is worth:

        ``variance = max(V_r + n/(n - 1) * V_e + r * difference**2, r**2)``

    The third term is there only where scores are counts of examples: their variance if the optimizers were
    equal, as in McNemar's test. The floor is one example: where all predictions agree, few examples prove
    little. Degrees of freedom after Satterthwaite, J - 1 of V_r and n - 1 of the rest.

    Args:
        score: given how often each test example is drawn, [n_test], returns the score of every run,
            [P * J * S], in the order optimizer, replicate, seed; bigger is better; NaN where it diverged.
        shape: (P, J, S).
        n_test: number of test examples.
        seed: of the draws.
        draws: how many.
        resolution: by how much one test example can change a score (accuracy: ``1 / n_test``); 0 where
            scores are continuous.

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

    Source: Owen (2007) for two crossed factors. Deviation: replicates aren't drawn together with examples,
    which would count their interaction three times; it is counted twice, which errs on the wide side.
    """
    optimizers, replicates, _ = shape

    def by_replicate(weights: NDArray[np.int64]) -> Array:
        runs: Array = np.asarray(score(weights), dtype=np.float64).reshape(shape)
        return np.asarray(runs.mean(axis=-1), dtype=np.float64)

    alone = split_contrasts(by_replicate(np.ones(n_test, dtype=np.int64)), 1 / replicates)
    if replicates == 1:
        return replace(alone, example=resolution)
    random = np.random.default_rng(seed)
    samples = np.empty((draws, optimizers))
    for draw in range(draws):
        examples = np.bincount(random.integers(n_test, size=n_test), minlength=n_test)
        samples[draw] = by_replicate(examples).mean(axis=-1)
    averaged = ~np.isnan(alone.means)
    # a metric may not be defined on a resample (the area under the curve of one class alone)
    defined = ~np.isnan(samples[:, averaged]).any(axis=1)
    covariance = np.atleast_2d(np.cov(samples[defined], rowvar=False))
    covariance *= n_test / max(1, n_test - 1)
    own = np.diag(covariance)
    return _with_examples(
        alone,
        own=own,
        pairs=np.maximum(own[:, None] + own[None, :] - 2 * covariance, 0.0)
        + resolution * alone.differences**2,
        replicates=replicates,
        n_test=n_test,
        resolution=resolution,
    )


def with_test_noise(contrasts: Contrasts, like: Contrasts, replicates: int, n_test: int) -> Contrasts:
    """Add the noise of one fixed test set where the runs can't be scored anew on a resample.

    ``variance + V - V_r``, with ``V - V_r`` the part of ``like``'s variance that isn't due to replicates.

    Args:
        contrasts: from :func:`~thalweg.racing.contrasts.split_contrasts` with factor 1/J.
        like: from :func:`bootstrap_contrasts`: the same optimizers on the same test set, at another budget.
        replicates: J.
        n_test: number of test examples.
    """
    if replicates == 1:
        return replace(contrasts, example=like.example)
    return _with_examples(
        contrasts,
        own=like.mean_variances - like.mean_replicate_variances,
        pairs=like.variances - like.replicate_variances,
        replicates=replicates,
        n_test=n_test,
        resolution=like.example,
    )


def _with_examples(
    alone: Contrasts, *, own: Array, pairs: Array, replicates: int, n_test: int, resolution: float
) -> Contrasts:
    """Add the variances that are due to test examples to those of replicates, one example at the least."""

    def both(part: Array, examples: Array) -> tuple[Array, Array]:
        total = np.maximum(part + examples, resolution**2)
        rest = total - part
        with np.errstate(divide="ignore", invalid="ignore"):
            dof = total**2 / (part**2 / (replicates - 1) + rest**2 / max(1, n_test - 1))
        unknown = np.isnan(dof)
        return total, np.where(unknown, float(replicates - 1), np.minimum(dof, _MOST_DOF))

    mean_variances, mean_dof = both(alone.mean_variances, own)
    variances, dof = both(alone.variances, pairs)
    return replace(
        alone,
        mean_variances=mean_variances,
        mean_dof=mean_dof,
        variances=variances,
        dof=dof,
        example=resolution,
        floored=alone.variances + pairs < resolution**2,
    )
