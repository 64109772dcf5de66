"""The memory of a lane: within a factor of what a closed form says."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from small import entries, runs
from thalweg import objectives
from thalweg.execution.lanes.forward import forward_of
from thalweg.execution.lanes.memory_estimate import available_bytes, lane_bytes, lanes_that_fit
from thalweg.execution.lanes.stack import Stack
from thalweg.execution.lanes.step import LaneProgram
from thalweg.run.problem import initial_module

CPU = torch.device("cpu")


def measured(lanes: int, width: int, batch: int, evaluated: int) -> int:
    def factory(shape: tuple[int, ...], outputs: int) -> nn.Module:
        return nn.Sequential(
            nn.Linear(20, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Linear(width, outputs)
        )

    chosen = runs(lanes, names=["adam"])
    stack = Stack.build(lambda run: initial_module(factory, (20,), 3, run.seed), chosen)
    loss = objectives.loss("cross-entropy", objectives.Task(kind="classification", classes=("a", "b", "c")))
    program = LaneProgram(stack, forward_of(stack.template), loss, chosen, entries())
    inputs, targets = torch.randn(batch, 20), torch.zeros(batch, dtype=torch.int64)
    given = inputs.expand(lanes, batch, 20), targets.expand(lanes, batch)
    program.step(*given, 1, np.ones((1, lanes)))
    before = {name: tensor.detach().clone() for name, tensor in stack.tensors.items()}
    found = lane_bytes(program, *given, evaluated=evaluated)
    for name, tensor in stack.tensors.items():
        assert torch.equal(tensor, before[name]), "an estimate must leave the lanes as they are"
    return found


def test_a_lane_needs_its_parameters_states_and_activations() -> None:
    width, batch = 500, 40
    parameters = 20 * width + width + 2 * width + 3 * width + 3
    layers = batch * (4 * width + 3)  # linear, its normal form twice, ReLU; outputs
    expected = 4 * (6 * parameters + 2 * layers + 2 * batch * width + 2 * batch * 20)
    found = measured(3, width, batch, batch)
    assert 0.5 * expected < found < 2 * expected


def test_it_does_not_depend_on_how_many_are_measured_and_grows_with_evaluations() -> None:
    assert measured(2, 64, 16, 16) == measured(5, 64, 16, 16)
    assert measured(2, 64, 16, 160) > measured(2, 64, 16, 16)


def test_half_of_what_is_free_is_used() -> None:
    assert lanes_that_fit(100, 1000) == 5
    assert lanes_that_fit(10**12, 1000) == 2
    assert 10**7 < available_bytes(CPU) < 10**14
