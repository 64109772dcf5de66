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
from thalweg.secondorder.ending import Callback, Lane, Limits
from thalweg.secondorder.problem import Point, Problem
from thalweg.secondorder.searches import Course, Outcome, Result, Search, Trial
from thalweg.secondorder.solution import Counts, Record, Status
from thalweg.secondorder.vectors import Scalar, Vector

__all__ = ["Found", "Memory", "descend"]

_ENDS = {
    Result.FAILED: Status.SEARCH_FAILED,
    Result.NOT_DESCENT: Status.NOT_DESCENT,
    Result.UNBOUNDED: Status.UNBOUNDED,
    Result.NEGATIVE_CURVATURE: Status.NEGATIVE_CURVATURE,
}


@dataclass(frozen=True)
class Memory:
    """What one run hands to the next: the direction's state, and each lane's last ``step * slope``."""

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


def descend(
    problem: Problem,
    x: Vector,
    direction: Direction,
    search: Search,
    *,
    limits: Limits,
    callback: Callback | None = None,
    memory: Memory | None = None,
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

    Raises:
        OptionError: the direction or the search can't be used with these tensors.
    """
    return _Descent(problem, direction, search, limits, callback).run(x, memory)


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

    def run(self, x: Vector, memory: Memory | None) -> Found:
        problem, space = self.problem, self.space
        point = problem.evaluate(x)
        rows = problem.fetch([point.value, space.norm_max(point.gradient)])
        expected = memory.expected if memory is not None else [None] * len(rows)
        for number, ((value, norm), drop) in enumerate(zip(rows, expected, strict=True)):
            lane = _Lane(None if space.lanes is None else number, value, norm, drop)
            self.lanes.append(lane)
            lane.begin(self.limits)
        state = self.direction.begin(space, point) if memory is None else memory.state
        self._state = state
        self._loop(point)
        assert all(lane.status is not None for lane in self.lanes)
        return Found.at(self._point, self.lanes, Memory(self._state, [lane.expected for lane in self.lanes]))

    def _loop(self, point: Point) -> None:
        problem, space, lanes = self.problem, self.space, self.lanes
        self._point = point
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
                proposed = self.direction.propose(self._state, point, problem)
                d = space.where(mask, proposed, d)
                slope = space.dot(d, point.gradient)
                if self.search.exact:
                    curvature = space.dot(d, problem.product(point.x, d))
                first = self._first(d, point, slope, curvature)
            step = self._steps(begins, first, point.x)
            trial_x = space.add(point.x, step, d)
            trial = problem.evaluate(trial_x)
            seen = [trial.value, space.dot(trial.gradient, d), space.norm_max(trial.gradient)]
            if any(begins):
                seen += [slope, step, curvature] if self.search.exact else [slope, step]
            rows = problem.fetch(seen)
            outcomes = [
                self._advance(lane, begin, row, noise * abs(lane.value))
                for lane, begin, row in zip(lanes, begins, rows, strict=True)
            ]
            keeps = [lane.status is None and lane.search is not None and lane.keep for lane in lanes]
            if any(keeps):
                mask = space.mask(keeps, point.x)
                kept = trial.gradient if kept is None else space.where(mask, trial.gradient, kept)
            self._move(outcomes, rows, d, step, trial, kept)

    def _first(self, d: Vector, point: Point, slope: Scalar, curvature: Scalar) -> Scalar:
        """Return the first step to try, computed where the tensors are."""
        search, lanes, space = self.search, self.lanes, self.space
        if search.exact:
            return torch.where(curvature > 0, -slope / curvature, self._cautious(point))
        if search.absolute or self.direction.natural:
            whole = torch.full_like(slope, search.first)
            fresh = [lane.fresh for lane in lanes]
            if not any(fresh) or (search.absolute and not search.cautious):
                return whole
            return _pick(fresh, whole * self._cautious(point), whole)
        drops = [lane.expected for lane in lanes]
        expected = space.scalar([math.nan if drop is None else drop for drop in drops], d)
        usual = expected / slope
        usual = torch.where((usual > 0) & torch.isfinite(usual), usual, self._cautious(point))
        return search.first * usual

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
        if again and self.direction.remembers and not lane.fresh and not lane.retried:
            lane.retried = True
            self._forget(lane)
            lane.heed(self.limits)
            return None
        lane.status = _ENDS[outcome.result]
        return None

    def _without_direction(self, lane: _Lane) -> None:
        lane.search = None
        if self.direction.remembers and not lane.fresh:
            self._forget(lane)
            lane.heed(self.limits)
        else:
            lane.status = Status.NO_DIRECTION

    def _forget(self, lane: _Lane) -> None:
        lane.expected = None
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
        new = Point(
            space.where(mask, new.x, old.x),
            space.choose(mask, new.value, old.value),
            space.where(mask, new.gradient, old.gradient),
        )
        taken = Step(space, accepted, curved, step, d, old, new)
        self._state = self.direction.update(self._state, taken)
        self._point = new
        for lane, outcome, norm in zip(lanes, outcomes, norms, strict=True):
            if outcome is not None:
                assert outcome.trial is not None
                self._arrive(lane, outcome.trial, norm)

    @staticmethod
    def _curved(lane: _Lane, outcome: Outcome | None) -> bool:
        if outcome is None:
            return False
        assert lane.start is not None
        assert outcome.trial is not None
        return outcome.trial.slope - lane.start.slope > 1e-10 * abs(lane.start.slope)

    def _arrive(self, lane: _Lane, trial: Trial, norm: float) -> None:
        assert lane.start is not None
        lane.expected, lane.retried = trial.step * lane.start.slope, False
        self.problem.tally.iterations += 1
        lane.arrive(trial.value, norm, trial.step, self.limits, self.callback)


def _pick(choice: list[bool], a: Tensor, b: Tensor) -> Tensor:
    """Return ``a`` in the chosen lanes and ``b`` in the others."""
    if all(choice):
        return a
    if not any(choice):
        return b
    return torch.where(torch.tensor(choice, device=a.device), a, b)
