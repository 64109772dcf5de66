"""What the measurements of a transfer look like in a terminal, and, as plain lines, in a pipe."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TextIO

from rich.console import RenderableType

from thalweg.commands.screen import Screen
from thalweg.stages.linear_probes import Estimate
from thalweg.training.transfer_options import TransferWatcher
from thalweg.training.transfer_results import TransferResults

__all__ = ["TransferTerminal"]


class TransferTerminal(Screen, TransferWatcher):
    """A watcher that tells a person what happens: a progress bar, then what was found.

    Args:
        stream, clock: as for :class:`thalweg.commands.screen.Screen`.
        quiet: nothing but the result.
    """

    label_width = 8

    def __init__(self, stream: TextIO, *, quiet: bool = False, clock: Callable[[], float] = time.monotonic):
        super().__init__(stream, quiet=quiet, clock=clock)
        self._done, self._total, self._what = 0, 1, ""

    def progress(self, done: int, total: int, what: str) -> None:
        self._done, self._total, self._what = done, total, what
        self.moved("measure", self._words)

    def finished(self, results: TransferResults, report: Path) -> None:
        self.stop()
        for number, block in enumerate(results.blocks, 1):
            best = ", the best" if number == results.best else ""
            score = f"{results.metric} {Estimate(*block.score)!r}"
            self.say("block", f"{number} of {len(results.blocks)}, {block.name}: {score}{best}")
        self.say("because", *results.evidence)
        if results.notes:
            self.say("note", *results.notes)
        self.say("row", results.row, always=True)
        self.say("recipe", str(report.parent / "transfer.toml"), always=True)
        self.say("report", str(report))

    def drawn(self) -> RenderableType:
        return self.bar("measure", self._done, self._total, self._what)

    def _words(self) -> str:
        return f"{self._done + 1} of {self._total}, {self._what}"
