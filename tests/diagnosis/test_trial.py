"""A trial is what a plain loop does, to the bit; and it is judged on examples that it doesn't learn from."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from tests.diagnosis.cases import inputs, net, numbers, setup, three_classes
from torch import Tensor, nn

from thalweg.diagnosis.facts import gather
from thalweg.diagnosis.trial import HeldOut, TrialRun, held_out, train
from thalweg.randomness import streams
from thalweg.randomness.streams import seed32

X = inputs()
THREE, Y = three_classes(X), numbers(X)


def tried(given: Any, steps: int, **options: Any) -> TrialRun:
    found = gather(given, seed=0)
    return train(given, found.judge, found.held, steps=steps, keep=True, **options)


@pytest.mark.parametrize(("clip", "falling"), [(None, False), (0.05, False), (None, True)])
def test_it_is_the_plain_loop(clip: float | None, falling: bool) -> None:
    model = net(3)
    given = setup(
        model, (X, THREE), nn.CrossEntropyLoss(), lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9)
    )
    given = given.with_(clip=clip, falling=falling)
    trial = tried(given, 13)
    twin, optimizer = given.start(0)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 13)
    rows = gather(given, seed=0).held.rows
    losses, left = [], []
    for step in range(13):
        if not left:
            epoch = step // 6
            order = streams.order(len(rows), seed=seed32(0, "diagnosis", "order"), epoch=epoch)
            left = list(torch.split(rows[torch.from_numpy(order)], 32))
        batch = left.pop(0)
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(twin(X[batch]), THREE[batch])
        loss.backward()
        if clip is not None:
            torch.nn.utils.clip_grad_norm_(twin.parameters(), clip)
        optimizer.step()
        if falling:
            schedule.step()
        losses.append(float(loss.detach()))
    exact = clip is None and not falling
    assert trial.losses == losses if exact else trial.losses == pytest.approx(losses, rel=1e-4)
    assert trial.model is not None
    for a, b in zip(trial.model.parameters(), twin.parameters(), strict=True):
        assert torch.equal(a, b) if exact else torch.allclose(a, b, rtol=1e-3, atol=1e-6)
    assert trial.gradients == 13 - (0 if len(rows) % 32 == 0 else 2 * (1 - (len(rows) % 32) / 32))
    assert trial.points[-1].step == 13


def test_examples_are_judged_that_were_not_learnt_from() -> None:
    given = setup(net(3), (X, THREE), nn.CrossEntropyLoss())
    held = held_out(given, seed=0)
    assert held.validation is not None
    learnt = {tuple(row.tolist()) for row in X[held.rows]}
    assert not any(tuple(row.tolist()) in learnt for row in held.validation[0])
    assert all(tuple(row.tolist()) in learnt for row in held.training[0])
    assert len(held.rows) + len(held.validation[0]) == len(X)
    own = held_out(setup(net(3), (X, THREE), nn.CrossEntropyLoss(), validation=(X[:50], THREE[:50])), seed=0)
    assert own.own
    assert len(own.rows) == len(X)
    few = held_out(setup(net(3), (X[:20], THREE[:20]), nn.CrossEntropyLoss()), seed=0)
    assert few.validation is None


def test_a_loss_that_breaks_ends_it() -> None:
    broken = setup(net(1), (X, Y), nn.MSELoss(), lambda p: torch.optim.SGD(p, lr=1e4))
    trial = tried(broken, 50)
    assert not trial.finite
    assert trial.steps < 50
    assert trial.validation == trial.training == -1
    assert "the loss became" in trial.failed


def test_what_raises_in_the_loop_is_said() -> None:
    class Raises(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.count = nn.Linear(4, 1), 0

        def forward(self, x: Tensor) -> Tensor:
            self.count += 1
            if self.count > 4:
                raise ValueError("enough")
            return self.inner(x)

    assert tried(setup(Raises(), (X, Y), nn.MSELoss()), 20).failed == "enough"


def test_sorted_examples_come_as_they_lie() -> None:
    seen = []

    def noted(outputs: Tensor, targets: Tensor) -> Tensor:
        seen.append(targets.detach().clone())
        return nn.functional.mse_loss(outputs, targets)

    y = torch.arange(float(len(X)))[:, None]
    given = setup(net(1), (X, y), noted, shuffled=False)
    found = gather(given, seed=0)
    seen.clear()
    train(given, found.judge, found.held, steps=4, points=2)
    assert torch.equal(torch.cat(seen[:4]), y[found.held.rows[:128]])


def test_closure_optimizers_take_their_steps() -> None:
    for name in ("lbfgs", "newton-cg"):
        given = setup(net(1), (X, Y), "mse", name, batch_size=len(X))
        trial = tried(given, 10)
        assert trial.finite
        assert trial.training > 0.9


def test_the_same_seed_gives_the_same_bits_and_generators_stay() -> None:
    dropped = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, 1))
    given = setup(dropped, (X, Y), "mse")
    torch.manual_seed(5)
    before = torch.get_rng_state()
    one, other = tried(given, 8), tried(given, 8)
    assert one.losses == other.losses
    assert tried(given, 8, seed=1).losses != one.losses
    assert torch.equal(before, torch.get_rng_state())


def test_movement_is_measured_from_the_start() -> None:
    model = net(1)
    model[0].weight.requires_grad_(False)
    trial = tried(setup(model, (X, Y), "mse"), 5)
    assert trial.moved["0.weight"] == 0
    assert trial.moved["2.weight"] > 0
    still = tried(setup(net(1), (X, Y), "mse", lambda p: torch.optim.SGD(p, lr=1e-9)), 5)
    assert max(still.moved.values()) < 1e-6
    assert isinstance(gather(setup(net(1), (X, Y), "mse"), seed=0).held, HeldOut)
    assert not math.isnan(trial.validation)
