"""Rprop and Lion against twins, an element and a branch at a time; quadratics that the slide fails."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from thalweg import runtimes
from thalweg.errors import RuleError
from thalweg.rules import lion, rprop, sgd

TIGHT = {"rtol": 1e-11, "atol": 1e-13}
OVERSHOOTS = ("stay", "back", "reverse")


def signum(x):
    return (x > 0) - (x < 0)


class Element:
    """One weight on its way by the corrected slide: length and sign of the step apart (C s105-114)."""

    def __init__(self, x, length, overshoot, floor, ceiling):
        self.x, self.length, self.overshoot, self.floor, self.ceiling = x, length, overshoot, floor, ceiling
        self.remembered, self.came_from = 0.0, x

    def step(self, g):
        if self.remembered * signum(g) > 0:
            self.length = min(1.2 * self.length, self.ceiling)
        elif self.remembered * signum(g) < 0:
            self.length = max(0.5 * self.length, self.floor)
            if self.overshoot == "back":
                self.x, self.remembered = self.came_from, 0.0
                return
            if self.overshoot == "stay":
                self.remembered = 0.0
                return
        self.came_from = self.x
        self.x = self.x - signum(g) * self.length
        self.remembered = g


@pytest.mark.parametrize(("overshoot", "limits"), list(itertools.product(OVERSHOOTS, [True, False])))
def test_rprop(drive, start, gradients, overshoot, limits):
    floor, ceiling = (0.02, 0.3) if limits else (0.0, math.inf)
    elements = [Element(float(x), 0.1, overshoot, floor, ceiling) for x in start]
    expected = []
    for g in gradients:
        for element, slope in zip(elements, g, strict=True):
            element.step(float(slope))
        expected.append([element.x for element in elements])
    hyper = {"lr": 0.1, "step_size_min": 0.02, "step_size_max": 0.3}
    path = drive(rprop, start, gradients, hyper, {"limits": limits, "overshoot": overshoot})
    np.testing.assert_allclose(path, expected, rtol=1e-10, atol=1e-12)


def test_torchs_rprop_is_the_default(drive, start, gradients):
    q = torch.tensor(start, requires_grad=True)
    optimizer = torch.optim.Rprop([q], foreach=False)
    expected = []
    for g in gradients:
        q.grad = torch.tensor(g)
        optimizer.step()
        expected.append(q.detach().numpy().copy())
    np.testing.assert_allclose(drive(rprop, start, gradients, {}), expected, **TIGHT)
    shrink, grow = optimizer.defaults["etas"]
    floor, ceiling = optimizer.defaults["step_sizes"]
    assert dict(rprop.hyperparameters) == {
        "lr": optimizer.defaults["lr"],
        "etaminus": shrink,
        "etaplus": grow,
        "step_size_min": floor,
        "step_size_max": ceiling,
    }


def test_walking_back_stands_where_it_stood_and_goes_on_with_the_smaller_step(drive):
    slopes = [np.array([g]) for g in (2.0, 1.0, -3.0, 0.5, 0.25, 0.0, 0.5)]
    path = drive(rprop, np.array([1.0]), slopes, {"lr": 0.1}, {"overshoot": "back"}, steps=7)[:, 0]
    lengths = [0.1, 0.12, -0.12, 0.06, 0.072, 0.0, 0.072]
    np.testing.assert_allclose(path, 1.0 - np.cumsum(lengths), rtol=1e-13)


def test_tiny_gradients_have_a_sign(drive):
    """torch multiplies them, which gives zero."""
    slopes = [np.array([1e-200, -1e-200])] * 3
    path = drive(rprop, np.zeros(2), slopes, {"lr": 0.1}, steps=3)
    np.testing.assert_allclose(path[-1], np.array([-1, 1]) * (0.1 + 0.12 + 0.144), rtol=1e-12)


@pytest.mark.parametrize("overshoot", OVERSHOOTS)
def test_nan_is_not_taken_for_a_number(drive, overshoot):
    slopes = [np.array([1.0, 1.0]), np.array([math.nan, 1.0])]
    path = drive(rprop, np.zeros(2), slopes, {}, {"overshoot": overshoot}, steps=2)
    assert np.isnan(path[-1, 0])
    assert np.isfinite(path[-1, 1])


def rotated(condition, angle):
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    return turn @ np.diag([1.0, condition]) @ turn.T


def literal(matrix, start, steps, floor=1e-6, ceiling=50.0):
    """The code of C s113 as printed: the step carries a sign, and limits act on that."""
    x, before = start.copy(), matrix @ start
    step = np.sign(before) * 0.1
    for _ in range(steps):
        x = x - step
        now = matrix @ x
        for i in range(2):
            if np.sign(before[i]) == np.sign(now[i]):
                step[i] = min(1.2 * step[i], ceiling)
                before[i] = now[i]
            else:
                x[i] = x[i] + step[i]
                step[i] = max(0.5 * step[i], floor)
    return x


@pytest.mark.parametrize("limits", [True, False])
@pytest.mark.parametrize("overshoot", OVERSHOOTS)
def test_rotated_quadratics_where_the_literal_slide_fails(drive, overshoot, limits):
    draws = np.random.default_rng(7)
    runs = 25
    matrices = np.array([rotated(draws.uniform(2, 20), draws.uniform(0, math.pi)) for _ in range(runs)])
    starts = draws.normal(size=(runs, 2))
    ends = np.array([literal(a, x, 400) for a, x in zip(matrices, starts, strict=True)])
    failed = ~(np.linalg.norm(np.nan_to_num(ends, nan=np.inf), axis=1) < 1e-3)
    assert failed.sum() >= 0.7 * runs

    def gradient(x):
        return np.einsum("kij,kj->ki", matrices, x.reshape(runs, 2)).reshape(-1)

    options = {"overshoot": overshoot, "limits": limits}
    end = drive(rprop, starts.reshape(-1), gradient, {"lr": 0.1}, options, steps=400)[-1].reshape(runs, 2)
    assert (np.linalg.norm(end, axis=1) < 1e-3).all()


def test_an_unknown_word_is_refused():
    with pytest.raises(RuleError, match="overshoot is 'bakc'"):
        runtimes.live_states(rprop, {}, {"overshoot": "bakc"})


@pytest.mark.parametrize(("decay", "decoupled"), [(0.0, True), (0.1, True), (0.1, False)])
def test_lion(drive, start, gradients, decay, decoupled):
    def at(t):
        return {"lr": 0.02 / t, "beta1": 0.9 - 0.2 / t, "beta2": 0.97, "weight_decay": decay}

    x, m, expected = start.copy(), np.zeros(7), []
    for t, g in enumerate(gradients, 1):
        lr, beta1 = at(t)["lr"], at(t)["beta1"]
        if decoupled:
            x = x - lr * decay * x
        else:
            g = g + decay * x
        c = beta1 * m + (1 - beta1) * g
        m = 0.97 * m + (1 - 0.97) * g
        x = x - lr * np.sign(c)
        expected.append(x)
    path = drive(lion, start, gradients, at, {"decoupled": decoupled})
    np.testing.assert_allclose(path, expected, **TIGHT)


def test_lion_without_memory_is_the_sign_of_gradient_descent(drive, start, gradients):
    path = drive(lion, start, gradients, {"lr": 0.1, "beta1": 0.0})
    expected = drive(sgd, start, [np.sign(g) for g in gradients], {"lr": 0.1})
    np.testing.assert_allclose(path, expected, **TIGHT)
