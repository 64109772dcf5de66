"""What a training tells whoever watches it."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    # which know how tables were prepared, and so everything that reads tables
    from thalweg.training.results import TrainResults

__all__ = ["Evaluation", "Pace", "SilentTrainingWatcher", "TrainingProgress", "TrainingWatcher"]

_SECONDS_BETWEEN = 0.2


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """One evaluation: at a step, mean training loss since the one before, and validation scores."""

    step: int
    train_loss: float | None
    validation_loss: float | None
    validation: float | None


@dataclass(frozen=True, kw_only=True)
class TrainingProgress:
    """How far training is, in steps, and how long it will take, as far as can be said."""

    step: float
    steps: int
    seconds_left: float | None


class TrainingWatcher:
    """Told what happens; every method may be overridden and does nothing here."""

    def begun(self, lines: dict[str, list[str]]) -> None:
        """What is about to happen, by headings."""

    def note(self, text: str) -> None:
        """Something worth a line."""

    def progress(self, progress: TrainingProgress) -> None:
        """Called a few times a second; must return at once."""

    def evaluated(self, evaluation: Evaluation, best: Evaluation | None) -> None:
        """An evaluation was made; ``best`` is the best one on validation so far."""

    def finished(self, results: TrainResults, report: Path) -> None:
        """A recipe was carried out, and the report is written."""


class SilentTrainingWatcher(TrainingWatcher):
    """Says nothing."""


class Pace:
    """Tells a watcher how far training is, a few times a second, and how long it will take."""

    def __init__(self, watcher: TrainingWatcher) -> None:
        self._watcher = watcher
        self._told = time.monotonic()
        self._since: tuple[float, float] | None = None

    def tell(self, done: float, total: int) -> None:
        """Steps that are done, and in all; may be called at every step."""
        now = time.monotonic()
        if now - self._told < _SECONDS_BETWEEN:
            return
        self._told = now
        if self._since is None:
            # the first steps wait for what is compiled and read for the first time
            self._since = now, done
        since, first = self._since
        left = None if done <= first else (now - since) / (done - first) * (total - done)
        self._watcher.progress(TrainingProgress(step=done, steps=total, seconds_left=left))
