"""When a lane ends, what it gives back then, and which steps tell of curvature."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from thalweg.curvature.vectors import Space
from thalweg.secondorder import Backtracking, BFGSDirection, Status, minimize
from thalweg.secondorder.objective_function import (
    AutogradObjective,
    EvaluatedPoint,
    TensorStructure,
    forward_of,
)
from thalweg.secondorder.solution import Tally
from thalweg.secondorder.solver import descend
from thalweg.secondorder.termination import DescentLane, DescentLimits, LowestPoint


@pytest.mark.parametrize("value", [0.0, 0.5, -0.5, 1e6, -1e6])
def test_a_change_is_small_relative_to_the_value_or_to_one(value: float) -> None:
    limits, size = DescentLimits(tolerance=0.0, tolerance_change=1e-3), max(1.0, abs(value))
    for part, ends in ((0.9e-3, True), (1.1e-3, False)):
        lane = DescentLane(None, value + part * size, 1.0)
        lane.arrive(value, 1.0, 1.0, limits)
        assert (lane.status is Status.SMALL_CHANGE) == ends
    # not where a longer step wasn't tried
    lane = DescentLane(None, value, 1.0)
    lane.arrive(value, 1.0, 1.0, limits, far_enough=False)
    assert lane.status is None


def test_as_many_steps_as_allowed_and_none_more() -> None:
    limits, lane = DescentLimits(tolerance=0.0, max_iterations=3), DescentLane(None, 5.0, 1.0)
    for number in (1, 2, 3):
        assert lane.status is None
        lane.arrive(5.0 - number, 1.0, 1.0, limits)
    assert lane.status is Status.ITERATION_LIMIT
    assert minimize(lambda x: x.square().sum(), torch.ones(2), max_iterations=0).counts.iterations == 0


def test_the_lowest_point_is_given_back_to_lanes_that_met_no_tolerance() -> None:
    """The first lane went up and ended so; the second went up and converged; the third went down."""
    space = Space(lanes=3)

    def at(x: list[float], values: list[float]) -> EvaluatedPoint:
        made = torch.tensor(x, dtype=torch.float64)[:, None]
        return EvaluatedPoint([made], torch.tensor(values, dtype=torch.float64), [10 * made])

    points = [at([1.0, 2.0, 3.0], [5.0, 5.0, 5.0]), at([1.5, 2.5, 3.5], [6.0, 6.0, 4.0])]
    lanes = [DescentLane(number, 5.0, 1.0) for number in range(3)]
    for lane in lanes:
        lane.begin(DescentLimits())
    best = LowestPoint(space, points[0])
    for lane, value in zip(lanes, (6.0, 6.0, 4.0), strict=True):
        lane.arrive(value, 7.0, 1.0, DescentLimits(max_iterations=1))
    lanes[1].status = Status.CONVERGED
    best.see(points[0], points[1], lanes, [True] * 3)
    problem = AutogradObjective(lambda x: (x, x[0].sum()), space, Tally())
    found = best.instead(points[1], lanes, problem)
    assert found.x[0].flatten().tolist() == [1.0, 2.5, 3.5]
    assert found.value.tolist() == [5.0, 6.0, 4.0]
    assert [(lane.value, lane.norm) for lane in lanes] == [(5.0, 10.0), (6.0, 7.0), (4.0, 7.0)]


@pytest.mark.parametrize(("x0", "pairs"), [(0.1, 0), (3.0, 1)])
def test_only_a_slope_that_rises_tells_of_curvature(x0: float, pairs: int) -> None:
    """A step from the top of a cosine falls ever steeper; one near its bottom doesn't."""

    def wave(x: Tensor) -> Tensor:
        return x.cos().sum()

    structure = TensorStructure(torch.tensor([x0], dtype=torch.float64), "test")
    problem = AutogradObjective(forward_of(wave, structure, "test"), structure.space, Tally())
    limits = DescentLimits(tolerance=0.0, max_iterations=1)
    found = descend(problem, structure.x, BFGSDirection(initial="identity"), Backtracking(), limits=limits)
    assert found.values[0] < math.cos(x0)
    assert found.memory.state["count"] == [pairs]
