"""Best of k against enumeration, regret and withdrawal by hand."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from thalweg.racing.tuning import best_of_k, medoid, regret, withdrawal

POOLS = st.lists(
    st.lists(st.one_of(st.none(), st.integers(-5, 5).map(float)), min_size=2, max_size=6),
    min_size=1,
    max_size=3,
)


def enumerated(pools: list[list[float | None]], k: int, level: float, higher: bool) -> float | None:
    """The quantile over every way to draw k from each pool, each pool with the same weight."""
    worst = -math.inf if higher else math.inf
    pairs = []
    for pool in pools:
        values = [worst if value is None else value for value in pool]
        bests = [(max if higher else min)(some) for some in itertools.combinations(values, k)]
        pairs += [(best, 1 / len(bests) / len(pools)) for best in bests]
    reached = 0.0
    for best, weight in sorted(pairs):
        reached += weight
        if reached >= level - 1e-9:
            return best if math.isfinite(best) else None
    raise AssertionError


@given(pools=POOLS, higher=st.booleans())
def test_best_of_k_is_what_enumeration_says(pools: list[list[float | None]], higher: bool) -> None:
    found = best_of_k(pools, higher_is_better=higher)
    assert found.k == list(range(1, min(len(pool) for pool in pools) + 1))
    for level, curve in ((0.1, found.low), (0.5, found.median), (0.9, found.high)):
        assert curve == [enumerated(pools, k, level, higher) for k in found.k]


def test_more_tuning_is_never_worse_and_all_of_it_is_the_best() -> None:
    pool = [float(value) for value in np.random.default_rng(0).standard_normal(16)]
    found = best_of_k([pool], higher_is_better=True)
    medians = [value for value in found.median if value is not None]
    assert medians == sorted(medians)
    assert found.low[-1] == found.median[-1] == found.high[-1] == max(pool)


def test_a_large_pool_is_no_trouble() -> None:
    found = best_of_k([[float(i) for i in range(1200)]], higher_is_better=False)
    assert found.median[0] == 599.0
    assert found.median[-1] == 0.0


def test_no_pool_no_curve() -> None:
    assert best_of_k([], higher_is_better=True).k == []


@pytest.mark.parametrize(
    ("audited", "best", "higher", "expected"),
    [
        (0.9, 0.8, True, 0.1),
        (0.7, 0.8, True, 0.0),
        (0.7, 0.8, False, 0.1),
        (None, 0.8, True, 0.0),
        (0.9, None, True, None),
    ],
)
def test_regret(audited: float | None, best: float | None, higher: bool, expected: float | None) -> None:
    assert regret(audited, best, higher_is_better=higher) == (
        None if expected is None else pytest.approx(expected)
    )


def test_a_verdict_is_withdrawn_over_half_the_gap() -> None:
    assert withdrawal([0.0, 0.3], gap=0.6) is None
    assert withdrawal([0.0, 0.31], gap=0.6) == 0.31
    assert withdrawal([None], gap=0.6) == math.inf
    assert withdrawal([5.0], gap=None) is None
    assert withdrawal([], gap=0.0) is None


def test_the_typical_point_is_nearest_to_the_others_in_sum() -> None:
    random = np.random.default_rng(0)
    for _ in range(20):
        places = random.random((5, 2))
        words = [("a", "b")[i] for i in random.integers(2, size=5)]
        points = [{"lr": x, "beta": y, "schedule": w} for (x, y), w in zip(places, words, strict=True)]
        sums = [
            sum(np.abs(places[i] - places[j]).sum() + (words[i] != words[j]) for j in range(5))
            for i in range(5)
        ]
        assert medoid(points, [0.0] * 5) == int(np.argmin(sums))


def test_among_typical_points_the_better_one_is_taken() -> None:
    # one split's odd winner doesn't decide, however well it validated
    points = [{"lr": 0.0}, {"lr": 0.7}, {"lr": 0.72}, {"lr": 0.75}]
    assert medoid(points, [9.0, 0.0, 1.0, 0.0]) == 2
    assert medoid([{"lr": 0.1}, {"lr": 0.9}], [0.0, 1.0]) == 1
    assert medoid([{"lr": 0.1}, {"lr": 0.9}], [0.0, 0.0]) == 0
    assert medoid([{"lr": 0.5}, {"lr": 0.5, "k": 1.0}, {"lr": 0.6, "k": 1.0}], [0.0] * 3) == 1
