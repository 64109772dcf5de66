"""What a step costs, by a clock of the test's own."""

from __future__ import annotations

import math
from typing import Any

import pytest
from torch import Tensor, nn

from small import prepared, problem, workload
from thalweg.execution import measured_passes, step_seconds
from thalweg.run.spec import Setting
from thalweg.training import FORWARD_BACKWARD


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
    monkeypatch.setattr("thalweg.execution.timing.now", lambda device: Work.now)
    task = problem(lambda shape, outputs: Work(math.prod(shape), outputs), prepared())
    asked: dict[str, Any] = {"repeats": 3, "seconds": 0.002}
    assert measured_passes(task, workload(), **asked) == 3.0 == FORWARD_BACKWARD
    adam = Setting(optimizer="adam", hyperparameters={"lr": 0.1})
    assert step_seconds(adam, task, workload(), **asked) == (3.0, 3.0, 3.0)
