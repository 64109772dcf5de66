"""Runs whose clock is work: budget, evaluation points, batches, and the ways of taking a step."""

from __future__ import annotations

import io
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from small import prepared, problem, workload
from thalweg import catalogue
from thalweg.errors import Interrupted
from thalweg.execution import loop
from thalweg.objectives import loss as named_loss
from thalweg.randomness import streams
from thalweg.run.spec import Outcome, Run, Setting
from thalweg.training.steps import least_work, make_step

BY_WORK = [name for name in catalogue.names() if catalogue.get(name).step_kind != "gradient"]
TORCH = "torch.optim:LBFGS"


def mlp(shape: tuple[int, ...], outputs: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 3), nn.Tanh(), nn.Linear(3, outputs)).double()


def run_of(name: str, **hyperparameters: float) -> Run:
    setting = Setting(optimizer=name, hyperparameters=hyperparameters)
    return Run(identity=name, setting=setting, seed=77)


def common(name: str, **more: Any) -> dict[str, Any]:
    return {
        "problem": problem(
            mlp, prepared(dtype=torch.float64), metric="accuracy", optimizers={name: catalogue.resolve(name)}
        ),
        "workload": workload(**{"epochs": 12, **more}),
    }


class Memory:
    """Keeps states as files would: what is kept no longer changes."""

    def __init__(self) -> None:
        self.kept: dict[str, bytes] = {}

    def save(self, name: str, state: dict[str, Any]) -> None:
        torch.save(state, held := io.BytesIO())
        self.kept[name] = held.getvalue()

    def load(self, name: str) -> dict[str, Any] | None:
        return torch.load(io.BytesIO(self.kept[name]), weights_only=True) if name in self.kept else None


def test_the_loop_by_hand() -> None:
    """torch's L-BFGS: closures counted, batches that grow, and what stood when a point was passed."""
    given = common(TORCH)
    got = loop.run(run_of(TORCH, lr=0.5, max_iter=4, batch_factor=2.5, batch_growth=3.0), **given)

    data, total, size = given["problem"].data, 12 * (150 // 12), 12
    torch.manual_seed(streams.seed32(77, "initial"))
    model = mlp((1, 4, 4), 3)
    optimizer = torch.optim.LBFGS(model.parameters(), lr=0.5, max_iter=4)
    most = optimizer.param_groups[0]["max_eval"]
    clock, epoch, position = 0.0, 0, 0
    states, ends, losses = [{k: v.clone() for k, v in model.state_dict().items()}], [0.0], []
    while True:
        count = round(size * 2.5 * 3.0 ** (clock / total))
        if position + count > 150:
            epoch, position = epoch + 1, 0
        chosen = torch.from_numpy(streams.order(150, seed=77, epoch=epoch)[position : position + count])
        position += count
        called: list[float] = []

        def closure(chosen: Tensor = chosen, called: list[float] = called) -> Tensor:
            optimizer.zero_grad()
            value = nn.functional.cross_entropy(model(data.train.inputs[chosen]), data.train.targets[chosen])
            value.backward()
            called.append(value.item())
            return value

        optimizer.param_groups[0]["max_eval"] = max(1, min(most, int((total - clock) / (count / size))))
        optimizer.step(closure)
        clock += len(called) * count / size
        if clock > total:
            break
        states.append({k: v.clone() for k, v in model.state_dict().items()})
        ends.append(clock)
        losses.append(called[0])

    expected, means = [], [losses[0]]
    for point in got.steps:
        model.load_state_dict(states[max(i for i, end in enumerate(ends) if end <= point)])
        with torch.no_grad():
            outputs = model(data.validation.inputs)
            expected.append(nn.functional.cross_entropy(outputs, data.validation.targets).item())
    for before, point in zip(got.steps, got.steps[1:], strict=False):
        since = [x for x, end in zip(losses, ends[1:], strict=True) if before < end <= point]
        means.append(float(np.mean(since)) if since else means[-1])
    assert got.steps == [0, 29, 58, 86, 115, 144]
    assert got.validation_loss == pytest.approx(expected, rel=1e-9)
    assert got.train_loss == pytest.approx(means, rel=1e-9)
    assert got.updates == len(losses) > 4
    assert got.diverged_at is None
    assert len(got.test_predictions) == 33


@pytest.mark.parametrize("name", [*BY_WORK, TORCH])
def test_every_one_goes_down_within_the_budget(name: str) -> None:
    # a Hessian of 63 rows is worth some 130 gradients
    epochs = {"newton": 1000, "newton-cg": 100, "gauss-newton": 100, "levenberg-marquardt": 100}.get(name, 12)
    got = loop.run(run_of(name, batch_factor=12.0, max_iter=2), **common(name, epochs=epochs))
    train, validation = (
        [loss for loss in losses if loss is not None] for losses in (got.train_loss, got.validation_loss)
    )
    assert len(train) == len(validation) == len(got.steps)
    # what fits the training split to the end no longer fits the other; what takes few steps has hardly begun
    assert min(train[-1] / train[0], min(validation) / validation[0]) < 0.85
    assert got.updates


@pytest.mark.parametrize("name", [*BY_WORK, TORCH])
def test_a_run_taken_up_again_and_again_is_the_same(name: str) -> None:
    run, given = run_of(name, batch_factor=2.0, batch_growth=2.0, max_iter=2), common(name)
    if name == "levenberg-marquardt":
        run = run_of(name, batch_factor=2.0, batch_growth=2.0)
    whole = loop.run(run, **given)
    keeper, outcome = Memory(), None
    while outcome is None:
        asked = 0

        def after_three() -> bool:
            nonlocal asked
            asked += 1
            return asked > 3

        try:
            outcome = loop.run(run, checkpoint=keeper, stop=after_three, checkpoint_seconds=0.0, **given)
        except Interrupted:
            continue
    assert outcome == whole
    assert loop.run(run, checkpoint=keeper, stop=lambda: pytest.fail("nothing is left"), **given) == whole


def test_a_step_that_the_budget_has_no_room_for_does_not_count() -> None:
    given = common("newton-cg")
    got = loop.run(run_of("newton-cg", batch_factor=64.0, max_iter=8, max_products=50), **given)
    # one step over all examples for up to 8 iterations is more than the whole run has
    assert (got.updates, len(set(got.validation_loss))) == (0, 1)
    assert got.train_loss[1:] == got.train_loss[:-1]


@pytest.mark.parametrize("name", ["lbfgs", "cg-pr", TORCH])
def test_a_last_step_ends_where_the_budget_does(name: str) -> None:
    got = loop.run(run_of(name, batch_factor=64.0, max_iter=30), **common(name))
    assert got.updates
    assert got.validation_loss[-1] != got.validation_loss[0]


def test_random_layers_draw_the_same_within_a_step() -> None:
    def noisy(shape: tuple[int, ...], outputs: int) -> nn.Module:
        return nn.Sequential(mlp(shape, 8), nn.Dropout(0.5), nn.Linear(8, outputs).double())

    given, entry = common("lbfgs"), catalogue.get("lbfgs")
    given["problem"] = replace(given["problem"], factory=noisy)
    seen: list[Outcome] = [
        loop.run(run_of("lbfgs", batch_factor=12.0, max_iter=3), **given) for _ in range(2)
    ]
    assert seen[0] == seen[1]
    losses = [loss for loss in seen[0].validation_loss if loss is not None]
    # a search over a function that changes under it would fail at once, and go nowhere
    assert min(losses) < 0.85 * losses[0]
    assert entry.of_run({"batch_factor": 4.0}) == {"batch_factor": 4.0, "batch_growth": 1.0}


@pytest.mark.parametrize("name", ["sgd", "lbfgs", "newton"])
def test_work_of_a_step(name: str) -> None:
    entry = catalogue.get(name)
    model = nn.Linear(4, 1).double()
    optimizer = entry.make(model.parameters(), **({} if name == "sgd" else {"max_iter": 1}))
    step = make_step(entry.step_kind, optimizer, model, named_loss("mse", prepared("number").task))
    inputs = torch.randn(6, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    before = nn.functional.mse_loss(model(inputs)[:, 0], inputs[:, 0]).item()
    value, work = step(inputs, inputs[:, 0], math.inf)
    assert value.item() == pytest.approx(before)
    assert work >= least_work(entry, 5)
    assert work == (3.0 if name == "sgd" else optimizer.passes)
