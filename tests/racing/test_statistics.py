"""The statistics of a verdict against scipy, closed forms and twins written apart."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from thalweg.racing import statistics
from thalweg.racing.statistics import Contrasts, compare_pairs, could_be_best, split_contrasts


def draw(seed: int, optimizers: int = 4, splits: int = 5, *, gap: float = 1.0) -> np.ndarray:
    random = np.random.default_rng(seed)
    means = gap * np.arange(optimizers)
    return random.standard_normal((optimizers, splits)) + means[:, None] + 3 * random.standard_normal(splits)


def by_rank(scores: np.ndarray) -> Contrasts:
    ranks = statistics.rank_scores(scores)
    return split_contrasts(ranks, statistics.correction(scores.shape[1], 80, 20), resolution=12**-0.5)


def test_two_optimizers_are_compared_by_the_paired_t_test() -> None:
    for seed in range(50):
        y = draw(seed, 2)
        pair = scipy_stats.ttest_rel(y[1], y[0], alternative="greater")
        contrasts = split_contrasts(y, 1 / 5)
        assert (0 not in could_be_best(contrasts)) == (pair.pvalue < 0.05)
        two_sided = scipy_stats.ttest_rel(y[0], y[1])
        comparison = compare_pairs(contrasts, margin=1e-9)[0]
        assert comparison.p_value == pytest.approx(two_sided.pvalue)
        assert (comparison.low, comparison.high) == pytest.approx(tuple(two_sided.confidence_interval(0.95)))


def test_the_correction_widens_by_overlap() -> None:
    y = draw(3, 2)
    plain, corrected = (split_contrasts(y, factor) for factor in (1 / 5, statistics.correction(5, 80, 20)))
    assert corrected.variances[0, 1] / plain.variances[0, 1] == pytest.approx((1 / 5 + 20 / 80) / (1 / 5))


def test_equivalence_is_two_one_sided_t_tests() -> None:
    seen = set()
    for seed in range(200):
        y = draw(seed, 2, gap=0.3)
        margin = 1.5
        lower = scipy_stats.ttest_rel(y[0] + margin, y[1], alternative="greater").pvalue
        upper = scipy_stats.ttest_rel(y[0] - margin, y[1], alternative="less").pvalue
        verdict = compare_pairs(split_contrasts(y, 1 / 5), margin=margin)[0].verdict
        assert (verdict == "equivalent") == (max(lower, upper) < 0.05)
        seen.add(verdict)
    assert {"equivalent", "undecided"} <= seen


def test_moderation_and_its_degrees_of_freedom_by_hand() -> None:
    y = draw(1, 3)
    own = [np.var(y[a] - y[b], ddof=1) / 5 for a, b in ((0, 1), (0, 2), (1, 2))]
    lent = (4 * own[0] + np.median(own)) / 5
    one_sided = scipy_stats.t.sf((y[1].mean() - y[0].mean()) / np.sqrt(lent), 5)
    unadjusted = scipy_stats.ttest_rel(y[0], y[1]).pvalue
    raw = [
        2 * scipy_stats.t.sf(abs(y[a].mean() - y[b].mean()) / np.sqrt((4 * v + np.median(own)) / 5), 5)
        for (a, b), v in zip(((0, 1), (0, 2), (1, 2)), own, strict=True)
    ]
    found = compare_pairs(split_contrasts(y, 1 / 5), margin=1e-9)
    assert raw[0] == pytest.approx(2 * min(one_sided, 1 - one_sided))
    assert found[0].p_value == pytest.approx(max(holm(raw)[0], unadjusted))


def holm(p_values: list[float]) -> list[float]:
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    adjusted, largest = [0.0] * len(p_values), 0.0
    for place, index in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - place) * p_values[index]))
        adjusted[index] = largest
    return adjusted


@given(
    seed=st.integers(0, 10**6), optimizers=st.integers(2, 7), splits=st.integers(2, 8), gap=st.floats(0, 4)
)
@settings(max_examples=60, deadline=None)
def test_pairs_hang_together(seed: int, optimizers: int, splits: int, gap: float) -> None:
    y = draw(seed, optimizers, splits, gap=gap)
    found = compare_pairs(split_contrasts(y, 1 / splits), margin=0.5)
    assert len(found) == optimizers * (optimizers - 1) // 2
    for pair in found:
        assert pair.difference is not None
        assert pair.low is not None
        assert pair.high is not None
        assert pair.p_value is not None
        assert pair.low <= pair.difference <= pair.high
        assert (pair.low > 0 or pair.high < 0) == (pair.p_value < 0.05)
        if pair.verdict in ("better", "worse"):
            assert pair.p_value <= 0.05
            assert (pair.verdict == "better") == (pair.difference > 0)


@given(seed=st.integers(0, 10**6), optimizers=st.integers(2, 7), gap=st.floats(0, 4))
@settings(max_examples=60, deadline=None)
def test_the_set_holds_the_best_mean_and_does_not_depend_on_the_order(
    seed: int, optimizers: int, gap: float
) -> None:
    y = draw(seed, optimizers, gap=gap)
    found = could_be_best(split_contrasts(y, 0.45))
    assert int(np.argmax(y.mean(axis=1))) in found
    turned = np.random.default_rng(seed).permutation(optimizers)
    assert sorted(turned[i] for i in could_be_best(split_contrasts(y[turned], 0.45))) == found
    assert set(found) <= set(could_be_best(split_contrasts(y, 0.45), level=0.99))
    assert found == could_be_best(split_contrasts(7 * y - 3, 0.45))


def test_far_behind_takes_no_power_from_the_leaders() -> None:
    leaders = np.array([[9.0, 9.1, 9.2, 9.0, 9.1], [8.5, 8.8, 8.6, 8.7, 8.4]])
    behind = np.linspace(1, 2, 5)[:, None] + np.random.default_rng(0).standard_normal((5, 5)) * 0.1
    assert could_be_best(split_contrasts(leaders, 0.45)) == [0]
    assert could_be_best(split_contrasts(np.vstack([leaders, behind]), 0.45)) == [0]


def test_identical_scores_prove_nothing_but_equivalence() -> None:
    same = np.tile([0.9, 0.8, 0.9, 0.7, 0.8], (3, 1))
    assert could_be_best(split_contrasts(same, 0.45)) == [0, 1, 2]
    assert {c.verdict for c in compare_pairs(split_contrasts(same, 0.45), margin=0.01)} == {"equivalent"}


def test_five_splits_that_agree_prove_no_more_than_one_test_example() -> None:
    a = np.array([[0.90] * 5, [0.93] * 5])
    assert could_be_best(split_contrasts(a, 0.45)) == [1]
    assert could_be_best(split_contrasts(a, 0.45, resolution=1 / 30)) == [0, 1]
    coarse = split_contrasts(np.array([[0.9] * 5, [0.9] * 5]), 0.45, resolution=1 / 30)
    assert compare_pairs(coarse, margin=0.01)[0].verdict == "undecided"


def test_a_single_replicate_tells_nothing() -> None:
    alone = split_contrasts([[0.9], [0.1]], statistics.correction(1, 80, 20))
    assert could_be_best(alone) == [0, 1]
    pair = compare_pairs(alone, margin=0.5)[0]
    assert (pair.verdict, pair.low, pair.high, pair.p_value) == ("undecided", None, None, 1.0)
    assert statistics.interval(alone, 0) is None


def test_interval_of_a_mean_is_students() -> None:
    y = draw(5, 1)[0]
    low, high = scipy_stats.t.interval(0.95, 4, loc=y.mean(), scale=y.std(ddof=1) / np.sqrt(5))
    assert statistics.interval(split_contrasts([y], 1 / 5), 0) == pytest.approx((low, high))


# Diverged runs -----------------------------------------------------------------------------------------


def test_ranks_put_whoever_diverged_last() -> None:
    nan = np.nan
    scores = np.array([[[nan, 9.0], [1.0, 1.0]], [[nan, nan], [2.0, 2.0]], [[0.1, 0.1], [2.0, 2.0]]])
    assert statistics.rank_scores(scores).tolist() == [[1.0, 1.0], [1.0, 2.5], [3.0, 2.5]]


@pytest.mark.parametrize(("splits", "excluded"), [(2, False), (3, True), (5, True)])
def test_one_of_two_that_always_diverges_is_not_the_best(splits: int, excluded: bool) -> None:
    scores = np.array([np.full((splits, 2), np.nan), np.full((splits, 2), 0.5)])
    scores[0, :, 0] = 0.9
    found = could_be_best(split_contrasts(scores.mean(axis=-1), 0.45), by_rank(scores))
    assert found == ([1] if excluded else [0, 1])


def test_a_diverged_optimizer_has_no_difference_and_is_never_equivalent() -> None:
    scores = np.repeat(draw(2, 4, gap=4.0)[..., None], 2, axis=-1)
    scores[3, :, 1] = np.nan
    contrasts, ranked = split_contrasts(scores.mean(axis=-1), 0.45), by_rank(scores)
    assert 3 not in could_be_best(contrasts, ranked)
    for pair in compare_pairs(contrasts, ranked, margin=100.0):
        if pair.b == 3:
            assert (pair.difference, pair.low, pair.high) == (None, None, None)
            assert pair.verdict in ("better", "undecided")
            assert pair.p_value is not None
        else:
            assert pair.verdict == "equivalent"
    assert statistics.interval(contrasts, 3) is None


def test_diverging_once_of_five_does_not_settle_it() -> None:
    scores = np.repeat(draw(4, 3, gap=5.0)[..., None], 2, axis=-1)
    scores[2, 0, 0] = np.nan
    assert 2 in could_be_best(split_contrasts(scores.mean(axis=-1), 0.45), by_rank(scores))


def test_everybody_diverging_everywhere_leaves_everybody() -> None:
    scores = np.full((3, 5, 2), np.nan)
    assert could_be_best(split_contrasts(scores.mean(axis=-1), 0.45), by_rank(scores)) == [0, 1, 2]


# How many would be needed ------------------------------------------------------------------------------


@pytest.mark.parametrize("ratio", [0.0, 0.05])
def test_that_many_replicates_settle_four_of_five_equal_pairs(ratio: float) -> None:
    needed = statistics.replicates_needed(1.0, 1.2, ratio=ratio)
    assert needed is not None
    random = np.random.default_rng(0)
    sd = np.sqrt(1 / needed + ratio)
    means = sd * random.standard_normal(20_000)
    spreads = sd * np.sqrt(random.chisquare(needed - 1, 20_000) / (needed - 1))
    settled = np.mean(np.abs(means) + scipy_stats.t.isf(0.05, needed - 1) * spreads < 1.2)
    assert 0.77 < settled < 0.88


def test_more_replicates_are_needed_for_more_spread_and_none_is_enough_for_too_much_overlap() -> None:
    counts = [statistics.replicates_needed(sd, 1.0, ratio=0.0) for sd in (0.1, 0.5, 1.0, 2.0)]
    assert all(count is not None for count in counts)
    assert counts == sorted(counts, key=lambda count: count or 0)
    assert statistics.replicates_needed(1.0, 1.0, ratio=0.25) is None
