"""Intervals over batches: against a jackknife by hand, and how often they cover."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from thalweg.curvature import Hessian, curvature_along, lanczos, over_batches
from thalweg.curvature.sampling import interval_of
from thalweg.errors import OptionError


@pytest.fixture(autouse=True)
def _float64() -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    yield
    torch.set_default_dtype(before)


def net() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))


def batches(*sizes: int) -> list[tuple[Tensor, Tensor]]:
    n = sum(sizes)
    x, y = torch.randn(n, 4), torch.randint(3, (n,))
    return list(zip(x.split(list(sizes)), y.split(list(sizes)), strict=True))


def by_hand(values: np.ndarray, weights: np.ndarray) -> tuple[float, float]:
    """Mean, and the jackknife's standard error, from the slide."""
    left = []
    for b in range(len(values)):
        kept = [i for i in range(len(values)) if i != b]
        left.append(np.average(values[kept], weights=weights[kept]))
    count = len(values)
    error = math.sqrt((count - 1) / count * sum((v - np.mean(left)) ** 2 for v in left))
    return float(np.average(values, weights=weights)), error


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_curvature_along_a_direction_is_the_jackknife_of_its_batches(reduction: str) -> None:
    model, data = net(), batches(9, 4, 7, 5)
    loss = nn.CrossEntropyLoss(reduction=reduction)
    operator = Hessian(model, loss, data)
    v = torch.randn(operator.shape[0])
    forms = np.array([float(v @ Hessian(model, loss, batch).to_dense() @ v / (v @ v)) for batch in data])
    weights = np.array([9, 4, 7, 5]) if reduction == "mean" else np.ones(4)
    value, error = by_hand(forms if reduction == "mean" else 4 * forms, weights)
    found = curvature_along(operator, v)
    assert found.value == pytest.approx(value)
    assert found.value == pytest.approx(float(v @ operator.to_dense() @ v / (v @ v)))
    assert found.standard_error == pytest.approx(error)
    from scipy.stats import t

    assert found.high - found.value == pytest.approx(error * t.ppf(0.975, 3))


def test_leaving_out_each_batch_by_hand_is_met_to_first_order() -> None:
    model, data = net(), batches(*[60] * 5)
    operator = Hessian(model, "cross-entropy", data)
    exact = over_batches(operator, lambda each: lanczos(each, ends="largest", tolerance=1e-8).largest.value)
    first = over_batches(operator, "largest", tolerance=1e-8)
    assert first.value == pytest.approx(exact.value)
    assert first.standard_error == pytest.approx(exact.standard_error, rel=0.15)
    lower = over_batches(operator, "smallest", tolerance=1e-6)
    assert lower.value == pytest.approx(float(np.linalg.eigvalsh(operator.to_dense().numpy())[0]), rel=1e-5)


def test_the_interval_of_the_largest_eigenvalue_covers() -> None:
    # the Hessian of a linear model is twice the second moment of its inputs
    spread = torch.tensor([2.0, 1.2, 1.0, 0.5, 0.3, 0.1])
    model, covered, biases = nn.Linear(6, 1, bias=False), 0, []
    for trial in range(16):
        x = torch.randn(8, 24, 6, generator=torch.Generator().manual_seed(trial)) * spread.sqrt()
        found = over_batches(
            Hessian(model, "mse", [(each, each[:, :1]) for each in x]), "largest", tolerance=1e-6
        )
        covered += found.low <= 4.0 <= found.high
        biases.append(found.bias)
    assert covered / 16 > 0.8
    # to second order it is too large by the sum of variances over gaps; said is less, with gaps up to 0
    s = spread.numpy()
    bias = sum(4 * s[0] * s[j] / (8 * 24) / (2 * (s[0] - s[j])) for j in range(1, 6))
    assert 0.3 * bias < np.mean(biases) < 1.2 * bias


def test_the_interval_of_the_trace_covers_and_counts_both_errors() -> None:
    model, covered = nn.Linear(6, 1, bias=False), 0
    mixing = torch.eye(6) + 0.1
    right = 2 * float((mixing @ mixing.T).trace())
    for trial in range(16):
        x = torch.randn(10, 12, 6, generator=torch.Generator().manual_seed(trial)) @ mixing.T
        operator = Hessian(model, "mse", [(each, each[:, :1]) for each in x])
        found = over_batches(operator, "trace", samples=16, seed=trial)
        covered += found.low <= right <= found.high
    assert covered / 16 > 0.8
    # of one dataset cut in halves that are alike, the signs' error alone is left
    half = torch.randn(30, 6) @ mixing.T
    same = over_batches(Hessian(model, "mse", [(half, half[:, :1])] * 3), "trace", samples=8)
    assert same.standard_error > 0.01


def test_a_jackknife_of_a_mean_is_its_standard_error() -> None:
    values = np.random.default_rng(0).normal(size=9)
    left = [(values.sum() - v) / 8 for v in values]
    found = interval_of(values.mean(), left)
    assert found.standard_error == pytest.approx(values.std(ddof=1) / 3)
    moved = interval_of(values.mean(), left, bias=0.5, more=1.0)
    assert (moved.low + moved.high) / 2 == pytest.approx(values.mean() - 0.5)
    assert moved.standard_error == pytest.approx(math.hypot(found.standard_error, 1.0))


def test_what_is_wrong_is_said() -> None:
    operator = Hessian(net(), "cross-entropy", batches(8))
    v = torch.ones(operator.shape[0])
    with pytest.raises(OptionError, match="needs at least 2"):
        curvature_along(operator, v)
    several = Hessian(net(), "cross-entropy", batches(8, 8))
    with pytest.raises(OptionError, match="length 0"):
        curvature_along(several, 0 * v)
    with pytest.raises(OptionError, match="of is 'top'"):
        over_batches(several, "top")  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="samples is 1"):
        over_batches(several, "trace", samples=1)
    with pytest.raises(OptionError, match="level is 2"):
        curvature_along(several, v, level=2)
