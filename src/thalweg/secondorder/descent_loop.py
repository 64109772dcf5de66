"""The loop of every descent: start, rounds until all lanes have ended, result.

A round proposes points, evaluates the function once for all lanes, and brings what was found to the host in
one trip; how, is a line search's affair (:mod:`thalweg.secondorder.solver`) or a damping's
(:mod:`thalweg.secondorder.damping`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from thalweg.curvature.vectors import Vector
from thalweg.secondorder.directions import State
from thalweg.secondorder.objective_function import EvaluatedPoint, ObjectiveFunction
from thalweg.secondorder.solution import Counts, IterationRecord, OutOfEvaluations, Status
from thalweg.secondorder.termination import Callback, DescentLane, DescentLimits, LowestPoint

__all__ = ["Descent", "DescentMemory", "DescentResult"]

LaneT = TypeVar("LaneT", bound=DescentLane)


@dataclass(frozen=True)
class DescentMemory:
    """What one run hands to the next: the direction's state, and the fall that each lane expects.

    That is the last ``step * slope``, times ten where the slope after that step was hardly another.
    """

    state: State
    expected: list[float | None]


@dataclass(frozen=True)
class DescentResult:
    """How a run ended: the point, and for each lane status, trace and counts."""

    point: EvaluatedPoint
    values: list[float]
    gradient_norms: list[float]
    statuses: list[Status]
    traces: list[tuple[IterationRecord, ...]]
    counts: list[Counts]
    memory: DescentMemory


class Descent(ABC, Generic[LaneT]):
    """One run, alone or in lanes.

    Attributes:
        lanes: what the host knows of each.
        point: where all of them stand.
    """

    point: EvaluatedPoint

    def __init__(self, problem: ObjectiveFunction, limits: DescentLimits, callback: Callback | None) -> None:
        self.problem, self.space = problem, problem.space
        self.limits, self.callback = limits, callback
        self.lanes: list[LaneT] = []

    @abstractmethod
    def lane(self, number: int, value: float, norm: float, memory: DescentMemory | None) -> LaneT:
        """Return a lane at the start."""

    @abstractmethod
    def begin(self, memory: DescentMemory | None) -> None:
        """Prepare the first round, from ``point``."""

    @abstractmethod
    def round(self) -> None:
        """Evaluate once, and move the lanes whose step is accepted."""

    @abstractmethod
    def memory(self) -> DescentMemory:
        """Return what the next run may begin with."""

    def run(self, x: Vector, memory: DescentMemory | None, lowest: bool) -> DescentResult:
        """Minimize from ``x``; ``lowest``: without a tolerance met, return the lowest point of the way."""
        problem, space, lanes = self.problem, self.space, self.lanes
        problem.tally.allow(self.limits.max_evaluations)
        self.point = problem.evaluate(x)
        for value, norm in problem.fetch([self.point.value, space.norm_max(self.point.gradient)]):
            lanes.append(self.lane(len(lanes), value, norm, memory))
        for lane in lanes:
            lane.number = None if space.lanes is None else lane.number
            lane.begin(self.limits)
        self._best = LowestPoint(space, self.point)
        self.begin(memory)
        try:
            while any(lane.status is None for lane in lanes):
                self.round()
        except OutOfEvaluations:
            for lane in lanes:
                lane.status = lane.status or Status.EVALUATION_LIMIT
        # before the way back to the lowest point: what was learned belongs to the last one
        kept = self.memory()
        if lowest:
            self.point = self._best.instead(self.point, lanes, problem)
        return DescentResult(
            self.point,
            [lane.value for lane in lanes],
            [lane.norm for lane in lanes],
            [lane.status for lane in lanes if lane.status is not None],
            [tuple(lane.trace) for lane in lanes],
            [lane.counts() for lane in lanes],
            kept,
        )

    def move(self, new: EvaluatedPoint, arrived: Sequence[bool], *, evaluated: bool) -> None:
        """Stand at ``new``, whose values these lanes have taken in.

        Args:
            new: where all lanes stand now.
            arrived: which of them have moved.
            evaluated: whether these stand where the function was evaluated last.
        """
        old, self.point = self.point, new
        if evaluated:
            self.problem.settle(new.x)
        self._best.see(old, new, self.lanes, arrived)
        for lane, moved in zip(self.lanes, arrived, strict=True):
            if moved:
                lane.report(new.x, self.callback)
