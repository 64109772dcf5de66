"""The end of a race: whose setting becomes the recipe, and what one test example is worth."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from thalweg import catalogue
from thalweg.racing import build_results
from thalweg.racing.race_setup import RaceSetup
from thalweg.racing.records import PoolRecord, Tried
from thalweg.racing.results import PlanInfo
from thalweg.run.spec import Outcome, Setting


def plan(**changes: Any) -> PlanInfo:
    given = {
        "spaces": {"adam": {"lr": (1e-4, 1.0), "beta1": (0.0, 0.99)}},
        "initializations": {"default": {}},
        "higher_is_better": True,
        "metric": "accuracy",
    }
    return cast("PlanInfo", SimpleNamespace(**{**given, **changes}))


def pool(replicate: int, rerun: float | None, schedule: str = "constant", **numbers: float) -> PoolRecord:
    identity = f"r{replicate}/adam/t01"
    outcome = cast("Outcome", SimpleNamespace(identity=identity))
    setting = Setting(optimizer="adam", hyperparameters=numbers, schedule=schedule)
    diverged = None if rerun is not None else 3
    again = cast("Outcome", SimpleNamespace(diverged_at=diverged, validation=[rerun]))
    return PoolRecord(
        optimizer="adam",
        replicate=replicate,
        reruns={identity: [again]},
        winner=Tried(setting=setting, outcome=outcome, wave=1, edges={}),
    )


def typical(pools: list[PoolRecord], plan: PlanInfo) -> int:
    setup = cast("RaceSetup", SimpleNamespace(entries={"adam": catalogue.get("adam")}))
    return build_results._typical(setup, plan, pools)


def test_one_odd_split_does_not_decide_the_setting_however_well_it_validated() -> None:
    # on a log scale 0.03 lies between the others; plain, 0.000342 and 0.02 would be nearer to each other
    rates = [0.000342, 0.02, 0.03, 0.06, 0.04]
    pools = [pool(r, 0.99 if r == 0 else 0.9, lr=rate, beta1=0.9) for r, rate in enumerate(rates)]
    assert typical(pools, plan()) == 2


@pytest.mark.parametrize("higher", [True, False])
def test_between_two_the_better_reruns_decide(higher: bool) -> None:
    pools = [pool(0, 0.8, lr=0.01), pool(1, 0.9, lr=0.1)]
    assert typical(pools, plan(higher_is_better=higher)) == (1 if higher else 0)
    assert typical([pool(0, None, lr=0.01), pool(1, 0.1, lr=0.1)], plan(higher_is_better=higher)) == 1


def test_schedules_count_as_much_as_the_width_of_a_space() -> None:
    pools = [
        pool(0, 0.99, "cosine", lr=0.01),
        pool(1, 0.9, "constant", lr=0.02),
        pool(2, 0.9, "constant", lr=0.002),
    ]
    assert typical(pools, plan()) == 1


@pytest.mark.parametrize(
    ("metric", "worth"),
    [("accuracy", 1 / 20), ("balanced-accuracy", 1 / 8), ("auc", 1 / 4), ("log-loss", 0.0), ("rmse", 0.0)],
)
def test_what_one_test_example_is_worth(metric: str, worth: float) -> None:
    targets = torch.tensor([0] * 16 + [1] * 4)
    setup = SimpleNamespace(
        read=SimpleNamespace(objective=SimpleNamespace(judging="cross-entropy")),
        first=SimpleNamespace(test=SimpleNamespace(targets=targets)),
        data_info=SimpleNamespace(split_sizes={"test": 20}),
    )
    assert build_results._one_example(cast("RaceSetup", setup), plan(metric=metric)) == pytest.approx(worth)
