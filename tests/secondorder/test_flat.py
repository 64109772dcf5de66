"""Where curvature is zero, or rounding, directions from it go back to the gradient."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from thalweg.curvature.vectors import Space
from thalweg.secondorder import (
    GaussNewtonDirection,
    NewtonCGDirection,
    NewtonDirection,
    Status,
    least_squares,
    minimize,
)
from thalweg.secondorder.curvature_optimizers import Newton as NewtonOptimizer
from thalweg.secondorder.objective_function import AutogradObjective
from thalweg.secondorder.solution import Tally

from .functions import quadratic

CENTRE = 3e3
FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "absolute": lambda x: (x - CENTRE).abs().sum(-1),
    "huber": lambda x: nn.functional.huber_loss(x, torch.full_like(x, CENTRE), reduction="none").sum(-1),
    "log-cosh": lambda x: (
        (x - CENTRE).abs() + nn.functional.softplus(-2 * (x - CENTRE).abs()) - math.log(2)
    ).sum(-1),
    "softplus": lambda x: (nn.functional.softplus(x - CENTRE) + nn.functional.softplus(CENTRE - x)).sum(-1),
    "partly flat": lambda x: (x[..., :1] - CENTRE).abs().sum(-1) + 50 * ((x[..., 1:] - 2) ** 2).sum(-1),
}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize(
    "method",
    ["newton", "newton-cg", NewtonDirection(modified=True, hessian="block"), "lbfgs", "bfgs"],
    ids=str,
)
def test_a_minimum_beyond_a_region_without_curvature_is_found(
    method: Any, name: str, dtype: torch.dtype
) -> None:
    x0 = torch.tensor([0.0, -5.0], dtype=dtype)
    f = FUNCTIONS[name]
    alone = minimize(f, x0, method=method, max_iterations=60)
    least = 2 * 2 * math.log(2) if name == "softplus" else 0.0
    assert alone.value <= 1e-3 * float(f(x0)) + least, alone
    together = minimize(f, torch.stack([x0, x0 + 1, x0]), method=method, max_iterations=60, lanes=True)
    for lane in together.lanes:
        assert lane.value <= 1e-3 * float(f(x0)) + least, lane


def direction(method: Any, f: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    problem = AutogradObjective(
        lambda p: (leaves := [t.detach().requires_grad_() for t in p], f(leaves[0])), Space(), Tally()
    )
    point = problem.evaluate([x])
    (d,) = method.propose(method.begin(Space(), point), point, problem)
    return d


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_without_curvature_the_direction_is_the_gradients(dtype: torch.dtype) -> None:
    for g in ([3.0, -4.0], [3e-9, -4e-9], [3e20, 4e20]):
        slope = torch.tensor(g, dtype=dtype)
        for method in (NewtonDirection(modified=True), NewtonCGDirection()):
            d = direction(method, lambda x, s=slope: (s * x).sum(), torch.ones(2, dtype=dtype))
            length = float(slope.double().norm())
            torch.testing.assert_close(-d / d.norm(), (slope / length).to(dtype))
            assert min(0.5, 0.99 * length) <= float(d.norm()) <= 1 + 1e-6
        # the last one is NewtonCG's: a step of min(1, 1 / |g|_1)
        share = min(1.0, 1 / float(slope.double().abs().sum()))
        torch.testing.assert_close(d, -share * slope)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_eigenvalues_below_the_precision_are_no_curvature(dtype: torch.dtype) -> None:
    """Rounding of 1e-17 beside 1 would make steps of 1e15 out of a gradient of 0.01."""
    rng = np.random.default_rng(0)
    eps = torch.finfo(dtype).eps
    for n in (2, 5, 20):
        q = np.linalg.qr(rng.standard_normal((n, n)))[0]
        values = np.append(np.geomspace(1.0, 1e-3, n - 1), eps / 10)
        a = torch.from_numpy(q @ np.diag(values) @ q.T).to(dtype)
        g = torch.from_numpy(rng.standard_normal(n)).to(dtype)
        d = NewtonDirection(modified=True).solve((a + a.T) / 2, g, 7.0)
        assert float(d @ g) < 0
        flat = torch.from_numpy(q[:, -1]).to(dtype)
        # what can be resolved is Newton's, what can't goes 7 at most
        assert float((d @ flat).abs()) <= 7.1
        rest = torch.from_numpy(q[:, :-1]).to(dtype)
        expected = -(rest.T @ g) / torch.from_numpy(values[:-1]).to(dtype)
        torch.testing.assert_close(rest.T @ d, expected, rtol=2e4 * eps * n, atol=2e4 * eps)


def test_what_the_precision_resolves_is_left_alone() -> None:
    """Condition numbers of 1e12 are curvature in float64."""
    a, _, _ = quadratic([1.0, 1e-6, 1e-12], 4)
    g = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    exact = torch.linalg.solve(a, -g)
    found = NewtonDirection(modified=True).solve(a, g)
    torch.testing.assert_close(found, exact, rtol=1e-3, atol=0)
    torch.testing.assert_close(NewtonDirection().solve(a, g), exact, rtol=1e-3, atol=0)
    given = NewtonDirection(modified=True, floor=1e-9).solve(a, g)
    assert float((given - exact).norm()) > 0.9 * float(exact.norm())


@pytest.mark.parametrize("damping", [0.0, 0.7])
def test_modified_eigenvalues_are_magnitudes_with_damping_on_top(damping: float) -> None:
    """d = -Q (|L| + damping)^-1 Q'g, alone and in lanes; without modification the sign of L stays."""
    rng = np.random.default_rng(8)
    q = np.linalg.qr(rng.standard_normal((3, 4, 4)))[0]
    values = np.array([[3.0, -0.5, 0.02, -7.0], [1.0, 2.0, 3.0, 4.0], [-1.0, -2.0, -3.0, -4.0]])
    g = rng.standard_normal((3, 4))
    turned = np.einsum("kji,kj->ki", q, g)
    matrices = torch.from_numpy(q * values[:, None, :] @ q.transpose(0, 2, 1))
    for modified in (True, False):
        newton, sizes = (
            NewtonDirection(modified=modified, damping=damping),
            np.abs(values) if modified else values,
        )
        expected = torch.from_numpy(-np.einsum("kij,kj->ki", q, turned / (sizes + damping)))
        torch.testing.assert_close(newton.solve(matrices, torch.from_numpy(g)), expected)
        for matrix, own, one in zip(matrices, torch.from_numpy(g), expected, strict=True):
            torch.testing.assert_close(newton.solve(matrix, own), one)


def test_newton_without_modification_says_that_the_curvature_is_singular() -> None:
    """Singular to the last digit, too: a solution of nothing but rounding is none."""
    q = torch.from_numpy(np.linalg.qr(np.random.default_rng(3).standard_normal((4, 4)))[0])
    a = q @ torch.diag(torch.tensor([1.0, 0.5, 0.1, 0.0], dtype=torch.float64)) @ q.T
    b = torch.ones(4, dtype=torch.float64)
    solution = minimize(lambda x: (x @ a @ x) / 2 + b @ x, torch.zeros_like(b), method=NewtonDirection())
    assert solution.status is Status.NO_DIRECTION
    assert solution.counts.iterations == 0
    # damping makes it solvable again
    damped = minimize(
        lambda x: (x @ a @ x) / 2 + b @ x,
        torch.zeros_like(b),
        method=NewtonDirection(damping=0.1),
        max_iterations=3,
    )
    assert damped.counts.iterations == 3


def test_a_search_that_curvature_misled_goes_along_the_gradient_once() -> None:
    """A tail whose curvature, 1e-300, isn't zero: Newton's step overflows, and the gradient's doesn't."""

    class Tail(torch.autograd.Function):
        """|x| with a made-up curvature."""

        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            ctx.save_for_backward(x)
            return x.abs()

        @staticmethod
        def backward(ctx: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
            (x,) = ctx.saved_tensors
            return gradient * (x.sign() + 1e-300 * x)

    def tail(x: Tensor) -> Tensor:
        found: Tensor = Tail.apply(x - 5)  # type: ignore[no-untyped-call]
        return found.sum(-1)

    for lanes in (False, True):
        x0 = torch.zeros(1, dtype=torch.float64)
        for method in ("newton", "newton-cg"):
            found = minimize(
                tail,
                torch.stack([x0, x0 - 1]) if lanes else x0,
                method=method,
                max_iterations=40,
                lanes=lanes,
            )
            assert float((found.x - 5).abs().max()) < 0.1, found


@pytest.mark.parametrize("solver", ["dense", "cg"])
def test_gauss_newton_of_a_loss_without_curvature(solver: Any) -> None:
    a = torch.from_numpy(np.random.default_rng(1).standard_normal((20, 3)))
    found = least_squares(
        lambda x: a @ (x - 2),
        torch.zeros(3, dtype=torch.float64),
        loss=lambda z: z.abs().sum(),
        method=GaussNewtonDirection(solver=solver),
        max_iterations=60,
    )
    assert found.value < 0.1 * float((a @ torch.full((3,), 2.0, dtype=torch.float64)).abs().sum())


def test_an_optimizer_leaves_a_kink() -> None:
    w = nn.Parameter(torch.tensor([4.0, -3.0]))
    optimizer = NewtonOptimizer([w], modified=True, line_search_fn="strong_wolfe")
    for _ in range(10):
        optimizer.step(lambda: w.abs().sum())
    assert float(w.detach().abs().max()) < 0.1


def test_the_forcing_term_of_newton_cg() -> None:
    """The inner iteration ends at the first residual within min(1/2, sqrt(|g|)) |g|, and not before."""
    rng = np.random.default_rng(7)
    ended = set()
    for _ in range(12):
        n = 12
        a, b, f = quadratic(list(np.geomspace(1, 300, n)), int(rng.integers(1000)))
        size = 10 ** rng.uniform(-7, 1)
        x = torch.linalg.solve(a, b) + size * torch.from_numpy(rng.standard_normal(n))
        g = a @ x - b
        norm = float(g.norm())
        goal = min(0.5, math.sqrt(norm)) * norm
        d = direction(NewtonCGDirection(), f, x)
        residuals = [
            float((a @ direction(NewtonCGDirection(max_products=k), f, x) + g).norm()) for k in range(1, 25)
        ]
        count = next(k for k, r in enumerate(residuals, 1) if r <= goal)
        torch.testing.assert_close(d, direction(NewtonCGDirection(max_products=count), f, x))
        assert all(r > goal for r in residuals[: count - 1])
        ended.add(count)
    assert len(ended) > 2
