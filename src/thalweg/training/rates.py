"""Hyperparameters of each step, from schedules and strategies."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from thalweg import schedules
from thalweg.errors import OptionError
from thalweg.schedules import Driver
from thalweg.schedules.base import Schedule
from thalweg.schedules.driver import Factor, as_factor

__all__ = ["Rates", "ScheduleOf", "rates_of", "tabulated"]


class Rates:
    """Sets hyperparameters before each step: base value, times the schedule, times what strategies say.

    Args:
        optimizer: its groups' values when this is made are the base values.
        schedule: from the number of a step to the factor of the learning rate.
        others: of other hyperparameters, by name, as :class:`thalweg.schedules.Driver` takes them.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        schedule: Callable[[int], float],
        others: Mapping[str, Factor] | None = None,
    ) -> None:
        self._optimizer, self._schedule = optimizer, schedule
        self._bases = [group.get("lr") for group in optimizer.param_groups]
        self._driver = Driver(optimizer, others) if others else None

    def set(self, step: int, times: float = 1.0) -> None:
        """Set the values of a step, the learning rate ``times`` its schedule."""
        factor = as_factor(self._schedule(step), step) * times
        for group, base in zip(self._optimizer.param_groups, self._bases, strict=True):
            if base is not None:
                group["lr"] = base * factor
        if self._driver is not None:
            self._driver.go_to(step)


def tabulated(schedule: Schedule, total: int) -> Callable[[int], float]:
    """Return a schedule as a table over a run, as races have it; beyond its end it stays."""
    if total > _LONGEST_TABLE:
        return lambda step: float(schedule(min(step, total - 1)))
    table = np.asarray(schedule(np.arange(total)), dtype=np.float64)
    return lambda step: table.item(min(step, total - 1))


_LONGEST_TABLE = 10_000_000


@dataclass(frozen=True)
class ScheduleOf:
    """A schedule by name and options, of which the training says how long it is.

    Attributes:
        name: of a schedule.
        options: all but ``total``.
    """

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)


def rates_of(optimizer: torch.optim.Optimizer, schedule: Any, total: int) -> Rates:
    """Return what sets an optimizer's hyperparameters, from a schedule as ``fit`` is given it.

    Raises:
        OptionError: it is none.
    """

    def factor(one: Any) -> Callable[[int], float]:
        if isinstance(one, str):
            if one == "plateau":
                raise OptionError(
                    "a plateau looks at validation and is a strategy here; give strategies=[Plateau()]"
                )
            one = ScheduleOf(one)
        if isinstance(one, ScheduleOf):
            one = schedules.build(one.name, total=total, **one.options)
        if isinstance(one, Schedule):
            return tabulated(one, total)
        if not callable(one):
            raise OptionError(
                f"the schedule is {one!r}; give a name such as cosine, or a function of the step"
            )
        function: Callable[[int], float] = one
        return function

    if isinstance(schedule, Mapping):
        others = {name: factor(one) for name, one in schedule.items() if name != "lr"}
        return Rates(optimizer, factor(schedule.get("lr", "constant")), others)
    return Rates(optimizer, factor(schedule))
