"""Steps that autograd goes through: the derivative by every number is that of differences."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch
from torch import Tensor

from contract.subjects import SUBJECTS, Subject, close

# Values besides the usual ones, some of which are zero.
POINTS = {
    "warmup_steps": 5.0,
    "r": 0.5,
    "weight_decay": 0.1,
    "momentum": 0.6,
    "initial_accumulator_value": 0.3,
    "eps": 0.05,
}

DIFFERENTIABLE = [
    subject
    for subject in SUBJECTS
    if "differentiable" in inspect.signature(subject.entry.call.target).parameters
]
CASES = [(subject, number) for subject in DIFFERENTIABLE for number in subject.numbers]


def make(subject: Subject, p: Tensor, numbers: dict[str, Any]) -> Any:
    values = {hyper.name: hyper.default for hyper in subject.entry.hyperparameters if not hyper.of_run}
    values |= dict(subject.settings) | numbers
    arguments: dict[str, Any] = {**subject.entry.call.fixed}
    for pair, parts in subject.entry.call.pairs.items():
        if any(part in values for part in parts):
            arguments[pair] = tuple(values.pop(part) for part in parts)
    return subject.entry.call.target([p], **arguments, **values, differentiable=True)


def loss(subject: Subject, numbers: dict[str, Any]) -> Tensor:
    """Three steps on a function with curvature, and a loss there."""
    p = torch.tensor([1.0, -2.0, 0.3], dtype=torch.float64)
    optimizer = make(subject, p, numbers)
    for _ in range(3):
        p.grad = p.clone() ** 3 + torch.tensor([0.5, 0.2, -3.0], dtype=torch.float64)
        optimizer.step()
    found: Tensor = (p * torch.tensor([1.0, 2.0, -0.5], dtype=torch.float64)).square().sum()
    return found


def slope_by_differences(subject: Subject, number: str, value: float, least: float | None) -> float:
    h = 1e-6
    if least is not None and value - h < least:
        # on one side there is nothing: second order from the other
        at = [loss(subject, {number: value + k * h}).item() for k in range(3)]
        return (-3 * at[0] + 4 * at[1] - at[2]) / (2 * h)
    ends = [loss(subject, {number: value + side * h}).item() for side in (1, -1)]
    return (ends[0] - ends[1]) / (2 * h)


@pytest.mark.parametrize(("subject", "number"), CASES, ids=[f"{s.name}-{n}" for s, n in CASES])
def test_a_hypergradient_is_that_of_differences(subject: Subject, number: str) -> None:
    """Scalar states, first states and numbers that are zero included."""
    hyper = next(h for h in subject.entry.hyperparameters if h.name == number)
    usual = subject.settings.get(number, hyper.default)
    # as many steps of warm-up as there are steps is where the rate's course has a corner
    for value in {usual, POINTS.get(number, usual)} - ({3} if number == "warmup_steps" else set()):
        tracked = torch.tensor(value, dtype=torch.float64, requires_grad=True)
        along: dict[str, Any] = {number: tracked}
        if number != "lr" and "lr" in subject.numbers:
            along["lr"] = torch.tensor(subject.settings["lr"], dtype=torch.float64, requires_grad=True)
        end = loss(subject, along)
        close([end], [loss(subject, {number: value})], 1e-13)
        (slope,) = torch.autograd.grad(end, [tracked], allow_unused=True)
        expected = slope_by_differences(subject, number, value, hyper.least)
        found = 0.0 if slope is None else slope.item()
        assert found == pytest.approx(expected, rel=2e-4, abs=1e-7), value
