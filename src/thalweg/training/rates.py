"""Hyperparameters of each step, from schedules and strategies."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch

from thalweg.schedules import Driver
from thalweg.schedules.driver import Factor, as_factor

__all__ = ["Rates"]


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
