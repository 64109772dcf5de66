"""The bootstrap on one fixed test set against variances in closed form."""

from __future__ import annotations

import numpy as np
import pytest

from thalweg.racing.bootstrap import bootstrap_contrasts, with_test_noise
from thalweg.racing.contrasts import split_contrasts


def fixed(seed: int, *, retrain: float, example: float, shared: float = 0.0, n: int = 400) -> np.ndarray:
    """Per-example scores [P, J, S, N] of two optimizers: replicate effects and example effects add up.

    Of the latter a part is shared: examples that are hard for both.
    """
    random = np.random.default_rng(seed)
    return (
        0.3 * np.arange(2)[:, None, None, None]
        + retrain * random.standard_normal((2, 6, 1, 1))
        + example * random.standard_normal((2, 1, 1, n))
        + shared * random.standard_normal((1, 1, 1, n))
        + np.zeros((2, 6, 2, n))
    )


@pytest.mark.parametrize(
    ("retrain", "example", "shared"), [(0.1, 0.0, 0.0), (0.0, 2.0, 0.0), (0.1, 2.0, 0.0), (0.1, 2.0, 5.0)]
)
def test_the_bootstrap_adds_the_variances_of_replicates_and_examples(
    retrain: float, example: float, shared: float
) -> None:
    """What is hard for both cancels in their difference."""
    each = fixed(0, retrain=retrain, example=example, shared=shared)
    found = bootstrap_contrasts(
        lambda w: (each @ w / w.sum()).ravel(), each.shape[:3], each.shape[-1], seed=1, draws=4000
    )
    difference = (each[0] - each[1]).mean(axis=1)
    replicates = np.var(difference.mean(axis=-1), ddof=1) / 6
    examples = np.var(difference.mean(axis=0)) / each.shape[-1]
    total = replicates + examples * 400 / 399
    assert found.variances[0, 1] == pytest.approx(total, rel=0.06)
    assert found.replicate_variances[0, 1] == pytest.approx(replicates)
    dof = total**2 / (replicates**2 / 5 + (total - replicates) ** 2 / 399)
    assert found.dof[0, 1] == pytest.approx(dof, rel=0.1)
    assert found.differences[0, 1] == pytest.approx(difference.mean())
    if example + shared > 0:
        own = np.var(each[0].mean(axis=(1, 2)), ddof=1) / 6 + np.var(each[0].mean(axis=(0, 1))) / 399
        assert found.mean_variances[0] == pytest.approx(own, rel=0.06)


def test_a_bootstrap_passes_over_resamples_where_the_metric_is_not_defined() -> None:
    each = fixed(1, retrain=0.1, example=0.5, n=20)
    each[1, 2, 0] = np.nan

    def score(weights: np.ndarray) -> np.ndarray:
        return (each @ weights / weights.sum()).ravel() * (np.nan if weights[0] == 0 else 1.0)

    found = bootstrap_contrasts(score, (2, 6, 2), 20, seed=0, draws=300)
    assert np.isfinite(found.mean_variances[0])
    assert np.isnan(found.means[1])
    assert np.isnan(found.variances[0, 1])


def test_the_bootstrap_is_a_function_of_its_seed() -> None:
    each = fixed(2, retrain=0.1, example=0.5, n=30)

    def variances(seed: int) -> list[list[float]]:
        score = lambda w: (each @ w / w.sum()).ravel()  # noqa: E731
        return bootstrap_contrasts(score, (2, 6, 2), 30, seed=seed, draws=50).variances.tolist()

    assert variances(1) == variances(1)
    assert variances(1) != variances(2)


def test_test_noise_is_added_where_runs_cannot_be_scored_anew() -> None:
    each = fixed(3, retrain=0.1, example=2.0)
    like = bootstrap_contrasts(lambda w: (each @ w / w.sum()).ravel(), (2, 6, 2), 400, seed=0)
    alone = split_contrasts(each.mean(axis=(2, 3)), 1 / 6)
    found = with_test_noise(alone, like, 6, 400)
    assert found.variances[0, 1] == pytest.approx(like.variances[0, 1])
    assert found.dof[0, 1] == pytest.approx(like.dof[0, 1])
    assert found.mean_variances == pytest.approx(like.mean_variances)
    wilder = split_contrasts(3 * each.mean(axis=(2, 3)), 1 / 6)
    extra = with_test_noise(wilder, like, 6, 400).variances[0, 1] - wilder.variances[0, 1]
    assert extra == pytest.approx(like.variances[0, 1] - alone.variances[0, 1])


def test_counts_of_examples_have_the_variance_of_equals_and_that_of_one_at_least() -> None:
    right = np.ones((2, 3, 1, 50))
    score = lambda w: (right @ w / w.sum()).ravel()  # noqa: E731
    same = bootstrap_contrasts(score, (2, 3, 1), 50, seed=0, resolution=1 / 50)
    assert same.variances[0, 1] == pytest.approx(1 / 50**2)
    assert same.mean_variances == pytest.approx([1 / 50**2] * 2)
    assert same.floored[0, 1]
    assert same.dof[0, 1] == pytest.approx(49)
    right[1, ..., :10] = 0
    apart = bootstrap_contrasts(score, (2, 3, 1), 50, seed=0, draws=8000, resolution=1 / 50)
    # 0.2 * 0.8 / 49 as an average of 50, and as in a test of McNemar: 10 / 50**2 in all
    assert apart.variances[0, 1] == pytest.approx(0.16 / 49 + 0.04 / 50, rel=0.05)
    assert not apart.floored[0, 1]
    continuous = bootstrap_contrasts(score, (2, 3, 1), 50, seed=0, draws=8000)
    assert continuous.variances[0, 1] == pytest.approx(0.16 / 49, rel=0.05)


def test_few_examples_know_their_spread_badly() -> None:
    right = np.ones((2, 3, 1, 8))
    right[1, ..., :2] = 0
    found = bootstrap_contrasts(lambda w: (right @ w / w.sum()).ravel(), (2, 3, 1), 8, seed=0, draws=8000)
    # the unbiased variance of eight values, of which two are 1
    assert found.variances[0, 1] == pytest.approx(np.var([1, 1, 0, 0, 0, 0, 0, 0], ddof=1) / 8, rel=0.05)
    assert found.dof[0, 1] == pytest.approx(7)
