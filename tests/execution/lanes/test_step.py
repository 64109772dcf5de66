"""Updates of a group of lanes, whose scalars are computed for many steps at once."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from small import entries
from thalweg import runtimes
from thalweg.execution.lanes.step import LaneGroup, group_key
from thalweg.rules import rule
from thalweg.run.spec import Run, Setting


@rule
def hesitant(p: Tensor, g: Tensor, *, lr: float = 0.1, t: int) -> Tensor:
    """Climbs where the rate is zero, which only a rule that asks can do."""
    return p - lr * g / t if lr else p + g


def runs(name: str, count: int) -> list[Run]:
    return [
        Run(
            identity=str(i),
            setting=Setting(optimizer=name, hyperparameters={"lr": 0.01 * (1 + i)}),
            seed=1,
        )
        for i in range(count)
    ]


@pytest.mark.parametrize(
    "name", ["sgd", "nesterov", "adagrad", "rmsprop", "adam", "nadam", "adamw", "rprop", "hesitant"]
)
def test_steps_are_those_of_apply_to_the_bit(name: str) -> None:
    entry = entries().get(name)
    if entry is None:
        sgd = entries()["sgd"]
        entry = replace(sgd, name=name, rule=hesitant, options={}, hyperparameters=sgd.hyperparameters[:1])
    lanes, steps = 5, 150
    table = np.linspace(1, 0, steps)[:, None] * np.ones(lanes + 2)
    other = 0.5 * table
    generator = torch.Generator().manual_seed(1)
    stacked = torch.randn(lanes + 2, 3, 4, generator=generator)
    group = LaneGroup(entry, runs(name, lanes), begin=2)
    group.begin([stacked], table[0])
    alone = stacked[2:].clone()
    assert entry.rule is not None
    base = [entry.rule_hyperparameters(run.setting.hyperparameters) for run in runs(name, lanes)]
    hyper = {key: np.array([each[key] for each in base]) for key in base[0]}
    states = runtimes.initial_states(entry.rule, [alone], hyper, entry.options, lanes=True)
    before = stacked[:2].clone()
    for t in range(1, steps + 1):
        factors = table if t <= 100 else other  # a plateau fell
        grad = torch.randn(lanes + 2, 3, 4, generator=generator)
        group.update([grad], t, factors)
        now = {**hyper, "lr": hyper["lr"] * factors[t - 1, 2:]}
        runtimes.apply(entry.rule, [alone], [grad[2:]], states, now, entry.options, t, lanes=True)
        assert torch.equal(stacked[2:], alone), t
    assert torch.equal(stacked[:2], before)


def test_lanes_of_one_call_share_rule_and_zeros() -> None:
    entry = entries()["sgd"]
    first, second = runs("sgd", 2)
    assert group_key(first, entry) == group_key(second, entry)
    decayed = replace(first, setting=Setting(optimizer="sgd", hyperparameters={"lr": 0.0}))
    assert group_key(decayed, entry) != group_key(first, entry)
