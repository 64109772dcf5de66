from __future__ import annotations

import math

import numpy as np
import pytest

from thalweg.report.canvas import Strip, band, plain, window


def test_band_is_median_and_deciles():
    rows = np.random.default_rng(3).normal(size=(11, 4))
    median, low, high = band(rows.tolist(), higher=True)
    ordered = np.sort(rows, axis=0)
    np.testing.assert_array_equal(median, ordered[5])
    np.testing.assert_array_equal(low, ordered[1])
    np.testing.assert_array_equal(high, ordered[9])


@pytest.mark.parametrize("higher", [True, False])
def test_a_diverged_run_is_worse_than_every_other(higher: bool):
    median, low, high = band([[1.0], [2.0], [3.0], [None]], higher=higher)
    assert median[0] == (1.5 if higher else 2.5)
    assert (low[0] if higher else high[0]) == (-math.inf if higher else math.inf)
    gone, _, _ = band([[1.0], [None], [None]], higher=higher)
    assert math.isinf(gone[0])


def test_window_holds_everything_finite():
    low, high = window([1.0, None, math.inf, 3.0])
    assert low < 1 < 3 < high
    low, high = window([1e-4, 1e2, -1.0], log=True)
    assert 0 < low < 1e-4 < 1e2 < high
    assert window([]) == (0.0, 1.0)
    low, high = window([5.0, 5.0])
    assert low < 5 < high


def test_strip_lies_at_the_worse_end():
    accuracy = Strip(0.5, 1.0, higher=True)
    assert accuracy.range[0] < accuracy.at < accuracy.edge == 0.5
    error = Strip(0.5, 1.0, higher=False)
    assert error.edge == 1.0 < error.at < error.range[1]


@pytest.mark.parametrize("text", ["$$x$$", r"\(x\)", r"\[x\]", "a $$$$ b"])
def test_no_formula_survives(text: str):
    shown = plain(text)
    assert not any(mark in shown for mark in ("$$", r"\(", r"\["))
    assert shown.replace("\u2060", "") == text
