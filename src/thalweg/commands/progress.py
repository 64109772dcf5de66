"""What a training looks like in a terminal, and, as plain lines, in a pipe or a log file."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import TextIO

from rich.console import RenderableType

from thalweg.commands.screen import Screen, how_far
from thalweg.run.summaries import metric_label
from thalweg.training.results import TrainResults
from thalweg.training.watch import Evaluation, TrainingProgress, TrainingWatcher

__all__ = ["TrainingTerminal"]


class TrainingTerminal(Screen, TrainingWatcher):
    """A watcher that tells a person what happens: a progress bar with the latest scores.

    Args:
        stream, clock: as for :class:`thalweg.commands.screen.Screen`.
        quiet: nothing but the result.
    """

    label_width = 10

    def __init__(self, stream: TextIO, *, quiet: bool = False, clock: Callable[[], float] = time.monotonic):
        super().__init__(stream, quiet=quiet, clock=clock)
        self._progress: TrainingProgress | None = None
        self._latest = self._best = ""

    def progress(self, progress: TrainingProgress) -> None:
        self._progress = progress
        self.moved("train", self._words)

    def evaluated(self, evaluation: Evaluation, best: Evaluation | None) -> None:
        self._latest = f"step {evaluation.step:,}: {_scores(evaluation)}"
        self._best = "" if best is None else f"best {_number(best.validation)} at step {best.step:,}"

    def finished(self, results: TrainResults, report: Path) -> None:
        self.stop()
        if results.stopped is not None:
            self.say("ended", results.stopped)
        for split in ("validation", "test"):
            score = _number(results.result.get(split))
            self.say(split, f"{metric_label(results.metric)} {score}", always=split == "test")
        for name, control in results.controls.items():
            score = _number(control.result.get("test"))
            self.say("control", f"{name}: test {metric_label(control.metric)} {score}", always=True)
        if results.ensemble is not None and results.ensemble.kind == "members":
            alone = [m.result.get("test") for m in results.ensemble.members if not m.failed]
            known = [score for score in alone if score is not None]
            mean = _number(math.fsum(known) / len(known)) if known else "-"
            self.say("members", f"test {metric_label(results.metric)} {mean} on average; together as above")
            self.say("weights", str(report.parent / "member-*.safetensors"))
        else:
            self.say("weights", str(report.parent / "weights.safetensors"))
        self.say("report", str(report))

    def drawn(self) -> RenderableType:
        assert self._progress is not None
        return self.bar("train", self._progress.step, self._progress.steps, self._words())

    def _words(self) -> str:
        assert self._progress is not None
        far = how_far(self._progress.step, self._progress.steps, self._progress.seconds_left)
        return "; ".join([far, *(each for each in (self._latest, self._best) if each)])


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.5g}"


def _scores(evaluation: Evaluation) -> str:
    words = [] if evaluation.train_loss is None else [f"training loss {evaluation.train_loss:.4g}"]
    if evaluation.validation is not None:
        words.append(f"validation {_number(evaluation.validation)}")
    return ", ".join(words) or "-"
