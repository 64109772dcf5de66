"""A direction and a search, joined: the rounds of one problem alone and of K lanes at once.

Each lane has its own search; a round evaluates the function once, for all lanes, at the step that each
wants to try, and brings value, slope and gradient norm of all of them to the host in one trip. A lane whose
search has ended takes its next direction while others still search, so that no lane waits.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from thalweg.curvature.vectors import Scalar, Vector
from thalweg.secondorder.descent_loop import Descent, DescentMemory, DescentResult
from thalweg.secondorder.directions import AcceptedStep, Direction
from thalweg.secondorder.objective_function import EvaluatedPoint, ObjectiveFunction, joined
from thalweg.secondorder.searches import Course, Search, SearchOutcome, SearchResult, SearchTrial
from thalweg.secondorder.solution import Status
from thalweg.secondorder.termination import Callback, DescentLane, DescentLimits

__all__ = ["descend"]

_ENDS = {
    SearchResult.FAILED: Status.SEARCH_FAILED,
    SearchResult.NOT_DESCENT: Status.NOT_DESCENT,
    SearchResult.UNBOUNDED: Status.UNBOUNDED,
    SearchResult.NEGATIVE_CURVATURE: Status.NEGATIVE_CURVATURE,
}
# A step after which the slope is at least this part of what it was has hardly begun: on a quadratic the
# minimum is ten times as far. The next one begins so many times longer.
_STEEP = 0.9
_LONGER = 10.0
# How many steps in a row that only their largest length ends, each beginning where the last one ended, count
# as a function without a lower bound. With the usual largest length they cover 120 orders of magnitude and
# more; a convex function whose minimum is that far away has been told from a slope by then.
_ENDLESS = 10


@dataclass
class _SearchLane(DescentLane):
    """One lane with its search."""

    expected: float | None
    search: Course | None = None
    start: SearchTrial | None = None
    first: float = 0.0
    step: float = 0.0
    keep: bool = False
    fresh: bool = False
    retried: bool = False
    # steps in a row that only their largest length ended
    unended: int = 0


def descend(
    problem: ObjectiveFunction,
    x: Vector,
    direction: Direction,
    search: Search,
    *,
    limits: DescentLimits,
    callback: Callback | None = None,
    memory: DescentMemory | None = None,
    lowest: bool = False,
) -> DescentResult:
    """Minimize from ``x``, whose tensors are left alone.

    Args:
        problem: the function.
        x: where to start.
        direction: which way.
        search: how far.
        limits: when to end.
        callback: called with an :class:`IterationRecord` after each accepted step; a true answer ends the
            lane.
        memory: what an earlier run handed on.
        lowest: where no tolerance was met, return the lowest point of the way instead of the last one: near a
            minimum a step may raise the value by rounding. The memory is that of the last one.

    Raises:
        OptionError: the direction or the search can't be used with these tensors.
    """
    descent = _LineSearchDescent(problem, direction, search, limits, callback)
    return descent.run(x, memory, lowest and search.descends)


class _LineSearchDescent(Descent[_SearchLane]):
    def __init__(
        self,
        problem: ObjectiveFunction,
        direction: Direction,
        search: Search,
        limits: DescentLimits,
        callback: Callback | None,
    ) -> None:
        super().__init__(problem, limits, callback)
        self.direction, self.search = direction, search
        problem.keeps_graphs = direction.curved or search.exact

    def lane(self, number: int, value: float, norm: float, memory: DescentMemory | None) -> _SearchLane:
        return _SearchLane(number, value, norm, None if memory is None else memory.expected[number])

    def begin(self, memory: DescentMemory | None) -> None:
        space, point = self.space, self.point
        self._state = self.direction.begin(space, point) if memory is None else memory.state
        # A sum of squares of differences has lost digits before it is summed, so that its noise is far above
        # eps. Hager and Zhang (2005) take values for equal that differ by one part in a million.
        self._noise = torch.finfo(space.dtype(point.x)).eps ** (2 / 3)
        self._d = [torch.zeros_like(g) for g in point.gradient]
        self._slope = self._firsts = self._curvature = torch.zeros_like(point.value)
        self._kept: Vector | None = None

    def memory(self) -> DescentMemory:
        return DescentMemory(self._state, [lane.expected for lane in self.lanes])

    def round(self) -> None:
        """Evaluate at the step that each lane's search asks for, of a new direction where one has ended."""
        problem, space, lanes, point = self.problem, self.space, self.lanes, self.point
        begins = [lane.status is None and lane.search is None for lane in lanes]
        if any(begins):
            self._propose(begins)
        d = self._d
        step = self._steps(begins, self._firsts, point.x)
        trial = problem.evaluate(space.add(point.x, step, d))
        seen = [trial.value, space.dot(trial.gradient, d), space.norm_max(trial.gradient)]
        if any(begins):
            seen += [self._slope, step, self._curvature] if self.search.exact else [self._slope, step]
        rows = problem.fetch(seen)
        outcomes = [
            # measured from the lowest value so far, or steps within the noise could climb
            self._advance(
                lane, begin, row, max(self._noise * abs(lane.value) - (lane.value - lane.lowest), 0.0)
            )
            for lane, begin, row in zip(lanes, begins, rows, strict=True)
        ]
        keeps = [lane.status is None and lane.search is not None and lane.keep for lane in lanes]
        if any(keeps):
            mask = space.mask(keeps, point.x)
            before = trial.gradient if self._kept is None else self._kept
            self._kept = space.where(mask, trial.gradient, before)
        self._move(outcomes, rows, d, step, trial, self._kept)

    def _propose(self, begins: list[bool]) -> None:
        """Take a new direction, its slope and first step, in the lanes whose search has ended."""
        problem, space, point = self.problem, self.space, self.point
        mask = space.mask(begins, point.x)
        for lane, begin in zip(self.lanes, begins, strict=True):
            if begin:
                lane.fresh = not self.direction.knows(self._state, lane.number or 0)
        called = problem.tally.evaluations
        self._d = space.where(mask, self.direction.propose(self._state, point, problem), self._d)
        self._slope = space.dot(self._d, point.gradient)
        if self.search.exact:
            self._curvature = space.dot(self._d, problem.product(point.x, self._d))
        for lane, begin in zip(self.lanes, begins, strict=True):
            lane.evaluations += (problem.tally.evaluations - called) * begin
        self._firsts = self._first(self._d, point, self._slope, self._curvature)

    def _first(self, d: Vector, point: EvaluatedPoint, slope: Scalar, curvature: Scalar) -> Scalar:
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

    def _cautious(self, point: EvaluatedPoint) -> Scalar:
        return (1 / self.space.norm_1(point.gradient)).clamp(max=1.0)

    def _steps(self, begins: list[bool], first: Scalar, like: Vector) -> Scalar:
        lanes = self.lanes
        if all(begins):
            return first
        asked = self.space.scalar([lane.step if lane.status is None else 0.0 for lane in lanes], like)
        return _pick(begins, first, asked) if any(begins) else asked

    def _advance(
        self, lane: _SearchLane, begin: bool, row: list[float], noise: float
    ) -> SearchOutcome | None:
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
            lane.start = SearchTrial(0.0, lane.value, start_slope, curvature)
            lane.search = self.search.course(lane.start, step, noise)
            try:
                ask = next(lane.search)
            except StopIteration as end:
                return self._ended(lane, end.value)
            assert ask.step == step, "a search tries its first step first"
        assert lane.search is not None
        try:
            ask = lane.search.send(SearchTrial(step, value, slope))
        except StopIteration as end:
            return self._ended(lane, end.value)
        lane.step, lane.keep = ask.step, ask.keep
        maximum = self.limits.max_evaluations
        if maximum is not None and lane.evaluations >= maximum:
            lane.status = Status.EVALUATION_LIMIT
        return None

    def _ended(self, lane: _SearchLane, outcome: SearchOutcome) -> SearchOutcome | None:
        lane.search = None
        if outcome.result is SearchResult.ACCEPTED:
            return outcome
        again = outcome.result in (SearchResult.FAILED, SearchResult.NOT_DESCENT)
        if again and self.direction.recovers() and not lane.fresh and not lane.retried:
            lane.retried = True
            self._forget(lane)
            if outcome.result is SearchResult.FAILED:
                # what the last step gained says nothing of how far one can go here
                lane.expected = None
            lane.heed(self.limits)
            return None
        lane.status = _ENDS[outcome.result]
        return None

    def _without_direction(self, lane: _SearchLane) -> None:
        lane.search = None
        if self.direction.recovers() and not lane.fresh:
            self._forget(lane)
            lane.heed(self.limits)
        else:
            lane.status = Status.NO_DIRECTION

    def _forget(self, lane: _SearchLane) -> None:
        chosen = [other is lane for other in self.lanes]
        self._state = self.direction.forget(self._state, chosen, self.space)

    def _move(
        self,
        outcomes: list[SearchOutcome | None],
        rows: list[list[float]],
        d: Vector,
        step: Scalar,
        trial: EvaluatedPoint,
        kept: Vector | None,
    ) -> None:
        """Take the accepted steps."""
        accepted = [outcome is not None for outcome in outcomes]
        if not any(accepted):
            return
        space, old, lanes = self.space, self.point, self.lanes
        back = [outcome is not None and outcome.kept for outcome in outcomes]
        new = trial
        if any(back):
            assert kept is not None
            trials = [o.trial if o is not None else None for o in outcomes]
            steps = [t.step if t is not None else 0.0 for t in trials]
            values = [t.value if t is not None else 0.0 for t in trials]
            step = space.scalar(steps, old.x)
            mask = space.mask(back, old.x)
            new = EvaluatedPoint(
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
        taken = AcceptedStep(space, accepted, curved, step, d, old, new, shares)
        self._state = self.direction.update(self._state, taken)
        for lane, outcome, norm in zip(lanes, outcomes, norms, strict=True):
            if outcome is not None:
                self._arrive(lane, outcome, norm)
        self.move(new, accepted, evaluated=not any(back))

    @staticmethod
    def _curved(lane: _SearchLane, outcome: SearchOutcome | None) -> bool:
        if outcome is None:
            return False
        assert lane.start is not None
        assert outcome.trial is not None
        return outcome.trial.slope - lane.start.slope > 1e-10 * abs(lane.start.slope)

    def _arrive(self, lane: _SearchLane, outcome: SearchOutcome, norm: float) -> None:
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
