"""Searches for steps that meet the Wolfe conditions: strong, and approximate as Hager and Zhang have it."""

from __future__ import annotations

import math
from collections.abc import Generator
from dataclasses import dataclass
from typing import TypeAlias

from thalweg.errors import OptionError
from thalweg.secondorder.searches import (
    Ask,
    Course,
    Search,
    SearchOutcome,
    SearchResult,
    SearchTrial,
    cubic_minimum,
    level,
)

__all__ = [
    "HagerZhang",
    "StrongWolfe",
]


@dataclass(frozen=True, kw_only=True)
class StrongWolfe(Search):
    """Bracket, then zoom, until the strong Wolfe conditions hold (O14).

    Conditions: ``phi(a) <= phi(0) + c1 * a * phi'(0)`` and ``|phi'(a)| <= c2 * |phi'(0)|``, and no step tried
    has a smaller value. Where values no longer differ beyond rounding, the first is replaced by its
    derivative, ``phi'(a) <= (2*c1 - 1)*phi'(0)`` (Hager and Zhang, 2005), so that the search does not fail
    just before the minimum.

    A trial that isn't finite ends the bracket: the search goes back to a tenth of the way. A step that grew
    ``largest`` times, still falling as fast as at the start, is taken, and said to be limited. Where no step
    meets the second condition (at a kink there is none), the lowest one that meets the first is taken, if its
    fall is more than rounding.

    Args:
        c1: in (0, 1/2).
        c2: in (c1, 1); Fletcher-Reeves needs it below 1/2.
        first: multiplies the usual first step.
        trials: how many steps are tried at most.
        largest: by how much the first step may grow; above 1.

    Source: Nocedal and Wright, Numerical Optimization, algorithms 3.5 and 3.6; cubic steps kept off its
    ends, and the bracket halved where it shrinks too slowly.
    """

    c1: float = 1e-4
    c2: float = 0.9
    first: float = 1.0
    trials: int = 40
    largest: float = 1e12

    def __post_init__(self) -> None:
        if not 0 < self.c1 < 0.5:
            raise OptionError(f"StrongWolfe: c1 is {self.c1}; give a number above 0 and below 1/2")
        if not self.c1 < self.c2 < 1:
            raise OptionError(f"StrongWolfe: c2 is {self.c2}; give a number above c1 = {self.c1} and below 1")
        if not 0 < self.first < math.inf:
            raise OptionError(f"StrongWolfe: first is {self.first}; give a finite number above 0")
        if self.trials < 1:
            raise OptionError(f"StrongWolfe: trials is {self.trials}; give at least 1")

    def satisfied(self, start: SearchTrial, trial: SearchTrial, noise: float) -> bool:
        """Whether a trial meets the conditions."""
        if not trial.finite or abs(trial.slope) > -self.c2 * start.slope:
            return False
        return self._decreased(start, trial, noise)

    def _decreased(self, start: SearchTrial, trial: SearchTrial, noise: float) -> bool:
        if trial.value <= start.value + self.c1 * trial.step * start.slope:
            return True
        return trial.slope <= (2 * self.c1 - 1) * start.slope and level(start, trial, noise)

    def course(self, start: SearchTrial, first: float, noise: float) -> Course:
        """Bracket a step that meets the conditions, then zoom."""
        if not start.slope < 0:
            return SearchOutcome(SearchResult.NOT_DESCENT)
        low, step = start, first
        trial: SearchTrial | None = None
        for left in reversed(range(self.trials)):
            trial = yield Ask(step, keep=trial is not None)
            if trial.value == -math.inf:
                return SearchOutcome(SearchResult.UNBOUNDED)
            # of two values that are level neither is higher, and slopes decide
            same = level(low, trial, noise)
            if (
                not trial.finite
                or not self._decreased(start, trial, noise)
                or (trial.value > low.value and not same)
            ):
                return (yield from self._zoom(start, low, trial, None, left, noise))
            if self.satisfied(start, trial, noise):
                return SearchOutcome(SearchResult.ACCEPTED, trial)
            if low is not start and trial.value == low.value and not same:
                return (yield from self._zoom(start, low, trial, None, left, noise))
            if trial.slope >= 0:
                return (yield from self._zoom(start, trial, low, trial, left, noise))
            if step >= self.largest * first:
                return _limited(start, trial, noise)
            guess = cubic_minimum(low, trial)
            # a cubic whose minimum lies behind says that the slope falls still faster ahead
            low, step = trial, min(max(guess, 2 * step), 10 * step) if guess > step else 10 * step
        return _lowest(start, low, trial, noise)

    def _zoom(
        self,
        start: SearchTrial,
        low: SearchTrial,
        high: SearchTrial,
        last: SearchTrial | None,
        left: int,
        noise: float,
    ) -> Course:
        """Shrink the bracket: ``low`` has the smallest value so far and its slope points to ``high``.

        ``last`` is the trial before, where that is ``low``: it is to be remembered.
        """
        before = older = math.inf
        for _ in range(left):
            width = high.step - low.step
            if abs(width) <= 1e-16 * max(abs(high.step), abs(low.step)):
                break
            if not high.finite:
                step = low.step + 0.1 * width
            else:
                step = cubic_minimum(low, high)
                ends = sorted((low.step + 0.001 * width, high.step - 0.001 * width))
                slow = abs(width) > 0.66 * older
                if slow or not math.isfinite(step):
                    step = low.step + 0.5 * width
                step = min(max(step, ends[0]), ends[1])
            before, older = abs(width), before
            trial = yield Ask(step, keep=last is low and low is not start)
            last = trial
            if trial.value == -math.inf:
                return SearchOutcome(SearchResult.UNBOUNDED)
            same = level(low, trial, noise)
            if not trial.finite or not self._decreased(start, trial, noise):
                # near the end of precision values say nothing, slopes still do
                if trial.finite and abs(trial.value - low.value) <= noise and trial.slope * width < 0:
                    low = trial
                else:
                    high = trial
                continue
            if trial.value > low.value and not same:
                high = trial
                continue
            if self.satisfied(start, trial, noise):
                return SearchOutcome(SearchResult.ACCEPTED, trial)
            if trial.value == low.value and not same and low is not start:
                high = trial
                continue
            if trial.slope * width >= 0:
                high = low
            low = trial
        return _lowest(start, low, last, noise)


_Bracket: TypeAlias = tuple[SearchTrial, SearchTrial]
_Part: TypeAlias = Generator[Ask, SearchTrial, _Bracket | SearchOutcome]


@dataclass(frozen=True, kw_only=True)
class HagerZhang(Search):
    """Shrink a bracket by secant steps until the Wolfe or the approximate Wolfe conditions hold (O14).

    Conditions: either ``phi(a) - phi(0) <= delta * a * phi'(0)`` and ``phi'(a) >= sigma * phi'(0)``, or
    ``(2*delta - 1) * phi'(0) >= phi'(a) >= sigma * phi'(0)`` with ``phi(a) <= phi(0) + epsilon * |phi(0)|``;
    and no step tried has a value that is smaller by more than this epsilon.

    Args:
        delta: in (0, 1/2).
        sigma: in [delta, 1).
        epsilon: by how much the value may rise, relative to its magnitude; at least 0.
        first: multiplies the usual first step.
        theta: where an interval is divided, in (0, 1).
        gamma: the part to which an interval has to shrink, in (0, 1).
        rho: how fast the first bracket grows at most, above 1.
        trials: how many steps are tried at most.
        largest: by how much the first step may grow; the step is then taken, and said to be limited.

    Source: Hager and Zhang, A new conjugate gradient method with guaranteed descent and an efficient line
    search, SIAM J. Optim. 16, 2005. A trial that isn't finite is treated as one whose value is too high. The
    first bracket grows to where the secant through the last two slopes is zero, where that is less than
    ``rho`` times the step: a quadratic's minimum is then the second trial, for which their code starts with a
    short step of its own (QuadStep). An interval's lower end is never replaced by a point whose value is
    higher by more than epsilon, where they compare with the start alone. Where no step meets the conditions,
    the lowest one is taken that meets the first of them.
    """

    delta: float = 0.1
    sigma: float = 0.9
    epsilon: float = 1e-6
    first: float = 1.0
    theta: float = 0.5
    gamma: float = 0.66
    rho: float = 5.0
    trials: int = 60
    largest: float = 1e12

    def __post_init__(self) -> None:
        if not 0 < self.delta < 0.5:
            raise OptionError(f"HagerZhang: delta is {self.delta}; give a number above 0 and below 1/2")
        if not self.delta <= self.sigma < 1:
            raise OptionError(
                f"HagerZhang: sigma is {self.sigma}; give at least delta = {self.delta} and less than 1"
            )
        if not 0 <= self.epsilon < math.inf:
            raise OptionError(f"HagerZhang: epsilon is {self.epsilon}; give a finite number of at least 0")
        for name, value in (("theta", self.theta), ("gamma", self.gamma)):
            if not 0 < value < 1:
                raise OptionError(f"HagerZhang: {name} is {value}; give a number above 0 and below 1")
        if not 1 < self.rho < math.inf:
            raise OptionError(f"HagerZhang: rho is {self.rho}; give a finite number above 1")
        if not 0 < self.first < math.inf:
            raise OptionError(f"HagerZhang: first is {self.first}; give a finite number above 0")

    def satisfied(self, start: SearchTrial, trial: SearchTrial, noise: float) -> bool:
        """Whether a trial meets the conditions."""
        if not trial.finite or trial.slope < self.sigma * start.slope:
            return False
        if trial.value - start.value <= self.delta * trial.step * start.slope:
            return True
        return trial.slope <= (2 * self.delta - 1) * start.slope and trial.value <= self._ceiling(
            start, noise
        )

    def _ceiling(self, start: SearchTrial, noise: float) -> float:
        return start.value + self._slack(start, noise)

    def _slack(self, start: SearchTrial, noise: float) -> float:
        return max(self.epsilon * abs(start.value), noise)

    def course(self, start: SearchTrial, first: float, noise: float) -> Course:
        """Bracket, then alternate double secant steps and bisections."""
        if not start.slope < 0:
            return SearchOutcome(SearchResult.NOT_DESCENT)
        return (yield from _HagerZhangCourse(self, start, noise).run(first))


class _HagerZhangCourse:
    """One search: the settings, its start, and how many trials are left."""

    def __init__(self, settings: HagerZhang, start: SearchTrial, noise: float) -> None:
        self.settings, self.start, self.noise = settings, start, noise
        self.left = settings.trials
        self.slack = settings._slack(start, noise)
        self.last: SearchTrial | None = None
        self.best = start

    def _try(self, step: float) -> Generator[Ask, SearchTrial, SearchTrial | SearchOutcome]:
        if self.left == 0:
            return self._failed()
        self.left -= 1
        trial = yield Ask(step, keep=self.last is not None and self.last is self.best)
        self.last = trial
        if trial.value == -math.inf:
            return SearchOutcome(SearchResult.UNBOUNDED)
        if self._low_enough(trial, self.best) and self.settings.satisfied(self.start, trial, self.noise):
            return SearchOutcome(SearchResult.ACCEPTED, trial)
        fall = self.settings.delta * trial.step * self.start.slope
        if trial.finite and trial.value < self.best.value and trial.value - self.start.value <= fall:
            self.best = trial
        return trial

    def _low_enough(self, trial: SearchTrial, other: SearchTrial) -> bool:
        return trial.value <= other.value + self.slack

    def _failed(self) -> SearchOutcome:
        return _lowest(self.start, self.best, self.last, self.noise)

    def run(self, first: float) -> Course:
        bracket = yield from self._bracket(first)
        while not isinstance(bracket, SearchOutcome):
            before = bracket[1].step - bracket[0].step
            narrowed = yield from self._secants(*bracket)
            if isinstance(narrowed, SearchOutcome):
                return narrowed
            a, b = narrowed
            if b.step - a.step <= 1e-16 * b.step:
                return self._failed()
            if b.step - a.step > self.settings.gamma * before:
                middle = yield from self._try((a.step + b.step) / 2)
                if isinstance(middle, SearchOutcome):
                    return middle
                bracket = yield from self._update(a, b, middle)
            else:
                bracket = narrowed
        return bracket

    def _bracket(self, first: float) -> _Part:
        settings, low, step = self.settings, self.start, first
        while True:
            trial = yield from self._try(step)
            if isinstance(trial, SearchOutcome):
                return trial
            if not trial.finite or (trial.slope < 0 and not self._low_enough(trial, low)):
                return (yield from self._divide(low, trial))
            if trial.slope >= 0:
                return low, trial
            if step >= settings.largest * first:
                return _limited(self.start, trial, self.noise)
            # a secant whose root lies behind says that the slope falls still faster ahead
            guess = _secant(low, trial)
            low, step = trial, min(guess, settings.rho * step) if guess > step else settings.rho * step

    def _divide(self, low: SearchTrial, high: SearchTrial) -> _Part:
        """Find a bracket whose upper end slopes upwards, where ``high`` is too high or not finite."""
        theta = self.settings.theta
        while high.step - low.step > 1e-16 * high.step:
            part = theta if high.finite else 0.1
            trial = yield from self._try((1 - part) * low.step + part * high.step)
            if isinstance(trial, SearchOutcome):
                return trial
            if trial.finite and trial.slope >= 0:
                return low, trial
            if trial.finite and self._low_enough(trial, low):
                low = trial
            else:
                high = trial
        return self._failed()

    def _update(self, a: SearchTrial, b: SearchTrial, c: SearchTrial) -> _Part:
        if not a.step < c.step < b.step:
            return a, b
        if c.finite and c.slope >= 0:
            return a, c
        if c.finite and self._low_enough(c, a):
            return c, b
        return (yield from self._divide(a, c))

    def _secants(self, a: SearchTrial, b: SearchTrial) -> _Part:
        step = _secant(a, b)
        if not a.step < step < b.step:
            return a, b
        c = yield from self._try(step)
        if isinstance(c, SearchOutcome):
            return c
        narrowed = yield from self._update(a, b, c)
        if isinstance(narrowed, SearchOutcome):
            return narrowed
        low, high = narrowed
        if c is high:
            step = _secant(b, high)
        elif c is low:
            step = _secant(a, low)
        else:
            return narrowed
        if not low.step < step < high.step:
            return narrowed
        again = yield from self._try(step)
        if isinstance(again, SearchOutcome):
            return again
        return (yield from self._update(low, high, again))


def _limited(start: SearchTrial, trial: SearchTrial, noise: float) -> SearchOutcome:
    """Take the largest step, at which the slope is as at the start, unless the values deny what it says."""
    fallen = trial.value < start.value or trial.step * abs(trial.slope) <= noise
    return (
        SearchOutcome(SearchResult.ACCEPTED, trial, limited=True)
        if fallen
        else SearchOutcome(SearchResult.FAILED)
    )


def _lowest(start: SearchTrial, low: SearchTrial, last: SearchTrial | None, noise: float) -> SearchOutcome:
    """Take the lowest step tried, remembered where it isn't the last, if its fall is more than rounding."""
    if low is start or not low.value < start.value - noise:
        return SearchOutcome(SearchResult.FAILED)
    return SearchOutcome(SearchResult.ACCEPTED, low, kept=low is not last)


def _secant(a: SearchTrial, b: SearchTrial) -> float:
    below = b.slope - a.slope
    return (a.step * b.slope - b.step * a.slope) / below if below != 0 else math.nan
