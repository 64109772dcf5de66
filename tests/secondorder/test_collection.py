"""The collection of More, Garbow and Hillstrom: methods arrive at what is listed, or say honestly not."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.optimize
import torch

from thalweg.secondorder import (
    METHODS,
    GaussNewtonDirection,
    LevenbergMarquardtMethod,
    Solution,
    Status,
    least_squares,
    minimize,
)
from thalweg.test_problems import surfaces
from thalweg.test_problems.surfaces import LeastSquares

NAMES = surfaces.names("more-garbow-hillstrom")
ROBUST = ("bfgs", "cg-pr+", "lbfgs", "newton", "newton-cg")
LEAST_SQUARES: dict[str, GaussNewtonDirection | LevenbergMarquardtMethod] = {
    "gauss-newton": GaussNewtonDirection(),
    "gauss-newton by products": GaussNewtonDirection(solver="cg"),
    "levenberg-marquardt": LevenbergMarquardtMethod(),
    "levenberg-marquardt by products": LevenbergMarquardtMethod(solver="cg"),
    "levenberg-marquardt scaled": LevenbergMarquardtMethod(scale="diagonal"),
}
OTHERS = sorted(set(METHODS) - set(ROBUST))
# What of these isn't reached, and why: the curvature of Meyer's function ranges over 15 orders of magnitude,
# which the inner and outer conjugate gradients can't resolve; Broyden's banded one has a local minimum beside
# those listed.
UNREACHED = {("cg-pr+", "meyer"), ("newton-cg", "meyer"), ("cg-pr+", "broyden-banded")}
HONEST = (Status.ITERATION_LIMIT, Status.EVALUATION_LIMIT, Status.SEARCH_FAILED)


def solve(method: str, surface: LeastSquares, evaluations: int) -> Solution:
    if method in METHODS:
        return minimize(surface, surface.initial(), method=method, max_evaluations=evaluations)
    return least_squares(
        surface.residuals,
        surface.initial(),
        method=LEAST_SQUARES[method],
        tolerance=1e-6,
        max_evaluations=evaluations,
    )


def value_of(method: str, solution: Solution) -> float:
    assert isinstance(solution.value, float)
    return solution.value if method in METHODS else 2 * solution.value


def is_listed(value: float, surface: LeastSquares) -> bool:
    known = [point.value for point in (*surface.minima, *surface.stationary, *surface.limits)]
    return any(abs(value - one) <= 1e-5 * max(1.0, abs(one)) for one in known)


def check(method: str, name: str, solution: Solution, surface: LeastSquares) -> None:
    """A solution says the truth about itself."""
    x = solution.x.clone().requires_grad_()
    value = surface(x)
    (gradient,) = torch.autograd.grad(value, x)
    share = 1.0 if method in METHODS else 0.5
    assert share * value.item() == pytest.approx(solution.value, rel=1e-12, abs=1e-300)
    norm = share * float(gradient.abs().max())
    assert norm == pytest.approx(solution.gradient_norm, rel=1e-6, abs=1e-9 * (1 + norm))
    assert solution.value <= solution.trace[0].value
    lowest = min(record.value for record in solution.trace)
    assert solution.value <= lowest + 4e-11 * abs(lowest)
    assert len(solution.trace) == solution.counts.iterations + 1
    if solution.converged:
        assert solution.gradient_norm <= 1e-6
    else:
        # only where a tolerance was met may the last point be above an earlier one, by rounding
        assert solution.value == lowest
        assert solution.status in HONEST, (method, name, solution.status)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("method", ROBUST)
def test_the_robust_methods_arrive(method: str, name: str) -> None:
    surface = surfaces.get(name)
    assert isinstance(surface, LeastSquares)
    solution = solve(method, surface, 1500)
    check(method, name, solution, surface)
    if (method, name) not in UNREACHED:
        assert is_listed(value_of(method, solution), surface), solution
        # nearer than 1e-6 the gradient of Meyer's function is rounding
        assert solution.converged or name == "meyer"


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("method", OTHERS)
def test_the_others_arrive_or_say_honestly_not(method: str, name: str) -> None:
    surface = surfaces.get(name)
    assert isinstance(surface, LeastSquares)
    solution = solve(method, surface, 150)
    check(method, name, solution, surface)
    if solution.converged:
        assert is_listed(value_of(method, solution), surface) or name == "broyden-banded"


# Where these end at the limit of 400 evaluations. By products, what an inexact solution leaves out matters
# where curvatures range over 15 orders of magnitude (Meyer). On Brown and Dennis's, whose residuals stay
# large, every Gauss-Newton model converges slowly.
STALLED = {
    "gauss-newton": {"brown-dennis"},
    "gauss-newton by products": {"meyer", "brown-dennis"},
    "levenberg-marquardt": set[str](),
    "levenberg-marquardt by products": {"meyer"},
    "levenberg-marquardt scaled": {"brown-dennis"},
}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("method", LEAST_SQUARES)
def test_least_squares_as_scipys(method: str, name: str) -> None:
    """Each arrives where something is listed, or no higher than scipy's from the same start."""
    surface = surfaces.get(name)
    assert isinstance(surface, LeastSquares)
    ours = solve(method, surface, 400)
    check(method, name, ours, surface)

    def residuals(x: np.ndarray) -> np.ndarray:
        found: np.ndarray = surface.residuals(torch.from_numpy(x)).numpy()
        return found

    theirs = scipy.optimize.least_squares(residuals, np.array(surface.start), method="trf", xtol=1e-12)
    value = value_of(method, ours)
    if name in STALLED[method]:
        assert not ours.converged or is_listed(value, surface)
        assert value < 2 * ours.trace[0].value
    else:
        assert is_listed(value, surface) or value <= 2 * float(theirs.cost) * (1 + 1e-6)
        assert ours.converged or name == "meyer"


def test_lbfgs_needs_no_more_evaluations_than_scipys_over_the_collection() -> None:
    ours, theirs = [], []
    for name in NAMES:
        surface = surfaces.get(name)
        solution = minimize(surface, surface.initial(), tolerance=1e-5)

        def both(x: np.ndarray, surface: surfaces.Surface = surface) -> tuple[float, np.ndarray]:
            t = torch.tensor(x, requires_grad=True)
            value = surface(t)
            value.backward()
            assert t.grad is not None
            return value.item(), t.grad.numpy()

        options = {"gtol": 1e-5, "ftol": 1e-15, "maxfun": 3000, "maxiter": 3000}
        found = scipy.optimize.minimize(
            both, np.array(surface.start), jac=True, method="L-BFGS-B", options=options
        )
        if solution.converged and np.abs(found.jac).max() <= 1e-5:
            ours.append(solution.counts.evaluations)
            theirs.append(int(found.nfev))
    assert len(ours) >= 30
    assert np.log(ours).mean() <= np.log(theirs).mean() + 0.1
