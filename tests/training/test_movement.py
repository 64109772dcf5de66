"""A training in which no step moves a weight says so, whatever the optimizer; one that moves is silent."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import thalweg
from thalweg.training.movement import checksums
from thalweg.training.watch import SilentTrainingWatcher

NAMES = ["sgd", "adam", "rprop", "lion", "muon", "schedule-free", "lbfgs", "cg-pr+", "newton", "newton-cg"]
OUTPUTS = ["gauss-newton", "levenberg-marquardt"]


class Told(SilentTrainingWatcher):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


def data() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(128, 5, generator=generator)
    return x, x.sum(1, keepdim=True)


def net(seed: int = 1) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 1))


def constant(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs * 0).mean() + 1


# Muon decays its weights, whatever the gradient
@pytest.mark.parametrize("name", [name for name in (*NAMES, *OUTPUTS) if name != "muon"])
def test_a_training_that_goes_nowhere_says_so(name: str) -> None:
    model, told = net(), Told()
    before = copy.deepcopy(model.state_dict())
    fitted = thalweg.fit(model, data(), constant, name, steps=3, watcher=told)
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key])
    (said,) = [note for note in fitted.notes if "moved any weight" in note]
    assert "none of the 3 steps" in said
    assert said in told.notes


@pytest.mark.parametrize("name", [*NAMES, *OUTPUTS])
@pytest.mark.parametrize("loss", ["mse", "l1", "huber"])
def test_a_training_that_moves_is_silent_and_gains(name: str, loss: str) -> None:
    """Also where all curvature of the loss is zero: every error is far out, or the loss is linear in it."""
    x, y = data()
    y = y if loss == "mse" else 1000 + y
    losses: dict[str, Any] = {"mse": F.mse_loss, "l1": F.l1_loss, "huber": F.huber_loss}
    model = net()
    before = losses[loss](model(x), y).item()
    fitted = thalweg.fit(model, (x, y), losses[loss], name, steps=20)
    assert not [note for note in fitted.notes if "moved any weight" in note]
    assert losses[loss](model(x), y).item() < before


def test_newton_on_absolute_errors() -> None:
    x, y = data()
    model = nn.Linear(5, 1)
    thalweg.fit(model, (x, y), F.l1_loss, "newton", steps=20)
    assert F.l1_loss(model(x), y).item() < 0.05


def test_a_rate_too_small_for_the_precision_is_named() -> None:
    fitted = thalweg.fit(net(), data(), F.mse_loss, "sgd", steps=4, hyperparameters={"lr": 1e-30})
    assert "1e-30" in fitted.notes[0]


def test_a_resume_remembers_the_beginning(tmp_path: Path) -> None:
    """What moved before an interruption has moved, though nothing does afterwards."""

    def falling(step: int) -> float:
        return 1.0 if step < 2 else 0.0

    for schedule, expected in ((falling, 0), (lambda step: 0.0, 1)):
        out = tmp_path / str(expected)
        model = net()
        arguments: dict[str, Any] = {"steps": 8, "out": out, "checkpoint_seconds": 0.0}
        fitted = thalweg.fit(model, data(), F.mse_loss, "sgd", schedule, **arguments)
        again = thalweg.fit(net(), data(), F.mse_loss, "sgd", schedule, resume=True, **arguments)
        for result in (fitted, again):
            assert len([note for note in result.notes if "moved any weight" in note]) == expected


def test_every_element_counts() -> None:
    w = nn.Parameter(torch.zeros(5, 7))
    others = [
        nn.Parameter(torch.zeros(3, dtype=kind)) for kind in (torch.float64, torch.bfloat16, torch.complex64)
    ]
    optimizer = torch.optim.SGD([w, *others], lr=0.1)
    seen = [checksums(optimizer)]
    with torch.no_grad():
        for i, j in ((0, 0), (4, 6), (2, 3)):
            w[i, j] += 1e-20
            seen.append(checksums(optimizer))
        # what one gains another loses
        w[0, 0], w[4, 6] = 1.0, -1.0
        seen.append(checksums(optimizer))
        w[0, 0], w[4, 6] = -1.0, 1.0
        seen.append(checksums(optimizer))
        for other in others:
            other[1] = 1.0
            seen.append(checksums(optimizer))
    assert len({tuple(numbers) for numbers in seen}) == len(seen)
