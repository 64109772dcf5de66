"""The unit in which a function or its variables are measured doesn't decide whether a minimum is found."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from thalweg.secondorder import (
    METHODS,
    Backtracking,
    ConjugateGradientDirection,
    HagerZhang,
    Status,
    StrongWolfe,
    Values,
    minimize,
)
from thalweg.secondorder.directions import FORMULAS, Formula
from thalweg.secondorder.optimizers import BFGS, LBFGS, NonlinearCG, SteepestDescent
from thalweg.secondorder.searches import Search

FAR = [1e-14, 1e-7, 1.0, 1e7, 1e14]
SCALES = [*itertools.product(FAR, FAR), (1.0, 1e-50), (1e9, 1e3), (1e14, 1e-50)]
BENDS = torch.tensor([1.0, 10.0], dtype=torch.float64)


def scaled(x: Tensor, of_x: Any, of_f: Any) -> Tensor:
    """A bowl with its minimum, 0, at ``of_x`` of each, seen from the origin."""
    return of_f * ((x / of_x - 1) ** 2 * BENDS).sum(-1)


@pytest.mark.parametrize("method", sorted(METHODS))
def test_any_scale_of_a_bowl_is_minimized(method: str) -> None:
    """One lane for each scale, and alone the same."""
    of_x, of_f = (torch.tensor(column, dtype=torch.float64) for column in zip(*SCALES, strict=True))
    x0 = torch.zeros(len(SCALES), 2, dtype=torch.float64)
    found = minimize(
        lambda x: scaled(x, of_x[:, None], of_f),
        x0,
        method=method,
        tolerance=0.0,
        max_evaluations=400,
        lanes=True,
    )
    for (size, height), lane in zip(SCALES, found.lanes, strict=True):
        assert lane.status is not Status.UNBOUNDED, (size, height)
        assert lane.value / height <= 1e-12, (size, height, lane)
        torch.testing.assert_close(lane.x / size, torch.ones_like(lane.x), rtol=0, atol=1e-6)
    for size, height in [(1e14, 1.0), (1e14, 1e-14), (1e7, 1e-50), (1e9, 1e3)]:
        alone = minimize(
            lambda x, a=size, b=height: scaled(x, a, b),
            x0[0],
            method=method,
            tolerance=0.0,
            max_evaluations=400,
        )
        assert alone.value / height <= 1e-12, (size, height, alone)


@pytest.mark.parametrize(
    "search",
    [HagerZhang(), Backtracking(), Values(rounds=40), StrongWolfe(c2=0.1)],
    ids=lambda s: type(s).__name__,
)
@pytest.mark.parametrize("method", ["lbfgs", "cg-pr+", "newton-cg"])
def test_with_any_search(method: str, search: Search) -> None:
    for size, height in [(1e9, 1e3), (1e7, 1.0), (1e7, 1e-14), (1.0, 1e-50), (1e-9, 1e9)]:
        found = minimize(
            lambda x, a=size, b=height: scaled(x, a, b),
            torch.zeros(2, dtype=torch.float64),
            method=method,
            search=search,
            tolerance=0.0,
            max_evaluations=2000,
        )
        assert found.value / height <= 1e-9, (size, height, found)


@pytest.mark.parametrize("formula", FORMULAS)
def test_every_beta(formula: Formula) -> None:
    for reset in (None, 2):
        found = minimize(
            lambda x: scaled(x, 1e9, 1e3),
            torch.zeros(2, dtype=torch.float64),
            method=ConjugateGradientDirection(formula=formula, reset=reset),
            tolerance=1e-14,
        )
        torch.testing.assert_close(found.x / 1e9, torch.ones_like(found.x), rtol=0, atol=1e-6)


@pytest.mark.parametrize("method", sorted(METHODS))
def test_single_precision_too(method: str) -> None:
    for size, height in [(1e6, 1.0), (1e-6, 1.0), (1.0, 1e-6), (1e4, 1e6)]:
        found = minimize(
            lambda x, a=size, b=height: scaled(x, a, b).float(),
            torch.zeros(2),
            method=method,
            tolerance=0.0,
            max_evaluations=300,
        )
        assert found.value / height <= 1e-5, (size, height, found)


@pytest.mark.parametrize("method", sorted(METHODS))
def test_scipys_far_minimum(method: str) -> None:
    found = minimize(
        lambda x: 1e3 * ((x / 1e9 - 1) ** 2).sum(), torch.zeros(2, dtype=torch.float64), method=method
    )
    assert found.status is Status.CONVERGED
    torch.testing.assert_close(found.x, torch.full((2,), 1e9, dtype=torch.float64), rtol=1e-9, atol=0)


@pytest.mark.parametrize("method", sorted(METHODS))
def test_what_has_no_lower_bound_is_unbounded(method: str) -> None:
    """Minus infinity, or steps that only their largest length ends, ten in a row; alone and in a lane."""
    falls = [
        lambda x: x.sum(-1),
        lambda x: -(x**2).sum(-1) + x.sum(-1),
        lambda x: 1e-30 * x.sum(-1),
        lambda x: -x.exp().sum(-1),
    ]
    for fall in falls:
        found = minimize(fall, torch.zeros(3, dtype=torch.float64), method=method, tolerance=0.0)
        assert found.status is Status.UNBOUNDED
        assert torch.isfinite(found.x).all()
        assert found.value <= found.trace[0].value
    x0 = torch.zeros(2, 3, dtype=torch.float64)
    both = minimize(
        lambda x: torch.stack([x[0].sum(), scaled(x[1, :2], 1e9, 1e3) + x[1, 2] ** 2]),
        x0,
        method=method,
        lanes=True,
    )
    assert [lane.status for lane in both.lanes] == [Status.UNBOUNDED, Status.CONVERGED]


def test_what_falls_ever_slower_is_not_unbounded() -> None:
    """Its infimum lies at infinity, but no step is ended by its largest length for ever."""
    for fall in (lambda x: (-x).exp().sum(), lambda x: -x.asinh().sum(), lambda x: 1 / (1 + x * x).sum()):
        for method in ("lbfgs", "bfgs", "cg-pr+"):
            start = torch.full((2,), 0.5, dtype=torch.float64)
            found = minimize(fall, start, method=method, max_iterations=30)
            assert found.status is not Status.UNBOUNDED
            assert found.value < found.trace[0].value


@pytest.mark.parametrize("face", [LBFGS, BFGS, NonlinearCG, SteepestDescent])
def test_optimizers_reach_a_minimum_far_away(face: Any) -> None:
    w = nn.Parameter(torch.zeros(1, dtype=torch.float64))
    options = {"tolerance_grad": 0.0, "tolerance_change": 1e-9}
    if face is LBFGS:
        options["line_search_fn"] = "strong_wolfe"
    optimizer = face([w], **options)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = ((w / 1e8 - 1) ** 2).sum()
        loss.backward()
        return loss

    for _ in range(4):
        optimizer.step(closure)
    assert float(w.detach()) == pytest.approx(1e8, rel=1e-4)


def test_a_small_change_of_a_limited_step_is_no_end() -> None:
    """The first step is 1e12 times too short to change the value at all."""
    found = minimize(
        lambda x: ((x / 1e14 - 1) ** 2).sum(),
        torch.zeros(1, dtype=torch.float64),
        tolerance=0.0,
        tolerance_change=1e-9,
    )
    assert found.value <= 1e-9
    assert math.isclose(float(found.x), 1e14, rel_tol=1e-4)


@pytest.mark.parametrize("method", ["bfgs", "lbfgs", "newton", "newton-cg"])
def test_a_lane_that_goes_on_from_its_longest_steps_changes_no_other(method: str) -> None:
    def curved(x: Tensor) -> Tensor:
        return 100 * (x[1] - x[0] ** 2) ** 2 + (1 - x[0]) ** 2

    start = torch.tensor([[0.0, 0.0], [-1.2, 1.0]], dtype=torch.float64)
    both = minimize(
        lambda x: torch.stack([-x[0].sum(), curved(x[1])]), start, method=method, tolerance=1e-9, lanes=True
    )
    alone = minimize(lambda x: curved(x[0])[None], start[1:], method=method, tolerance=1e-9, lanes=True)
    assert both.lanes[0].status is Status.UNBOUNDED
    steps = [[record.step for record in found.trace] for found in (both.lanes[1], alone.lanes[0])]
    torch.testing.assert_close(*(torch.tensor(each[:20]) for each in steps), rtol=1e-6, atol=0)
