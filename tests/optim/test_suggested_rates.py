"""First-order rates: exact where the function is linear, wrong in deep chains, safe for convex losses."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from thalweg.errors import OptionError
from thalweg.optim.suggested_rates import first_order_rate, polyak_rate


def test_a_linear_output_decreases_by_what_was_wanted() -> None:
    x = torch.randn(7, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    w = torch.randn(7, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    rate = first_order_rate([x], 0.1)  # the gradient of w . x
    torch.testing.assert_close(w @ x - (w - rate * x) @ x, torch.tensor(0.1, dtype=torch.float64))
    split = first_order_rate([x[:3], x[3:].reshape(2, 2)])
    torch.testing.assert_close(split, rate)


def chain(weights: Tensor, x: float = 1.0) -> Tensor:
    return x * weights.prod()


@pytest.mark.parametrize(
    ("depth", "weight", "good"), [(1, 1.0, True), (2, 1.0, True), (20, 1.5, True), (20, 0.5, False)]
)
def test_deep_chains_do_what_was_not_predicted(depth: int, weight: float, good: bool) -> None:
    """(8.34) corrected: the new output is ``x * prod(w_i - e * g_i)``, of all orders in e.

    The rate is ``0.1 / g'g``, so it is small gradients that make the higher orders large, not large weights.
    """
    w = torch.full((depth,), weight, dtype=torch.float64, requires_grad=True)
    (g,) = torch.autograd.grad(chain(w), w)
    rate = float(first_order_rate([g], 0.1))
    after = float(chain((w - rate * g).detach()))
    product = 1.0
    for wi, gi in zip(w.detach().tolist(), g.tolist(), strict=True):
        product *= wi - rate * gi
    assert after == pytest.approx(product, rel=1e-12)
    decrease = float(chain(w).detach()) - after
    assert (abs(decrease - 0.1) < 0.01) is good


def test_the_error_of_a_chain_of_two_is_its_second_order_term() -> None:
    w = torch.tensor([1.0, 2.0], dtype=torch.float64, requires_grad=True)
    (g,) = torch.autograd.grad(chain(w), w)
    rate = float(first_order_rate([g], 1.0))
    decrease = float(chain(w).detach()) - float(chain((w - rate * g).detach()))
    assert decrease == pytest.approx(1.0 - rate**2 * float(g[0] * g[1]), rel=1e-12)


def test_polyaks_step_on_a_quadratic_is_half_the_best_and_never_goes_away() -> None:
    curvature = torch.tensor([1.0, 10.0, 100.0], dtype=torch.float64)
    w = torch.tensor([5.0, -3.0, 2.0], dtype=torch.float64)
    lone = torch.tensor([4.0], dtype=torch.float64)  # a w^2 / 2 has the gradient a w: the rate is 1 / (2 a)
    assert float(polyak_rate(0.5 * 8.0 * 16.0, [8.0 * lone])) == pytest.approx(1 / 16)
    distance = float(w.norm())
    for _ in range(300):
        loss, g = 0.5 * (curvature * w * w).sum() + 7.0, curvature * w
        w = w - polyak_rate(loss, [g], lowest=7.0) * g
        assert float(w.norm()) <= distance + 1e-12
        distance = float(w.norm())
    assert distance < 1e-2


def test_bounds_zeros_and_what_overflows() -> None:
    g = [torch.tensor([0.1])]
    assert float(polyak_rate(5.0, g, largest=2.0)) == 2.0
    assert float(polyak_rate(5.0, g, lowest=5.0)) == 0.0
    assert float(polyak_rate(4.0, g, lowest=5.0)) == 0.0
    assert float(polyak_rate(5.0, [torch.zeros(2)])) == 0.0
    assert float(first_order_rate([torch.zeros(2)])) == 0.0
    assert float(first_order_rate([torch.tensor([1e-12, 0.0])])) == pytest.approx(1e23, rel=1e-5)
    loss = torch.tensor(5.0, requires_grad=True)
    assert not polyak_rate(loss, g).requires_grad
    with pytest.raises(OptionError, match="decrease = 0"):
        first_order_rate(g, 0)
    with pytest.raises(OptionError, match="largest = 0"):
        polyak_rate(1.0, g, largest=0)
    with pytest.raises(OptionError, match="lowest = -inf"):
        polyak_rate(1.0, g, lowest=-math.inf)
