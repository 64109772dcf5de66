"""Least squares in lanes: each as it would be alone, with one trip to the host an evaluation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from thalweg.errors import OptionError
from thalweg.secondorder import (
    GaussNewtonDirection,
    LevenbergMarquardtMethod,
    Solution,
    Status,
    least_squares,
)

from .functions import logistic

T = torch.linspace(0, 3, 20, dtype=torch.float64)
TRUE = torch.tensor([[2.0, -1.3], [1.0, -0.2], [0.5, -3.0], [4.0, 0.3]], dtype=torch.float64)
START = torch.tensor([[1.0, -0.3], [1.0, 0.0], [1.0, -1.0], [3.0, 0.0]], dtype=torch.float64)
METHODS = (
    GaussNewtonDirection(),
    LevenbergMarquardtMethod(),
    LevenbergMarquardtMethod(scale="diagonal"),
    GaussNewtonDirection(solver="cg", accuracy=1e-6),
    LevenbergMarquardtMethod(solver="cg"),
    LevenbergMarquardtMethod(solver="cg", max_products=2),
)


def curves(p: Tensor, true: Tensor = TRUE) -> Tensor:
    """Return residuals, [K, 20], of curves of different difficulty."""
    seen = true[..., :1] * torch.exp(true[..., 1:] * T) + 0.01 * torch.sin(17 * T)
    return p[..., :1] * torch.exp(p[..., 1:] * T) - seen


def same(lane: Solution, alone: Solution) -> None:
    assert lane.status is alone.status
    torch.testing.assert_close(lane.x, alone.x, rtol=1e-10, atol=1e-10)
    assert lane.value == pytest.approx(alone.value, rel=1e-10, abs=1e-20)
    assert len(lane.trace) == len(alone.trace)
    for a, b in zip(lane.trace, alone.trace, strict=True):
        assert (a.iteration, a.evaluations) == (b.iteration, b.evaluations)
        assert (a.value, a.step) == pytest.approx((b.value, b.step), rel=1e-6, abs=1e-12)
    assert lane.counts.iterations == alone.counts.iterations
    assert lane.counts.evaluations == alone.counts.evaluations


@pytest.mark.parametrize("method", METHODS, ids=str)
def test_a_lane_is_what_it_is_alone(method: Any) -> None:
    together = least_squares(curves, START, method=method, lanes=True, tolerance=1e-7)
    assert together.converged
    assert together.x.shape == (4, 2)
    for k, lane in enumerate(together.lanes):
        alone = least_squares(lambda p, k=k: curves(p, TRUE[k]), START[k], method=method, tolerance=1e-7)
        same(lane, alone)
        assert together.x[k].tolist() == lane.x.tolist()
    iterations = [lane.counts.iterations for lane in together.lanes]
    assert len(set(iterations)) > 1
    assert together.counts.iterations == sum(iterations)


@pytest.mark.parametrize("method", ["gauss-newton", "levenberg-marquardt"])
def test_a_pass_and_a_trip_serve_all_lanes(method: str) -> None:
    counts = least_squares(curves, START, method=method, lanes=True).counts
    assert counts.round_trips <= counts.evaluations + 1
    # by columns: as many as one lane has elements
    assert counts.products == 2 * counts.hessians
    assert counts.hessians <= counts.evaluations


def test_dictionaries_and_a_convex_loss() -> None:
    problems = [logistic(seed) for seed in range(3)]
    inputs = torch.stack([torch.from_numpy(a) for a, _ in problems])
    labels = torch.stack([torch.from_numpy(b) for _, b in problems])

    def loss_of(labels: Tensor) -> Callable[[Tensor], Tensor]:
        return lambda z: torch.nn.functional.softplus(-labels * z).mean(-1) + 1e-3 * (z**2).mean(-1)

    def outputs(p: dict[str, Tensor]) -> Tensor:
        return (inputs @ p["w"][..., None])[..., 0] + p["b"]

    x0 = {"w": torch.zeros(3, 5, dtype=torch.float64), "b": torch.zeros(3, 1, dtype=torch.float64)}
    for method in ("gauss-newton", "levenberg-marquardt"):
        for solver in ("dense", "cg"):
            found = least_squares(
                outputs,
                x0,
                loss=loss_of(labels),
                method=method,
                solver=solver,
                lanes=True,  # type: ignore[arg-type]
            )
            assert found.converged
            for k, lane in enumerate(found.lanes):
                alone = least_squares(
                    lambda p, k=k: inputs[k] @ p["w"] + p["b"],
                    {key: value[k] for key, value in x0.items()},
                    loss=loss_of(labels[k]),
                    method=method,
                    solver=solver,  # type: ignore[arg-type]
                )
                assert lane.status is alone.status
                assert lane.counts.evaluations == alone.counts.evaluations
                torch.testing.assert_close(lane.x["w"], alone.x["w"], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("solver", ["dense", "cg"])
@pytest.mark.parametrize("method", ["gauss-newton", "levenberg-marquardt"])
def test_lanes_that_fail_leave_the_others_alone(method: str, solver: Any) -> None:
    """One isn't finite at its start, one becomes NaN away from it, one is unsolvable; the others converge."""

    def residuals(x: Tensor) -> Tensor:
        kinds = torch.arange(5)[:, None]
        start = torch.where(kinds == 0, torch.nan, x - 1)
        away = torch.where((kinds == 1) & (x != 3.0), torch.nan, start)
        return torch.where(kinds == 2, torch.exp(-x), away)

    x0 = torch.full((5, 2), 3.0, dtype=torch.float64)
    found = least_squares(residuals, x0, method=method, solver=solver, lanes=True, max_iterations=12)
    statuses = [lane.status for lane in found.lanes]
    assert statuses[:2] == [Status.NOT_FINITE, Status.SEARCH_FAILED]
    # its infimum lies at infinity
    assert statuses[2] in (Status.ITERATION_LIMIT, Status.CONVERGED)
    assert float(found.lanes[2].x.min()) > 5
    assert statuses[3:] == [Status.CONVERGED] * 2
    assert torch.equal(found.x[1], x0[1])
    torch.testing.assert_close(found.x[3:], torch.ones(2, 2, dtype=torch.float64), rtol=0, atol=1e-7)
    assert found.status is Status.NOT_FINITE


def test_limits_and_callbacks_are_each_lanes_own() -> None:
    for method in ("gauss-newton", "levenberg-marquardt"):
        few = least_squares(curves, START, method=method, lanes=True, max_iterations=2)
        assert {lane.counts.iterations for lane in few.lanes} == {2}
        short = least_squares(curves, START, method=method, lanes=True, max_evaluations=3)
        assert all(lane.counts.evaluations <= 3 for lane in short.lanes)
        stopped = least_squares(
            curves, START, method=method, lanes=True, callback=lambda record: record.lane == 1
        )
        assert stopped.lanes[1].status is Status.STOPPED
        assert stopped.lanes[1].counts.iterations == 1
        assert all(lane.converged for k, lane in enumerate(stopped.lanes) if k != 1)


def test_random_linear_problems_at_once() -> None:
    rng = np.random.default_rng(0)
    a, b = torch.from_numpy(rng.standard_normal((16, 7, 3))), torch.from_numpy(rng.standard_normal((16, 7)))
    found = least_squares(
        lambda x: (a @ x[..., None])[..., 0] - b,
        torch.zeros(16, 3, dtype=torch.float64),
        method="gauss-newton",
        lanes=True,
    )
    torch.testing.assert_close(found.x, torch.linalg.lstsq(a, b[..., None]).solution[..., 0])
    assert {lane.counts.iterations for lane in found.lanes} == {1}


def test_refusals() -> None:
    with pytest.raises(OptionError, match=r"it has to return \[4, \.\.\.\]"):
        least_squares(lambda x: curves(x).T, START, lanes=True)
    with pytest.raises(OptionError, match=r"a tensor of shape \(4,\)"):
        least_squares(curves, START, loss=lambda z: (z**2).sum(), lanes=True)
