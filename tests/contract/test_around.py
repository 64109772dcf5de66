"""What stands around a step: compiled models, gradient scalers, lanes."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from contract.subjects import (
    Problem,
    Subject,
    close,
    every_row,
    every_subject,
    half_square,
    promised,
    train,
    trees_equal,
)
from thalweg.execution.lanes.step import LaneGroup, group_key
from thalweg.run.spec import Run, Setting


@pytest.fixture(scope="module")
def compiled() -> Iterator[tuple[Problem, Any]]:
    """A problem and its compiled model: the compiler takes its time once for all optimizers."""
    problem = Problem()
    yield problem, torch.compile(problem, backend="aot_eager")
    torch.compiler.reset()


@every_subject
def test_a_compiled_model_trains_like_any_other(subject: Subject, compiled: tuple[Problem, Any]) -> None:
    problem, net = compiled
    plain = Problem()
    problem.load_state_dict(plain.state_dict())
    one, two = subject.make(problem.params), subject.make(plain.params)
    with promised(subject, "compiled"):
        train(subject, one, problem, range(4), net)
        train(subject, two, plain, range(4))
        close(problem.params, plain.params, 1e-9)


@every_subject
def test_a_gradient_scaler_unscales_and_skips(subject: Subject) -> None:
    scaled, plain = Problem(torch.float32), Problem(torch.float32)
    one, two = subject.make(scaled.params), subject.make(plain.params)
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0, growth_interval=1000)
    with promised(subject, "gradient scaler"):
        for step in range(5):
            one.zero_grad()
            # one step in the middle overflows; it isn't taken, and nothing remembers it
            loss = half_square(scaled.residuals(2)) * (torch.inf if step == 2 else 1)
            scaler.scale(loss).backward()
            before = copy.deepcopy((scaled.params, one.state_dict()))
            scaler.step(one)
            scaler.update()
            if step == 2:
                assert trees_equal((scaled.params, one.state_dict()), before)
            else:
                train(subject, two, plain, range(2, 3))
        assert scaler.get_scale() == 4.0
        # a power of two scales without rounding
        assert trees_equal(scaled.params, plain.params)


@every_subject
def test_a_gradient_scaler_is_refused_with_a_closure_too(subject: Subject) -> None:
    if subject.step_kind == "gradient":
        return
    problem = Problem(torch.float32)
    optimizer = subject.make(problem.params)
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    closure = subject.closure(optimizer, lambda: problem.residuals(2))
    before = copy.deepcopy(problem.params)
    scaler.scale(half_square(problem.residuals(2))).backward()
    with promised(subject, "gradient scaler"):
        scaler.step(optimizer, closure)
    # torch itself looks for the word
    with pytest.raises(RuntimeError, match="Closure use is not currently supported"):
        scaler.step(optimizer, closure=closure)
    assert trees_equal(problem.params, before)
    # and without a scaler it works as ever
    optimizer.step(closure)
    assert not trees_equal(problem.params, before)
    disabled = torch.amp.GradScaler("cpu", enabled=False)
    disabled.step(optimizer, closure)


def run_of(subject: Subject, settings: dict[str, Any]) -> Run:
    return Run(identity="0", setting=Setting(optimizer=subject.name, hyperparameters=settings), seed=1)


@every_row
def test_a_lane_is_the_same_alone(subject: Subject) -> None:
    """Three lanes of different rates under schedules, in a wider stack, against the optimizer itself."""
    shapes = ((3, 2), (3,), (), (0, 4), (2, 2, 2))
    rates, steps = (0.05, 0.02, 0.01), 5
    runs = [run_of(subject, {**subject.settings, "lr": rate}) for rate in rates]
    generator = torch.Generator().manual_seed(2)

    def draw() -> list[Tensor]:
        made = [torch.randn(5, *shape, generator=generator, dtype=torch.float64) for shape in shapes]
        return [each.contiguous() for each in made]

    with promised(subject, "lanes"):
        keys = {group_key(run, subject.entry) for run in runs}
        assert len(keys) == 1
        stack = draw()
        factors = np.linspace(1, 0.2, steps)[:, None] * np.ones(5)
        group = LaneGroup(subject.entry, runs, begin=1)
        alone = [[nn.Parameter(p[1 + lane].clone()) for p in stack] for lane in range(3)]
        optimizers = [subject.make(p, lr=rate) for p, rate in zip(alone, rates, strict=True)]
        outside = [p[[0, 4]].clone() for p in stack]
        group.begin(stack, factors[0])
        for step in range(steps):
            grads = draw()
            group.update(grads, step + 1, factors)
            for lane, optimizer in enumerate(optimizers):
                optimizer.param_groups[0]["lr"] = rates[lane] * factors[step, 0]
                for p, g in zip(alone[lane], grads, strict=True):
                    p.grad = g[1 + lane].clone()
                optimizer.step()
        lanes = [[p[1 + lane] for p in stack] for lane in range(3)]
        if subject.entry.family == "matrix":
            # products of matrices are summed in another order
            for mine, own in zip(lanes, alone, strict=True):
                close(mine, own, 1e-9)
        else:
            assert trees_equal(lanes, alone)
        assert trees_equal([p[[0, 4]] for p in stack], outside)
