"""What runs are trained on, and the weights that each begins with."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from small import prepared, problem, runs, workload
from thalweg import catalogue, objectives
from thalweg.errors import DataError, ModelError
from thalweg.randomness import streams
from thalweg.run.problem import initial_module


def test_initial_weights_are_those_of_the_written_seed() -> None:
    module = initial_module(lambda shape, outputs: torch.nn.Linear(shape[0], outputs), (3,), 2, 5)
    with torch.random.fork_rng():
        torch.manual_seed(streams.seed32(5, "initial"))
        expected = torch.nn.Linear(3, 2)
    assert torch.equal(module.weight, expected.weight)


def flat(shape: tuple[int, ...], outputs: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(16, outputs))


def test_a_runs_model_is_made_for_the_data_and_by_its_seed_and_initialization() -> None:
    task = problem(flat, prepared())
    run = runs(1, seeds=(5,))[0]
    sparse = replace(run, setting=replace(run.setting, initialization={"scheme": "sparse", "k": 3}))
    for each in (run, sparse):
        expected = initial_module(flat, (1, 4, 4), 3, 5, each.setting.initialization)
        for name, value in task.model(each).state_dict().items():
            assert torch.equal(value, expected.state_dict()[name])
    assert (task.model(sparse)[1].weight != 0).sum(1).tolist() == [3, 3, 3]
    moved = replace(task, device="meta").model(run)
    assert {p.device.type for p in moved.parameters()} == {"meta"}


def test_loss_and_metric_are_those_of_the_task() -> None:
    data = prepared("number")
    task = problem(flat, data, "number")
    outputs, targets = torch.tensor([[0.0], [3.0]]), torch.tensor([0.5, 1.0])
    assert task.functions.trained(outputs, targets) == objectives.loss("huber", data.task)(outputs, targets)
    # in the target's own unit, which is twice that of the outputs
    metric = task.functions.metric
    found = metric.score(metric.reduce(outputs, targets), targets)
    assert float(found) == pytest.approx(2 * (4.25 / 2) ** 0.5)


def test_steps_and_the_entry_of_an_optimizer() -> None:
    task = problem(flat, prepared(), optimizers={"adam": catalogue.get("adam")})
    assert task.steps(workload(epochs=3, batch_size=12)) == 36
    with pytest.raises(DataError, match="150 examples, fewer than one batch of 151"):
        task.steps(workload(batch_size=151))
    assert task.entry(runs(1, names=["adam"])[0]) is catalogue.get("adam")


def test_a_factory_must_return_a_module() -> None:
    with pytest.raises(ModelError, match="returned str"):
        initial_module(lambda shape, outputs: "no", (2,), 2, 0)  # type: ignore[arg-type,return-value]
