"""Snapshots of one run at the low points of a cyclic schedule, to predict as an ensemble."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import Field
from torch import Tensor

from thalweg import averaging
from thalweg.settings.tables import MOST, takes
from thalweg.strategies.base import Settings, Strategy, Trainer

__all__ = ["Snapshots", "SnapshotsSettings", "snapshot_steps"]


class SnapshotsSettings(Settings):
    """``[strategies.snapshots]``."""

    cycles: int = Field(default=5, ge=1, le=MOST["cycles"])
    keep: int | None = Field(default=None, ge=1)


def snapshot_steps(total: int, cycles: int) -> list[int]:
    """Return the steps after which snapshots are taken: the ends of equal cycles.

    >>> snapshot_steps(100, 4)
    [25, 50, 75, 100]

    Source: A3 (S).
    """
    return sorted({round(total * number / cycles) for number in range(1, cycles + 1)} - {0})


class Snapshots(Strategy):
    """Copy the model at the end of each cycle of its schedule; their mean predicts better than the last.

    Meant for ``schedule = {name = "cosine", cycles = N}`` with as many cycles.

    Args:
        cycles: equal parts of the run.
        keep: the newest so many; ``None``: all.

    Raises:
        OptionError: a value out of range.

    >>> import torch
    >>> model, snapshots = torch.nn.Linear(2, 3), Snapshots(cycles=2)
    >>> for step in range(1, 11):
    ...     snapshots.look(model, done=step, total=10)
    >>> snapshots.taken.steps
    [5, 10]

    Source: A3 (S); Huang et al. 2017. The functions are :mod:`thalweg.averaging`.
    """

    name: ClassVar[str] = "snapshots"
    priority: ClassVar[int] = 50
    settings: SnapshotsSettings

    @takes(SnapshotsSettings)
    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.taken = averaging.KeptSnapshots(keep=self.settings.keep)
        self._passed = 0

    def look(self, model: Any, *, done: float, total: float) -> None:
        """Take a snapshot if a cycle has ended."""
        ends = snapshot_steps(round(total), self.settings.cycles)
        passed = sum(end <= done + 1e-9 for end in ends)
        if passed > self._passed:
            self._passed = passed
            self.taken.take(model, step=round(done))

    def after_step(self, trainer: Trainer) -> None:
        """Look whether a cycle has ended."""
        self.look(trainer.model, done=trainer.progress * trainer.steps, total=trainer.steps)

    def states(self) -> list[dict[str, Tensor]]:
        """Return the tensors of each snapshot by name."""
        states: list[dict[str, Tensor]] = self.taken.state_dict()["states"]
        return states

    def state_dict(self) -> dict[str, Any]:
        """Return the snapshots, and how many cycles have ended."""
        return {"passed": self._passed, "taken": self.taken.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where it was."""
        self._passed = state["passed"]
        self.taken.load_state_dict(state["taken"])
