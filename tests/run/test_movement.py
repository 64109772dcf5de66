"""Runs in which no step moves any weight say so, in lanes as in the loop."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import small
from thalweg.errors import Interrupted
from thalweg.execution import lanes as engine
from thalweg.execution import loop
from thalweg.layers import models
from thalweg.run.movement import checksums_of_lanes, weighed_bits
from thalweg.run.objective import Objective
from thalweg.run.spec import Outcome, Run, Setting

RATES = (0.1, 1e-30, 0.05)


def flat(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs * 0).mean() + 1


def given(**more: Any) -> dict[str, Any]:
    made = small.problem(models.factory("mlp:5"), small.prepared())
    return {"problem": replace(made, **more), "workload": small.workload(epochs=2)}


def runs(name: str = "sgd") -> list[Run]:
    return [
        Run(identity=f"{number}", setting=Setting(optimizer=name, hyperparameters={"lr": rate}), seed=number)
        for number, rate in enumerate(RATES)
    ]


class Kept(dict[str, Any]):
    """States in memory, as a keeper keeps them."""

    def save(self, name: str, state: Any) -> None:
        self[name] = copy.deepcopy(state)

    def load(self, name: str) -> Any:
        return self.get(name)


def both(asked: list[Run], **words: Any) -> tuple[list[Outcome], list[Outcome]]:
    return engine.run(asked, **words), [loop.run(run, **words) for run in asked]


@pytest.mark.parametrize("name", ["sgd", "adam", "lion", "schedule-free", "muon"])
def test_a_run_that_moves_no_weight_is_told_from_those_that_do(name: str) -> None:
    for outcomes in both(runs(name), **given()):
        assert [outcome.unmoved for outcome in outcomes] == [False, True, False]


def test_a_loss_without_a_gradient_moves_nothing() -> None:
    for outcomes in both(runs(), **given(objective=Objective(loss=flat, metric="log-loss"))):
        assert all(outcome.unmoved for outcome in outcomes)


def test_a_lone_lane_and_a_run_beside_one_that_diverges() -> None:
    still = runs()[1]
    wild = Run(identity="w", setting=Setting(optimizer="sgd", hyperparameters={"lr": 1e30}), seed=9)
    assert [outcome.unmoved for outcome in engine.run([still], **given())] == [True]
    for outcomes in both([wild, still], **given()):
        assert [outcome.unmoved for outcome in outcomes] == [False, True]
        assert outcomes[0].diverged_at is not None


@pytest.mark.parametrize("steps", [3, 13])
def test_an_interrupted_run_still_knows_where_it_began(steps: int) -> None:
    for run in (engine.run, lambda asked, **words: [loop.run(one, **words) for one in asked]):
        for number in (0, 1):
            asked, kept, calls = runs()[number : number + 1], Kept(), iter(range(1000))
            with pytest.raises(Interrupted):
                run(asked, **given(), checkpoint=kept, stop=lambda: next(calls) >= steps)  # noqa: B023
            assert [one.unmoved for one in run(asked, **given(), checkpoint=kept)] == [number == 1]


def test_a_change_of_one_bit_shows_in_its_lane_alone() -> None:
    for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.complex64):
        stacked = torch.randn(3, 4, 5).to(dtype)
        before = weighed_bits(stacked)
        # whatever lies beside it, and whatever its place in the stack
        assert [int(weighed_bits(one[None])) for one in stacked] == before.tolist()
        stacked[1, 2, 3] += 1
        assert (weighed_bits(stacked) != before).tolist() == [False, True, False]


def test_parts_of_a_large_tensor_are_weighed_as_a_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    stacked = torch.randn(2, 100)
    whole = weighed_bits(stacked)
    monkeypatch.setattr("thalweg.run.movement._AT_ONCE", 14)
    assert weighed_bits(stacked).tolist() == whole.tolist()
    swapped = stacked.clone()
    swapped[0, :50], swapped[0, 50:] = stacked[0, 50:], stacked[0, :50]
    assert weighed_bits(swapped)[0] != whole[0]
    found = checksums_of_lanes(nn.ParameterList([stacked, stacked]))
    assert found.shape == (2, 2)
