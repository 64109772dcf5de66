"""Schedule-Free AdamW against the paper's three sequences, which the rule folds into two."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from thalweg import runtimes
from thalweg.errors import RuleError
from thalweg.rules import rule, schedule_free_adamw

CASES = list(itertools.product([0.0, 0.1], [0, 7], [0.0, 0.5], [0.0, 2.0]))


def rate(t):
    return 0.02 * (1 + np.cos(t / 9))


@pytest.mark.parametrize(("decay", "warmup", "r", "power"), CASES)
def test_against_the_paper(drive, start, gradients, decay, warmup, r, power):
    def at(t):
        given = {"lr": rate(t), "beta1": 0.8, "beta2": 0.99, "weight_decay": decay, "warmup_steps": warmup}
        return {**given, "r": r, "weight_lr_power": power}

    x, y, z = start.copy(), start.copy(), start.copy()
    s, total, largest, expected = np.zeros(7), 0.0, 0.0, []
    for t, g in enumerate(gradients, 1):
        h = rate(t) * (min(1.0, t / warmup) if warmup else 1.0)
        largest = max(largest, h)
        weight = t**r * largest**power
        total += weight
        s = 0.99 * s + 0.01 * g * g
        d = g / (np.sqrt(s / (1 - 0.99**t)) + 1e-8) + decay * y
        z = z - h * d
        x = (1 - weight / total) * x + weight / total * z
        y = 0.8 * x + 0.2 * z
        expected.append(y)
    path = drive(schedule_free_adamw, start, gradients, at)
    np.testing.assert_allclose(path, expected, rtol=1e-9, atol=1e-11)


def test_a_warm_up_from_nothing_divides_by_nothing(drive, start, gradients):
    path = drive(schedule_free_adamw, start, gradients, lambda t: {"lr": 0.0 if t < 3 else 0.1}, steps=5)
    np.testing.assert_array_equal(path[1], start)
    assert np.isfinite(path).all()
    assert (path[4] != start).any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_what_is_shown_is_the_mean_and_lanes_have_their_own(dtype):
    x, z = torch.randn(3, 4, dtype=dtype), torch.randn(3, 4, dtype=dtype)
    betas = np.array([0.5, 0.9, 0.99])
    y = torch.stack([b * x[i] + (1 - b) * z[i] for i, b in enumerate(betas.tolist())])
    before = y.clone(), z.clone()
    (shown,) = runtimes.shown(schedule_free_adamw, [y], {"z": [z]}, {"beta1": betas}, lanes=True)
    torch.testing.assert_close(shown, x, rtol=1e-5, atol=1e-5)
    assert torch.equal(y, before[0])
    assert torch.equal(z, before[1])
    for lane, beta in enumerate(betas.tolist()):
        (alone,) = runtimes.shown(schedule_free_adamw, [y[lane].clone()], {"z": [z[lane]]}, {"beta1": beta})
        assert torch.equal(alone, shown[lane])


def test_what_is_shown_must_come_from_the_rule_itself():
    view = rule(lambda p, g, mean, *, beta=0.5: (p, mean))
    with pytest.raises(RuleError, match="asks for 'mean', which this rule doesn't have"):
        rule(shown=view)(lambda p, g, *, beta=0.5: p)
