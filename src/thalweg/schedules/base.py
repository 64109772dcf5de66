"""What every schedule is: a frozen dataclass that is called with a step and gives a factor."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, TypeAlias, overload

import numpy as np
import numpy.typing as npt

from thalweg.errors import OptionError

__all__ = ["Scaled", "Schedule", "Steps", "require"]

Steps: TypeAlias = npt.NDArray[np.float64]


class Schedule(ABC):
    """What all schedules share: calling, scaling, and writing themselves down as Python."""

    @overload
    def __call__(self, step: float) -> float: ...
    @overload
    def __call__(self, step: npt.NDArray[Any]) -> Steps: ...
    def __call__(self, step: float | npt.NDArray[Any]) -> float | Steps:
        """Return the factor at a step (a float), or at each of an array of steps (a float64 array)."""
        steps = np.asarray(step, dtype=np.float64)
        factors = np.broadcast_to(self._factors(steps), steps.shape)
        return factors.copy() if isinstance(step, np.ndarray) else float(factors)

    def __mul__(self, factor: float) -> Scaled:
        """Scale: ``schedule * 0.5``."""
        return Scaled(schedule=self, factor=factor)

    __rmul__ = __mul__

    def script(self) -> str:
        """Write the same function in plain Python, where ``math`` has been imported.

        Arithmetic is the same but for the last place of powers, exponentials and cosines.

        >>> from thalweg.schedules.shapes import Cosine
        >>> Cosine(total=100).script()
        'lambda step: 0.5 * (1 + math.cos(math.pi * min(step / 100, 1)))'
        """
        return f"lambda step: {self._expression('step')}"

    @abstractmethod
    def _factors(self, steps: Steps) -> Steps: ...

    @abstractmethod
    def _expression(self, step: str) -> str: ...


@dataclass(frozen=True, kw_only=True)
class Scaled(Schedule):
    """Another schedule times a number.

    >>> from thalweg.schedules.shapes import Linear
    >>> (0.5 * Linear(total=10))(5)
    0.25
    """

    schedule: Schedule
    factor: float

    def _factors(self, steps: Steps) -> Steps:
        return self.factor * self.schedule._factors(steps)

    def _expression(self, step: str) -> str:
        return f"{self.factor!r} * ({self.schedule._expression(step)})"


def require(holds: bool, name: str, value: object, rule: str) -> None:
    """Refuse a schedule's argument that breaks its rule.

    Raises:
        OptionError: naming the argument, its value and the rule.
    """
    if not holds:
        raise OptionError(f"{name} of a schedule is {value!r} but must be {rule}")
