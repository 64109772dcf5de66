"""Calibration against twins written step by step, scikit-learn, and closed forms."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as hs
from sklearn.calibration import calibration_curve
from sklearn.metrics import brier_score_loss

from thalweg.calibration.assessment import Reliability, brier_parts, brier_score, reliability
from thalweg.errors import OptionError


def drawn(rows: int, classes: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    outputs = 2 * torch.randn(rows, classes, generator=generator, dtype=torch.float64)
    return outputs.softmax(1), torch.randint(0, classes, (rows,), generator=generator)


def error_twin(p: np.ndarray, y: np.ndarray, bins: int) -> float:
    """As in the paper, bin by bin, in plain Python."""
    total = 0.0
    for b in range(bins):
        inside = [i for i in range(len(y)) if b / bins < max(p[i]) <= (b + 1) / bins]
        if inside:
            accuracy = sum(float(p[i].argmax() == y[i]) for i in inside) / len(inside)
            confidence = sum(max(p[i]) for i in inside) / len(inside)
            total += len(inside) / len(y) * abs(accuracy - confidence)
    return total


@pytest.mark.parametrize(("rows", "classes", "bins"), [(200, 3, 15), (50, 10, 7), (1, 2, 1), (400, 2, 10)])
def test_the_expected_error_is_the_papers(rows: int, classes: int, bins: int) -> None:
    p, y = drawn(rows, classes)
    found = reliability(p, y, bins)
    assert found.error == pytest.approx(error_twin(p.numpy(), y.numpy(), bins), abs=1e-14)
    assert int(found.counts.sum()) == rows
    right = float((p.argmax(1) == y).double().mean())
    assert found.overconfidence == pytest.approx(float(p.max(1).values.mean()) - right, abs=1e-14)
    assert found.largest >= found.error


def test_a_probability_on_an_edge_belongs_to_the_bin_below() -> None:
    sure = torch.tensor([0.5, 0.625, 0.75, 0.75, 1.0], dtype=torch.float64)
    found = reliability(torch.stack([sure, 1 - sure], 1), torch.tensor([0, 1, 0, 1, 0]), bins=4)
    assert found.counts.tolist() == [0, 1, 3, 1]
    assert found.points() == [(0.5, 1.0, 1), ((0.625 + 1.5) / 3, 1 / 3, 3), (1.0, 1.0, 1)]
    assert found.largest == pytest.approx(0.5)
    assert found.error == pytest.approx((0.5 + 1.125) / 5)


def test_points_are_scikit_learns_calibration_curve() -> None:
    p, y = drawn(500, 4)
    confidence, chosen = p.max(1)
    right = (chosen == y).numpy()
    share, mean = calibration_curve(right, confidence.numpy(), n_bins=15)
    points = reliability(p, y, 15).points()
    np.testing.assert_allclose([x for x, _, _ in points], mean, rtol=1e-12)
    np.testing.assert_allclose([z for _, z, _ in points], share, rtol=1e-12)


def test_closed_forms() -> None:
    # 10 predictions of 0.8, of which 8 are right: calibrated
    p = torch.tensor([[0.8, 0.2]] * 10, dtype=torch.float64)
    y = torch.tensor([0] * 8 + [1] * 2)
    assert reliability(p, y).error == pytest.approx(0.0, abs=1e-15)
    assert brier_score(p, y) == pytest.approx(2 * 0.8 * 0.2)
    parts = brier_parts(p, y)
    # nothing is told apart, and nothing is promised that isn't so: what is left is the data's own
    assert (parts.reliability, parts.resolution) == pytest.approx((0.0, 0.0), abs=1e-15)
    assert parts.uncertainty == pytest.approx(2 * 0.8 * 0.2)
    assert parts.within == pytest.approx(0.0, abs=1e-15)
    # sure and always wrong
    wrong = torch.tensor([[1.0, 0.0]] * 4), torch.tensor([1] * 4)
    assert (reliability(*wrong).error, brier_score(*wrong)) == (1.0, 2.0)
    # no idea of C classes: 1 - 1/C
    even = torch.full((12, 4), 0.25), torch.arange(12) % 4
    assert brier_score(*even) == pytest.approx(1 - 1 / 4)


def test_the_brier_score_is_scikit_learns() -> None:
    p, y = drawn(300, 2)
    assert brier_score(p, y) == pytest.approx(2 * brier_score_loss(y.numpy(), p[:, 1].numpy()))
    assert brier_score(p[:, 1], y) == pytest.approx(brier_score(p, y))
    assert reliability(p[:, 1], y).error == pytest.approx(reliability(p, y).error)
    p, y = drawn(300, 5)
    squares = [sum((p[i, k] - float(y[i] == k)) ** 2 for k in range(5)) for i in range(300)]
    assert brier_score(p, y) == pytest.approx(float(sum(squares)) / 300)


def parts_twin(p: np.ndarray, y: np.ndarray, bins: int) -> list[float]:
    """Murphy's parts and those within bins, class by class and bin by bin."""
    rows, classes = p.shape
    reliability = resolution = uncertainty = within = 0.0
    for k in range(classes):
        came = (y == k).astype(float)
        overall = came.mean()
        uncertainty += overall * (1 - overall)
        for b in range(bins):
            low = -1 if b == 0 else b / bins
            inside = (p[:, k] > low) & (p[:, k] <= (b + 1) / bins)
            n = inside.sum()
            if n:
                f, o = p[inside, k], came[inside]
                reliability += n / rows * (f.mean() - o.mean()) ** 2
                resolution += n / rows * (o.mean() - overall) ** 2
                within += (
                    n / rows * (((f - f.mean()) ** 2).mean() - 2 * ((f - f.mean()) * (o - o.mean())).mean())
                )
    return [reliability, resolution, uncertainty, within]


@settings(max_examples=30, deadline=None)
@given(hs.integers(1, 60), hs.integers(2, 5), hs.integers(1, 20), hs.integers(0, 999))
def test_the_parts_add_up_exactly_whatever_the_bins(rows: int, classes: int, bins: int, seed: int) -> None:
    p, y = drawn(rows, classes, seed)
    parts = brier_parts(p, y, bins)
    assert parts.score == pytest.approx(brier_score(p, y), rel=1e-12)
    found = [parts.reliability, parts.resolution, parts.uncertainty, parts.within]
    assert found == pytest.approx(parts_twin(p.numpy(), y.numpy(), bins), abs=1e-12)


def test_pooled_is_of_all_predictions_together() -> None:
    one, other = drawn(100, 3, 1), drawn(40, 3, 2)
    pooled = Reliability.pooled([reliability(*one), reliability(*other)])
    whole = reliability(torch.cat([one[0], other[0]]), torch.cat([one[1], other[1]]))
    assert pooled.error == pytest.approx(whole.error, abs=1e-15)
    assert pooled.counts.tolist() == whole.counts.tolist()


@pytest.mark.parametrize("function", [reliability, brier_parts, brier_score])
def test_what_is_refused(function: object) -> None:
    assert callable(function)
    p, y = drawn(5, 3)
    for bad, goal, words in (
        (3 * p, y, "outside 0 to 1"),
        (p, y[:4], "don't go with targets"),
        (p[:0], y[:0], "at least one example"),
        (p * float("nan"), y, "outside 0 to 1"),
    ):
        with pytest.raises(OptionError, match=words):
            function(bad, goal)
    if function is not brier_score:
        with pytest.raises(OptionError, match="bins = 0"):
            function(p, y, 0)
