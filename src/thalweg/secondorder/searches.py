"""How far along a direction: searches, each with its own conditions, apart from directions.

A search is a coroutine over numbers of the host: it yields the step that it wants to try, is sent the value
and the slope there, and returns a :class:`SearchOutcome`. It knows nothing of tensors or lanes; K lanes are
K coroutines, of which each gets exactly the numbers that it would get alone.
"""

from __future__ import annotations

import math
import sys
from abc import ABC, abstractmethod
from collections.abc import Generator
from dataclasses import dataclass
from enum import Enum
from typing import ClassVar, TypeAlias

from thalweg.errors import OptionError

__all__ = [
    "Ask",
    "Backtracking",
    "Course",
    "Exact",
    "Fixed",
    "Search",
    "SearchOutcome",
    "SearchResult",
    "SearchTrial",
    "Values",
    "cubic_minimum",
    "level",
]


@dataclass(frozen=True)
class SearchTrial:
    """What was found at a step: value, slope along the direction, and (for exact steps) curvature."""

    step: float
    value: float
    slope: float
    curvature: float = math.nan

    @property
    def finite(self) -> bool:
        """Whether value and slope are numbers."""
        return math.isfinite(self.value) and math.isfinite(self.slope)


@dataclass(frozen=True)
class Ask:
    """A step to try next; ``keep`` asks to remember the trial before, to which the search may go back."""

    step: float
    keep: bool = False


class SearchResult(Enum):
    """How a search ended."""

    ACCEPTED = "accepted"
    FAILED = "failed"
    NOT_DESCENT = "not a descent direction"
    UNBOUNDED = "unbounded below"
    NEGATIVE_CURVATURE = "negative curvature"


@dataclass(frozen=True)
class SearchOutcome:
    """The end of a search.

    Attributes:
        result: how it ended.
        trial: the accepted one.
        kept: whether that is the one remembered, and not the last.
        limited: whether nothing but the largest step ended it: the function still falls there as fast.
    """

    result: SearchResult
    trial: SearchTrial | None = None
    kept: bool = False
    limited: bool = False


Course: TypeAlias = Generator[Ask, SearchTrial, SearchOutcome]


class Search(ABC):
    """How far along a direction.

    Attributes:
        first: what the usual first step is multiplied by; the first step itself where ``absolute``.
        absolute: whether the first step is ``first``, whatever the direction.
        exact: whether the first step is the exact one of a quadratic, from its curvature.
        cautious: whether an absolute first step is multiplied by ``min(1, 1 / |g|_1)`` while nothing is known
            of the curvature.
        descends: whether it accepts no value above that at the start, but for rounding.
    """

    absolute: ClassVar[bool] = False
    exact: ClassVar[bool] = False
    descends: ClassVar[bool] = True
    first: float = 1.0
    cautious: bool = False

    @abstractmethod
    def course(self, start: SearchTrial, first: float, noise: float) -> Course:
        """Search from ``start`` (step 0); the first step tried is ``first``.

        Args:
            start: value and slope at step 0, and the curvature where the search is exact.
            first: the first step to try, above 0.
            noise: by how much two equal values may differ through rounding.
        """


@dataclass(frozen=True, kw_only=True)
class Fixed(Search):
    """The same step always, ``eta * d``, accepted wherever value and slope are finite (O9, O16).

    Condition: the value is finite. A trial that isn't is halved, up to ``halvings`` times. Whether the
    direction leads downhill isn't asked: with Newton's direction this is the update of the slides, which
    also goes to a saddle point, and diverges above 2.

    Args:
        step: eta, above 0.
        cautious: while nothing is known of the curvature (first step of a quasi-Newton direction), take
            ``step * min(1, 1 / |g|_1)``, as torch.optim.LBFGS does.
        halvings: how often a trial that isn't finite is halved.
    """

    absolute: ClassVar[bool] = True
    descends: ClassVar[bool] = False
    step: float = 1.0
    cautious: bool = False
    halvings: int = 60

    def __post_init__(self) -> None:
        _check_positive(self, "step", self.step)
        object.__setattr__(self, "first", self.step)

    def course(self, start: SearchTrial, first: float, noise: float) -> Course:
        """Try ``first``, then halves of it."""
        step = first
        for _ in range(self.halvings + 1):
            trial = yield Ask(step)
            if trial.value == -math.inf:
                return SearchOutcome(SearchResult.UNBOUNDED)
            if trial.finite:
                return SearchOutcome(SearchResult.ACCEPTED, trial)
            step /= 2
        return SearchOutcome(SearchResult.FAILED)


@dataclass(frozen=True, kw_only=True)
class Values(Search):
    """Several steps tried, of which the one with the smallest value is taken (O14).

    Condition: no step tried has a smaller value, and it is smaller than the value at the start. Where none
    is, all are multiplied by ``shrink`` and tried again, up to ``rounds`` times; divided by it, where all
    steps were too short for values to differ beyond rounding, and the slope is as at the start.

    Args:
        steps: multiples of the usual first step, each above 0.
        shrink: in (0, 1).
        rounds: at least 1.
    """

    steps: tuple[float, ...] = (4.0, 2.0, 1.0, 0.5, 0.25, 0.1)
    shrink: float = 0.02
    rounds: int = 8

    def __post_init__(self) -> None:
        if not self.steps:
            raise OptionError("Values: there are no steps; give at least one number above 0")
        for step in self.steps:
            _check_positive(self, "a step", step)
        _check_inside(self, "shrink", self.shrink, 0, 1)
        _check_positive(self, "rounds", self.rounds)
        object.__setattr__(self, "first", self.steps[0])

    def course(self, start: SearchTrial, first: float, noise: float) -> Course:
        """Try all of them."""
        if not start.slope < 0:
            return SearchOutcome(SearchResult.NOT_DESCENT)
        usual = first / self.steps[0]
        for number in range(self.rounds):
            best: SearchTrial | None = None
            trial: SearchTrial | None = None
            blind = True
            for factor in self.steps:
                step = usual * factor if trial is not None or number else first
                trial = yield Ask(step, keep=best is not None and trial is best)
                if trial.value == -math.inf:
                    return SearchOutcome(SearchResult.UNBOUNDED)
                if trial.finite and trial.value < (start if best is None else best).value:
                    best = trial
                blind = blind and _blind(start, trial, noise)
            if best is not None:
                return SearchOutcome(SearchResult.ACCEPTED, best, kept=best is not trial)
            usual = usual / self.shrink if blind else usual * self.shrink
        return SearchOutcome(SearchResult.FAILED)


@dataclass(frozen=True, kw_only=True)
class Backtracking(Search):
    """Shorten the step until the value has decreased enough (Armijo, 1966; O14).

    Condition: ``phi(a) <= phi(0) + c1 * a * phi'(0)``; where values no longer differ beyond rounding, its
    derivative, ``0.9 * phi'(0) <= phi'(a) <= (2*c1 - 1) * phi'(0)`` (Hager and Zhang, 2005). Shorter steps
    come from the cubic through what is known, kept within ``[0.1, 0.5]`` of the step before; a trial that
    isn't finite is divided by ten. First steps that are too short for values to differ beyond rounding, where
    the slope is as at the start, are multiplied by ten instead.

    Args:
        c1: in (0, 1).
        first: multiplies the usual first step.
        trials: how many steps are tried at most.
    """

    c1: float = 1e-4
    first: float = 1.0
    trials: int = 60

    def __post_init__(self) -> None:
        _check_inside(self, "c1", self.c1, 0, 1)
        _check_positive(self, "first", self.first)
        _check_positive(self, "trials", self.trials)

    def course(self, start: SearchTrial, first: float, noise: float) -> Course:
        """Try ``first``, then ever shorter steps."""
        if not start.slope < 0:
            return SearchOutcome(SearchResult.NOT_DESCENT)
        step, lengthening = first, True
        for _ in range(self.trials):
            trial = yield Ask(step)
            if trial.value == -math.inf:
                return SearchOutcome(SearchResult.UNBOUNDED)
            if trial.finite and self._decreased(start, trial, noise):
                return SearchOutcome(SearchResult.ACCEPTED, trial)
            lengthening = lengthening and _blind(start, trial, noise)
            if lengthening:
                step *= 10
                continue
            if not trial.finite:
                step *= 0.1
                continue
            guess = cubic_minimum(start, trial)
            step = 0.5 * step if math.isnan(guess) else min(max(guess, 0.1 * step), 0.5 * step)
        return SearchOutcome(SearchResult.FAILED)

    def _decreased(self, start: SearchTrial, trial: SearchTrial, noise: float) -> bool:
        # a value that is equal meets the condition wherever what it asks for is below rounding
        if trial.value < start.value and trial.value <= start.value + self.c1 * trial.step * start.slope:
            return True
        # without the bound from below any step would do that is short enough for values to stay equal
        slope = 0.9 * start.slope <= trial.slope <= (2 * self.c1 - 1) * start.slope
        return slope and level(start, trial, noise)


@dataclass(frozen=True, kw_only=True)
class Exact(Search):
    """The exact step of a quadratic, ``a = -g'd / d'Hd``, through one Hessian-vector product (O11).

    Condition: the curvature ``d'Hd`` is positive, and the value isn't above that at the start (up to
    rounding). Where it is above, the function is no quadratic, and the step is halved.

    Args:
        halvings: how often at most.
    """

    exact: ClassVar[bool] = True
    halvings: int = 60

    def course(self, start: SearchTrial, first: float, noise: float) -> Course:
        """Try the exact step."""
        if not start.slope < 0:
            return SearchOutcome(SearchResult.NOT_DESCENT)
        trial = yield Ask(first)
        if not start.curvature > 0:
            return SearchOutcome(SearchResult.NEGATIVE_CURVATURE)
        for _ in range(self.halvings):
            if trial.value == -math.inf:
                return SearchOutcome(SearchResult.UNBOUNDED)
            if trial.finite and trial.value <= start.value + noise:
                return SearchOutcome(SearchResult.ACCEPTED, trial)
            trial = yield Ask(trial.step / 2)
        return SearchOutcome(SearchResult.FAILED)


def level(a: SearchTrial, b: SearchTrial, noise: float) -> bool:
    """Whether nothing but rounding tells the values at two steps apart, so that slopes have to.

    Values may also be equal because a function falls and rises again between them. Then the fall that the
    slope at ``a`` speaks of is above rounding.
    """
    rounding = noise + 4 * sys.float_info.epsilon * max(abs(a.value), abs(b.value))
    return abs(b.value - a.value) <= rounding and abs(b.step - a.step) * abs(a.slope) <= 10 * rounding


def _blind(start: SearchTrial, trial: SearchTrial, noise: float) -> bool:
    """Whether a step is so short that neither its value nor its slope tells it from the start."""
    return trial.finite and trial.slope < 0.9 * start.slope and level(start, trial, noise)


def cubic_minimum(a: SearchTrial, b: SearchTrial) -> float:
    """Return the minimizer of the cubic with the values and slopes of two trials; NaN where it has none.

    >>> cubic_minimum(SearchTrial(0.0, 1.0, -2.0), SearchTrial(3.0, 4.0, 4.0))
    1.0
    """
    width = b.step - a.step
    if width == 0:
        return math.nan
    theta = 3 * (a.value - b.value) / width + a.slope + b.slope
    scale = max(abs(theta), abs(a.slope), abs(b.slope))
    if not 0 < scale < math.inf:
        return math.nan
    inside = (theta / scale) ** 2 - (a.slope / scale) * (b.slope / scale)
    if inside < 0:
        return math.nan
    root = math.copysign(scale * math.sqrt(inside), width)
    below = b.slope - a.slope + 2 * root
    return b.step - width * ((b.slope + root - theta) / below) if below != 0 else math.nan


def _check_positive(owner: object, name: str, value: float) -> None:
    if not 0 < value < math.inf:
        raise OptionError(f"{type(owner).__name__}: {name} is {value}; give a finite number above 0")


def _check_inside(owner: object, name: str, value: float, low: float, high: float) -> None:
    if not low < value < high:
        raise OptionError(
            f"{type(owner).__name__}: {name} is {value}; give a number above {low} and below {high}"
        )
