"""Quickprop against twins: the corrected slide, and Fahlman's safeguards branch by branch."""

from __future__ import annotations

import math

import numpy as np
import pytest

from thalweg.rules import quickprop, sgd

TIGHT = {"rtol": 1e-10, "atol": 1e-12}


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_bare_is_the_corrected_slide(drive, decay):
    """C s119: w' = w - D, D = D_before * E' / (E'_before - E') with the sign put right."""
    draws = np.random.default_rng(2)
    start, slopes = draws.normal(size=4), [draws.normal(size=4) for _ in range(40)]
    w, step, before, expected = start.copy(), None, None, []
    for e in slopes:
        e = e + decay * w
        step = 0.05 * e if step is None else step * e / (before - e)
        w, before = w - step, e
        expected.append(w)
    hyper = {"lr": 0.05, "weight_decay": decay}
    path = drive(quickprop, start, slopes, hyper, {"safe": False}, steps=40)
    # Steps are products of quotients, so what rounding leaves grows with the largest of them.
    np.testing.assert_allclose(path, expected, rtol=1e-7, atol=1e-7)


def test_the_slide_as_printed_climbs_and_ours_is_at_the_minimum_of_a_parabola(drive):
    scale = np.array([1.0, 4.0, 0.01])
    start = np.array([1.0, -2.0, 30.0])
    path = drive(quickprop, start, lambda x: scale * x, {"lr": 0.1}, {"safe": False}, steps=2)
    np.testing.assert_allclose(path[1], 0.0, atol=1e-10)
    w0, w1 = start, path[0]
    printed = w1 - (w0 - w1) * (scale * w1) / (scale * w1 - scale * w0)
    assert (np.abs(printed) >= np.abs(w1)).all()


def fahlman(slopes, start, lr, growth, decay=0.0):
    """The update of Fahlman's report for each weight, written out for both directions of the last step."""
    shrink = growth / (1 + growth)
    w, step, before = list(start), [0.0] * len(start), [0.0] * len(start)
    path = []
    for gradient in slopes:
        for i in range(len(w)):
            s = -(gradient[i] + decay * w[i])  # his slopes point downhill
            last, p = step[i], before[i]
            move = 0.0
            if last > 0 and p > 0:
                if s > 0:
                    move += lr * s
                move += growth * last if s > shrink * p else last * s / (p - s)
            elif last < 0 and p < 0:
                if s < 0:
                    move += lr * s
                move += growth * last if s < shrink * p else last * s / (p - s)
            elif last == 0:
                move += lr * s
            else:
                # The last step went uphill, of which he doesn't speak: turn downhill.
                curved = (p - s) / last
                length = min(abs(s / (p - s)), growth) if curved > 0 else growth
                move += signum(s) * length * abs(last)
                if s * p > 0:
                    move += lr * s
            w[i], step[i], before[i] = w[i] + move, move, s
        path.append(list(w))
    return path


def signum(x):
    return (x > 0) - (x < 0)


@pytest.mark.parametrize(("growth", "decay"), [(1.75, 0.0), (1.75, 0.1), (1.0, 0.0)])
def test_safeguards(drive, start, gradients, growth, decay):
    draws = np.random.default_rng(4)
    # A step is at most growth times the one before, so a long run of random slopes would overflow.
    slopes = [g / np.abs(g).max() if g.any() else g for g in gradients[:30]]
    slopes += [np.abs(draws.normal(size=7)) * 0.5**k for k in range(6)]
    expected = fahlman(slopes, start, 0.05, growth, decay)
    hyper = {"lr": 0.05, "growth": growth, "weight_decay": decay}
    path = drive(quickprop, start, slopes, hyper, steps=len(slopes))
    np.testing.assert_allclose(path, expected, rtol=1e-8, atol=1e-9)


def test_every_step_leads_downhill_and_is_bounded(drive, gradients):
    x = drive(quickprop, np.zeros(7), gradients[:60], {"lr": 0.01, "growth": 1.5}, steps=60)
    moves = np.diff(np.vstack([np.zeros(7), x]), axis=0)
    slopes = np.array(gradients[:60])
    assert (moves * slopes <= 0).all()
    bound = 1.5 * np.abs(moves[:-1]) + 0.01 * np.abs(slopes[1:])
    assert (np.abs(moves[1:]) <= bound * (1 + 1e-9) + 1e-300).all()


def test_zeros_never_divide(drive):
    """Equal gradients, zero gradients, zero steps, a start in the minimum."""
    slopes = [np.array(g) for g in ([1.0, 0.0, 1.0], [1.0, 0.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.5, 2.0])]
    path = drive(quickprop, np.zeros(3), slopes, {"lr": 0.1, "growth": 2.0}, steps=4)
    expected = [
        [-0.1, 0.0, -0.1],
        [-0.4, 0.0, -0.1],
        [-1.1, -0.1, -0.1],
        [-1.1, -0.1 - 0.1 - 0.05, -0.1 - 0.2],
    ]
    np.testing.assert_allclose(path, expected, **TIGHT)
    bare = drive(quickprop, np.zeros(3), slopes, {"lr": 0.1}, {"safe": False}, steps=4)
    assert not np.isfinite(bare).all()


def test_nan_stays_nan(drive):
    slopes = [np.array([1.0]), np.array([math.nan]), np.array([1.0])]
    assert np.isnan(drive(quickprop, np.zeros(1), slopes, {}, steps=3)[1:]).all()


def test_safe_converges_where_bare_runs_away_and_beats_gradient_descent(drive):
    """A quartic: its curvature vanishes in the minimum, where Newton's steps shrink by a third each."""
    start = np.array([2.0, -1.5, 0.7])
    safe = drive(quickprop, start, lambda x: x**3, {"lr": 0.01}, steps=60)[-1]
    plain = drive(sgd, start, lambda x: x**3, {"lr": 0.01}, steps=60)[-1]
    assert (np.abs(safe) < 1e-2 * np.abs(plain)).all()


def test_on_a_hill_the_bare_form_goes_to_the_top_and_the_safe_one_down(drive):
    """E = -cos(x): at 2.5 it curves downwards, and the parabola there has only a maximum."""
    top, bottom = (
        drive(quickprop, np.array([2.5]), np.sin, {"lr": 0.01}, {"safe": safe}, steps=steps)[-1, 0]
        for safe, steps in ((False, 6), (True, 40))
    )
    assert top == pytest.approx(math.pi, abs=1e-6)
    assert bottom == pytest.approx(0.0, abs=1e-6)
