"""Gauss-Newton models by products: against matrices, a written-out CG, and what they cost."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

from thalweg.curvature.differentiation import pull_many
from thalweg.errors import OptionError
from thalweg.secondorder import GaussNewtonDirection, LevenbergMarquardtMethod, least_squares
from thalweg.secondorder.composite import CompositeObjective
from thalweg.secondorder.objective_function import EvaluatedPoint, TensorStructure, forward_of
from thalweg.secondorder.solution import Tally

CASES = ("mse", "cross-entropy", "batch-norm", "residuals")


def case(name: str) -> tuple[CompositeObjective, EvaluatedPoint]:
    """Return a small net and a loss as a problem, and a point of it."""
    torch.manual_seed(0)
    layers = [nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 3)]
    if name == "batch-norm":
        layers.insert(1, nn.BatchNorm1d(3))
    net = nn.Sequential(*layers).double()
    inputs = torch.randn(20, 4, dtype=torch.float64)
    targets, labels = torch.randn(20, 3, dtype=torch.float64), torch.randint(0, 3, (20,))
    x0 = {key: p.detach() for key, p in net.named_parameters()}
    buffers = {key: b.clone() for key, b in net.named_buffers()}

    def outputs(p: dict[str, Tensor]) -> Tensor:
        found: Tensor = functional_call(net, (p, dict(buffers)), (inputs,))
        return found - targets if name == "residuals" else found

    losses: dict[str, Callable[[Tensor], Tensor] | None] = {
        "mse": lambda z: ((z - targets) ** 2).mean(),
        "cross-entropy": lambda z: nn.functional.cross_entropy(z, labels),
        "batch-norm": lambda z: nn.functional.cross_entropy(z, labels),
        "residuals": None,
    }
    structure = TensorStructure(x0, "test")
    problem = CompositeObjective(forward_of(outputs, structure, "test", scalar=False), losses[name], Tally())
    return problem, problem.evaluate(structure.x)


def matrix(problem: CompositeObjective, point: EvaluatedPoint) -> Tensor:
    """Return G as a matrix, from the dense model's bends of unit vectors and their sums."""
    space, x = problem.space, point.x
    model = problem.model(point, GaussNewtonDirection())
    n = sum(t.numel() for t in x)
    eye = torch.eye(n, dtype=torch.float64)

    def bend(v: Tensor) -> Tensor:
        return model.bend(space.unravel(v, x))

    single = [bend(eye[i]) for i in range(n)]
    rows = [
        torch.stack([(bend(eye[i] + eye[j]) - single[i] - single[j]) / 2 for j in range(n)]) for i in range(n)
    ]
    return torch.stack(rows)


@pytest.mark.parametrize("name", CASES)
def test_solutions_are_those_of_the_matrix(name: str) -> None:
    problem, point = case(name)
    space, x = problem.space, point.x
    dense = problem.model(point, GaussNewtonDirection())
    mu = torch.tensor(0.03, dtype=torch.float64)
    expected, promised = dense.damped(mu, None, None)
    # in between the graph at the point is lost, and comes again
    problem.evaluate(space.scale(2.0, x))
    tight = problem.model(point, GaussNewtonDirection(solver="cg", accuracy=1e-13))
    for near in (None, point.gradient, expected, space.scale(float("nan"), x)):
        found, promise = tight.damped(mu, None, near)
        for mine, theirs in zip(found, expected, strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-11)
        torch.testing.assert_close(promise, promised, rtol=1e-9, atol=0)
    torch.testing.assert_close(tight.bend(x), dense.bend(x))
    g = point.gradient
    torch.testing.assert_close(tight.size(), dense.bend(g) / space.dot(g, g))
    if name in ("mse", "residuals"):
        # those of a softmax lack rank: it doesn't change where a number is added to all outputs
        for mine, theirs in zip(tight.undamped(), dense.undamped(), strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("warm", [False, True])
def test_a_truncated_solution_is_that_of_conjugate_gradients(name: str, warm: bool) -> None:
    problem, point = case(name)
    space, x = problem.space, point.x
    g, mu = space.ravel(point.gradient, "test"), 0.01
    a = matrix(problem, point) + mu * torch.eye(len(g), dtype=torch.float64)
    near = torch.linspace(-1, 1, len(g), dtype=torch.float64) if warm else None
    d = torch.zeros_like(g) if near is None else -(g @ near) / (near @ a @ near) * near
    r = g + a @ d
    p = -r
    for _ in range(3 if warm else 4):
        step = (r @ r) / (p @ a @ p)
        d, new = d + step * p, r + step * (a @ p)
        p, r = -new + (new @ new) / (r @ r) * p, new
    model = problem.model(point, GaussNewtonDirection(solver="cg", max_products=4, accuracy=1e-12))
    begin = None if near is None else space.unravel(near, x)
    found, promise = model.damped(torch.tensor(mu, dtype=torch.float64), None, begin)
    torch.testing.assert_close(space.ravel(found, "test"), d, rtol=1e-8, atol=1e-10)
    undamped = a - mu * torch.eye(len(g), dtype=torch.float64)
    torch.testing.assert_close(promise, -(g @ d) - d @ undamped @ d / 2)
    assert promise > 0


@pytest.mark.parametrize("method", ["gauss-newton", "levenberg-marquardt"])
@pytest.mark.parametrize("rows", [9, 3])
def test_a_linear_problem_is_solved_exactly(method: str, rows: int) -> None:
    rng = np.random.default_rng(0)
    a, b = torch.from_numpy(rng.standard_normal((rows, 4))), torch.from_numpy(rng.standard_normal(rows))
    kind: Any = GaussNewtonDirection if method == "gauss-newton" else LevenbergMarquardtMethod
    settings = kind(solver="cg", accuracy=1e-10)
    x0 = torch.zeros(4, dtype=torch.float64)
    solution = least_squares(lambda x: a @ x - b, x0, method=settings, tolerance=1e-10)
    assert solution.converged
    shortest = torch.linalg.pinv(a) @ b
    torch.testing.assert_close(solution.x, shortest, rtol=0, atol=1e-8)
    if method == "gauss-newton":
        assert solution.counts.iterations == 1
        # as many as the rank, and none more
        assert solution.counts.products == min(rows, 4)


def test_what_it_costs() -> None:
    problem, point = case("cross-entropy")
    tally = problem.tally
    model = problem.model(point, GaussNewtonDirection(solver="cg", max_products=5, accuracy=1e-12))
    before, trips, products = tally.passes, tally.round_trips, tally.products
    model.undamped()
    # the graph of u -> J'u once; Jp five times and J'u after each but the last
    assert tally.passes - before == 2 + 5 * 2 + 4 * 2
    assert (tally.products - products, tally.round_trips - trips) == (5, 4)
    before = tally.passes
    model.damped(torch.tensor(0.1, dtype=torch.float64), None, point.gradient)
    assert tally.passes - before == 5 * 2 + 4 * 2
    before = tally.passes
    model.size()
    assert tally.passes - before == 2


def test_no_more_products_than_allowed() -> None:
    solution = least_squares(
        lambda x: torch.stack([10 * (x[1] - x[0] ** 2), 1 - x[0]]),
        torch.tensor([-1.2, 1.0], dtype=torch.float64),
        solver="cg",
        max_products=1,
        max_iterations=5,
    )
    counts = solution.counts
    # one for the first damping, then one a trial
    assert counts.products <= 1 + counts.evaluations
    assert solution.value < 12.1


class Stubborn(torch.autograd.Function):
    """Squares; its backward looks at numbers, which no batching rule can."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        (x,) = ctx.saved_tensors
        return 2 * x * gradient if float(gradient.abs().sum()) >= 0 else gradient


def test_rows_come_one_by_one_where_they_cannot_come_at_once() -> None:
    x = torch.arange(1.0, 5.0, dtype=torch.float64, requires_grad=True)
    y = Stubborn.apply(x)  # type: ignore[no-untyped-call]
    unused = torch.ones(2, requires_grad=True)
    eye = torch.eye(4, dtype=torch.float64)
    rows, none = pull_many(y, [x, unused], 4, lambda i, k: eye[i:k])
    assert torch.equal(rows, torch.diag(2 * x.detach()))
    assert none.shape == (4, 2)
    assert not none.any()


def test_many_rows_come_in_parts() -> None:
    torch.manual_seed(0)
    x = torch.randn(150, dtype=torch.float64)
    a = torch.randn(150, 150, dtype=torch.float64)
    settings = LevenbergMarquardtMethod()
    solution = least_squares(lambda p: a @ p + 0.1 * p**3 - 1, x, method=settings)
    assert solution.converged
    assert solution.counts.products == 150 * solution.counts.hessians


def test_refusals() -> None:
    x0 = torch.ones(2, dtype=torch.float64)
    with pytest.raises(OptionError, match="no matrix that has one"):
        LevenbergMarquardtMethod(scale="diagonal", solver="cg")
    with pytest.raises(OptionError, match="makes no products"):
        GaussNewtonDirection(max_products=3)
    with pytest.raises(OptionError, match="accuracy is 1"):
        GaussNewtonDirection(solver="cg", accuracy=1)
    with pytest.raises(OptionError, match="give them to it"):
        least_squares(lambda x: x, x0, method=GaussNewtonDirection(), solver="cg")
    with pytest.raises(OptionError, match="no solver 'qr'"):
        least_squares(lambda x: x, x0, solver="qr")  # type: ignore[arg-type]
