"""What every run goes through."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from lanes.small import runs, workload
from thalweg import schedules, streams
from thalweg.errors import DataError
from thalweg.run.factors import Factors
from thalweg.run.history import History
from thalweg.run.problem import initial_module
from thalweg.run.sampler import evaluation_points, orders, steps_an_epoch


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


def test_initial_weights_are_those_of_the_written_seed() -> None:
    module = initial_module(lambda shape, outputs: torch.nn.Linear(shape[0], outputs), (3,), 2, 5)
    with torch.random.fork_rng():
        torch.manual_seed(streams.seed32(5, "initial"))
        expected = torch.nn.Linear(3, 2)
    assert torch.equal(module.weight, expected.weight)


def test_orders_are_those_of_the_streams() -> None:
    got = orders(11, [3, 4], 2)
    assert got.dtype == torch.int64
    for row, seed in zip(got, (3, 4), strict=True):
        assert row.tolist() == streams.order(11, seed=seed, epoch=2).tolist()


def test_factors_are_the_schedules_step_by_step() -> None:
    names = ["cosine", "constant", "cosine", "linear"]
    table = Factors(names, 9).at([2, 1, 3])
    for column, name in enumerate(["cosine", "constant", "linear"]):
        schedule = schedules.build(name, total=9)
        assert table[:, column].tolist() == [schedule(step) for step in range(9)]


def test_a_plateau_falls_after_three_evaluations_without_gain_and_only_its_own() -> None:
    factors, twin = (
        Factors(["plateau", "plateau", "constant"], 10),
        Factors(["plateau"] * 2 + ["constant"], 10),
    )
    assert not factors.observe(2, 3, 1.0)
    assert not factors.observe(0, 0, 1.0)  # before the first step nothing was learned
    for step, loss in enumerate([1.0, 2.0, 2.0], 1):
        assert factors.observe(0, step, loss)
        assert factors.at([0])[step, 0] == 1.0
    twin.load(factors.state(), 3)
    for each in (factors, twin):
        each.observe(0, 4, math.nan)
        assert each.at([0, 1, 2])[4:].tolist() == [[0.1, 1.0, 1.0]] * 6


def history(bound: float = 10.0) -> History:
    return History.start(runs(1)[0], workload(loss_bound=bound))


def test_a_run_that_goes_well() -> None:
    kept = history()
    kept.evaluate(0, 2.0, 0.3, 0.25)
    kept.train(np.array([4.0, 2.0]), [1, 2])
    kept.evaluate(2, 1.0, 0.5, 0.75)
    kept.train(np.array([1.0, 1.5, 2.0]), [3, 4, 5])
    kept.evaluate(5, 0.5, 0.75, 0.5)
    outcome = kept.outcome()
    assert outcome.steps == [0, 2, 5]
    assert outcome.train_loss == [4.0, 3.0, 1.5]
    assert outcome.validation_loss == [2.0, 1.0, 0.5]
    assert outcome.validation == [0.3, 0.5, 0.75]
    assert outcome.test == [0.25, 0.75, 0.5]
    assert outcome.diverged_at is None
    again = History.restore(kept.run, workload(), kept.state())
    assert again.outcome() == outcome


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 41.0])
def test_a_run_diverges_at_the_very_step(bad: float) -> None:
    kept = history()
    kept.evaluate(0, 2.0, 0.3, 0.25)
    kept.train(np.array([4.0, 40.0]), [1, 2])
    kept.evaluate(2, 1.0, 0.5, 0.5)
    kept.train(np.array([1.0, bad, 1.0]), [3, 4, 5])
    kept.evaluate(5, 1.0, 0.5, 0.5)
    outcome = kept.outcome()
    assert outcome.diverged_at == 4
    assert outcome.train_loss == [4.0, 22.0, None]
    assert outcome.validation == [0.3, 0.5, None]
    assert outcome.validation_loss == [2.0, 1.0, None]
    assert outcome.test == [0.25, 0.5, None]


def test_a_first_loss_that_is_not_finite_and_a_last_evaluation_that_is_not() -> None:
    kept = history()
    kept.evaluate(0, 1.0, 0.5, 0.5)
    kept.train(np.array([math.inf, 1.0]), [1, 2])
    kept.evaluate(2, 1.0, 0.5, 0.5)
    assert kept.diverged_at == 1
    assert kept.train_loss == [None, None]
    kept = history()
    kept.evaluate(0, 1.0, 0.5, 0.5)
    kept.train(np.array([1.0, 1.0]), [1, 2])
    kept.evaluate(2, math.nan, math.nan, math.nan)
    assert kept.diverged_at == 2
    assert kept.validation_loss == [1.0, None]
