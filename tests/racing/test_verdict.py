"""From scores to a verdict: orientation, the sentence, and what is said of diverged runs."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thalweg.racing.results import Verdict
from thalweg.racing.verdict import Evidence, compare_all, conclude, mean_and_interval, weigh

NAMES = ["adam", "momentum", "sgd"]


def race(means: list[float], *, spread: float = 0.003, splits: int = 5, seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    own = spread * random.standard_normal((len(means), splits, 2))
    return np.array(means)[:, None, None] + 0.02 * random.standard_normal(splits)[None, :, None] + own


def evidence_of(scores: np.ndarray, names: list[str] | None = None, *, higher: bool = True) -> Evidence:
    return weigh(names or NAMES[: len(scores)], scores, higher_is_better=higher, n_train=800, n_test=200)


def said(
    scores: np.ndarray,
    names: list[str] | None = None,
    *,
    metric: str = "accuracy",
    margin: float = 0.01,
    higher: bool = True,
    regrets: tuple[float | None, ...] = (),
) -> Verdict:
    evidence = evidence_of(scores, names, higher=higher)
    verdict = compare_all(evidence, margin=margin, axis="work", budget="20 passes")
    return conclude(evidence, verdict, metric=metric, margin=margin, regrets=regrets)


def test_one_is_best() -> None:
    verdict = said(race([0.98, 0.93, 0.85]))
    assert verdict.winner == "adam"
    assert verdict.work.could_be_best == ["adam"]
    assert verdict.sentence.startswith("adam is best: 9")
    assert verdict.sentence.endswith("points ahead of momentum, the next")
    assert not verdict.withdrawn


def test_surely_ahead_but_too_close_to_matter_is_equally_good() -> None:
    verdict = said(race([0.95, 0.94, 0.80], spread=0.0005), margin=0.02)
    assert verdict.work.could_be_best == ["adam", "momentum"]
    assert verdict.sentence.startswith("adam and momentum are equally good: ")
    assert verdict.sentence.endswith("within the margin of 2 points; sgd is behind")


@given(
    seed=st.integers(0, 10**6),
    optimizers=st.integers(2, 6),
    splits=st.integers(2, 6),
    spread=st.sampled_from([0.001, 0.01, 0.1]),
    margin=st.sampled_from([0.0, 0.01, 0.1]),
    lost=st.integers(0, 3),
)
@settings(max_examples=60, deadline=None)
def test_sentence_set_and_pairs_are_one_statement(
    seed: int, optimizers: int, splits: int, spread: float, margin: float, lost: int
) -> None:
    random = np.random.default_rng(seed)
    scores = race(random.uniform(0.8, 0.95, optimizers).tolist(), spread=spread, splits=splits, seed=seed)
    for _ in range(lost):
        scores[random.integers(optimizers), random.integers(splits), 0] = np.nan
    names = [f"o{index}" for index in range(optimizers)]
    verdict = said(scores, names, margin=margin)
    work = verdict.work
    worse = {p.b for p in work.pairs if p.verdict == "better"}
    worse |= {p.a for p in work.pairs if p.verdict == "worse"}
    assert set(work.could_be_best) == set(names) - worse
    assert work.could_be_best
    for pair in work.pairs:
        assert (pair.holds_up_to is None) == (pair.verdict == "undecided")
    if verdict.winner is not None:
        assert verdict.winner in work.could_be_best
        if " is best: " in verdict.sentence:
            assert work.could_be_best == [verdict.winner]
        if "equally good" in verdict.sentence:
            among = [p for p in work.pairs if {p.a, p.b} <= set(work.could_be_best)]
            assert {p.verdict for p in among} == {"equivalent"}
        if len(work.could_be_best) == optimizers > 1:
            assert "behind" not in verdict.sentence
        # how far the sentence holds is the least that its parts do
        if "; this holds if scores of different splits correlate by at most" in verdict.sentence:
            assert work.holds_up_to is not None
            assert f"at most {work.holds_up_to:.2g}" in verdict.sentence
            assert work.holds_up_to < 0.6


def test_a_verdict_says_up_to_which_correlation_it_holds() -> None:
    firm, faint = said(race([0.98, 0.93, 0.85])), said(race([0.98, 0.968, 0.85], spread=0.004))
    assert firm.work.holds_up_to == 0.6
    assert "correlate" not in firm.sentence
    assert faint.work.could_be_best == ["adam"]
    assert faint.work.holds_up_to == 0.35
    assert faint.sentence.endswith(
        f"; this holds if scores of different splits correlate by at most {faint.work.holds_up_to:.2g}"
    )
    assert said(race([0.95, 0.95, 0.95], spread=0.05), margin=0.001).work.holds_up_to is None


def test_two_equals_among_others_settle_nothing() -> None:
    scores = race([0.95, 0.95, 0.95], spread=0.05)
    scores[1] = scores[0] + 0.0001
    verdict = said(scores, margin=0.06)
    assert [p.verdict for p in verdict.work.pairs] == ["equivalent", "undecided", "undecided"]
    assert verdict.work.pairs[0].holds_up_to is not None
    assert verdict.work.holds_up_to is None
    assert verdict.sentence.startswith("nothing can be told apart")
    assert "correlate" not in verdict.sentence


def test_a_verdict_holds_as_long_as_each_of_the_others_is_behind_somebody() -> None:
    work = said(race([0.98, 0.965, 0.955], spread=0.005, seed=2)).work
    held = {(pair.a, pair.b): pair.holds_up_to for pair in work.pairs}
    assert held == {("adam", "momentum"): 0.5, ("adam", "sgd"): 0.5, ("momentum", "sgd"): 0.25}
    assert work.holds_up_to == 0.5


def test_the_winner_mean_can_be_computed_anew_from_what_is_written() -> None:
    scores = race([0.95, 0.951, 0.949], spread=0.01)
    verdict = said(scores, margin=0.001)
    assert len(verdict.work.could_be_best) == 3
    assert verdict.winner_mean is not None
    y = scores.mean(axis=-1)
    means = y.mean(axis=1)
    noise = np.mean([np.var(y[a] - y[b], ddof=1) for a, b in ((0, 1), (0, 2), (1, 2))]) * (1 / 5 + 1 / 3) / 2
    kept = max(0.0, 1 - noise / np.var(means, ddof=1))
    assert verdict.winner_mean == pytest.approx(means.mean() + kept * (means.max() - means.mean()))
    lower = said(scores, metric="log-loss", margin=0.001, higher=False)
    assert lower.winner_mean is not None
    assert lower.winner_mean >= means.min()
    assert said(race([0.98, 0.93, 0.85])).winner_mean == pytest.approx(race([0.98, 0.93, 0.85])[0].mean())


def test_ranks_of_few_splits_that_agree_are_known_no_better_than_to_their_rounding() -> None:
    scores = race([0.9, 0.8], splits=2)
    scores[0, :, 0] = np.nan
    evidence = evidence_of(scores)
    # the variance factor of 2 splits, and of a number rounded to 1
    assert evidence.ranked.variances[0, 1] == pytest.approx((1 / 2 + 1 / 3) / 12)
    assert compare_all(evidence, margin=0.01, axis="work", budget="").could_be_best == [
        "momentum",
        "adam",
    ]


def test_some_could_be_best() -> None:
    verdict = said(race([0.95, 0.951, 0.80], spread=0.01), margin=0.001)
    assert set(verdict.work.could_be_best) == {"adam", "momentum"}
    assert verdict.winner == verdict.work.could_be_best[0]
    assert "could each be the best (" in verdict.sentence
    assert verdict.sentence.endswith(" of each other); sgd is behind")


def test_some_are_equally_good() -> None:
    verdict = said(race([0.95, 0.9501, 0.80], spread=0.002))
    assert "are equally good: " in verdict.sentence
    assert verdict.sentence.endswith("within the margin of 1 point; sgd is behind")


def test_all_are_equally_good() -> None:
    verdict = said(race([0.95, 0.95, 0.95], spread=0.001), margin=0.02)
    assert verdict.sentence.startswith("all 3 are equally good: ")


def test_nothing_can_be_told_apart() -> None:
    verdict = said(race([0.95, 0.95, 0.95], spread=0.05), margin=0.001)
    assert verdict.sentence.startswith("nothing can be told apart: ")
    assert "5 splits can't say which" in verdict.sentence


def test_one_alone() -> None:
    assert said(race([0.95])).sentence.startswith("adam raced alone: 9")


def test_a_metric_where_lower_is_better_is_the_mirror_image() -> None:
    scores = race([0.3, 0.4, 0.5])
    lower, higher = said(scores, metric="log-loss", higher=False), said(-scores, metric="mine")
    assert lower.winner == "adam"
    assert "adam is best: log-loss 0." in lower.sentence
    assert lower.work.pairs == higher.work.pairs
    pair = lower.work.pairs[0]
    assert (pair.a, pair.b, pair.verdict) == ("adam", "momentum", "better")
    assert pair.difference is not None
    assert pair.difference > 0
    mean, low, high = mean_and_interval(evidence_of(scores, higher=False), "sgd")
    assert mean == pytest.approx(scores[2].mean())
    assert low is not None
    assert high is not None
    assert low < mean < high


def test_a_diverged_run_has_no_mean_and_loses_where_it_diverged() -> None:
    scores = race([0.98, 0.93, 0.85])
    scores[0, :, 1] = np.nan
    verdict = said(scores)
    assert verdict.winner == "momentum"
    assert "adam" not in verdict.work.could_be_best
    assert mean_and_interval(evidence_of(scores), "adam") == (None, None, None)
    assert "by rank" in verdict.work.method


@pytest.mark.parametrize("splits", [1, 2, 5])
def test_whoever_never_has_a_score_is_behind_whoever_always_has(splits: int) -> None:
    scores = race([0.98, 0.93, 0.85], splits=splits)
    scores[0] = np.nan
    verdict = said(scores).work
    assert "adam" not in verdict.could_be_best
    pairs = {(pair.a, pair.b): pair for pair in verdict.pairs}
    assert [pairs["adam", name].verdict for name in ("momentum", "sgd")] == ["worse"] * 2
    assert pairs["adam", "sgd"].p_value is None
    assert pairs["adam", "sgd"].holds_up_to == 0.6
    # but not behind one that diverged as well, and some scores are enough not to be
    scores[1:, 0, 0] = np.nan
    assert len(said(scores).work.could_be_best) >= 2


def test_everybody_diverged() -> None:
    scores = race([0.98, 0.93, 0.85])
    scores[:, 2, 0] = np.nan
    verdict = said(scores)
    assert verdict.winner is None
    assert verdict.sentence.startswith("no optimizer can be called best")


def test_all_but_one_diverged() -> None:
    scores = race([0.98, 0.93, 0.85])
    scores[1:] = np.nan
    assert said(scores).sentence.endswith("; each of the others had a confirmation run that diverged")


def test_the_verdict_is_withdrawn_when_the_audit_says_so() -> None:
    scores = race([0.98, 0.93, 0.85])
    assert not said(scores, regrets=(0.0, 0.01)).withdrawn
    verdict = said(scores, regrets=(0.0, 0.04))
    assert verdict.withdrawn
    assert verdict.sentence.startswith("the verdict is withdrawn: ")
    assert verdict.withdrawn_reason is not None
    assert "(4 points better)" in verdict.withdrawn_reason
    assert said(scores, regrets=(None,)).withdrawn
    nobody_behind = race([0.95, 0.95, 0.95], spread=0.05)
    assert not said(nobody_behind, regrets=(0.5,)).withdrawn


def test_the_method_is_said() -> None:
    assert "1/5 + 0.25/0.75" in said(race([0.9, 0.8])).work.method


@pytest.mark.parametrize("higher", [True, False])
def test_a_fixed_test_set(higher: bool) -> None:
    random = np.random.default_rng(0)
    right = (random.random((3, 5, 2, 500)) < np.array([0.95, 0.85, 0.6])[:, None, None, None]).astype(float)
    right = right if higher else 1 - right

    def resample(weights: np.ndarray) -> np.ndarray:
        return (right @ weights / weights.sum()).ravel()

    evidence = weigh(
        NAMES,
        right.mean(axis=-1),
        higher_is_better=higher,
        n_train=800,
        n_test=500,
        resolution=1 / 500,
        resample=resample,
        draws=300,
    )
    verdict = compare_all(evidence, margin=0.01, axis="seconds", budget="3 s")
    assert verdict.could_be_best == ["adam"]
    assert [pair.verdict for pair in verdict.pairs] == ["better"] * 3
    assert "bootstrap of 500 test examples, and spread of 5 replicates" in verdict.method
    assert verdict.overlap is None
    assert verdict.holds_up_to is None
    again = weigh(
        NAMES,
        right.mean(axis=-1),
        higher_is_better=higher,
        n_train=800,
        n_test=500,
        resolution=1 / 500,
        same_test_as=evidence,
    )
    assert again.contrasts.variances == pytest.approx(evidence.contrasts.variances)
    assert again.fixed_test
    mean, low, high = mean_and_interval(evidence, "sgd")
    assert mean == pytest.approx(right[2].mean())
    assert low is not None
    assert high is not None
    # two seeds a replicate share the examples: the interval is about as wide as the test set allows
    assert 1.0 < (high - low) / (2 * 1.96 * math.sqrt(0.24 / 500 / 10)) < 4.0


def test_a_fixed_test_set_with_a_diverged_run() -> None:
    right = (np.random.default_rng(1).random((3, 5, 2, 200)) < 0.9).astype(float)
    scores = right.mean(axis=-1)
    scores[2, :, 0] = np.nan
    evidence = weigh(
        NAMES,
        scores,
        higher_is_better=True,
        n_train=800,
        n_test=200,
        resample=lambda weights: (right @ weights / weights.sum()).ravel(),
        draws=100,
    )
    assert "sgd" not in compare_all(evidence, margin=0.05, axis="work", budget="").could_be_best
    assert mean_and_interval(evidence, "sgd") == (None, None, None)


def on_one_test_set(right: np.ndarray, *, draws: int = 100) -> Evidence:
    examples = right.shape[-1]
    return weigh(
        NAMES[: len(right)],
        right.mean(axis=-1),
        higher_is_better=True,
        n_train=800,
        n_test=examples,
        resolution=1 / examples,
        resample=lambda weights: (right @ weights / weights.sum()).ravel(),
        draws=draws,
    )


@pytest.mark.parametrize(
    ("examples", "verdict"), [(12, "undecided"), (100, "undecided"), (1000, "equivalent")]
)
@pytest.mark.parametrize("share", [1.0, 0.75])
def test_predictions_that_agree_prove_as_much_as_there_are_examples(
    examples: int, verdict: str, share: float
) -> None:
    right = np.broadcast_to((np.arange(examples) < share * examples).astype(float), (2, 5, 2, examples))
    evidence = on_one_test_set(right)
    found = compare_all(evidence, margin=0.01, axis="work", budget="")
    pair = found.pairs[0]
    assert (pair.difference, pair.verdict) == (0.0, verdict)
    assert pair.low is not None
    assert pair.low <= -1.95 / examples
    assert found.could_be_best == ["adam", "momentum"]
    # a mean of 1.0 from 12 examples isn't surely 1
    low = mean_and_interval(evidence, "adam")[1]
    assert low is not None
    assert low <= share - 1.95 / examples
    again = weigh(
        NAMES[:2],
        right.mean(axis=-1),
        higher_is_better=True,
        n_train=800,
        n_test=examples,
        resolution=1 / examples,
        same_test_as=evidence,
    )
    assert compare_all(again, margin=0.01, axis="seconds", budget="").pairs[0].verdict == verdict


def test_a_few_examples_apart_prove_no_difference() -> None:
    right = np.ones((2, 5, 2, 12))
    right[1, ..., :3] = 0
    found = compare_all(on_one_test_set(right), margin=0.01, axis="work", budget="")
    # three of twelve by chance: a sign test says p = 0.25
    assert found.pairs[0].verdict == "undecided"
    assert found.pairs[0].p_value is not None
    assert found.pairs[0].p_value > 0.05
    right[1, ..., :9] = 0
    assert compare_all(on_one_test_set(right), margin=0.01, axis="work", budget="").could_be_best == ["adam"]
