"""What the schedules of several runs multiply their learning rates by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from thalweg import schedules

__all__ = ["Factors"]


class Factors:
    """What the schedules of several runs multiply their learning rates by, step by step.

    Closed forms are tabulated once. ``plateau`` has a row of its own for each run: it is told the validation
    loss at every evaluation but the first, and after more than two that brought nothing better it multiplies
    by 0.1 until the next time.

    Args:
        names: the schedule of each run.
        total: number of steps.
        options: of each schedule, where any has some.
    """

    def __init__(
        self, names: Sequence[str], total: int, options: Sequence[Mapping[str, Any]] | None = None
    ) -> None:
        tables: list[npt.NDArray[np.float64]] = []
        rows: dict[str, int] = {}
        self._row: list[int] = []
        self._plateaus: dict[int, schedules.Plateau] = {}
        for run, name in enumerate(names):
            if name == "plateau":
                self._plateaus[run] = schedules.Plateau(higher_is_better=False, patience=2)
                self._row.append(len(tables))
                tables.append(np.ones(total))
                continue
            given = {} if options is None else dict(options[run])
            key = f"{name} {sorted(given.items())}"
            if key not in rows:
                rows[key] = len(tables)
                tables.append(schedules.build(name, total=total, **given)(np.arange(total)))
            self._row.append(rows[key])
        self._table = np.stack(tables)

    def at(self, runs: Sequence[int]) -> npt.NDArray[np.float64]:
        """Return the factors of these runs as ``[total, len(runs)]``; a plateau's later ones may change."""
        return np.ascontiguousarray(self._table[[self._row[run] for run in runs]].T)

    def observe(self, run: int, step: int, loss: float | None) -> bool:
        """Tell a run's plateau its validation loss after ``step`` steps; return whether it has one."""
        plateau = self._plateaus.get(run)
        if plateau is None or step == 0:
            return False
        if loss is not None:
            plateau.observe(loss)
        self._table[self._row[run], step:] = float(plateau(step))
        return True

    def state(self) -> list[Any]:
        """Return what the plateaus have seen, as plain values."""
        return [[run, plateau.state_dict()] for run, plateau in self._plateaus.items()]

    def load(self, state: Sequence[Any], step: int) -> None:
        """Take over what :meth:`state` returned after ``step`` steps."""
        for run, values in state:
            plateau = self._plateaus[run]
            plateau.load_state_dict(values)
            self._table[self._row[run], step:] = float(plateau(step))
