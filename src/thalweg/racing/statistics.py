"""What a race's scores prove: how any two optimizers compare, and with it which could be the best.

Everything here is oriented: bigger is better (the caller turns a loss round once, at the door).

**Evidence.** The unit is the replicate: a split with its own tuning; its confirmation seeds are averaged
first. :class:`~thalweg.racing.contrasts.Contrasts` hold, for every two optimizers, the difference of their
means, its variance and that variance's degrees of freedom, from one of two sources:

- :func:`~thalweg.racing.contrasts.split_contrasts`: every replicate has its own test split. Training sets
  overlap, so replicates aren't independent. Where scores of two splits correlate by r, a mean difference has
  the variance ``(1/J + r/(1 - r)) * s**2`` (Nadeau and Bengio 2003). They take r = n_test/(n_train + n_test);
  a race takes at least 1/4 (:func:`~thalweg.racing.contrasts.overlap`).
- :func:`thalweg.racing.bootstrap.bootstrap_contrasts`: one test set for all. Test examples are resampled, and
  the variance between replicates is added.

**One inference.** :func:`compare_pairs` compares every two optimizers, and who could be the best follows from
it: those that nobody is better than. It steps down:

1. Of the m optimizers left, every two are compared at once, by the studentized range of m (Tukey) with a
   variance and degrees of freedom of the pair's own (Games and Howell 1976), since optimizers vary
   differently and are correlated through shared splits.
2. Whoever is worse than another leaves, and the rest is compared again with the smaller range, until
   nobody leaves. An optimizer that is far behind so costs the leaders no power.

All tied bests together are put behind at most 5 % of the time: while they are still m or more, the largest
of their t exceeds the range's critical value at that rate. That the steps between keep the level is shown
by simulation (docs/verdict.md).

*Moderation* (Smyth 2004): each pair's variance is averaged with the median variance of all pairs, which
counts as much as one more replicate; a median, because one optimizer that is wild from split to split must
not blur the rest. In degrees of freedom it counts half a replicate, since optimizers may vary differently:
with a whole one, two or three splits miss the best in up to 9 % of races. No claim rests on what other
pairs lent: a pair's own t test has to agree at the unadjusted level.

References: Games and Howell, J. Educ. Stat. 1 (1976). Hochberg and Tamhane, "Multiple comparison procedures"
(1987), step-down tests on ranges. Smyth, Stat. Appl. Genet. Mol. Biol. 3 (2004). Schuirmann, J. Pharmacokin.
Biopharm. 15 (1987), two one-sided tests. Tango, Stat. Med. 17 (1998), equivalence of paired proportions by
the variance at the margin.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import special, stats

from thalweg.racing.contrasts import Contrasts, correction
from thalweg.racing.studentized import quantile, range_quantile, range_tail, tail

__all__ = [
    "MOST_OVERLAP",
    "Comparison",
    "PairVerdict",
    "compare_pairs",
    "could_be_best",
    "holds_up_to",
    "interval",
    "replicates_needed",
    "shrunk_winner",
]

Array = NDArray[np.float64]
PairVerdict = Literal["better", "worse", "equivalent", "undecided"]

MOST_OVERLAP = 0.6
"""Verdicts say up to which correlation between splits they hold; beyond this nobody is told."""

_STEP = 0.05
# the median pair lends each pair as much as one more replicate, and half of its degrees of freedom
_LENT = 1.0
_LENT_DOF = 0.5


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Optimizer ``a`` against ``b`` by their indices; bigger differences favour ``a``.

    Attributes:
        difference: mean of ``a`` minus mean of ``b``; ``None`` where one of them diverged.
        low, high: interval of the difference, adjusted for all that were compared; ``None`` likewise.
        p_value: two-sided, adjusted for all that were compared in the last step in which this pair was;
            ``None`` where nothing had to be tested: all runs of one diverged, and none of the other.
        verdict: of ``a``.
    """

    a: int
    b: int
    difference: float | None
    low: float | None
    high: float | None
    p_value: float | None
    verdict: PairVerdict

    @property
    def loser(self) -> int | None:
        """The worse of the two, where one is."""
        return {"better": self.b, "worse": self.a}.get(self.verdict)


def could_be_best(comparisons: Sequence[Comparison], optimizers: int) -> list[int]:
    """Return the optimizers that nobody is better than: all that are truly best are among them, at 95 %.

    Args:
        comparisons: from :func:`compare_pairs`.
        optimizers: how many there are.

    Returns:
        Indices in ascending order; never empty.

    >>> from thalweg.racing.contrasts import correction, split_contrasts
    >>> y = [[9.0, 9.2, 8.9, 9.1, 9.0], [9.1, 9.0, 9.0, 9.0, 9.1], [5.0, 5.4, 5.2, 5.1, 4.9]]
    >>> could_be_best(compare_pairs(split_contrasts(y, correction(5, 0.25)), margin=0.0), 3)
    [0, 1]
    """
    losers = {comparison.loser for comparison in comparisons}
    return [index for index in range(optimizers) if index not in losers]


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
    return (dof * variances + _LENT * np.median(pairs)) / (dof + _LENT), dof + _LENT_DOF


def compare_pairs(
    contrasts: Contrasts,
    ranked: Contrasts | None = None,
    *,
    margin: float,
    level: float = 0.95,
    failed: Sequence[bool] | None = None,
) -> list[Comparison]:
    """Judge every two optimizers: better, worse, equivalent within the margin, or undecided.

    - *Equivalent*: two one-sided t tests at 5 %,
      ``|difference| + e/2 + t * sqrt(max(variance, margin * e)) < margin`` with e what one test example
      is worth: the variance there would be if the two differed by the margin, and half an example for
      counting in whole ones. They have to succeed on the pair's own variance and on the moderated one below,
      each with its degrees of freedom: a pair whose splits happen to agree is no surer than the others. Not
      adjusted: each pair's own claim is wrong at most 5 % of the time.
    - *Better, worse* otherwise: the adjusted p-value is at most 5 %. With M the m optimizers left, for
      any two of them it is the larger of the tail of the studentized range,

          ``P(range of m > sqrt(2) * |mean_p - mean_q| / sqrt(v))``

      on the moderated variance ``v = (dof * variance + median) / (dof + 1)``, median over all pairs in M,
      with dof + 1/2 degrees of freedom, and of the pair's own t test; for m = 2 it is the paired t test. Who
      is worse than another leaves M, and the rest is compared again, until nobody leaves. Any wrong claim
      among all pairs happens at most 5 % of the time. The interval shown goes with the p-value: it
      excludes zero when that is under 5 %.
    - *Undecided* otherwise.

    A pair with a diverged run is compared by rank: no difference, no interval, never equivalent. An optimizer
    none of whose runs has a score is behind all that never diverged, without a test.

    Args:
        contrasts: differences in score; optimizers with a NaN mean are compared by ``ranked``.
        ranked: differences in rank, of :func:`~thalweg.racing.contrasts.rank_scores`; needed when any mean is
            NaN.
        margin: the largest difference that doesn't matter; with 0 nothing is ever equivalent.
        level: 1 less the chance of a wrong difference.
        failed: of each optimizer, whether all of its runs diverged; nobody, where it isn't said.

    Returns:
        One comparison for each a < b.

    >>> from thalweg.racing.contrasts import correction, split_contrasts
    >>> y = [[9.0, 9.2, 8.9, 9.1, 9.0], [9.1, 9.0, 9.0, 9.0, 9.1], [5.0, 5.4, 5.2, 5.1, 4.9]]
    >>> [c.verdict for c in compare_pairs(split_contrasts(y, correction(5, 0.2)), margin=0.3)]
    ['equivalent', 'better', 'better']
    """
    assert margin >= 0
    alpha = 1 - level
    claims, p_values, sizes, lent, near = _step_down(contrasts, ranked, margin, alpha, failed)
    untested = _without_score(contrasts, failed)
    own, own_dof = _own(contrasts, np.arange(len(near)))
    found = []
    for p, q in zip(*np.triu_indices(len(near), 1), strict=True):
        p_value = None if untested[p, q] or untested[q, p] else float(p_values[p, q])
        difference = float(contrasts.differences[p, q])
        verdict: PairVerdict = "undecided"
        if near[p, q]:
            verdict = "equivalent"
        elif claims[p, q] or claims[q, p]:
            verdict = "better" if claims[p, q] else "worse"
        shown = low = high = None
        if not math.isnan(difference):
            shown = difference
            half = max(
                quantile(alpha / 2, own_dof[p, q]) * math.sqrt(own[p, q]),
                range_quantile(int(sizes[p, q]), float(lent[1][p, q]), share=alpha)
                * math.sqrt(lent[0][p, q]),
            )
            if math.isfinite(half):
                low, high = difference - half, difference + half
        found.append(
            Comparison(
                a=int(p), b=int(q), difference=shown, low=low, high=high, p_value=p_value, verdict=verdict
            )
        )
    return found


def _equivalent(
    contrasts: Contrasts, margin: float, alpha: float, members: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """Whether two one-sided tests put a pair within the margin, on its own variance and moderated, [m, m]."""
    halves = []
    for variances, dof in (_own(contrasts, members), _moderated(contrasts, members)):
        widest = np.maximum(variances, margin * contrasts.example)
        with np.errstate(invalid="ignore"):
            halves.append(-special.stdtrit(dof, alpha) * np.sqrt(widest))
    apart = np.abs(contrasts.differences[np.ix_(members, members)]) + contrasts.example / 2
    return np.asarray(apart + np.maximum(*halves) < margin, dtype=bool)


def _without_score(contrasts: Contrasts, failed: Sequence[bool] | None) -> NDArray[np.bool_]:
    """Whether row never diverged and column always did, [P, P]."""
    sound = ~np.isnan(contrasts.means)
    lost = np.zeros(len(sound), dtype=bool) if failed is None else np.asarray(failed, dtype=bool)
    return np.asarray(sound[:, None] & lost[None, :], dtype=bool)


def _step_down(
    contrasts: Contrasts,
    ranked: Contrasts | None,
    margin: float,
    alpha: float,
    failed: Sequence[bool] | None,
    near: NDArray[np.bool_] | None = None,
) -> tuple[NDArray[np.bool_], Array, NDArray[np.int64], tuple[Array, Array], NDArray[np.bool_]]:
    """Compare all that are left until nobody leaves.

    Args:
        near: whether a pair is equivalent, [P, P]; tested for at each step, where it isn't given.

    Returns:
        Whether row is better than column, and of the last step in which the two were compared: the
        p-value, how many were left, the moderated variance with its degrees of freedom, and whether they
        are equivalent; all [P, P].
    """
    count = len(contrasts.means)
    claims = _without_score(contrasts, failed)
    p_values = np.ones((count, count))
    sizes = np.full((count, count), count, dtype=np.int64)
    variances, dofs = np.full((2, count, count), np.inf)
    found = np.zeros((count, count), dtype=bool) if near is None else near
    left = np.flatnonzero(~claims.any(axis=0))
    while len(left) > 1:
        block = np.ix_(left, left)
        t, p = _tested(contrasts, ranked, left)
        p_values[block], sizes[block] = p, len(left)
        variances[block], dofs[block] = _moderated(contrasts, left)
        if near is None:
            found[block] = _equivalent(contrasts, margin, alpha, left)
        better = (p <= alpha) & (t > 0) & ~found[block]
        if better.any(axis=0).all():
            # scores and ranks together can beat each other in a circle; then ranks prove nothing
            better &= ~np.isnan(contrasts.differences[block])
        claims[block] = better
        leaving = better.any(axis=0)
        if not leaving.any():
            break
        left = left[~leaving]
    return claims, p_values, sizes, (variances, dofs), found


def _tested(
    contrasts: Contrasts, ranked: Contrasts | None, members: NDArray[np.int64]
) -> tuple[Array, Array]:
    """T statistics and two-sided p-values adjusted for all members, [m, m]; by rank where no score is."""
    t, dof = _t_statistics(contrasts, members)
    own_t, own_dof = _t_statistics(contrasts, members, lend=False)
    own = 2 * tail(np.abs(own_t), own_dof)
    if ranked is not None:
        by_rank, dof_by_rank = _t_statistics(ranked, members)
        missing = np.isnan(t)
        t, dof = np.where(missing, by_rank, t), np.where(missing, dof_by_rank, dof)
        own = np.where(missing, 0.0, own)
    assert not np.isnan(t).any(), "a diverged run needs ranks"
    a, b = np.triu_indices(len(members), 1)
    p = np.ones(t.shape)
    p[a, b] = p[b, a] = np.maximum(range_tail(np.abs(t[a, b]), len(members), dof[a, b]), own[a, b])
    return t, p


def holds_up_to(
    contrasts: Contrasts,
    ranked: Contrasts | None,
    comparisons: Sequence[Comparison],
    *,
    replicates: int,
    correlation: float,
    margin: float,
    level: float = 0.95,
    failed: Sequence[bool] | None = None,
) -> list[float | None]:
    """Return up to which correlation between splits each claim would still be made.

    Tried in steps of 0.05, up to 0.6: the largest at which the pair's verdict is what it is, and at all
    before it.

    Args:
        contrasts, ranked, margin, level, failed: as for :func:`compare_pairs`.
        comparisons: what that returned.
        replicates: number of splits.
        correlation: that ``contrasts`` assume.

    Returns:
        A correlation for each comparison; ``None`` where it claims nothing.

    >>> from thalweg.racing.contrasts import correction, split_contrasts
    >>> contrasts = split_contrasts([[9.0, 9.2, 8.9, 9.1], [8.3, 8.4, 8.4, 8.2]], correction(4, 0.25))
    >>> pair = compare_pairs(contrasts, margin=0.01)
    >>> holds_up_to(contrasts, None, pair, replicates=4, correlation=0.25, margin=0.01)
    [0.6]
    """
    alpha = 1 - level
    near = _step_down(contrasts, ranked, margin, alpha, failed)[-1]
    held: list[float | None] = [None if one.verdict == "undecided" else correlation for one in comparisons]
    standing = [one.verdict != "undecided" for one in comparisons]
    step = math.floor(correlation / _STEP + 1e-9) + 1
    while step * _STEP <= MOST_OVERLAP + 1e-9 and any(standing):
        tried = round(step * _STEP, 2)
        factor = correction(replicates, tried) / correction(replicates, correlation)
        wider, wider_ranked = contrasts.stretched(factor), ranked and ranked.stretched(factor)
        claims = _step_down(wider, wider_ranked, margin, alpha, failed, near)[0]
        # whoever is equivalent by the whole comparison at this correlation
        still = _step_down(wider, wider_ranked, margin, alpha, failed)[-1]
        for index, one in enumerate(comparisons):
            same = {"better": claims, "worse": claims.T, "equivalent": still}.get(one.verdict)
            standing[index] = standing[index] and same is not None and bool(same[one.a, one.b])
            if standing[index]:
                held[index] = tried
        step += 1
    return held


def interval(contrasts: Contrasts, index: int, *, level: float = 0.95) -> tuple[float, float] | None:
    """Return the interval of one optimizer's mean, ``mean +- t * sqrt(variance)``, t at 2.5 %/P.

    The P intervals hold their means all at once, at 95 %, so also that of the optimizer that came out first.
    ``None`` where a run diverged or a single replicate says nothing about spread.

    >>> from thalweg.racing.contrasts import split_contrasts
    >>> low, high = interval(split_contrasts([[1.0, 2.0, 3.0]], 1 / 3), 0)
    >>> print(f"{low:.3f} to {high:.3f}")
    -0.484 to 4.484
    """
    mean = float(contrasts.means[index])
    share = (1 - level) / (2 * len(contrasts.means))
    half = quantile(share, contrasts.mean_dof[index]) * math.sqrt(contrasts.mean_variances[index])
    return (mean - half, mean + half) if math.isfinite(mean) and math.isfinite(half) else None


def shrunk_winner(contrasts: Contrasts, best: Sequence[int]) -> float | None:
    """Return the highest mean of those that could be the best, without what being picked adds to it.

    ``c + max(0, 1 - V/S) * (highest - c)``: c and S the mean and variance of their k means, V how much means
    of equal optimizers would vary: half the mean variance of a difference. Where they differ no more
    than by chance, all of the lead is luck and the answer is c; one optimizer alone keeps its mean.

    Args:
        contrasts: differences in score.
        best: who could be the best, from :func:`could_be_best`; whoever has no mean is left out.

    Returns:
        The mean; ``None`` where nobody has one.

    >>> from thalweg.racing.contrasts import correction, split_contrasts
    >>> apart = split_contrasts([[9.0, 9.2, 8.9], [9.4, 9.0, 9.0]], correction(3, 0.25))
    >>> print(f"{apart.means.max():.3f} {shrunk_winner(apart, [0, 1]):.3f}")
    9.133 9.083

    Source: the positive-part estimator of James and Stein with a moment estimate of the shrinkage, as in
    Efron and Morris, J. Am. Stat. Assoc. 70 (1975).
    """
    members = [index for index in best if not math.isnan(contrasts.means[index])]
    if not members:
        return None
    means = contrasts.means[members]
    highest, centre = float(means.max()), float(means.mean())
    spread = float(np.var(means, ddof=1)) if len(members) > 1 else 0.0
    if spread == 0:
        return highest
    pairs = contrasts.variances[np.ix_(members, members)][np.triu_indices(len(members), 1)]
    return centre + max(0.0, 1 - float(pairs.mean()) / 2 / spread) * (highest - centre)


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
