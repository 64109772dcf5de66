"""Schedules made of schedules: one after the other, and a warm-up before any."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from thalweg.schedules.base import Schedule, Steps, require
from thalweg.schedules.shapes import Constant

__all__ = ["Sequential", "Warmup"]


@dataclass(frozen=True, kw_only=True)
class Sequential(Schedule):
    """One schedule after the other; each counts its steps from its own beginning, the last has no end.

    Args:
        schedules: at least one.
        lengths: steps of each but the last, at least 1.

    >>> from thalweg.schedules.shapes import Linear
    >>> both = Sequential(schedules=(Constant(), Linear(total=10)), lengths=(5,))
    >>> both(4), both(10)
    (1.0, 0.5)
    """

    schedules: tuple[Schedule, ...]
    lengths: tuple[int, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "schedules", tuple(self.schedules))
        object.__setattr__(self, "lengths", tuple(self.lengths))
        require(len(self.schedules) >= 1, "schedules", len(self.schedules), "at least one")
        enough = len(self.lengths) == len(self.schedules) - 1
        require(enough, "lengths", list(self.lengths), "one fewer than the schedules")
        require(all(length >= 1 for length in self.lengths), "lengths", list(self.lengths), "at least 1 each")

    def _factors(self, steps: Steps) -> Steps:
        begin = 0
        result = self.schedules[0]._factors(steps)
        for schedule, length in zip(self.schedules[1:], self.lengths, strict=True):
            begin += length
            result = np.where(steps < begin, result, schedule._factors(np.maximum(steps - begin, 0.0)))
        return result

    def _expression(self, step: str) -> str:
        text, begin = "", 0
        for schedule, length in zip(self.schedules, self.lengths, strict=False):
            text += f"{schedule._expression(_later(step, begin))} if {step} < {begin + length!r} else "
            begin += length
        last = self.schedules[-1]._expression(_later(step, begin))
        return f"({text}{last})" if text else last


@dataclass(frozen=True, kw_only=True)
class Warmup(Schedule):
    """A straight line up to what ``then`` begins with, after which ``then`` counts from 0.

    ``start + (1 - start) * (step + 1) / (steps + 1)`` times ``then(0)``: no step is lost.
    torch's ``LinearLR(start_factor=f, total_iters=steps)`` is ``f = start + (1 - start) / (steps + 1)``.

    Args:
        steps: length of the warm-up, at least 1.
        then: the schedule after it.
        start: the value before the first step, within 0 and 1.

    >>> [Warmup(steps=4, then=Constant())(step) for step in (0, 3, 4)]
    [0.2, 0.8, 1.0]
    """

    steps: int
    then: Schedule = field(default_factory=Constant)
    start: float = 0.0

    def __post_init__(self) -> None:
        require(self.steps >= 1, "steps", self.steps, "at least 1")
        require(0 <= self.start <= 1, "start", self.start, "within 0 and 1")

    def _factors(self, steps: Steps) -> Steps:
        rising = self.start + (1.0 - self.start) * (steps + 1.0) / (self.steps + 1)
        after = self.then._factors(np.maximum(steps - self.steps, 0.0))
        return np.where(steps < self.steps, rising * self.then(0), after)

    def _expression(self, step: str) -> str:
        top = self.then(0)
        begin, slope = self.start * top, (1.0 - self.start) * top / (self.steps + 1)
        rising = f"{slope!r} * ({step} + 1)" + (f" + {begin!r}" if begin else "")
        return f"({rising} if {step} < {self.steps!r} else {self.then._expression(_later(step, self.steps))})"


def _later(step: str, begin: int) -> str:
    return f"({step} - {begin!r})" if begin else step
