"""What measuring claims looks like in a terminal, and, as plain lines, in a pipe."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TextIO

from rich.console import RenderableType

from thalweg.claims.carrying_out import ClaimsWatcher
from thalweg.claims.judging import ClaimResult
from thalweg.commands.screen import Screen, how_far

__all__ = ["ClaimsTerminal"]

_STYLES = {"holds": "green", "does not hold": "red", "holds under named conditions": "yellow"}


class ClaimsTerminal(Screen, ClaimsWatcher):
    """A watcher that tells a person what happens: a progress bar, and a verdict with its numbers a claim.

    Args:
        stream, clock: as for :class:`thalweg.commands.screen.Screen`.
        quiet: nothing but verdicts.
    """

    label_width = 9

    def __init__(self, stream: TextIO, *, quiet: bool = False, clock: Callable[[], float] = time.monotonic):
        super().__init__(stream, quiet=quiet, clock=clock)
        self._done, self._all, self._before, self._name = 0, 1, 0, ""
        self._began = clock()
        self._verdicts: Counter[str] = Counter()

    def counted(self, claims: int, measurements: int, known: int) -> None:
        there = f", of which {known:,} are there already" if known else ""
        self.say("claims", f"{claims:,}, by {measurements:,} measurements{there}")
        self._done = self._before = known
        self._all = measurements

    def measured(self, name: str, done: int, measurements: int) -> None:
        self._done, self._name = done, name
        self.moved("measure", self._words)

    def judged(self, result: ClaimResult) -> None:
        judged = result.judged
        self._verdicts[judged.verdict] += 1
        style = _STYLES.get(judged.verdict, "cyan")
        self.say("verdict", f"{result.claim.name}: {judged.sentence()}", style=style, always=True)
        for each in judged.conditions:
            head = f"{each.name}: " if each.name else ""
            self.say("measured", f"{head}{'; '.join(test.said for test in each.tests)}")

    def written(self, gallery: Path) -> None:
        self.stop()
        counts = ", ".join(f"{count} {verdict}" for verdict, count in self._verdicts.items())
        self.say("verdicts", counts)
        self.say("gallery", str(gallery))

    def drawn(self) -> RenderableType:
        return self.bar("measure", self._done, self._all, self._words())

    def _words(self) -> str:
        done = self._done - self._before
        spent = self._clock() - self._began
        left = spent / done * (self._all - self._done) if done else None
        return f"{how_far(self._done, self._all, left)}; {self._name}"
