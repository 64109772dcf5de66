"""R6: a rate over the stability bound leaves a sharp, poor minimum; a smaller one settles in a good one."""

from __future__ import annotations

import pytest
import torch

from thalweg import optim, schedules

SHARP, WIDE = 16.0, 3.0


def valley(x: torch.Tensor) -> torch.Tensor:
    """Two parabolas: value 1 at 1, stable for rates below 2/16; value 0 at -2, stable below 2/3."""
    return torch.minimum(1 + SHARP / 2 * (x - 1) ** 2, WIDE / 2 * (x + 2) ** 2)


def descend(lr: float, factors: tuple[float, ...], steps: int = 200) -> torch.Tensor:
    x = torch.tensor(1.01, dtype=torch.float64, requires_grad=True)
    optimizer = optim.SGD([x], lr=lr)
    # lowered while beyond the good minimum; from the other side it would fall back into the poor one
    shape = schedules.Piecewise(boundaries=(13,) * (len(factors) - 1), factors=factors)
    driver = schedules.Driver(optimizer, {"lr": shape})
    path = []
    for _ in range(steps):
        optimizer.zero_grad()
        valley(x).backward()
        optimizer.step()
        driver.step()
        path.append(x.detach().clone())
    return torch.stack(path)


@pytest.mark.parametrize("lr", [0.01, 0.06, 0.12])
def test_a_rate_within_the_bound_stays_in_the_poor_minimum(lr: float) -> None:
    assert lr < 2 / SHARP
    assert descend(lr, (1.0,))[-1].item() == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("lr", [0.68, 0.7])
def test_a_rate_over_both_bounds_settles_nowhere(lr: float) -> None:
    path = descend(lr, (1.0,))
    assert (path[-50:].diff().abs() > 0.01).all()


@pytest.mark.parametrize("lr", [0.3, 0.68, 0.7])
def test_large_first_then_smaller_finds_the_good_one(lr: float) -> None:
    assert lr > 2 / SHARP
    assert descend(lr, (1.0, 0.1))[-1].item() == pytest.approx(-2, abs=1e-6)
