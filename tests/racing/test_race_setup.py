"""What a race understands of what it was asked for: who races."""

from __future__ import annotations

import pytest

from races import options
from thalweg import catalogue
from thalweg.errors import OptionError
from thalweg.racing.race_setup import understand


def test_all_are_all_that_can_take_a_step() -> None:
    plan = understand(options(optimizers=["all"], epochs=20)).plan
    assert plan.optimizers == list(catalogue.names())
    assert plan.left_out == {}
    assert plan.spaces["lbfgs"] == {"max_iter": (1, 32), "batch_factor": (4, 64), "batch_growth": (1, 16)}


def test_who_can_not_is_left_out_by_name() -> None:
    setup = understand(options(optimizers=["all"], data="digits", model="mlp:64", epochs=1))
    assert set(setup.plan.left_out) == {"bfgs", "newton"}
    assert set(setup.entries) == set(setup.plan.spaces) == set(setup.plan.optimizers)
    assert "4,810 parameters" in setup.plan.left_out["newton"]
    small = understand(options(optimizers=["all"], model="mlp:30", epochs=1))
    assert list(small.plan.left_out) == ["newton"]
    assert "one step takes" in small.plan.left_out["newton"]


def test_who_is_named_beside_all_is_meant() -> None:
    given = options(optimizers=["all", "bfgs", "torch.optim:LBFGS"], data="digits", model="mlp:64", epochs=1)
    plan = understand(given).plan
    assert plan.optimizers[-2:] == ["bfgs", "torch.optim:LBFGS"]
    assert list(plan.left_out) == ["newton"]


def test_who_is_named_and_can_not_is_refused() -> None:
    with pytest.raises(OptionError, match=r"newton can't race here: one step takes .* forward passes"):
        understand(options(optimizers=["newton"], model="mlp:30", epochs=1))
    with pytest.raises(OptionError, match=r"bfgs can't race here: it keeps a matrix of the model"):
        understand(options(optimizers=["bfgs"], data="digits", model="mlp:300"))
