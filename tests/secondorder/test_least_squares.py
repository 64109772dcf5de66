"""Gauss-Newton and Levenberg-Marquardt against their formulas, scipy, and Newton's method."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import scipy.optimize
import torch
from torch import Tensor

from thalweg.curvature.vectors import Space
from thalweg.errors import OptionError
from thalweg.secondorder import (
    Fixed,
    GaussNewtonDirection,
    LevenbergMarquardtMethod,
    NewtonDirection,
    Status,
    least_squares,
    minimize,
)
from thalweg.secondorder.directions import AcceptedStep
from thalweg.secondorder.objective_function import EvaluatedPoint

METHODS = ["gauss-newton", "levenberg-marquardt"]


def valley(x: Tensor) -> Tensor:
    return torch.stack([10 * (x[1] - x[0] ** 2), 1 - x[0]])


def curve(p: Any) -> Any:
    t = np.linspace(0, 3, 20)
    y = 2 * np.exp(-1.3 * t) + 0.5 + 0.05 * np.sin(17 * t)
    if isinstance(p, Tensor):
        return p[0] * torch.exp(p[1] * torch.from_numpy(t)) + p[2] - torch.from_numpy(y)
    return p[0] * np.exp(p[1] * t) + p[2] - y


def helical(x: Tensor) -> Tensor:
    angle = torch.atan2(x[1], x[0]) / (2 * math.pi)
    return torch.stack([10 * (x[2] - 10 * angle), 10 * ((x[0] ** 2 + x[1] ** 2).sqrt() - 1), x[2]])


@pytest.mark.parametrize("method", METHODS)
def test_a_linear_problem_is_solved_at_once(method: str) -> None:
    rng = np.random.default_rng(0)
    a, b = torch.from_numpy(rng.standard_normal((9, 4))), torch.from_numpy(rng.standard_normal(9))
    solution = least_squares(lambda x: a @ x - b, torch.zeros(4, dtype=torch.float64), method=method)
    assert solution.converged
    torch.testing.assert_close(solution.x, torch.linalg.lstsq(a, b[:, None]).solution[:, 0])
    assert solution.value == pytest.approx(float(((a @ solution.x - b) ** 2).sum() / 2))
    if method == "gauss-newton":
        assert solution.counts.iterations == 1


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("residuals", "x0"),
    [(valley, [-1.2, 1.0]), (curve, [1.0, -0.3, 0.0]), (helical, [-1.0, 0.2, 0.1])],
    ids=["rosenbrock", "curve", "helical"],
)
def test_as_scipy_finds_it(method: str, residuals: Callable[[Any], Tensor], x0: list[float]) -> None:
    start = torch.tensor(x0, dtype=torch.float64)
    solution = least_squares(residuals, start, method=method)
    found = scipy.optimize.least_squares(
        lambda x: residuals(torch.from_numpy(x)).numpy(), np.array(x0), method="lm", xtol=1e-14, ftol=1e-14
    )
    assert solution.converged
    torch.testing.assert_close(solution.x, torch.from_numpy(found.x), rtol=0, atol=1e-6)
    assert solution.value == pytest.approx(float(found.cost), abs=1e-12)
    assert solution.counts.evaluations <= 3 * int(found.nfev)


def test_each_step_of_gauss_newton_is_its_formula() -> None:
    x = torch.tensor([1.0, -0.3, 0.0], dtype=torch.float64)
    for steps in range(1, 4):
        mine = least_squares(curve, x, method="gauss-newton", search=Fixed(step=0.5), max_iterations=steps).x
        theirs = x
        for _ in range(steps):
            j = torch.autograd.functional.jacobian(curve, theirs)
            assert isinstance(j, Tensor)
            theirs = theirs - 0.5 * torch.linalg.solve(j.T @ j, j.T @ curve(theirs))
        torch.testing.assert_close(mine, theirs)


@pytest.mark.parametrize("scale", ["identity", "diagonal"])
def test_each_step_of_levenberg_marquardt_is_its_formula(scale: str) -> None:
    settings = LevenbergMarquardtMethod(damping=0.1, scale=scale)  # type: ignore[arg-type]
    x = torch.tensor([1.0, -0.3, 0.0], dtype=torch.float64)
    solution = least_squares(curve, x, method=settings)
    mu, growth, d, trail = None, 2.0, None, []
    while len(trail) < len(solution.trace) - 1:
        j = torch.autograd.functional.jacobian(curve, x)
        assert isinstance(j, Tensor)
        r, g = curve(x), j.T @ j
        if scale == "identity":
            d = torch.ones(3, dtype=torch.float64)
        else:
            d = g.diagonal() if d is None else torch.maximum(d, g.diagonal())
        if mu is None:
            mu = 0.1 * (float(g.diagonal().max()) if scale == "identity" else 1.0)
        step = -torch.linalg.solve(g + mu * torch.diag(d), j.T @ r)
        predicted = float(r @ r - (r + j @ step) @ (r + j @ step)) / 2
        gain = float(r @ r - curve(x + step) @ curve(x + step)) / 2 / predicted
        if gain > 0:
            trail.append((mu, x := x + step))
            mu, growth = mu * max(1 / 3, 1 - (2 * gain - 1) ** 3), 2.0
        else:
            mu, growth = mu * growth, growth * 2
    # towards the end gains are quotients of rounding
    for record, (used, point) in list(zip(solution.trace[1:], trail, strict=True))[:6]:
        assert record.step == pytest.approx(used, rel=1e-6)
        assert record.value == pytest.approx(float(curve(point) @ curve(point)) / 2, rel=1e-9)
    torch.testing.assert_close(solution.x, x, rtol=0, atol=1e-7)


def test_damping_adapts_both_ways() -> None:
    solution = least_squares(valley, torch.tensor([-1.2, 1.0], dtype=torch.float64))
    dampings = [record.step for record in solution.trace[1:]]
    assert any(b > a for a, b in pairwise(dampings))
    assert dampings[-1] < dampings[0] * 1e-2
    values = [record.value for record in solution.trace]
    assert all(b < a for a, b in pairwise(values))


def classes() -> tuple[Tensor, Tensor]:
    rng = np.random.default_rng(3)
    return torch.from_numpy(rng.standard_normal((15, 3))), torch.from_numpy(rng.integers(0, 4, 15))


def test_generalized_gauss_newton_is_newton_for_linear_outputs_under_cross_entropy() -> None:
    inputs, labels = classes()

    def loss(z: Tensor) -> Tensor:
        return torch.nn.functional.cross_entropy(z[:, :4], labels) + 0.01 * (z**2).sum()

    x0 = torch.zeros(3, 4, dtype=torch.float64)
    mine = least_squares(
        lambda w: inputs @ w,
        x0,
        loss=loss,
        method=GaussNewtonDirection(),
        search=Fixed(step=0.8),
        max_iterations=4,
    )
    theirs = minimize(
        lambda w: loss(inputs @ w), x0, method=NewtonDirection(), search=Fixed(step=0.8), max_iterations=4
    )
    torch.testing.assert_close(mine.x, theirs.x)
    damped = least_squares(lambda w: inputs @ w, x0, loss=loss)
    assert damped.converged
    best = minimize(lambda w: loss(inputs @ w), x0, tolerance=1e-9)
    torch.testing.assert_close(damped.x, best.x, rtol=0, atol=1e-6)


def test_generalized_gauss_newton_matrix_of_a_curved_model() -> None:
    """J'HJ from the definitions, with H of the whole loss."""
    from thalweg.secondorder.composite import CompositeObjective
    from thalweg.secondorder.objective_function import TensorStructure, forward_of
    from thalweg.secondorder.solution import Tally

    inputs, labels = classes()

    def outputs(p: list[Tensor]) -> Tensor:
        return torch.tanh(inputs @ p[0]) @ p[1]

    def loss(z: Tensor) -> Tensor:
        return torch.nn.functional.cross_entropy(z, labels)

    rng = np.random.default_rng(4)
    x = [torch.from_numpy(rng.standard_normal(shape)) for shape in ((3, 2), (2, 4))]
    structure = TensorStructure(x, "test")
    tally = Tally()
    problem = CompositeObjective(forward_of(outputs, structure, "test", scalar=False), loss, tally)
    model = problem.model(problem.evaluate(x), GaussNewtonDirection())
    space = structure.space

    def flat(v: Tensor) -> Tensor:
        return outputs([v[:6].reshape(3, 2), v[6:].reshape(2, 4)]).reshape(-1)

    v = torch.cat([t.reshape(-1) for t in x])
    j = torch.autograd.functional.jacobian(flat, v)
    h = torch.autograd.functional.hessian(lambda z: loss(z.reshape(15, 4)), flat(v))
    assert isinstance(j, Tensor)
    assert isinstance(h, Tensor)
    g = j.T @ h @ j
    d = torch.from_numpy(rng.standard_normal(14))
    torch.testing.assert_close(model.bend(space.unravel(d, x)), d @ g @ d)
    torch.testing.assert_close(model.size(), g.diagonal().amax())
    gradient = torch.autograd.functional.jacobian(lambda u: loss(flat(u).reshape(15, 4)), v)
    assert isinstance(gradient, Tensor)
    scale = torch.rand(14, dtype=torch.float64) + 0.1
    mu = torch.tensor(0.7, dtype=torch.float64)
    found, promise = model.damped(mu, scale, None)
    best = -torch.linalg.solve(g + torch.diag(mu * scale), gradient)
    torch.testing.assert_close(space.ravel(found, "test"), best)
    torch.testing.assert_close(promise, -(gradient @ best) - best @ g @ best / 2)
    shortest = -torch.linalg.pinv(g, hermitian=True) @ gradient
    torch.testing.assert_close(space.ravel(model.undamped(), "test"), shortest, rtol=1e-6, atol=1e-9)
    assert tally.products == 14


@pytest.mark.parametrize("shape", [(3, 7), (7, 3), (4, 4)])
def test_jacobian_by_rows_and_by_columns(shape: tuple[int, int]) -> None:
    from thalweg.curvature.differentiation import jacobian
    from thalweg.curvature.vectors import Space

    m, n = shape
    a = torch.from_numpy(np.random.default_rng(5).standard_normal(shape))
    leaves = [torch.ones(n - 1, dtype=torch.float64), torch.ones((), dtype=torch.float64)]
    leaves = [leaf.requires_grad_() for leaf in leaves]
    x = torch.cat([leaves[0], leaves[1].reshape(1)])
    j, passes, columns = jacobian((a @ x) ** 2, leaves, Space())
    torch.testing.assert_close(j, 2 * (a @ torch.ones(n, dtype=torch.float64))[:, None] * a)
    assert (passes, columns) == (min(m, n), n < m)


@pytest.mark.parametrize("method", METHODS)
def test_a_jacobian_without_full_rank(method: str) -> None:
    solution = least_squares(
        lambda x: (x[0] + x[1] - 3).reshape(1), torch.zeros(3, dtype=torch.float64), method=method
    )
    assert solution.converged
    torch.testing.assert_close(solution.x, torch.tensor([1.5, 1.5, 0.0], dtype=torch.float64))


@pytest.mark.parametrize("method", METHODS)
def test_nan_shortens_the_step(method: str) -> None:
    solution = least_squares(
        lambda x: torch.cat([x.log(), 0.1 * (x - 1)]),
        torch.full((2,), 20.0, dtype=torch.float64),
        method=method,
    )
    assert solution.converged
    torch.testing.assert_close(solution.x, torch.ones(2, dtype=torch.float64), rtol=0, atol=1e-6)


def test_statuses_and_counts() -> None:
    x0 = torch.tensor([-1.2, 1.0], dtype=torch.float64)
    for method in METHODS:
        assert least_squares(valley, x0, method=method, max_iterations=2).status is Status.ITERATION_LIMIT
        limited = least_squares(valley, x0, method=method, max_evaluations=3)
        assert limited.status is Status.EVALUATION_LIMIT
        assert limited.counts.evaluations == 3
        start = least_squares(lambda x: x.log(), -x0.abs(), method=method)
        assert start.status is Status.NOT_FINITE
        stopped = least_squares(valley, x0, method=method, callback=lambda record: record.iteration == 2)
        assert stopped.status is Status.STOPPED
        assert stopped.counts.iterations == 2
        full = least_squares(valley, x0, method=method)
        assert full.counts.round_trips <= full.counts.evaluations + full.counts.hessians


def test_what_never_decreases_is_a_failed_search() -> None:
    class Lie(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
            return -gradient

    x0 = torch.tensor([1.0, 2.0], dtype=torch.float64)
    for method in METHODS:
        solution = least_squares(lambda x: Lie.apply(x), x0, method=method)  # type: ignore[no-untyped-call]
        assert solution.status is Status.SEARCH_FAILED
        assert torch.equal(solution.x, x0)


def test_refusals() -> None:
    x0 = torch.ones(2)
    with pytest.raises(OptionError, match="did you mean 'gauss-newton'"):
        least_squares(valley, x0, method="gaus-newton")
    with pytest.raises(OptionError, match="takes no search"):
        least_squares(valley, x0, search="backtracking")
    with pytest.raises(OptionError, match="damping is 0"):
        LevenbergMarquardtMethod(damping=0)
    with pytest.raises(OptionError, match="scale is 'diag'"):
        LevenbergMarquardtMethod(scale="diag")  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="scalar tensor"):
        least_squares(valley, x0, loss=lambda z: z)


def test_the_growth_of_damping_begins_anew_after_a_step() -> None:
    """Nielsen's rule, written out: times 2, 4, 8, ... from one point, and times 2 again from the next."""

    def residuals(x: np.ndarray) -> np.ndarray:
        return np.concatenate([1 - x[:-1], 10 * (x[1:] - x[:-1] ** 2)])

    def jacobian(x: np.ndarray) -> np.ndarray:
        n = len(x)
        j = np.zeros((2 * (n - 1), n))
        for i in range(n - 1):
            j[i, i], j[n - 1 + i, i], j[n - 1 + i, i + 1] = -1, -20 * x[i], 10
        return j

    x = np.array([-1.2, 1.0, 0.7])
    found = least_squares(
        lambda t: torch.cat([1 - t[:-1], 10 * (t[1:] - t[:-1] ** 2)]),
        torch.from_numpy(x.copy()),
        method=LevenbergMarquardtMethod(damping=1e-6),
        tolerance=1e-8,
    )
    r, j = residuals(x), jacobian(x)
    mu, growth, evaluations = 1e-6 * (j.T @ j).diagonal().max(), 2.0, 1
    used, after, series, rejected = [], [], 0, 0
    while np.abs(j.T @ r).max() > 1e-8:
        g, matrix = j.T @ r, j.T @ j
        d = -np.linalg.solve(matrix + mu * np.eye(3), g)
        tried = residuals(x + d)
        evaluations += 1
        gain = (r @ r - tried @ tried) / 2 / -(g @ d + d @ matrix @ d / 2)
        if gain > 0:
            series, rejected = series + (rejected > 1), 0
            used.append(mu)
            after.append(evaluations)
            mu, growth = mu * max(1 / 3, 1 - (2 * gain - 1) ** 3), 2.0
            x, r, j = x + d, tried, jacobian(x + d)
        else:
            mu, growth, rejected = mu * growth, growth * 2, rejected + 1
    assert series >= 2
    assert [record.evaluations for record in found.trace[1:]] == after
    np.testing.assert_allclose([record.step for record in found.trace[1:]], used, rtol=1e-5)


def test_the_angle_that_gauss_newton_asks_for_follows_how_much_of_its_steps_is_taken() -> None:
    """Ten times the cosine after less than a tenth, one half at most; a tenth of it after a half or more."""
    rng = np.random.default_rng(4)
    space, method, state = Space(), GaussNewtonDirection(), dict[str, Any]()
    asked, seen = 0.0, set()
    for share in (0.5, 0.2, 0.09, 0.3, 0.05, 0.5, 1.0, 0.01, 0.49, 1.0):
        g, d = rng.standard_normal(5), rng.standard_normal(5)
        d -= (d @ g / (g @ g) + 10 ** rng.uniform(-3, 0)) * g
        cosine = -(g @ d) / np.linalg.norm(g) / np.linalg.norm(d)
        x, length = [torch.zeros(5, dtype=torch.float64)], torch.tensor(share, dtype=torch.float64)
        point = EvaluatedPoint(x, torch.zeros((), dtype=torch.float64), [torch.from_numpy(g)])
        step = AcceptedStep(space, [True], [True], length, [torch.from_numpy(d)], point, point, [share])
        state = method.update(state, step)
        if share < 0.1:
            asked = min(10 * cosine, 0.5)
            seen.add(asked == 0.5)
        elif share >= 0.5:
            asked /= 10
        assert float(state.get("cosine", 0.0)) == pytest.approx(asked, rel=1e-9)
    assert seen == {True, False}
