"""Which examples each step takes, and after which steps a run is evaluated."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from thalweg.errors import DataError
from thalweg.randomness import streams
from thalweg.run.sampler import Batches, evaluation_points, orders, steps_an_epoch


def test_the_ragged_rest_of_an_epoch_is_dropped() -> None:
    assert [steps_an_epoch(n, 10) for n in (10, 19, 20)] == [1, 1, 2]
    with pytest.raises(DataError, match="9 examples, fewer than one batch of 10"):
        steps_an_epoch(9, 10)


@pytest.mark.parametrize(("total", "evaluations"), [(1, 1), (7, 3), (100, 20), (3, 20), (1000, 7)])
def test_evaluations_are_spread_evenly_with_both_ends(total: int, evaluations: int) -> None:
    points = evaluation_points(total, evaluations)
    assert points == sorted(set(points))
    assert points[0] == 0
    assert points[-1] == total
    assert len(points) == min(evaluations, total) + 1
    gaps = np.diff(points)
    assert gaps.max() - gaps.min() <= 1
    exact = np.linspace(0, total, len(points))
    assert np.abs(points - exact).max() <= 0.5


def test_orders_are_those_of_the_streams() -> None:
    got = orders(11, [3, 4], 2)
    assert got.dtype == torch.int64
    for row, seed in zip(got, (3, 4), strict=True):
        assert row.tolist() == streams.order(11, seed=seed, epoch=2).tolist()


def test_batches_cover_every_epoch_and_grow_evenly() -> None:
    batches = Batches(20, seed=3, size=6)
    order = streams.order(20, seed=3, epoch=0).tolist()
    assert [batches.take(0.0).tolist() for _ in range(3)] == [order[0:6], order[6:12], order[12:18]]
    assert batches.take(0.0).tolist() == streams.order(20, seed=3, epoch=1).tolist()[:6]
    kept = batches.state()
    following = batches.take(0.0).tolist()
    batches.load(kept)
    assert batches.take(0.0).tolist() == following
    growing = Batches(1000, seed=0, size=10, factor=2.0, growth=16.0)
    assert [growing.size(share) for share in (0.0, 0.25, 0.5, 1.0)] == [20, 40, 80, 320]
    assert Batches(15, seed=0, size=10, factor=2.0).size(0.0) == 15
