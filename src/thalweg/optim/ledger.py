"""What a group's parameters have one number each of, kept side by side: step counts, products, sums."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from thalweg import runtimes
from thalweg.rules import Rule

__all__ = ["Column", "Ledger", "identical", "picked"]

_T = TypeVar("_T")


def identical(first: Iterable[object], second: Iterable[object]) -> bool:
    """Say whether two sequences of one length hold the same objects."""
    return all(map(operator.is_, first, second))


def picked(items: Sequence[_T], chosen: Sequence[int]) -> list[_T]:
    """Return the items at ascending positions."""
    return list(items) if len(chosen) == len(items) else [items[i] for i in chosen]


class Column:
    """One number for each parameter of a group, under one name of its state.

    Each parameter's entry is a view of one element: truthful, a tensor of its own for whoever saves, copies
    or loads it, and changed for all by one operation.

    Args:
        name: in the state of a parameter.
        dtype: of the tensor; None for float32, or float64 where that is torch's default.
        initial: what a parameter without an entry has.
    """

    def __init__(self, name: str, dtype: torch.dtype | None = None, initial: float = 0.0) -> None:
        self._name, self._dtype, self._initial = name, dtype, initial
        self._values = np.zeros(0)
        self._views: tuple[Tensor, ...] = ()

    def holds(self, active: Sequence[int], entries: Sequence[dict[str, Any]]) -> bool:
        """Say whether the entries of these positions are still this column's."""
        views = self._views
        if not active or active[-1] >= len(views):
            return False
        return identical([entry.get(self._name) for entry in entries], picked(views, active))

    def adopt(self, entries: Sequence[dict[str, Any] | None], active: Iterable[int]) -> None:
        """Begin anew with whatever numbers the parameters of the group have by now; ``active`` get one."""
        values = [
            float(entry.get(self._name, self._initial)) if entry else self._initial for entry in entries
        ]
        wide = torch.get_default_dtype() == torch.float64
        dtype = self._dtype or (torch.float64 if wide else torch.float32)
        column = torch.tensor(values, dtype=dtype, device="cpu")
        # The same memory, in which NumPy counts sooner than torch.
        self._values = column.numpy()
        self._views = column.unbind()
        chosen = set(active)
        for i, entry in enumerate(entries):
            if entry is not None and (i in chosen or self._name in entry):
                entry[self._name] = self._views[i]

    def read(self, active: Sequence[int]) -> list[float]:
        """Return the numbers at these positions."""
        values: list[float] = self._values.tolist()
        return picked(values, active)

    def add_one(self, active: list[int]) -> None:
        """Count."""
        if len(active) == len(self._views):
            self._values += 1
        else:
            self._values[active] += 1

    def write(self, active: list[int], value: float) -> None:
        """Set the numbers at these positions."""
        if len(active) == len(self._views):
            self._values.fill(value)
        else:
            self._values[active] = value


class Ledger:
    """What is kept for a group from step to step, and neither saved nor copied.

    Attributes:
        steps: the step counts.
        scalars: the states that are one number, by name.
        caches: what the runtime keeps.
        params, entries: those that had a gradient at the last step, and their states.
    """

    def __init__(self) -> None:
        self.steps = Column("step")
        self.scalars: dict[str, Column] = {}
        self.caches: dict[int, dict[Any, Any]] = {}
        self.params: list[Tensor] = []
        self.entries: list[dict[str, Any]] = []
        self._settings: tuple[Any, ...] = ()
        self._live: tuple[str, ...] = ()

    def live(
        self, rule: Rule, numbers: Mapping[str, float], options: Mapping[str, bool | str]
    ) -> tuple[str, ...]:
        """Return the states that a step with these settings needs."""
        settings = rule, numbers, options
        if settings != self._settings:
            self._live = runtimes.live_states(*settings)
            self._settings = settings
        return self._live

    def scalar(self, name: str, initial: float) -> Column:
        """Return the column of a state that is one number, in float64."""
        return self.scalars.setdefault(name, Column(name, torch.float64, initial))
