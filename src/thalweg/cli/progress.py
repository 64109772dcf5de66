"""What a training looks like in a terminal, and, as plain lines, in a pipe or a log file."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import TextIO

from rich.console import Console, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from thalweg.cli.terminal import printable
from thalweg.racing.plan import spoken_seconds
from thalweg.training.results import TrainResults
from thalweg.training.watch import Evaluation, Progress, Watcher

__all__ = ["TrainingTerminal"]

_SECONDS_BETWEEN_LINES = 15.0
_PLAIN_WIDTH = 400


class TrainingTerminal(Watcher):
    """A watcher that tells a person what happens; a context manager, so that the cursor comes back.

    In a terminal a progress bar with the latest scores is redrawn in place; elsewhere everything is a plain
    line, progress one now and then.

    Args:
        stream: where to write.
        quiet: nothing but the result.
        clock: seconds; how often a plain line of progress is due is counted by it.
    """

    def __init__(self, stream: TextIO, *, quiet: bool = False, clock: Callable[[], float] = time.monotonic):
        lively = stream.isatty()
        self._console = Console(
            file=stream, force_terminal=lively, no_color=None if lively else True, highlight=False,
            markup=False, emoji=False, soft_wrap=not lively, width=None if lively else _PLAIN_WIDTH,
        )  # fmt: skip
        self._lively = lively and not self._console.is_dumb_terminal
        self._quiet, self._clock = quiet, clock
        self._live: Live | None = None
        self._progress: Progress | None = None
        self._latest = self._best = ""
        self._due = -math.inf

    def __enter__(self) -> TrainingTerminal:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop()

    def begun(self, lines: dict[str, list[str]]) -> None:
        for label, texts in lines.items():
            for text in texts:
                self._say(label, text)

    def note(self, text: str) -> None:
        self._say("note", text)

    def progress(self, progress: Progress) -> None:
        self._progress = progress
        if self._quiet:
            return
        if self._lively:
            if self._live is None:
                self._live = Live(
                    console=self._console, get_renderable=self._draw, refresh_per_second=4, transient=True
                )
                self._live.start()
        elif self._clock() >= self._due:
            self._due = self._clock() + _SECONDS_BETWEEN_LINES
            self._say("train", self._words())

    def evaluated(self, evaluation: Evaluation, best: Evaluation | None) -> None:
        self._latest = f"step {evaluation.step:,}: {_scores(evaluation)}"
        self._best = "" if best is None else f"best {_number(best.validation)} at step {best.step:,}"

    def finished(self, results: TrainResults, report: Path) -> None:
        self._stop()
        if results.stopped is not None:
            self._say("ended", results.stopped)
        for split in ("validation", "test"):
            score = _number(results.result.get(split))
            self._say(split, f"{results.metric} {score}", always=split == "test")
        if results.ensemble is not None and results.ensemble.kind == "members":
            alone = [m.result.get("test") for m in results.ensemble.members if not m.failed]
            known = [score for score in alone if score is not None]
            mean = _number(math.fsum(known) / len(known)) if known else "-"
            self._say("members", f"test {results.metric} {mean} on average; together as above")
            self._say("weights", str(report.parent / "member-*.safetensors"))
        else:
            self._say("weights", str(report.parent / "weights.safetensors"))
        self._say("report", str(report))

    def _say(self, label: str, text: str, *, always: bool = False) -> None:
        if self._quiet and not always:
            return
        line = Text(f"{label}: " if not self._lively else f"{label:<10} ", style="cyan")
        line.append(printable(text), style="none")
        self._console.print(line)

    def _words(self) -> str:
        assert self._progress is not None
        share = 100 * min(1.0, self._progress.step / max(1, self._progress.steps))
        left = self._progress.seconds_left
        words = [f"{share:.0f} %" + ("" if left is None else f", about {spoken_seconds(left)} left")]
        return "; ".join([*words, *(each for each in (self._latest, self._best) if each)])

    def _draw(self) -> RenderableType:
        bar = Table.grid(padding=(0, 1))
        bar.add_column(min_width=10, style="cyan")
        bar.add_column(width=30)
        bar.add_column()
        assert self._progress is not None
        bar.add_row(
            Text("train"),
            ProgressBar(total=max(self._progress.steps, 1e-9), completed=self._progress.step),
            Text(printable(self._words())),
        )
        return bar

    def _stop(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.5g}"


def _scores(evaluation: Evaluation) -> str:
    words = [] if evaluation.train_loss is None else [f"training loss {evaluation.train_loss:.4g}"]
    if evaluation.validation is not None:
        words.append(f"validation {_number(evaluation.validation)}")
    return ", ".join(words) or "-"
