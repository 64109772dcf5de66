"""Layers of ours as lanes: each lane is what it would be alone, its random numbers included."""

from __future__ import annotations

import torch
from torch import nn

from thalweg.execution.lanes.forward import Vmapped
from thalweg.layers import BatchNorm, Dropout, Maxout, Skip, StochasticDepth
from thalweg.randomness.keyed import Keyed, LaneDraws, RunDraws

CPU = torch.device("cpu")


def net() -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(4, 6, bias=False),
        BatchNorm(6, momentum=None),
        Maxout(2),
        Dropout(0.4, inverted=False),
        Skip(nn.Linear(3, 3), drop=StochasticDepth(0.5, per="example")),
        Skip(nn.Linear(3, 3), drop=StochasticDepth(0.5)),
    ).double()


def test_lanes_are_what_they_are_alone() -> None:
    torch.manual_seed(0)
    modules = [net() for _ in range(3)]
    tensors = {name: torch.stack([m.state_dict()[name] for m in modules]) for name in modules[0].state_dict()}
    x = torch.randn(3, 7, 4, dtype=torch.float64)
    lanes, mapped = LaneDraws([1, 2, 3], CPU), Vmapped(modules[0])
    for training in (True, False, True, True):
        lanes.step += 1
        got = mapped(tensors, x, draw=lanes, training=training)
        for lane, module in enumerate(modules):
            alone = RunDraws(lane + 1, CPU)
            alone.step = lanes.step
            with Keyed(alone):
                torch.testing.assert_close(got[lane], module.train(training)(x[lane]))
            for name, value in module.state_dict().items():
                torch.testing.assert_close(tensors[name][lane], value)
