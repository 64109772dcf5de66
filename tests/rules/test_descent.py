"""Gradient descent and momentum against twins from the slides, torch, and each other."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from thalweg.rules import averaged_momentum, momentum, nesterov, sgd

TIGHT = {"rtol": 1e-11, "atol": 1e-13}


def scheduled(t):
    """Rates and momenta that change at every step."""
    return {"lr": 0.1 / (1 + 0.03 * t), "momentum": 0.5 + 0.4 * (1 - 1 / t)}


def test_gradient_descent(drive, start, gradients):
    x = start.copy()
    expected = []
    for t, g in enumerate(gradients, 1):
        x = x - scheduled(t)["lr"] * g
        expected.append(x)
    path = drive(sgd, start, gradients, lambda t: {"lr": scheduled(t)["lr"]})
    np.testing.assert_allclose(path, expected, **TIGHT)


@pytest.mark.parametrize("changing", [False, True])
@pytest.mark.parametrize(
    ("dampening", "decay", "look"), list(itertools.product([0.0, 0.3], [0.0, 0.1], [False, True]))
)
def test_momentum_with_the_rate_outside(drive, start, gradients, dampening, decay, look, changing):
    def at(t):
        values = scheduled(t) if changing else {"lr": 0.05, "momentum": 0.9}
        return {**values, "dampening": dampening, "weight_decay": decay}

    x, velocity, expected = start.copy(), None, []
    for t, g in enumerate(gradients, 1):
        g = g + decay * x
        a = at(t)["momentum"]
        velocity = g if velocity is None else a * velocity + (1 - dampening) * g
        x = x - at(t)["lr"] * (g + a * velocity if look else velocity)
        expected.append(x)
    path = drive(sgd, start, gradients, at, {"nesterov": look})
    np.testing.assert_allclose(path, expected, **TIGHT)


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_momentum_with_the_rate_inside(drive, start, gradients, decay):
    x, v, expected = start.copy(), np.zeros(7), []
    for t, g in enumerate(gradients, 1):
        v = scheduled(t)["momentum"] * v - scheduled(t)["lr"] * (g + decay * x)
        x = x + v
        expected.append(x)
    path = drive(momentum, start, gradients, lambda t: {**scheduled(t), "weight_decay": decay})
    np.testing.assert_allclose(path, expected, **TIGHT)


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_momentum_as_an_average(drive, start, gradients, decay):
    x, m, expected = start.copy(), np.zeros(7), []
    for t, g in enumerate(gradients, 1):
        a = scheduled(t)["momentum"]
        m = a * m + (1 - a) * (g + decay * x)
        x = x - scheduled(t)["lr"] * m
        expected.append(x)
    path = drive(averaged_momentum, start, gradients, lambda t: {**scheduled(t), "weight_decay": decay})
    np.testing.assert_allclose(path, expected, **TIGHT)


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_nesterov_from_the_corrected_slide(drive, start, gradients, decay):
    x, v, before, expected = start.copy(), np.zeros(7), 0.0, []
    for t, g in enumerate(gradients, 1):
        after = scheduled(t)["momentum"]
        new_v = before * v - scheduled(t)["lr"] * (g + decay * x)
        x = x + (1 + after) * new_v - before * v
        v, before = new_v, after
        expected.append(x)
    path = drive(nesterov, start, gradients, lambda t: {**scheduled(t), "weight_decay": decay})
    np.testing.assert_allclose(path, expected, **TIGHT)


def test_nesterov_is_the_look_ahead_form_under_scheduled_momentum(drive):
    matrix = np.array([[3.0, 1.0], [1.0, 2.0]])
    theta, v, ahead = np.array([1.0, -2.0]), np.zeros(2), 0.0
    points = []
    for t in range(1, 41):
        v = ahead * v - 0.05 * (matrix @ (theta + ahead * v))
        theta = theta + v
        ahead = 0.9 * (1 - 1 / (t + 1))
        points.append(theta + ahead * v)
    path = drive(
        nesterov,
        np.array([1.0, -2.0]),
        lambda x: matrix @ x,
        lambda t: {"lr": 0.05, "momentum": 0.9 * (1 - 1 / (t + 1))},
        steps=40,
    )
    np.testing.assert_allclose(path, points, rtol=1e-11, atol=1e-13)


def test_spellings_are_one_at_constant_rate_and_momentum(drive, start, gradients):
    outside = drive(sgd, start, gradients, {"lr": 0.05, "momentum": 0.8})
    inside = drive(momentum, start, gradients, {"lr": 0.05, "momentum": 0.8})
    average = drive(averaged_momentum, start, gradients, {"lr": 0.05 / (1 - 0.8), "momentum": 0.8})
    np.testing.assert_allclose(inside, outside, **TIGHT)
    np.testing.assert_allclose(average, outside, **TIGHT)
    look = drive(sgd, start, gradients, {"lr": 0.05, "momentum": 0.8}, {"nesterov": True})
    np.testing.assert_allclose(
        drive(nesterov, start, gradients, {"lr": 0.05, "momentum": 0.8}), look, **TIGHT
    )


def test_how_the_spellings_differ_when_the_rate_falls_to_zero(drive, start, gradients):
    def at(t):
        return {"lr": 0.05 if t <= 20 else 0.0, "momentum": 0.5}

    outside = drive(sgd, start, gradients, at, steps=60)
    inside = drive(momentum, start, gradients, at, steps=60)
    np.testing.assert_allclose(inside[:20], outside[:20], **TIGHT)
    assert (outside[20:] == outside[19]).all()
    # What the velocity still holds runs out as a geometric series: v * (a + a^2 + ...) = v for a = 1/2.
    velocity = inside[19] - inside[18]
    np.testing.assert_allclose(inside[-1], inside[19] + velocity, rtol=1e-9, atol=1e-9)


def test_terminal_speed(drive):
    path = drive(momentum, np.zeros(1), lambda x: np.full(1, -2.0), {"lr": 0.1, "momentum": 0.9}, steps=400)
    assert path[-1] - path[-2] == pytest.approx(0.1 * 2.0 / (1 - 0.9), rel=1e-12)


def test_maximize_climbs(drive, start, gradients):
    up = drive(sgd, start, gradients, {"lr": 0.1, "momentum": 0.9}, maximize=True)
    down = drive(sgd, start, [-g for g in gradients], {"lr": 0.1, "momentum": 0.9})
    np.testing.assert_array_equal(up, down)


@pytest.mark.parametrize("nesterov_form", [False, True])
@pytest.mark.parametrize(
    "hyper",
    [
        {"lr": 0.1},
        {"lr": 0.1, "weight_decay": 0.2},
        {"lr": 0.1, "momentum": 0.9},
        {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.2},
        {"lr": 0.1, "momentum": 0.9, "dampening": 0.4},
    ],
)
def test_torch(drive, start, gradients, hyper, nesterov_form):
    if nesterov_form and (hyper.get("dampening") or not hyper.get("momentum")):
        pytest.skip("torch refuses it")
    q = torch.tensor(start, requires_grad=True)
    peer = torch.optim.SGD([q], nesterov=nesterov_form, foreach=False, **hyper)
    expected = []
    for g in gradients:
        q.grad = torch.tensor(g)
        peer.step()
        expected.append(q.detach().numpy().copy())
    path = drive(sgd, start, gradients, hyper, {"nesterov": nesterov_form})
    np.testing.assert_allclose(path, expected, rtol=1e-11, atol=1e-12)
