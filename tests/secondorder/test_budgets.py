"""A limit of evaluations is one of calls of the function, counted here from outside."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from thalweg.secondorder import (
    METHODS,
    GaussNewtonDirection,
    LevenbergMarquardtMethod,
    NewtonDirection,
    Solution,
    Status,
    least_squares,
    minimize,
)
from thalweg.secondorder.curvature_optimizers import LevenbergMarquardt as LevenbergMarquardtOptimizer
from thalweg.secondorder.curvature_optimizers import NewtonCG as NewtonCGOptimizer
from thalweg.secondorder.minimizing import SEARCHES
from thalweg.secondorder.optimizers import BFGS, LBFGS, NonlinearCG, SteepestDescent

from .functions import rosenbrock

LIMITS = [1, 2, 3, 5, 10, 23]
START = torch.tensor([-1.2, 1.0, 0.7], dtype=torch.float64)
LANES = torch.stack([START, START + 0.3, torch.tensor([2.0, -1.0, 0.5], dtype=torch.float64)])
DIRECTIONS: dict[str, Any] = {
    **{name: name for name in METHODS},
    "newton by differences": NewtonDirection(hessian="finite-difference", modified=True),
    "newton by blocks": NewtonDirection(hessian="block", modified=True),
    "plain newton": NewtonDirection(damping=3.0),
}


class Counted:
    def __init__(self) -> None:
        self.calls = 0

    def value(self, x: Tensor) -> Tensor:
        self.calls += 1
        return rosenbrock(x)

    def residuals(self, x: Tensor) -> Tensor:
        self.calls += 1
        return torch.cat([1 - x[..., :-1], 10 * (x[..., 1:] - x[..., :-1] ** 2)], dim=-1)


def honest(solution: Solution, calls: int, limit: int | None) -> None:
    assert solution.counts.evaluations == calls
    if limit is not None:
        assert calls <= limit
    records = [lane.trace for lane in solution.lanes] or [solution.trace]
    for trace in records:
        evaluations = [record.evaluations for record in trace]
        assert evaluations == sorted(evaluations)
        assert evaluations[-1] <= calls


@pytest.mark.parametrize("search", [None, *SEARCHES])
@pytest.mark.parametrize("method", DIRECTIONS)
def test_minimize_calls_as_often_as_it_says_and_may(method: str, search: str | None) -> None:
    for x0, lanes in ((START, False), (LANES, True)):
        for limit in [*LIMITS, None]:
            counted = Counted()
            found = minimize(
                counted.value,
                x0,
                method=DIRECTIONS[method],
                search=search,
                max_evaluations=limit,
                max_iterations=12,
                lanes=lanes,
            )
            honest(found, counted.calls, limit)
            if limit == 1:
                assert found.status is Status.EVALUATION_LIMIT
                assert torch.equal(found.x, x0)


@pytest.mark.parametrize(
    "method",
    [
        GaussNewtonDirection(),
        GaussNewtonDirection(solver="cg"),
        LevenbergMarquardtMethod(damping=1e-8),
        LevenbergMarquardtMethod(scale="diagonal", damping=1e-8),
        LevenbergMarquardtMethod(solver="cg", damping=1e-8),
    ],
    ids=str,
)
@pytest.mark.parametrize("lanes", [False, True])
def test_least_squares_calls_as_often_as_it_says_and_may(method: Any, lanes: bool) -> None:
    searches = [None, *SEARCHES] if isinstance(method, GaussNewtonDirection) else [None]
    for search in searches:
        for limit in [*LIMITS, None]:
            counted = Counted()
            found = least_squares(
                counted.residuals,
                LANES if lanes else START,
                method=method,
                search=search,
                max_evaluations=limit,
                max_iterations=12,
                lanes=lanes,
            )
            honest(found, counted.calls, limit)


def test_a_rejected_trial_costs_no_call_at_the_point_where_it_began() -> None:
    """By products too: the graph there is kept, so that calls are one and the trials."""
    for solver in ("dense", "cg"):
        counted = Counted()
        found = least_squares(
            counted.residuals,
            START,
            method=LevenbergMarquardtMethod(solver=solver, damping=1e-8),  # type: ignore[arg-type]
        )
        assert found.converged
        rejected = found.counts.evaluations - 1 - found.counts.iterations
        assert rejected > 0
        assert counted.calls == found.trace[-1].evaluations


@pytest.mark.parametrize("limit", [1, 2, 3, 5, 10])
@pytest.mark.parametrize(
    "make",
    [
        lambda w, n: LBFGS([w], max_eval=n, line_search_fn="strong_wolfe"),
        lambda w, n: LBFGS([w], max_eval=n),
        lambda w, n: BFGS([w], max_eval=n),
        lambda w, n: SteepestDescent([w], max_eval=n),
        lambda w, n: NonlinearCG([w], max_eval=n),
        lambda w, n: NewtonCGOptimizer([w], max_eval=n, max_iter=20),
        lambda w, n: LevenbergMarquardtOptimizer([w], max_eval=n, max_iter=20),
    ],
)
def test_optimizers_call_their_closure_no_more_often_than_they_may(make: Any, limit: int) -> None:
    w = nn.Parameter(START.clone())
    optimizer = make(w, limit)
    counted, before = Counted(), 0

    def closure() -> Any:
        if isinstance(optimizer, LevenbergMarquardtOptimizer):
            return counted.residuals(w)
        optimizer.zero_grad()
        loss = counted.value(w) * (1 + 0.1 * number)
        if optimizer.calls_backward:
            loss.backward()  # type: ignore[no-untyped-call]
        return loss

    # another batch in each step, for which conjugate directions compute an earlier gradient anew
    for number in range(4):  # noqa: B007 - the closure reads it
        optimizer.step(closure)
        assert counted.calls - before <= limit
        before = counted.calls
    assert optimizer.evaluations == counted.calls
