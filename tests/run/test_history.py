"""What a run leaves behind, and the step at which it has diverged."""

from __future__ import annotations

import math

import numpy as np
import pytest

from small import workload
from thalweg.run.history import History


def history(bound: float = 10.0) -> History:
    return History.start(workload(loss_bound=bound))


def test_a_run_that_goes_well() -> None:
    kept = history()
    kept.evaluate(0, 2.0, 0.3, 0.25)
    kept.train(np.array([4.0, 2.0]), [1, 2])
    kept.evaluate(2, 1.0, 0.5, 0.75)
    kept.train(np.array([1.0, 1.5, 2.0]), [3, 4, 5])
    kept.evaluate(5, 0.5, 0.75, 0.5)
    outcome = kept.outcome("run")
    assert outcome.steps == [0, 2, 5]
    assert outcome.train_loss == [4.0, 3.0, 1.5]
    assert outcome.validation_loss == [2.0, 1.0, 0.5]
    assert outcome.validation == [0.3, 0.5, 0.75]
    assert outcome.test == [0.25, 0.75, 0.5]
    assert outcome.diverged_at is None
    again = History.start(workload(), kept.state())
    assert again.outcome("run") == outcome


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 41.0])
def test_a_run_diverges_at_the_very_step(bad: float) -> None:
    kept = history()
    kept.evaluate(0, 2.0, 0.3, 0.25)
    kept.train(np.array([4.0, 40.0]), [1, 2])
    kept.evaluate(2, 1.0, 0.5, 0.5)
    kept.train(np.array([1.0, bad, 1.0]), [3, 4, 5])
    kept.evaluate(5, 1.0, 0.5, 0.5)
    outcome = kept.outcome("run")
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
