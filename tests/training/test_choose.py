"""The choice between lanes and loop; which one is faster here isn't for a test to say."""

from __future__ import annotations

import math
import os
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lanes.small import entries, prepared, runs, workload
from thalweg import models
from thalweg.data.examples import DatasetExamples
from thalweg.errors import ModelError, OptionError
from thalweg.execution.choose import choose
from thalweg.training import FORWARD_BACKWARD, Choice, measured_passes, step_seconds


def common(factory: Any = None) -> dict[str, Any]:
    return {
        "factory": factory or models.factory("mlp:8"),
        "prepared": prepared(),
        "workload": workload(),
        "catalogue_entries": entries(),
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
    given = {**common(), "prepared": replace(held, train=batches)}
    assert "collate" in choose(runs(2), **given).reason
    with pytest.raises(OptionError, match="collate"):
        choose(runs(2), engine="lanes", **given)
    assert "no optimizer has a rule" in choose([], **common()).reason


class Work(nn.Module):
    """One layer whose forward pass takes one second of a clock of the test's own, its backward pass two."""

    now = 0.0

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.layer = nn.Linear(inputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        Work.spend(1.0)
        outputs: Tensor = self.layer(x.flatten(1))
        if outputs.requires_grad:
            outputs.register_hook(lambda gradient: Work.spend(2.0))
        return outputs

    @staticmethod
    def spend(seconds: float) -> None:
        Work.now += seconds


def test_costs_are_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock that moves with the work alone, whatever else this machine does."""
    monkeypatch.setattr("thalweg.execution.timing._now", lambda device: Work.now)
    given = {name: value for name, value in common().items() if name != "catalogue_entries"}
    given["factory"] = lambda shape, outputs: Work(math.prod(shape), outputs)
    assert measured_passes(repeats=3, **given) == 3.0 == FORWARD_BACKWARD
    assert step_seconds(entries()["adam"], {"lr": 0.1}, repeats=3, **given) == (3.0, 3.0, 3.0)
