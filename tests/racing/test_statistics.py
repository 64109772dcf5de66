"""The statistics of a verdict against scipy, closed forms and twins written apart."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from thalweg.racing import statistics
from thalweg.racing.contrasts import Contrasts, correction, overlap, rank_scores, split_contrasts
from thalweg.racing.statistics import Comparison, compare_pairs
from thalweg.racing.studentized import range_quantile, range_tail


def draw(
    seed: int, optimizers: int = 4, splits: int = 5, *, gap: float = 1.0, uneven: bool = False
) -> np.ndarray:
    random = np.random.default_rng(seed)
    means = gap * np.arange(optimizers)
    spreads = random.uniform(0.1, 4, optimizers) if uneven else np.ones(optimizers)
    own = spreads[:, None] * random.standard_normal((optimizers, splits))
    return own + means[:, None] + 3 * random.standard_normal(splits)


def by_rank(scores: np.ndarray) -> Contrasts:
    ranks = rank_scores(scores)
    factor = correction(scores.shape[1], 0.25)
    return split_contrasts(ranks, factor, resolution=12**-0.5)


def best(contrasts: Contrasts, ranked: Contrasts | None = None, level: float = 0.95) -> list[int]:
    found = compare_pairs(contrasts, ranked, margin=0.0, level=level)
    return statistics.could_be_best(found, len(contrasts.means))


def two_sided(a: np.ndarray, b: np.ndarray) -> float:
    return float(scipy_stats.ttest_rel(a, b).pvalue)


def test_two_optimizers_are_compared_by_the_paired_t_test() -> None:
    for seed in range(50):
        y = draw(seed, 2)
        contrasts = split_contrasts(y, 1 / 5)
        assert (best(contrasts) == [1]) == (two_sided(y[0], y[1]) <= 0.05 and y[1].mean() > y[0].mean())
        pair = scipy_stats.ttest_rel(y[0], y[1])
        comparison = compare_pairs(contrasts, margin=1e-9)[0]
        assert comparison.p_value == pytest.approx(pair.pvalue)
        assert (comparison.low, comparison.high) == pytest.approx(tuple(pair.confidence_interval(0.95)))


def test_the_correction_widens_by_overlap() -> None:
    y = draw(3, 2)
    plain, corrected = (split_contrasts(y, factor) for factor in (1 / 5, correction(5, 0.2)))
    assert corrected.variances[0, 1] / plain.variances[0, 1] == pytest.approx((1 / 5 + 20 / 80) / (1 / 5))
    assert overlap(100, 1) == 0.25
    assert overlap(50, 50) == 0.5


@pytest.mark.parametrize("m", [2, 3, 7, 12])
def test_the_range_is_that_of_scipy(m: int) -> None:
    for dof in (1.5, 4.5, 30.0):
        for t in (0.5, 2.0, 4.0, 9.0):
            right = scipy_stats.studentized_range.sf(t * np.sqrt(2), m, dof)
            assert float(range_tail(t, m, dof)) == pytest.approx(right, rel=1e-3, abs=1e-6)
        assert float(range_tail(range_quantile(m, dof), m, dof)) == pytest.approx(0.05, rel=1e-4)


def range_p(t: float, m: int, dof: float) -> float:
    return float(scipy_stats.studentized_range.sf(abs(t) * np.sqrt(2), m, dof))


def test_moderation_and_its_degrees_of_freedom_by_hand() -> None:
    y = draw(1, 3, gap=0.3)
    own = [np.var(y[a] - y[b], ddof=1) / 5 for a, b in ((0, 1), (0, 2), (1, 2))]
    found = compare_pairs(split_contrasts(y, 1 / 5), margin=1e-9)
    for pair, variance in zip(found, own, strict=True):
        t = (y[pair.a].mean() - y[pair.b].mean()) / np.sqrt((4 * variance + np.median(own)) / 5)
        expected = max(range_p(t, 3, 4.5), two_sided(y[pair.a], y[pair.b]))
        assert pair.p_value == pytest.approx(expected, rel=1e-4)
        assert pair.verdict == "undecided"


def test_who_is_behind_leaves_and_the_rest_is_compared_again() -> None:
    y = np.vstack([draw(2, 3, gap=0.0), draw(2, 1) - 50])
    found = {(pair.a, pair.b): pair for pair in compare_pairs(split_contrasts(y, 1 / 5), margin=1e-9)}
    own = np.array([np.var(y[a] - y[b], ddof=1) / 5 for a, b in ((0, 1), (0, 2), (1, 2))])
    assert [found[a, 3].verdict for a in range(3)] == ["better"] * 3
    # the median of the three that are left, and their range
    t = (y[0].mean() - y[1].mean()) / np.sqrt((4 * own[0] + np.median(own)) / 5)
    expected = max(range_p(t, 3, 4.5), two_sided(y[0], y[1]))
    assert found[0, 1].p_value == pytest.approx(expected, rel=1e-4)


def test_whoever_is_equivalent_stays_however_surely_it_is_behind() -> None:
    y = np.vstack([0.001 * draw(6, 4, gap=0.0), draw(5, 1)])
    y[1:4] -= 0.1
    contrasts = split_contrasts(y, 1 / 5)
    assert statistics.could_be_best(compare_pairs(contrasts, margin=0.0), 5) == [0, 4]
    found = {(pair.a, pair.b): pair for pair in compare_pairs(contrasts, margin=1.0)}
    assert [found[0, q].verdict for q in (1, 2, 3)] == ["equivalent"] * 3
    # the last one is still compared with all of them
    own = [np.var(y[a] - y[b], ddof=1) / 5 for a in range(5) for b in range(a + 1, 5)]
    t = (y[0].mean() - y[4].mean()) / np.sqrt((4 * own[3] + np.median(own)) / 5)
    expected = max(range_p(t, 5, 4.5), two_sided(y[0], y[4]))
    assert found[0, 4].p_value == pytest.approx(expected, rel=1e-4)


def test_no_claim_rests_on_what_other_pairs_lent() -> None:
    random = np.random.default_rng(3)
    seen = False
    for _ in range(60):
        # with two splits and two alike, a wild one's own t test is the stricter of both
        y = random.standard_normal((3, 2)) * np.array([3.0, 0.05, 0.05])[:, None]
        for pair in compare_pairs(split_contrasts(y, 1 / 2), margin=1e-9):
            own = scipy_stats.ttest_rel(y[pair.a], y[pair.b])
            assert pair.p_value is not None
            assert pair.low is not None
            assert pair.high is not None
            assert pair.p_value >= own.pvalue - 1e-9
            low, high = own.confidence_interval(0.95)
            assert pair.low <= low + 1e-9
            assert pair.high >= high - 1e-9
            seen |= abs(pair.p_value - own.pvalue) < 1e-9
    assert seen


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


def equivalence_by_hand(y: np.ndarray, p: int, q: int, left: list[int], margin: float) -> bool:
    """Two one-sided tests on a pair's own variance, and on that with the median of those that are left."""
    own = {(a, b): np.var(y[a] - y[b], ddof=1) / y.shape[1] for a in left for b in left if a < b}
    half = scipy_stats.t.isf(0.05, y.shape[1] - 1) * np.sqrt(own[p, q])
    if len(left) > 2:
        lent = ((y.shape[1] - 1) * own[p, q] + np.median(list(own.values()))) / y.shape[1]
        half = max(half, scipy_stats.t.isf(0.05, y.shape[1] - 0.5) * np.sqrt(lent))
    return abs(y[p].mean() - y[q].mean()) + half < margin


def test_equivalence_has_to_succeed_on_the_moderated_variance_too() -> None:
    seen = set()
    for seed in range(60):
        y = draw(seed, 3, gap=0.0)
        # the splits of the first two happen to agree
        y[1] = y[0] + 0.02 * (draw(seed + 500, 1, gap=0.0)[0] - draw(seed + 500, 1, gap=0.0)[0].mean())
        margin = 1.0
        own = scipy_stats.t.isf(0.05, 4) * np.sqrt(np.var(y[0] - y[1], ddof=1) / 5)
        found = compare_pairs(split_contrasts(y, 1 / 5), margin=margin)
        assert (found[0].verdict == "equivalent") == equivalence_by_hand(y, 0, 1, [0, 1, 2], margin)
        assert abs(y[0].mean() - y[1].mean()) + own < margin, "its own variance alone would say so"
        seen.add(found[0].verdict)
    assert seen == {"equivalent", "undecided"}


def test_equivalence_is_judged_among_those_that_are_left() -> None:
    seen = set()
    for seed in range(40):
        y = np.vstack([draw(seed, 3, gap=0.0) * 0.3, 40 * draw(seed + 90, 3, gap=0.0) - 900])
        found = {(pair.a, pair.b): pair for pair in compare_pairs(split_contrasts(y, 1 / 5), margin=1.0)}
        if any(found[p, q].loser != q for p in range(3) for q in (3, 4, 5)):
            continue
        for p, q in ((0, 1), (0, 2), (1, 2)):
            assert (found[p, q].verdict == "equivalent") == equivalence_by_hand(y, p, q, [0, 1, 2], 1.0)
            seen.add((found[p, q].verdict, equivalence_by_hand(y, p, q, list(range(6)), 1.0)))
    # lent by all six it would never be
    assert ("equivalent", False) in seen


def test_a_claim_of_equivalence_lasts_as_long_as_both_tests_succeed() -> None:
    y = draw(3, 3, gap=0.0) * 0.3
    contrasts = split_contrasts(y, correction(5, 0.25))
    found = compare_pairs(contrasts, margin=1.4)
    held = statistics.holds_up_to(contrasts, None, found, replicates=5, correlation=0.25, margin=1.4)
    for pair, upto in zip(found, held, strict=True):
        tried = [r for r in np.arange(0.25, 0.601, 0.05) if _still(y, pair, float(r))]
        assert upto == (pytest.approx(tried[-1]) if pair.verdict == "equivalent" else None)
    assert len({upto for upto in held if upto is not None}) > 1


def _still(y: np.ndarray, pair: Comparison, r: float) -> bool:
    one = compare_pairs(split_contrasts(y, correction(5, r)), margin=1.4)
    return next(c for c in one if (c.a, c.b) == (pair.a, pair.b)).verdict == "equivalent"


def test_at_the_margin_one_example_is_worth_its_share() -> None:
    example = correction(5, 0.25) / 40
    for seed in range(30):
        hits = np.random.default_rng(seed).binomial(40, 0.97, (2, 5)) / 40
        contrasts = split_contrasts(hits, correction(5, 0.25), resolution=1 / 40)
        margin = 0.08
        own = correction(5, 0.25) * max(np.var(hits[0] - hits[1], ddof=1), 1 / 40**2)
        reach = abs(hits[0].mean() - hits[1].mean()) + example / 2
        reach += scipy_stats.t.isf(0.05, 4) * np.sqrt(max(own, margin * example))
        assert (compare_pairs(contrasts, margin=margin)[0].verdict == "equivalent") == (reach < margin)


@given(
    seed=st.integers(0, 10**6),
    optimizers=st.integers(2, 7),
    splits=st.integers(2, 8),
    gap=st.floats(0, 4),
    uneven=st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_pairs_hang_together(seed: int, optimizers: int, splits: int, gap: float, uneven: bool) -> None:
    y = draw(seed, optimizers, splits, gap=gap, uneven=uneven)
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
    left = statistics.could_be_best(found, optimizers)
    worse = {pair.b if pair.verdict == "better" else pair.a for pair in found if pair.loser is not None}
    assert left == sorted(set(range(optimizers)) - worse)
    assert left


@given(seed=st.integers(0, 10**6), optimizers=st.integers(2, 7), gap=st.floats(0, 4))
@settings(max_examples=60, deadline=None)
def test_the_set_holds_the_best_mean_and_does_not_depend_on_the_order(
    seed: int, optimizers: int, gap: float
) -> None:
    y = draw(seed, optimizers, gap=gap)
    found = best(split_contrasts(y, 0.45))
    assert int(np.argmax(y.mean(axis=1))) in found
    turned = np.random.default_rng(seed).permutation(optimizers)
    assert sorted(turned[i] for i in best(split_contrasts(y[turned], 0.45))) == found
    assert set(found) <= set(best(split_contrasts(y, 0.45), level=0.99))
    assert found == best(split_contrasts(7 * y - 3, 0.45))


def test_far_behind_takes_no_power_from_the_leaders() -> None:
    leaders = np.array([[9.0, 9.1, 9.2, 9.0, 9.1], [8.5, 8.8, 8.6, 8.7, 8.4]])
    behind = np.linspace(1, 2, 5)[:, None] + np.random.default_rng(0).standard_normal((5, 5)) * 0.1
    assert best(split_contrasts(leaders, 0.45)) == [0]
    assert best(split_contrasts(np.vstack([leaders, behind]), 0.45)) == [0]


def test_identical_scores_prove_nothing_but_equivalence() -> None:
    same = np.tile([0.9, 0.8, 0.9, 0.7, 0.8], (3, 1))
    assert best(split_contrasts(same, 0.45)) == [0, 1, 2]
    assert {c.verdict for c in compare_pairs(split_contrasts(same, 0.45), margin=0.01)} == {"equivalent"}


def test_five_splits_that_agree_prove_no_more_than_one_test_example() -> None:
    a = np.array([[0.90] * 5, [0.93] * 5])
    assert best(split_contrasts(a, 0.45)) == [1]
    assert best(split_contrasts(a, 0.45, resolution=1 / 30)) == [0, 1]
    coarse = split_contrasts(np.array([[0.9] * 5, [0.9] * 5]), 0.45, resolution=1 / 30)
    assert compare_pairs(coarse, margin=0.01)[0].verdict == "undecided"


def test_a_mean_too_is_known_no_better_than_to_one_test_example() -> None:
    y = np.array([[0.5] * 5, [0.5, 0.6, 0.4, 0.5, 0.5]])
    found = split_contrasts(y, 0.45, resolution=0.02)
    np.testing.assert_allclose(found.mean_variances, [0.45 * 0.02**2, 0.45 * np.var(y[1], ddof=1)])
    np.testing.assert_array_equal(found.mean_replicate_variances, found.mean_variances)


def test_contrasts_are_stretched_to_those_of_a_larger_factor() -> None:
    y = draw(5, 3)
    y[1] = y[0]
    stretched = split_contrasts(y, 0.3, resolution=0.1).stretched(2.5)
    for name, expected in vars(split_contrasts(y, 0.75, resolution=0.1)).items():
        np.testing.assert_allclose(getattr(stretched, name), expected, rtol=1e-12, err_msg=name)


def test_a_single_replicate_tells_nothing() -> None:
    alone = split_contrasts([[0.9], [0.1]], correction(1, 0.2))
    assert best(alone) == [0, 1]
    pair = compare_pairs(alone, margin=0.5)[0]
    assert (pair.verdict, pair.low, pair.high, pair.p_value) == ("undecided", None, None, 1.0)
    assert statistics.interval(alone, 0) is None


def test_intervals_of_means_are_students_for_all_at_once() -> None:
    y = draw(5, 3)
    for p in range(3):
        se = y[p].std(ddof=1) / np.sqrt(5)
        expected = scipy_stats.t.interval(1 - 0.05 / 3, 4, loc=y[p].mean(), scale=se)
        assert statistics.interval(split_contrasts(y, 1 / 5), p) == pytest.approx(expected)


def test_the_winner_is_drawn_to_the_others_by_as_much_as_chance_explains() -> None:
    y = draw(4, 3, gap=1.5)
    contrasts = split_contrasts(y, 0.45)
    means = y.mean(axis=1)
    noise = np.mean([np.var(y[a] - y[b], ddof=1) for a, b in ((0, 1), (0, 2), (1, 2))]) * 0.45 / 2
    kept = max(0.0, 1 - noise / np.var(means, ddof=1))
    expected = means.mean() + kept * (means.max() - means.mean())
    assert 0.1 < kept < 0.9
    assert statistics.shrunk_winner(contrasts, [0, 1, 2]) == pytest.approx(expected)
    assert statistics.shrunk_winner(contrasts, [1]) == pytest.approx(means[1])
    apart = split_contrasts(np.array([[0.0], [10.0], [20.0]]) + 0.01 * y, 0.45)
    assert statistics.shrunk_winner(apart, [0, 1, 2]) == pytest.approx(20.0, abs=0.05)
    lost = np.vstack([y[:1], np.full((1, 5), np.nan)])
    assert statistics.shrunk_winner(split_contrasts(lost, 0.45), [0, 1]) == pytest.approx(means[0])
    assert statistics.shrunk_winner(split_contrasts(lost, 0.45), [1]) is None


def test_a_claim_holds_up_to_the_correlation_at_which_it_would_last_be_made() -> None:
    seen = set()
    for seed in range(12):
        y = draw(seed, 4, gap=2.5)

        def judged(correlation: float, y: np.ndarray = y) -> list[Comparison]:
            return compare_pairs(split_contrasts(y, correction(5, correlation)), margin=1e-9)

        assumed = split_contrasts(y, correction(5, 0.25))
        held = statistics.holds_up_to(
            assumed, None, judged(0.25), replicates=5, correlation=0.25, margin=1e-9
        )
        for index, holds in enumerate(held):
            verdicts = {r: judged(r)[index].verdict for r in (0.25, 0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6)}
            first = verdicts[0.25]
            if first == "undecided":
                assert holds is None
                continue
            assert holds is not None
            assert all(verdict == first for r, verdict in verdicts.items() if r <= holds)
            assert holds == 0.6 or verdicts[round(holds + 0.05, 2)] != first
            seen.add(holds)
    assert len(seen) > 2


def test_of_equivalence_too_is_said_up_to_where_it_holds() -> None:
    y = draw(0, 2, gap=0.0)
    spread = float(np.std(y[0] - y[1], ddof=1))
    margin = abs(y[0].mean() - y[1].mean()) + 2.131847 * spread * np.sqrt(correction(5, 0.42))
    contrasts = split_contrasts(y, correction(5, 0.25))
    pair = compare_pairs(contrasts, margin=margin)
    assert pair[0].verdict == "equivalent"
    held = statistics.holds_up_to(contrasts, None, pair, replicates=5, correlation=0.25, margin=margin)
    assert held == [0.4]


# Diverged runs -----------------------------------------------------------------------------------------


def test_ranks_put_whoever_diverged_last() -> None:
    nan = np.nan
    scores = np.array([[[nan, 9.0], [1.0, 1.0]], [[nan, nan], [2.0, 2.0]], [[0.1, 0.1], [2.0, 2.0]]])
    assert rank_scores(scores).tolist() == [[1.0, 1.0], [1.0, 2.5], [3.0, 2.5]]


@pytest.mark.parametrize(("splits", "excluded"), [(2, False), (3, False), (4, True), (5, True)])
def test_one_of_two_that_always_diverges_is_not_the_best(splits: int, excluded: bool) -> None:
    scores = np.array([np.full((splits, 2), np.nan), np.full((splits, 2), 0.5)])
    scores[0, :, 0] = 0.9
    found = best(split_contrasts(scores.mean(axis=-1), 0.45), by_rank(scores))
    assert found == ([1] if excluded else [0, 1])


def test_a_diverged_optimizer_has_no_difference_and_is_never_equivalent() -> None:
    scores = np.repeat(draw(2, 4, gap=4.0)[..., None], 2, axis=-1)
    scores[3, :, 1] = np.nan
    contrasts, ranked = split_contrasts(scores.mean(axis=-1), 0.45), by_rank(scores)
    assert 3 not in best(contrasts, ranked)
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
    assert 2 in best(split_contrasts(scores.mean(axis=-1), 0.45), by_rank(scores))


def test_where_scores_and_ranks_go_in_a_circle_scores_decide() -> None:
    """The first beats the second by score, the second the third and the third the first by rank."""

    def known(means: list[float]) -> Contrasts:
        count = len(means)
        unknown = np.isnan(means)
        apart = np.where(unknown[:, None] | unknown[None, :], np.nan, 1e-4)
        return Contrasts(
            means=np.array(means), mean_variances=np.diag(apart), mean_dof=np.full(count, 9.0),
            variances=apart, dof=np.full((count, count), 9.0), mean_replicate_variances=np.diag(apart),
            replicate_variances=apart, example=0.0, floored=np.zeros((count, count), dtype=bool),
        )  # fmt: skip

    scores, ranks = known([2.0, 1.0, np.nan]), known([1.0, 3.0, 2.0])
    found = {(pair.a, pair.b): pair.verdict for pair in compare_pairs(scores, ranks, margin=0.0)}
    assert found[0, 1] == "better"
    assert found[1, 2] == "undecided"
    # without the second there is no circle any more
    assert found[0, 2] == "worse"
    assert best(scores, ranks) == [2]


def test_everybody_diverging_everywhere_leaves_everybody() -> None:
    scores = np.full((3, 5, 2), np.nan)
    assert best(split_contrasts(scores.mean(axis=-1), 0.45), by_rank(scores)) == [0, 1, 2]


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
