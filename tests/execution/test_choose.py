"""The choice between lanes and loop; which one is faster here isn't for a test to say."""

from __future__ import annotations

import math
import os
import sys
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from small import prepared, problem, runs, workload
from thalweg.data.examples import DatasetExamples
from thalweg.errors import ModelError, OptionError
from thalweg.execution import Choice, choose
from thalweg.layers import models
from thalweg.run.threads import with_threads


def common(factory: Any = None) -> dict[str, Any]:
    return {
        "problem": problem(factory or models.factory("mlp:8"), prepared()),
        "workload": workload(),
        "seconds": 0.002,
    }


def test_auto_chooses_the_faster_and_gives_its_reason_and_numbers() -> None:
    choice = choose(runs(3), **common())
    assert isinstance(choice, Choice)
    assert choice.lane_seconds is not None
    assert choice.loop_seconds is not None
    assert (choice.kind == "lanes") == (choice.lane_seconds <= choice.loop_seconds)
    assert "a run" in choice.reason
    assert choice.reason.startswith("lanes pay" if choice.kind == "lanes" else "lanes don't pay")


def test_what_was_asked_for_is_chosen() -> None:
    lanes = choose(runs(3), engine="lanes", **common())
    assert (lanes.kind, lanes.forward) == ("lanes", "batched")
    assert lanes.processes == (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    )
    assert 2 <= lanes.chunk <= 9
    loop = choose(runs(3), engine="loop", processes=2, **common())
    assert (loop.kind, loop.forward, loop.chunk, loop.processes, loop.threads) == ("loop", "module", 1, 2, 1)
    vmap = choose(runs(3), engine="lanes", most=4, **common(models.factory("cnn:2")))
    assert (vmap.forward, vmap.kind) == ("vmap", "lanes")
    assert vmap.chunk <= 4


class Deciding(nn.Module):
    """Decides in Python about values, which can't be traced."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.linear(x.flatten(1))
        return x if x.sum().item() > 0 else 2 * x


class Forgetful(nn.Module):
    """Counts its calls outside of any buffer, so that a lane isn't what a run alone is."""

    calls = 0

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        Forgetful.calls += 1
        return self.linear(x.flatten(1)) * Forgetful.calls


@pytest.mark.parametrize(
    ("factory", "said"),
    [
        (lambda shape, outputs: Deciding(), "can't be traced over lanes"),
        (lambda shape, outputs: Forgetful(), "alone"),
        (lambda shape, outputs: nn.LSTM(4, 3), "recurrent"),
    ],
)
def test_a_model_that_cannot_be_a_lane_goes_through_the_loop_and_says_why(factory: Any, said: str) -> None:
    choice = choose(runs(2), **common(factory))
    assert choice.kind == "loop"
    assert said in choice.reason
    assert choice.processes == 1  # a lambda can't be sent
    with pytest.raises(ModelError, match=said):
        choose(runs(2), engine="lanes", **common(factory))


def test_batches_alone_and_optimizers_without_rules_go_through_the_loop() -> None:
    held = prepared()
    batches = DatasetExamples([], torch.arange(150).numpy(), list)  # type: ignore[arg-type]
    given = {**common(), "problem": problem(models.factory("mlp:8"), replace(held, train=batches))}
    assert "collate" in choose(runs(2), **given).reason
    with pytest.raises(OptionError, match="collate"):
        choose(runs(2), engine="lanes", **given)
    assert "no optimizer has a rule" in choose([], **common()).reason


def faked(
    patch: pytest.MonkeyPatch, *, lane: float, alone: float, two_threads: float = 1.0, **asked: Any
) -> Choice:
    """Choose by given seconds a step of a lane and of a run, of which two threads take a part."""
    module = sys.modules["thalweg.execution.choose"]

    def factor() -> float:
        return two_threads if torch.get_num_threads() == 2 else 1.0

    def step_seconds(*given: Any, threads: int, **more: Any) -> tuple[float, float, float]:
        value = alone * (two_threads if threads == 2 else 1.0)
        return value, value, value

    patch.setattr(module._Trial, "_seconds", lambda self, lanes, seconds: lane * lanes * factor())
    patch.setattr(module, "step_seconds", step_seconds)
    with with_threads(2):
        return choose(runs(8), processes=2, **{**common(), **asked})


# Two processes gain 1 - 1 / 1.7 of the time and cost 1.5 s: by hand, worth it from 3.64 s on.
@pytest.mark.parametrize(("steps", "beside"), [(3_000, 1), (4_300, 2), (0, 1), (math.inf, 2)])
def test_processes_are_used_named_and_counted_alike(
    steps: float, beside: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    lanes = faked(monkeypatch, lane=1e-3, alone=1e-2, lane_steps=steps, loop_steps=0)
    assert (lanes.kind, lanes.threads, lanes.lane_processes, lanes.processes) == ("lanes", 1, beside, 1)
    assert lanes.lane_seconds == pytest.approx(1e-3 if beside == 1 else 1e-3 / 1.7)
    assert ("in each of 2 processes" in lanes.reason) == (beside == 2)
    loop = faked(monkeypatch, lane=1e-2, alone=1e-3, lane_steps=steps, loop_steps=0)
    assert (loop.kind, loop.processes, loop.loop_threads) == ("loop", beside, 1)
    assert loop.loop_seconds == pytest.approx(1e-3 if beside == 1 else 1e-3 / 1.7)
    assert ("in the loop of 2 processes" in loop.reason) == (beside == 2)
    asked = faked(monkeypatch, lane=1e-4, alone=1e-3, loop_steps=steps, lane_steps=0, engine="loop")
    assert asked.processes == beside
    others = faked(monkeypatch, lane=1e-4, alone=1e-3, lane_steps=1e9, loop_steps=steps)
    assert (others.kind, others.lane_processes, others.processes) == ("lanes", 2, beside)


def test_threads_are_used_where_processes_are_not_worth_starting(monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, Any] = {"two_threads": 0.6, "lane_steps": 1_000, "loop_steps": 1_000}
    lanes = faked(monkeypatch, lane=1e-3, alone=1e-2, **given)
    assert (lanes.threads, lanes.lane_processes) == (2, 1)
    assert "on 2 threads takes" in lanes.reason
    assert lanes.lane_seconds == pytest.approx(0.6e-3)
    loop = faked(monkeypatch, lane=1e-2, alone=1e-3, **given)
    assert (loop.processes, loop.threads, loop.loop_threads) == (1, 2, 2)
    assert loop.loop_seconds == pytest.approx(0.6e-3)
