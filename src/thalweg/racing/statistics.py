"""What a race's scores prove: which optimizers could be the best, and how any two compare.

Everything here is oriented: bigger is better (the caller turns a loss round once, at the door).

**Evidence.** The unit is the replicate: a split with its own tuning; its confirmation seeds are averaged
first. :class:`Contrasts` holds, for every two optimizers, the difference of their means, its variance and
that variance's degrees of freedom, from one of two sources:

- :func:`split_contrasts`: every replicate has its own test split. Training sets overlap, so replicates
  aren't independent, and the variance of a mean difference is ``(1/J + n_test/n_train) * s**2``, the
  corrected resampled t of Nadeau and Bengio (2003).
- :func:`thalweg.racing.bootstrap.bootstrap_contrasts`: one test set for all. Test examples and replicates
  are resampled together.

**The best.** :func:`could_be_best` compares each optimizer with its rivals one-sidedly, as Hsu's multiple
comparisons with the best does, on per-pair variances (valid when optimizers vary differently and are
correlated through shared splits), with two refinements that buy power where five splits have little:

- *Moderation* (Smyth 2004): each pair's variance is averaged with the median variance of all pairs, which
  counts as much as one more replicate, in value and in degrees of freedom. A median, because one
  optimizer that is wild from split to split must not blur the rest.
- *Step-down*: who is excluded no longer counts as a rival nor for the median, and the rest is compared
  again, until nothing changes. An optimizer that is far behind so costs the leaders no power.

The set holds the best optimizer at the stated rate: at the first step each optimizer is tested against its
m - 1 rivals at ``alpha/(m - 1)``, and the last two left are compared by a plain paired t. That the steps
between keep the level is shown by simulation (docs/verdict.md has the table, and what it was chosen over).

References: Nadeau and Bengio, "Inference for the generalization error", Machine Learning 52 (2003). Hsu,
"Multiple comparisons" (1996). Smyth, Stat. Appl. Genet. Mol. Biol. 3 (2004). Holm, Scand. J. Stat. 6
(1979). Schuirmann, J. Pharmacokin. Biopharm. 15 (1987), two one-sided tests. Conover and Iman, Am. Stat. 35
(1981), rank transformation.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special, stats

__all__ = [
    "Comparison",
    "Contrasts",
    "PairVerdict",
    "compare_pairs",
    "correction",
    "could_be_best",
    "interval",
    "rank_scores",
    "replicates_needed",
    "split_contrasts",
]

Array = NDArray[np.float64]
PairVerdict = Literal["better", "worse", "equivalent", "undecided"]

# the median pair lends each pair as much as one more replicate
_LENT = 1.0


@dataclass(frozen=True, kw_only=True)
class Contrasts:
    """Means of P optimizers and how well their differences are known. NaN: can't be averaged.

    Attributes:
        means: mean score of each optimizer, bigger is better, [P].
        mean_variances: variance of each mean, [P].
        mean_dof: degrees of freedom of those, [P].
        variances: variance of ``means[p] - means[q]``, symmetric, [P, P].
        dof: degrees of freedom of those, [P, P].
    """

    means: Array
    mean_variances: Array
    mean_dof: Array
    variances: Array
    dof: Array

    @property
    def differences(self) -> Array:
        """``means[p] - means[q]``, [P, P]."""
        return self.means[:, None] - self.means[None, :]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Optimizer ``a`` against ``b`` by their indices; bigger differences favour ``a``.

    Attributes:
        difference: mean of ``a`` minus mean of ``b``; ``None`` where one of them diverged.
        low, high: interval of the difference, adjusted for the number of pairs; ``None`` likewise.
        p_value: two-sided, adjusted for the number of pairs.
        verdict: of ``a``.
    """

    a: int
    b: int
    difference: float | None
    low: float | None
    high: float | None
    p_value: float | None
    verdict: PairVerdict


def correction(replicates: int, n_train: int, n_test: int) -> float:
    """Return the variance factor of the corrected resampled t, ``1/J + n_test/n_train``.

    Args:
        replicates: number of splits J, at least 1.
        n_train: examples that the procedure learns from in one split, those for validation included.
        n_test: test examples in one split.

    >>> correction(5, n_train=800, n_test=200)
    0.45

    Source: Nadeau and Bengio (2003), section 3, with n2/n1 the ratio of test to training examples.
    """
    assert replicates >= 1
    assert n_train >= 1
    return 1 / replicates + n_test / n_train


def split_contrasts(scores: ArrayLike, factor: float, *, resolution: float = 0.0) -> Contrasts:
    """Compare optimizers on replicates that each have their own test split.

    ``variance = factor * max(s**2, resolution**2)``, s the standard deviation of the J differences.

    Args:
        scores: score of each optimizer in each replicate, seeds averaged, [P, J]; NaN where one diverged.
        factor: from :func:`correction`.
        resolution: the smallest step by which one replicate's score can change (accuracy: one over the
            number of test examples): five splits that happen to agree don't prove more than that.

    Returns:
        Contrasts with J - 1 degrees of freedom; a single replicate has infinite variances.

    >>> both = split_contrasts([[0.9, 0.8, 0.9], [0.7, 0.7, 0.7]], correction(3, 90, 30))
    >>> round(float(both.differences[0, 1]), 4), round(float(both.variances[0, 1]), 6)
    (0.1667, 0.002222)
    """
    y = np.asarray(scores, dtype=np.float64)
    optimizers, replicates = y.shape
    if replicates > 1:
        variances = factor * np.maximum(np.var(y[:, None] - y[None], axis=-1, ddof=1), resolution**2)
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


def could_be_best(contrasts: Contrasts, ranked: Contrasts | None = None, *, level: float = 0.95) -> list[int]:
    """Return the optimizers that could be the best: the set holds the best one at the stated rate.

    With M the optimizers left, m of them, p is excluded when for some rival q in M

        ``(mean_q - mean_p) / sqrt(v_qp) > t(1 - (1 - level)/(m - 1))``

    where, for m > 2, ``v = (dof * variance + median) / (dof + 1)`` with the median over all pairs in M,
    and t has ``dof + 1`` degrees of freedom; for m = 2 the variance is the pair's own. Repeated until
    nobody is excluded. The module's docstring says why, docs/verdict.md how well.

    Args:
        contrasts: differences in score; optimizers with a NaN mean are judged by ``ranked``.
        ranked: the same from :func:`rank_scores`; needed when any mean is NaN.
        level: probability that the best is in the set.

    Returns:
        Indices in ascending order; never empty.

    >>> y = [[9.0, 9.2, 8.9, 9.1, 9.0], [9.1, 9.0, 9.0, 9.0, 9.1], [5.0, 5.4, 5.2, 5.1, 4.9]]
    >>> could_be_best(split_contrasts(y, correction(5, 80, 20)))
    [0, 1]
    """
    left = np.arange(len(contrasts.means))
    while len(left) > 1:
        p_values = _one_sided(contrasts, ranked, left)
        excluded = (p_values * (len(left) - 1) < 1 - level).any(axis=0)
        if not excluded.any():
            break
        if excluded.all():
            # scores and ranks together can beat each other in a circle; then nothing is proven
            break
        left = left[~excluded]
    return [int(index) for index in left]


def _one_sided(contrasts: Contrasts, ranked: Contrasts | None, members: NDArray[np.int64]) -> Array:
    """P-values [m, m] that row isn't better than column; by rank where there is no score."""
    t, dof = _t_statistics(contrasts, members)
    if ranked is not None:
        by_rank, dof_by_rank = _t_statistics(ranked, members)
        missing = np.isnan(t)
        t, dof = np.where(missing, by_rank, t), np.where(missing, dof_by_rank, dof)
    assert not np.isnan(t).any(), "a diverged run needs ranks"
    return _tail(t, dof)


def _t_statistics(
    contrasts: Contrasts, members: NDArray[np.int64], *, lend: bool = True
) -> tuple[Array, Array]:
    variances, dof = (_moderated if lend else _own)(contrasts, members)
    differences = contrasts.differences[np.ix_(members, members)]
    with np.errstate(divide="ignore", invalid="ignore"):
        # two optimizers that agree everywhere differ by nothing, however sure that is
        return np.where(differences == 0, 0.0, differences / np.sqrt(variances)), dof


def _own(contrasts: Contrasts, members: NDArray[np.int64]) -> tuple[Array, Array]:
    block = np.ix_(members, members)
    return contrasts.variances[block], contrasts.dof[block]


def _moderated(contrasts: Contrasts, members: NDArray[np.int64]) -> tuple[Array, Array]:
    """Variances and degrees of freedom [m, m] with the median pair's share; diverged pairs lend none."""
    variances, dof = _own(contrasts, members)
    pairs = variances[np.triu_indices(len(members), 1)]
    pairs = pairs[~np.isnan(pairs)]
    if len(pairs) < 2 or np.isinf(pairs).any():
        return variances, dof
    return (dof * variances + _LENT * np.median(pairs)) / (dof + _LENT), dof + _LENT


def compare_pairs(
    contrasts: Contrasts, ranked: Contrasts | None = None, *, margin: float, level: float = 0.95
) -> list[Comparison]:
    """Judge every two optimizers: better, worse, equivalent within the margin, or undecided.

    - *Equivalent*: two one-sided t tests at 5 %: the 90 % interval on the pair's own variance lies within
      ``[-margin, margin]``. Not adjusted: each pair's own claim is wrong at most 5 % of the time.
    - *Better, worse* otherwise: the adjusted p-value is at most 5 %. It is the larger of Holm's adjusted
      p-value over all pairs, on moderated variances, and the pair's own t test; so any wrong claim of a
      difference among all the pairs happens at most 5 % of the time, and no claim rests on what other
      pairs lent. The interval shown goes with it: it excludes zero when the p-value is under 5 %.
    - *Undecided* otherwise.

    A pair with a diverged run is judged on ranks: no difference, no interval, never equivalent.

    Args:
        contrasts: differences in score.
        ranked: differences in rank; needed when any mean is NaN.
        margin: the largest difference that doesn't matter; with 0 nothing is ever equivalent.
        level: of the intervals for better and worse.

    Returns:
        One comparison for each a < b.

    >>> y = [[9.0, 9.2, 8.9, 9.1, 9.0], [9.1, 9.0, 9.0, 9.0, 9.1], [5.0, 5.4, 5.2, 5.1, 4.9]]
    >>> [c.verdict for c in compare_pairs(split_contrasts(y, correction(5, 80, 20)), margin=0.3)]
    ['equivalent', 'better', 'better']
    """
    assert margin >= 0
    alpha = 1 - level
    members = np.arange(len(contrasts.means))
    a, b = np.triu_indices(len(members), 1)
    one_sided = _one_sided(contrasts, ranked, members)
    raw = np.minimum(1.0, 2 * np.minimum(one_sided, one_sided.T))[a, b]
    own_t, own_dof = _t_statistics(contrasts, members, lend=False)
    by_rank = np.isnan(own_t)
    own = np.where(by_rank, 0.0, 2 * _tail(np.abs(own_t), own_dof))[a, b]
    adjusted, divisors = _holm(raw, alpha)
    p_values = np.maximum(adjusted, own)
    lent = _moderated(contrasts, members)
    found = []
    for index, (p, q) in enumerate(zip(a.tolist(), b.tolist(), strict=True)):
        p_value = float(p_values[index])
        difference = float(contrasts.differences[p, q])
        verdict: PairVerdict = "undecided"
        if p_value <= alpha:
            verdict = "better" if one_sided[p, q] < one_sided[q, p] else "worse"
        if by_rank[p, q]:
            found.append(
                Comparison(a=p, b=q, difference=None, low=None, high=None, p_value=p_value, verdict=verdict)
            )
            continue
        se, dof = math.sqrt(contrasts.variances[p, q]), float(contrasts.dof[p, q])
        half = max(
            _quantile(alpha / 2, dof) * se,
            _quantile(alpha / (2 * divisors[index]), float(lent[1][p, q])) * math.sqrt(lent[0][p, q]),
        )
        if abs(difference) + _quantile(alpha, dof) * se < margin:
            verdict = "equivalent"
        low, high = (difference - half, difference + half) if math.isfinite(half) else (None, None)
        found.append(
            Comparison(a=p, b=q, difference=difference, low=low, high=high, p_value=p_value, verdict=verdict)
        )
    return found


def _tail(t: Array, dof: Array) -> Array:
    """Probability above t; scipy.stats says the same, with a tenth of a millisecond of checks each time."""
    return np.asarray(special.stdtr(dof, -t), dtype=np.float64)


def _quantile(tail: float, dof: float) -> float:
    """The t above which this much probability lies."""
    return float(-special.stdtrit(dof, tail))


def _holm(p_values: Array, alpha: float) -> tuple[Array, Array]:
    """Holm's adjusted p-values, and the divisor of alpha at which each was tested."""
    order = np.argsort(p_values, kind="stable")
    count = len(p_values)
    scaled = np.minimum(1.0, np.maximum.accumulate(p_values[order] * (count - np.arange(count))))
    first_kept = int(np.searchsorted(scaled > alpha, True))
    adjusted, divisors = np.empty(count), np.empty(count)
    adjusted[order] = scaled
    divisors[order] = count - np.minimum(np.arange(count), first_kept)
    return adjusted, divisors


def interval(contrasts: Contrasts, index: int, *, level: float = 0.95) -> tuple[float, float] | None:
    """Return the interval of one optimizer's mean, ``mean +- t * sqrt(variance)``.

    ``None`` where a run diverged or a single replicate says nothing about spread.

    >>> low, high = interval(split_contrasts([[1.0, 2.0, 3.0]], 1 / 3), 0)
    >>> print(f"{low:.3f} to {high:.3f}")
    -0.484 to 4.484
    """
    mean = float(contrasts.means[index])
    half = _quantile((1 - level) / 2, contrasts.mean_dof[index]) * math.sqrt(contrasts.mean_variances[index])
    return (mean - half, mean + half) if math.isfinite(mean) and math.isfinite(half) else None


def replicates_needed(sd: float, margin: float, *, ratio: float, most: int = 1000) -> int | None:
    """Return how many replicates would settle two optimizers that are equal, four times out of five.

    The smallest J with ``(t(0.95) + t(0.9)) * sqrt(1/J + ratio) * sd <= margin``, J - 1 degrees of freedom:
    the two one-sided tests then succeed with probability 0.8 when the true difference is zero.

    Args:
        sd: standard deviation of the difference between replicates.
        margin: the margin, positive.
        ratio: test over training examples (the part that more splits of the same data can't remove);
            0 for a fixed test set.
        most: the largest answer.

    Returns:
        The number, or ``None`` where no number up to ``most`` is enough: only more test examples help.

    >>> replicates_needed(0.01, 0.01, ratio=0.0)
    11
    >>> replicates_needed(0.01, 0.01, ratio=0.25) is None
    True
    """
    counts = np.arange(2, most + 1)
    quantiles = stats.t.isf(0.05, counts - 1) + stats.t.isf(0.10, counts - 1)
    enough = quantiles * np.sqrt(1 / counts + ratio) * sd <= margin
    return int(counts[np.argmax(enough)]) if enough.any() else None
