"""A direction and a search, joined: one loop for one problem alone and for K lanes at once.

Each lane has its own search; a round evaluates the function once, for all lanes, at the step that each
wants to try, and brings value, slope and gradient norm of all of them to the host in one trip. A lane whose
search has ended takes its next direction while others still search, so that no lane waits.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from thalweg.secondorder.directions import Direction, State, Step
from thalweg.secondorder.ending import Callback, Lane, Limits, Lowest
from thalweg.secondorder.problem import Point, Problem, joined
from thalweg.secondorder.searches import Course, Outcome, Result, Search, Trial
from thalweg.secondorder.solution import Counts, OutOfEvaluations, Record, Status
from thalweg.secondorder.vectors import Scalar, Vector

__all__ = ["Found", "Memory", "descend"]

_ENDS = {
    Result.FAILED: Status.SEARCH_FAILED,
    Result.NOT_DESCENT: Status.NOT_DESCENT,
    Result.UNBOUNDED: Status.UNBOUNDED,
    Result.NEGATIVE_CURVATURE: Status.NEGATIVE_CURVATURE,
}
# A step after which the slope is at least this part of what it was has hardly begun: on a quadratic the
# minimum is ten times as far. The next one begins so many times longer.
_STEEP = 0.9
_LONGER = 10.0
# How many steps in a row that only their largest length ends, each beginning where the last one ended, count
# as a function without a lower bound. With the usual largest length they cover 120 orders of magnitude and
# more; a convex function whose minimum is that far away has been told from a slope by then.
_ENDLESS = 10


@dataclass(frozen=True)
class Memory:
    """What one run hands to the next: the direction's state, and the fall that each lane expects.

    That is the last ``step * slope``, times ten where the slope after that step was hardly another.
    """

    state: State
    expected: list[float | None]


@dataclass(frozen=True)
class Found:
    """How a run ended: the point, and for each lane status, trace and counts."""

    point: Point
    values: list[float]
    gradient_norms: list[float]
    statuses: list[Status]
    traces: list[tuple[Record, ...]]
    counts: list[Counts]
    memory: Memory

    @classmethod
    def at(cls, point: Point, lanes: Sequence[Lane], memory: Memory) -> Found:
        """Return what was found where all lanes have ended."""
        return cls(
            point,
            [lane.value for lane in lanes],
            [lane.norm for lane in lanes],
            [lane.status for lane in lanes if lane.status is not None],
            [tuple(lane.trace) for lane in lanes],
            [lane.counts() for lane in lanes],
            memory,
        )


@dataclass
class _Lane(Lane):
    """One lane with its search."""

    expected: float | None
    search: Course | None = None
    start: Trial | None = None
    first: float = 0.0
    step: float = 0.0
    keep: bool = False
    fresh: bool = False
    retried: bool = False
    # steps in a row that only their largest length ended
    unended: int = 0


def descend(
    problem: Problem,
    x: Vector,
    direction: Direction,
    search: Search,
    *,
    limits: Limits,
    callback: Callback | None = None,
    memory: Memory | None = None,
    lowest: bool = False,
) -> Found:
    """Minimize from ``x``, whose tensors are left alone.

    Args:
        problem: the function.
        x: where to start.
        direction: which way.
        search: how far.
        limits: when to end.
        callback: called with a :class:`Record` after each accepted step; a true answer ends the lane.
        memory: what an earlier run handed on.
        lowest: where no tolerance was met, return the lowest point of the way instead of the last one: near a
            minimum a step may raise the value by rounding. The memory is that of the last one.

    Raises:
        OptionError: the direction or the search can't be used with these tensors.
    """
    descent = _Descent(problem, direction, search, limits, callback)
    return descent.run(x, memory, lowest and search.descends)


class _Descent:
    def __init__(
        self,
        problem: Problem,
        direction: Direction,
        search: Search,
        limits: Limits,
        callback: Callback | None,
    ) -> None:
        self.problem, self.space = problem, problem.space
        self.direction, self.search = direction, search
        self.limits, self.callback = limits, callback
        self.lanes: list[_Lane] = []

    def run(self, x: Vector, memory: Memory | None, lowest: bool) -> Found:
        problem, space = self.problem, self.space
        problem.tally.allow(self.limits.max_evaluations)
        problem.keeps_graphs = self.direction.curved or self.search.exact
        point = problem.evaluate(x)
        rows = problem.fetch([point.value, space.norm_max(point.gradient)])
        expected = memory.expected if memory is not None else [None] * len(rows)
        for number, ((value, norm), drop) in enumerate(zip(rows, expected, strict=True)):
            lane = _Lane(None if space.lanes is None else number, value, norm, drop)
            self.lanes.append(lane)
            lane.begin(self.limits)
        state = self.direction.begin(space, point) if memory is None else memory.state
        self._state = state
        self._point, self._best = point, Lowest(space, point)
        try:
            self._loop()
        except OutOfEvaluations:
            for lane in self.lanes:
                lane.status = lane.status or Status.EVALUATION_LIMIT
        if lowest:
            self._point = self._best.instead(self._point, self.lanes, problem)
        assert all(lane.status is not None for lane in self.lanes)
        return Found.at(self._point, self.lanes, Memory(self._state, [lane.expected for lane in self.lanes]))

    def _loop(self) -> None:
        problem, space, lanes, point = self.problem, self.space, self.lanes, self._point
        # A sum of squares of differences has lost digits before it is summed, so that its noise is far above
        # eps. Hager and Zhang (2005) take values for equal that differ by one part in a million.
        noise = torch.finfo(space.dtype(point.x)).eps ** (2 / 3)
        d = [torch.zeros_like(g) for g in point.gradient]
        slope = first = curvature = torch.zeros_like(point.value)
        kept: Vector | None = None
        while any(lane.status is None for lane in lanes):
            begins = [lane.status is None and lane.search is None for lane in lanes]
            point = self._point
            if any(begins):
                mask = space.mask(begins, point.x)
                for lane, begin in zip(lanes, begins, strict=True):
                    if begin:
                        lane.fresh = not self.direction.knows(self._state, lane.number or 0)
                called = problem.tally.evaluations
                proposed = self.direction.propose(self._state, point, problem)
                d = space.where(mask, proposed, d)
                slope = space.dot(d, point.gradient)
                if self.search.exact:
                    curvature = space.dot(d, problem.product(point.x, d))
                for lane, begin in zip(lanes, begins, strict=True):
                    lane.evaluations += (problem.tally.evaluations - called) * begin
                first = self._first(d, point, slope, curvature)
            step = self._steps(begins, first, point.x)
            trial_x = space.add(point.x, step, d)
            trial = problem.evaluate(trial_x)
            seen = [trial.value, space.dot(trial.gradient, d), space.norm_max(trial.gradient)]
            if any(begins):
                seen += [slope, step, curvature] if self.search.exact else [slope, step]
            rows = problem.fetch(seen)
            outcomes = [
                # measured from the lowest value so far, or steps within the noise could climb
                self._advance(
                    lane, begin, row, max(noise * abs(lane.value) - (lane.value - lane.lowest), 0.0)
                )
                for lane, begin, row in zip(lanes, begins, rows, strict=True)
            ]
            keeps = [lane.status is None and lane.search is not None and lane.keep for lane in lanes]
            if any(keeps):
                mask = space.mask(keeps, point.x)
                kept = trial.gradient if kept is None else space.where(mask, trial.gradient, kept)
            self._move(outcomes, rows, d, step, trial, kept)

    def _first(self, d: Vector, point: Point, slope: Scalar, curvature: Scalar) -> Scalar:
        """Return the first step to try, computed where the tensors are."""
        search, lanes = self.search, self.lanes
        if search.exact:
            return torch.where(curvature > 0, -slope / curvature, self._cautious(point))
        whole = torch.full_like(slope, search.first)
        fresh = [lane.fresh for lane in lanes]
        if search.absolute:
            return _pick(fresh, whole * self._cautious(point), whole) if search.cautious else whole
        if not self.direction.natural:
            return search.first * self._usual(d, slope, self._cautious(point))
        if any(fresh):
            whole = _pick(fresh, search.first * self._usual(d, slope, self._cautious(point)), whole)
        unended = [lane.unended > 0 for lane in lanes]
        if any(unended):
            # these lanes alone, or what a lane does would depend on its company
            whole = _pick(unended, torch.maximum(whole, self._usual(d, slope, whole)), whole)
        return whole

    def _usual(self, d: Vector, slope: Scalar, otherwise: Scalar) -> Scalar:
        """Return the step at which the function would fall as expected, ``otherwise`` where nothing is."""
        drops = [math.nan if lane.expected is None else lane.expected for lane in self.lanes]
        usual = self.space.scalar(drops, d) / slope
        return torch.where((usual > 0) & torch.isfinite(usual), usual, otherwise)

    def _cautious(self, point: Point) -> Scalar:
        return (1 / self.space.norm_1(point.gradient)).clamp(max=1.0)

    def _steps(self, begins: list[bool], first: Scalar, like: Vector) -> Scalar:
        lanes = self.lanes
        if all(begins):
            return first
        asked = self.space.scalar([lane.step if lane.status is None else 0.0 for lane in lanes], like)
        return _pick(begins, first, asked) if any(begins) else asked

    def _advance(self, lane: _Lane, begin: bool, row: list[float], noise: float) -> Outcome | None:
        """Hand a lane's search what was found; return how the search ended, if it did."""
        if lane.status is not None:
            return None
        lane.evaluations += 1
        (value, slope, _), step = row[:3], lane.step
        lane.keep = False
        if begin:
            start_slope, step = row[3:5]
            lane.first = step
            curvature = row[5] if self.search.exact else math.nan
            if not math.isfinite(start_slope):
                self._without_direction(lane)
                return None
            lane.start = Trial(0.0, lane.value, start_slope, curvature)
            lane.search = self.search.course(lane.start, step, noise)
            try:
                ask = next(lane.search)
            except StopIteration as end:
                return self._ended(lane, end.value)
            assert ask.step == step, "a search tries its first step first"
        assert lane.search is not None
        try:
            ask = lane.search.send(Trial(step, value, slope))
        except StopIteration as end:
            return self._ended(lane, end.value)
        lane.step, lane.keep = ask.step, ask.keep
        maximum = self.limits.max_evaluations
        if maximum is not None and lane.evaluations >= maximum:
            lane.status = Status.EVALUATION_LIMIT
        return None

    def _ended(self, lane: _Lane, outcome: Outcome) -> Outcome | None:
        lane.search = None
        if outcome.result is Result.ACCEPTED:
            return outcome
        again = outcome.result in (Result.FAILED, Result.NOT_DESCENT)
        if again and self.direction.recovers() and not lane.fresh and not lane.retried:
            lane.retried = True
            self._forget(lane)
            if outcome.result is Result.FAILED:
                # what the last step gained says nothing of how far one can go here
                lane.expected = None
            lane.heed(self.limits)
            return None
        lane.status = _ENDS[outcome.result]
        return None

    def _without_direction(self, lane: _Lane) -> None:
        lane.search = None
        if self.direction.recovers() and not lane.fresh:
            self._forget(lane)
            lane.heed(self.limits)
        else:
            lane.status = Status.NO_DIRECTION

    def _forget(self, lane: _Lane) -> None:
        chosen = [other is lane for other in self.lanes]
        self._state = self.direction.forget(self._state, chosen, self.space)

    def _move(
        self,
        outcomes: list[Outcome | None],
        rows: list[list[float]],
        d: Vector,
        step: Scalar,
        trial: Point,
        kept: Vector | None,
    ) -> None:
        """Take the accepted steps."""
        accepted = [outcome is not None for outcome in outcomes]
        if not any(accepted):
            return
        space, old, lanes = self.space, self._point, self.lanes
        back = [outcome is not None and outcome.kept for outcome in outcomes]
        new = trial
        if any(back):
            assert kept is not None
            trials = [o.trial if o is not None else None for o in outcomes]
            steps = [t.step if t is not None else 0.0 for t in trials]
            values = [t.value if t is not None else 0.0 for t in trials]
            step = space.scalar(steps, old.x)
            mask = space.mask(back, old.x)
            new = Point(
                space.add(old.x, step, d),
                space.choose(mask, space.scalar(values, old.x).to(trial.value.dtype), trial.value),
                space.where(mask, kept, trial.gradient),
            )
        mask = space.mask(accepted, old.x)
        norms = [row[2] for row in rows]
        if any(back):
            norms = [row[0] for row in self.problem.fetch([space.norm_max(new.gradient)])]
        curved = [self._curved(lane, outcome) for lane, outcome in zip(lanes, outcomes, strict=True)]
        new = joined(space, mask, new, old)
        shares = [
            1.0 if outcome is None or outcome.trial is None else outcome.trial.step / lane.first
            for lane, outcome in zip(lanes, outcomes, strict=True)
        ]
        taken = Step(space, accepted, curved, step, d, old, new, shares)
        self._state = self.direction.update(self._state, taken)
        self._point = new
        if not any(back):
            self.problem.settle(new.x)
        for lane, outcome, norm in zip(lanes, outcomes, norms, strict=True):
            if outcome is not None:
                self._arrive(lane, outcome, norm)
        self._best.see(old, new, self.lanes, accepted)
        for lane, arrived in zip(lanes, accepted, strict=True):
            if arrived:
                lane.report(new.x, self.callback)

    @staticmethod
    def _curved(lane: _Lane, outcome: Outcome | None) -> bool:
        if outcome is None:
            return False
        assert lane.start is not None
        assert outcome.trial is not None
        return outcome.trial.slope - lane.start.slope > 1e-10 * abs(lane.start.slope)

    def _arrive(self, lane: _Lane, outcome: Outcome, norm: float) -> None:
        trial = outcome.trial
        assert lane.start is not None
        assert trial is not None
        steep = trial.slope <= _STEEP * lane.start.slope
        lane.expected = trial.step * lane.start.slope * (_LONGER if steep else 1.0)
        lane.retried = False
        lane.unended = lane.unended + 1 if outcome.limited else 0
        self.problem.tally.iterations += 1
        far_enough = not steep or self.search.absolute
        lane.arrive(trial.value, norm, trial.step, self.limits, far_enough=far_enough)
        if lane.status is None and lane.unended >= _ENDLESS:
            lane.status = Status.UNBOUNDED


def _pick(choice: list[bool], a: Tensor, b: Tensor) -> Tensor:
    """Return ``a`` in the chosen lanes and ``b`` in the others."""
    if all(choice):
        return a
    if not any(choice):
        return b
    return torch.where(torch.tensor(choice, device=a.device), a, b)
