"""Remedies are tried in pairs, through an executor, and judged with an interval."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

import thalweg
from thalweg.diagnosis import Diagnosis, PairedTrials, try_remedies
from thalweg.errors import OptionError
from thalweg.execution.executors import SequentialExecutor, groups_of


@pytest.fixture(scope="module")
def ill() -> Diagnosis:
    torch.manual_seed(0)
    inputs = torch.randn(200, 4)
    model = nn.Linear(4, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-6)
    return thalweg.diagnose(
        model, (inputs, inputs.sum(1, keepdim=True)), "mse", optimizer, batch_size=20, budget=400
    )


def test_pairs_go_through_the_executor_that_is_given(ill: Diagnosis) -> None:
    asked: list[tuple[str, int]] = []

    class Noted(SequentialExecutor):
        def carry_out(self, lists: Any, **told: Any) -> None:
            asked.extend((run.setting.optimizer, run.seed) for _, runs in groups_of(lists) for run in runs)
            super().carry_out(lists, **told)

    found = try_remedies(ill, seeds=3, steps=50, executor=Noted())
    assert asked == [(arm, seed) for seed in range(3) for arm in ("before", "after")]
    assert found.helps is True
    # what is trained depends on the seed alone
    again = try_remedies(ill, seeds=2, steps=50)
    assert (again.before, again.after) == (found.before[:2], found.after[:2])
    assert len(set(found.before)) == 3


def test_the_interval_is_students_of_the_differences() -> None:
    before, after = [0.1, 0.3, 0.2, 0.25], [0.5, 0.9, 0.4, 0.8]
    found = PairedTrials(before=before, after=after, steps=10)
    low, high = stats.ttest_rel(after, before).confidence_interval(0.95)
    assert found.interval == pytest.approx((low, high))
    assert found.difference == pytest.approx(np.mean(after) - np.mean(before))
    assert PairedTrials(before=after, after=before, steps=10).helps is False
    assert PairedTrials(before=[0.1, 0.2], after=[0.2, 0.1], steps=10).helps is None


def test_one_pair_has_no_interval(ill: Diagnosis) -> None:
    with pytest.raises(OptionError, match="give at least 2"):
        try_remedies(ill, seeds=1)
