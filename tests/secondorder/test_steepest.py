"""Steepest descent: the zig-zag of exact searches, and its known rate."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from thalweg.secondorder import minimize
from thalweg.secondorder.optimizers import SteepestDescent

from .functions import quadratic


def trail(count: int) -> tuple[Tensor, list[Tensor], list[float]]:
    """Return the matrix, points and values of exact searches from the worst start."""
    a, b, f = quadratic([1.0, 10.0])
    best = torch.linalg.solve(a, b)
    _, axes = torch.linalg.eigh(a)
    # the errors along the axes are as the inverse eigenvalues: the rate is met with equality
    x0 = best + axes @ torch.tensor([1.0, 0.1], dtype=torch.float64)
    solutions = [
        minimize(f, x0, method="steepest-descent", search="exact", tolerance=0.0, max_iterations=k)
        for k in range(count)
    ]
    return a, [s.x - best for s in solutions], [float(s.value) - float(f(best)) for s in solutions]


def test_directions_are_at_right_angles() -> None:
    _, points, _ = trail(7)
    steps = [after - before for before, after in pairwise(points)]
    for one, other in pairwise(steps):
        assert float(one @ other) == pytest.approx(0, abs=1e-8 * float(one.norm() * other.norm()))
    # two directions for ever, one after the other
    for one, other in zip(steps, steps[2:], strict=False):
        assert float(one @ other) == pytest.approx(float(one.norm() * other.norm()))


def test_the_rate_is_that_of_kantorovich() -> None:
    _, _, values = trail(7)
    for before, after in pairwise(values):
        assert after / before == pytest.approx((9 / 11) ** 2, rel=1e-6)


def test_the_face_takes_the_steps_of_minimize() -> None:
    _, b, f = quadratic([1.0, 3.0, 10.0])
    start = torch.ones_like(b)
    w = nn.Parameter(start.clone())
    optimizer = SteepestDescent([w], max_iter=3, tolerance_change=0.0)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = f(w)
        loss.backward()
        return loss

    for _ in range(2):
        optimizer.step(closure)
    expected = minimize(f, start, method="steepest-descent", max_iterations=6)
    torch.testing.assert_close(w.detach(), expected.x)
    assert optimizer.evaluations == expected.counts.evaluations + 1
