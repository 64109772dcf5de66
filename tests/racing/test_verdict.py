"""From scores to a verdict: orientation, the sentence, and what is said of diverged runs."""

from __future__ import annotations

import math

import numpy as np
import pytest

from thalweg.racing.results import Verdict
from thalweg.racing.verdict import Evidence, conclude, judge, mean_and_interval, weigh

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
    verdict = judge(evidence, margin=margin, axis="work", budget="20 passes")
    return conclude(evidence, verdict, metric=metric, margin=margin, regrets=regrets)


def test_one_is_best() -> None:
    verdict = said(race([0.98, 0.93, 0.85]))
    assert verdict.winner == "adam"
    assert verdict.work.could_be_best == ["adam"]
    assert verdict.sentence.startswith("adam is best: 9")
    assert verdict.sentence.endswith("points ahead of momentum, the next")
    assert not verdict.withdrawn


def test_best_but_too_close_to_matter() -> None:
    verdict = said(race([0.95, 0.94, 0.80], spread=0.0005), margin=0.02)
    assert verdict.work.could_be_best == ["adam"]
    assert verdict.sentence.endswith("; yet momentum is within the margin of 2 points, too close to matter")


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
    assert "1/5 + 200/800" in said(race([0.9, 0.8])).work.method


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
        resample=resample,
        draws=300,
    )
    verdict = judge(evidence, margin=0.01, axis="seconds", budget="3 s")
    assert verdict.could_be_best == ["adam"]
    assert [pair.verdict for pair in verdict.pairs] == ["better"] * 3
    assert "bootstrap of 500 test examples and 5 replicates" in verdict.method
    again = weigh(
        NAMES, right.mean(axis=-1), higher_is_better=higher, n_train=800, n_test=500, same_test_as=evidence
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
    assert "sgd" not in judge(evidence, margin=0.05, axis="work", budget="").could_be_best
    assert mean_and_interval(evidence, "sgd") == (None, None, None)
