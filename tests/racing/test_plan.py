"""What a race will do, and how it is made to fit a budget."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from races import options
from thalweg import objectives
from thalweg.errors import DataError, OptionError
from thalweg.objectives import Task
from thalweg.racing import configuration
from thalweg.racing import plan as planning
from thalweg.racing.plan import Cost
from thalweg.racing.race_setup import understand
from thalweg.racing.results import PlanInfo
from thalweg.run.sampler import default_batch_size
from thalweg.settings.tables import whole_number

CLASSES = Task(kind="classification", classes=("a", "b"))
REGRESSION = Task(kind="regression", spread=2.0)


@pytest.fixture(scope="module")
def plan() -> PlanInfo:
    return understand(options(trials=16, splits=5, epochs=8)).plan


COST = Cost(step_seconds={"sgd": 1e-3, "adam": 2e-3}, evaluation_seconds=5e-3)


def by_hand(plan: PlanInfo) -> float:
    """Every run of every stage, one by one."""
    seconds = 0.0
    for name in plan.optimizers:
        for _ in range(plan.splits):
            for stage, runs in (("screen", plan.trials), ("rerun", 9), ("confirm", plan.confirm)):
                for _ in range(runs):
                    seconds += plan.steps * COST.step_seconds[name]
                    seconds += (plan.evaluations + 1) * COST.evaluation_seconds
                    if stage == "confirm":
                        seconds += (plan.evaluations + 1) * COST.evaluation_seconds
    return seconds


def test_the_estimate_is_the_sum_over_all_runs(plan: PlanInfo) -> None:
    assert planning.estimate_seconds(plan, COST) == pytest.approx(by_hand(plan))


def test_without_a_budget_the_plan_stays(plan: PlanInfo) -> None:
    fitted, notes = planning.fit_minutes(plan, COST)
    assert fitted == plan
    assert len(notes) == 1


@given(st.floats(1e-4, 1e3))
def test_a_plan_fits_its_budget_or_is_the_smallest(plan: PlanInfo, minutes: float) -> None:
    asked = plan.model_copy(update={"minutes": minutes})
    fitted, notes = planning.fit_minutes(asked, COST)
    fits = planning.estimate_seconds(fitted, COST) <= 60 * minutes
    assert fits or (fitted.trials, fitted.splits, fitted.epochs) == (6, 3, 1)
    assert fitted.steps * plan.epochs == plan.steps * fitted.epochs
    # trials give way before splits, and splits before epochs
    if fitted.splits < plan.splits:
        more = fitted.model_copy(update={"splits": fitted.splits + 1, "trials": 6})
        assert planning.estimate_seconds(more, COST) > 54 * minutes
    if fitted.epochs < plan.epochs:
        assert fitted.splits == 3
    if fitted.trials < plan.trials:
        more = fitted.model_copy(update={"trials": fitted.trials + 1})
        assert planning.estimate_seconds(more, COST) > 54 * minutes
    for name in ("trials", "splits", "epochs"):
        assert any(note.startswith(f"{name} reduced") for note in notes) is (
            getattr(fitted, name) != getattr(plan, name)
        )
    assert any("even the smallest" in note for note in notes) is (
        planning.estimate_seconds(fitted, COST) > 54 * minutes
    )


def test_what_is_smaller_already_does_not_grow(plan: PlanInfo) -> None:
    small = plan.model_copy(update={"trials": 2, "splits": 2, "minutes": 1e-6})
    fitted, _ = planning.fit_minutes(small, COST)
    assert (fitted.trials, fitted.splits) == (2, 2)


@pytest.mark.parametrize(
    ("metric", "task", "good", "bad"),
    [
        ("accuracy", CLASSES, [0.01, 1.0], [0.0, -0.1, 1.01]),
        ("auc", CLASSES, [0.5, 1.0], [0.0, 2.0]),
        ("log-loss", CLASSES, [0.0, 5.0], [-0.1]),
        ("rmse", REGRESSION, [0.0, 1e9], [-1.0]),
        ("r2", REGRESSION, [-5.0, 1.0], [1.5]),
    ],
)
def test_goals_that_can_be_reached(metric: str, task: Task, good: list[float], bad: list[float]) -> None:
    found = objectives.metric(metric, task)
    for goal in good:
        planning.check_goal(goal, found)
    for goal in [*bad, math.nan, math.inf, -math.inf]:
        with pytest.raises(OptionError, match=f"^goal.*{metric}.*; give "):
            planning.check_goal(goal, found)


@given(st.integers(1, 10**7))
def test_defaults_are_usable(examples: int) -> None:
    size = default_batch_size(examples)
    assert size & (size - 1) == 0
    if examples >= 16:
        planning.check_batch_size(min(size, examples), examples)
    assert 2 <= planning.default_epochs(examples, size) <= 60


def test_a_batch_larger_than_the_split_is_refused_with_one_that_fits() -> None:
    with pytest.raises(DataError, match=r"has 30 rows.*batch_size=16 or less"):
        planning.check_batch_size(32, 30)


@pytest.mark.parametrize("value", [0, -1, 1.0, "3", True, None])
def test_whole_numbers(value: Any) -> None:
    with pytest.raises(OptionError, match=r"^trials is .*must be a whole number of at least 1"):
        whole_number("trials", value)


@pytest.mark.parametrize(("seconds", "said"), [(0.1, "1 s"), (40, "40 s"), (210, "3.5 min"), (7560, "2.1 h")])
def test_spoken_seconds(seconds: float, said: str) -> None:
    assert planning.spoken_seconds(seconds) == said


def test_numbers_of_any_library_are_taken() -> None:
    plain = options(
        trials=3, splits=2, confirm=1, epochs=2, batch_size=16, seed=1, minutes=5.0, goal=0.5, margin=0.25,
        spaces={"adam.lr": (0.125, 0.5)}, optimizers=["sgd", "adam"], eliminate=False,
    )  # fmt: skip
    numpys = options(
        trials=np.int64(3), splits=np.int8(2), confirm=np.uint16(1), epochs=np.int32(2), seed=np.uint8(1),
        batch_size=np.int16(16), minutes=np.float64(5), goal=np.float32(0.5), margin=np.float16(0.25),
        spaces={"adam.lr": (np.float32(0.125), np.float64(0.5))}, optimizers=np.array(["sgd", "adam"]),
        eliminate=np.False_,
    )  # fmt: skip
    assert numpys == plain
    assert understand(numpys).plan == understand(plain).plan
    assert configuration.written(numpys) == configuration.written(plain)
    assert "np." not in repr(configuration.written(numpys))


@pytest.mark.parametrize("name", ["trials", "splits", "confirm", "epochs", "batch_size", "seed"])
@pytest.mark.parametrize("value", [True, np.True_, 2.0, np.float64(2), "2", np.int64(-1)])
def test_what_is_no_whole_number_is_refused(name: str, value: object) -> None:
    with pytest.raises(OptionError, match=f"^{name} is .* but must be a whole number of at least"):
        understand(options(**{name: value}))


@pytest.mark.parametrize("name", ["minutes", "margin", "goal"])
@pytest.mark.parametrize("value", [True, "2"])
def test_what_is_no_number_is_refused(name: str, value: object) -> None:
    with pytest.raises(OptionError, match=f"^{name} is "):
        understand(options(**{name: value}))
