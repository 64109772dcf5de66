"""Densities of eigenvalues against those of dense matrices."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import nn

from thalweg.curvature import Hessian, spectral_density
from thalweg.curvature.traces import random_signs
from thalweg.errors import OptionError


@pytest.fixture(autouse=True)
def _float64() -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    yield
    torch.set_default_dtype(before)


def operator() -> Hessian:
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))
    return Hessian(model, "cross-entropy", (torch.randn(30, 4), torch.randint(3, (30,))))


@pytest.mark.parametrize("memory", [None, 0], ids=["all", "two kept"])
def test_a_quadrature_is_exact_for_polynomials(memory: int | None) -> None:
    hessian = operator()
    dense, n = hessian.to_dense(), hessian.shape[0]
    steps = 5
    found = spectral_density(hessian, samples=3, steps=steps, memory=memory)
    assert (found.products, found.size, found.points.shape) == (15, n, (3, steps))
    for number in range(3):
        z = random_signs(hessian.vectors, 0, number)
        assert found.weights[number].sum() == pytest.approx(1.0)
        power = z
        for degree in range(2 * steps):
            exact = float(z @ power) / n
            got = float((found.weights[number] * found.points[number] ** degree).sum())
            assert got == pytest.approx(exact, rel=1e-6, abs=1e-12)
            power = dense @ power


def test_the_density_is_that_of_all_eigenvalues_within_its_error() -> None:
    hessian = operator()
    values = np.linalg.eigvalsh(hessian.to_dense().numpy())
    found = spectral_density(hessian, samples=60, steps=60)
    for function in (lambda t: t, np.square, np.exp):
        mean, error = found.mean(function)
        assert abs(mean - function(values).mean()) < 4 * error + 1e-12
    width = 0.1
    x = np.linspace(values[0] - 0.5, values[-1] + 0.5, 200)
    exact = np.exp(-(((x[:, None] - values) / width) ** 2) / 2).mean(1) / (width * np.sqrt(2 * np.pi))
    assert np.abs(found.at(x, width=width) - exact).max() < 0.1 * exact.max()
    assert np.trapezoid(found.at(x, width=width), x) == pytest.approx(1.0, abs=0.01)
    assert found.share_below(0.0) == pytest.approx((values < 0).mean(), abs=0.1)
    assert found.range == pytest.approx((values[0], values[-1]))


def test_one_eigenvalue_and_none_at_all() -> None:
    model = nn.Linear(3, 1, bias=False)
    same = Hessian(model, "mse", (torch.eye(3), torch.zeros(3)))
    found = spectral_density(same, samples=2, steps=10)
    assert found.products == 2
    assert found.mean(lambda t: t) == (pytest.approx(2 / 3), pytest.approx(0.0, abs=1e-12))
    assert np.isfinite(found.at(np.array([0.0]))).all()
    flat = Hessian(model, lambda z, _: z.mean(), (torch.eye(3), torch.zeros(3)))
    assert spectral_density(flat, samples=1).range == (0.0, 0.0)


def test_what_is_wrong_is_said() -> None:
    hessian = operator()
    with pytest.raises(OptionError, match="samples is 0"):
        spectral_density(hessian, samples=0)
    with pytest.raises(OptionError, match="steps is 0"):
        spectral_density(hessian, steps=0)
    with pytest.raises(OptionError, match="width is 0"):
        spectral_density(hessian, samples=1, steps=2).at(np.zeros(1), width=0)
