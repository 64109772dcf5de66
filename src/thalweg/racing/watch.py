"""What a race tells whoever watches it: the terminal, a notebook, or nobody."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    # the command's help, which needs this module, is there at once
    from thalweg.racing.results import DataInfo, EngineInfo, ModelInfo, PlanInfo, Results

__all__ = ["LeaderboardRow", "RaceProgress", "RaceWatcher", "SilentRaceWatcher"]


@dataclass(frozen=True, kw_only=True)
class RaceProgress:
    """How far the race is: ``done`` of ``total`` in units of work, over all stages."""

    stage: str
    detail: str
    done: float
    total: float
    seconds_left: float | None


@dataclass(frozen=True, kw_only=True)
class LeaderboardRow:
    """One optimizer so far: median over replicates of its best validation score."""

    optimizer: str
    best_validation: float | None
    confirmed_score: float | None
    tried: int
    diverged: int
    setting: str


class RaceWatcher:
    """Told what happens, in this order; every method may be overridden and does nothing here."""

    def understood(self, data: DataInfo, model: ModelInfo, plan: PlanInfo) -> None:
        """The data, the model and the plan, before any training."""

    def engine(self, engine: EngineInfo) -> None:
        """Which engine was chosen, and why."""

    def note(self, text: str) -> None:
        """Something worth a line."""

    def progress(self, progress: RaceProgress) -> None:
        """Called often; must return at once."""

    def leaderboard(self, rows: Sequence[LeaderboardRow]) -> None:
        """The leaderboard, best first; called after each chunk of runs."""

    def finished(self, results: Results, report: Path) -> None:
        """The verdict is known and the report written."""


class SilentRaceWatcher(RaceWatcher):
    """Says nothing."""
