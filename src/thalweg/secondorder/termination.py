"""How far a lane has come and how it ends: what descents by searches and by damping have in common."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from thalweg.curvature.vectors import Space, Vector
from thalweg.errors import OptionError
from thalweg.secondorder.objective_function import EvaluatedPoint, ObjectiveFunction, joined
from thalweg.secondorder.solution import Counts, IterationRecord, Status

__all__ = [
    "Callback",
    "DescentLane",
    "DescentLimits",
    "LowestPoint",
]

# What runs are given: it is handed the point beside the record, in the tensors that the run works with.
Callback = Callable[[IterationRecord, Vector], Any]


@dataclass(frozen=True, kw_only=True)
class DescentLimits:
    """When to end.

    Args:
        tolerance: largest magnitude in the gradient at which it counts as zero, at least 0.
        tolerance_change: end where a step changes the value by less than this, relative to the larger of
            its magnitude and 1; 0 switches it off.
        max_iterations: accepted steps, at least 0.
        max_evaluations: of the function, at least 1; None: no limit.
    """

    tolerance: float = 1e-6
    tolerance_change: float = 0.0
    max_iterations: int = 1000
    max_evaluations: int | None = None

    def __post_init__(self) -> None:
        for name in ("tolerance", "tolerance_change"):
            value = getattr(self, name)
            if not 0 <= value < math.inf:
                raise OptionError(f"minimize: {name} is {value}; give a finite number of at least 0")
        if self.max_iterations < 0:
            raise OptionError(f"minimize: max_iterations is {self.max_iterations}; give at least 0")
        if self.max_evaluations is not None and self.max_evaluations < 1:
            raise OptionError(
                f"minimize: max_evaluations is {self.max_evaluations}; give at least 1, or None"
            )


@dataclass
class DescentLane:
    """One lane as the host sees it.

    Attributes:
        number: ``None`` alone.
        value, norm: of the function, and the largest magnitude in its gradient, where the lane stands.
        status: how it ended; ``None`` on the way.
        trace: every accepted step.
        lowest: value of all of them.
    """

    number: int | None
    value: float
    norm: float
    lowest: float = field(default=math.inf, kw_only=True)
    iterations: int = field(default=0, kw_only=True)
    evaluations: int = field(default=1, kw_only=True)
    status: Status | None = field(default=None, kw_only=True)
    trace: list[IterationRecord] = field(default_factory=list, kw_only=True)

    def begin(self, limits: DescentLimits) -> None:
        """Note the start, which may be an end."""
        self._note(0.0)
        self.lowest = self.value
        if not (math.isfinite(self.value) and math.isfinite(self.norm)):
            self.status = Status.NOT_FINITE
        elif self.norm <= limits.tolerance:
            self.status = Status.CONVERGED
        else:
            self.heed(limits)

    def heed(self, limits: DescentLimits) -> None:
        """End where a limit is reached."""
        if self.iterations >= limits.max_iterations:
            self.status = Status.ITERATION_LIMIT
        elif limits.max_evaluations is not None and self.evaluations >= limits.max_evaluations:
            self.status = Status.EVALUATION_LIMIT

    def arrive(
        self, value: float, norm: float, step: float, limits: DescentLimits, *, far_enough: bool = True
    ) -> None:
        """Take an accepted step, which may be the last.

        Args:
            value, norm: where it leads.
            step: its length along the direction.
            limits: when to end.
            far_enough: whether the step went as far as its conditions ask. A change that is small because a
                longer step wasn't tried says nothing of a minimum.
        """
        change = abs(value - self.value)
        self.value, self.norm = value, norm
        self.iterations += 1
        self._note(step)
        small = limits.tolerance_change * max(1.0, abs(value))
        if norm <= limits.tolerance:
            self.status = Status.CONVERGED
        elif limits.tolerance_change > 0 and change <= small and far_enough:
            self.status = Status.SMALL_CHANGE
        else:
            self.heed(limits)

    def report(self, x: Vector, callback: Callback | None) -> None:
        """Tell the callback of the last step, and end where it asks for that."""
        if callback is None:
            return
        here = x if self.number is None else [tensor[self.number] for tensor in x]
        if callback(self.trace[-1], here) and self.status is not Status.CONVERGED:
            self.status = Status.STOPPED

    def counts(self) -> Counts:
        """Return what the lane alone would have cost."""
        return Counts(iterations=self.iterations, evaluations=self.evaluations, gradients=self.evaluations)

    def _note(self, step: float) -> None:
        record = IterationRecord(
            iteration=self.iterations,
            value=self.value,
            gradient_norm=self.norm,
            step=step,
            evaluations=self.evaluations,
            lane=self.number,
        )
        self.trace.append(record)


class LowestPoint:
    """The lowest point of each lane: nearly always where all stand, so that keeping it costs nothing."""

    def __init__(self, space: Space, point: EvaluatedPoint) -> None:
        self._space, self._point = space, point

    def see(
        self, old: EvaluatedPoint, new: EvaluatedPoint, lanes: Sequence[DescentLane], arrived: Sequence[bool]
    ) -> None:
        """Take in that these lanes went from ``old`` to ``new``."""
        lower = [went and lane.value <= lane.lowest for lane, went in zip(lanes, arrived, strict=True)]
        if self._point is old and lower == list(arrived):
            self._point = new
        elif any(lower):
            self._point = joined(self._space, self._space.mask(lower, new.x), new, self._point)
        for lane, improved in zip(lanes, lower, strict=True):
            if improved:
                lane.lowest = lane.value

    def instead(
        self, point: EvaluatedPoint, lanes: Sequence[DescentLane], problem: ObjectiveFunction
    ) -> EvaluatedPoint:
        """Return ``point``, but the lowest in lanes that ended above it without a tolerance that was met."""
        above = [
            lane.value > lane.lowest and lane.status is not None and not lane.status.converged
            for lane in lanes
        ]
        if not any(above):
            return point
        found = joined(self._space, self._space.mask(above, point.x), self._point, point)
        norms = problem.fetch([self._space.norm_max(found.gradient)])
        for lane, (norm,), back in zip(lanes, norms, above, strict=True):
            if back:
                lane.value, lane.norm = lane.lowest, norm
        return found
