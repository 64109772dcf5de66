"""Where a command says what happens: a terminal that is redrawn in place, or plain lines in a pipe."""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Self, TextIO

from rich.console import Console, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from thalweg.racing.plan import spoken_seconds
from thalweg.run.directory.output import Losable

__all__ = ["Screen", "how_far", "printable"]

_SECONDS_BETWEEN_LINES = 15.0
# a table in a log file keeps one line a row, however long a setting is
_PLAIN_WIDTH = 400


class Screen(ABC):
    """A context manager, so that the cursor comes back. Who inherits it says what is drawn.

    In a terminal what :meth:`drawn` returns is redrawn in place. Elsewhere, and where the terminal is dumb,
    everything is a plain line without control codes, progress one now and then. Where nothing can be written
    any more, nothing is, and the work goes on.

    Args:
        stream: where to write.
        quiet: nothing but what is always said.
        clock: seconds; how often a plain line of progress is due is counted by it.

    Attributes:
        label_width: of the column of labels in a terminal.
    """

    label_width = 8

    def __init__(self, stream: TextIO, *, quiet: bool = False, clock: Callable[[], float] = time.monotonic):
        stream = Losable(stream)  # type: ignore[assignment]
        lively = stream.isatty()
        self.console = Console(
            file=stream,
            force_terminal=lively,
            no_color=None if lively else True,
            highlight=False,
            markup=False,
            emoji=False,
            soft_wrap=not lively,
            width=None if lively else _PLAIN_WIDTH,
        )
        self.quiet = quiet
        self._lively = lively and not self.console.is_dumb_terminal
        self._clock = clock
        self._live: Live | None = None
        self._due, self._last = -math.inf, ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *problem: object) -> None:
        self.stop()

    @abstractmethod
    def drawn(self) -> RenderableType:
        """Return what is redrawn in place."""

    def begun(self, lines: dict[str, list[str]]) -> None:
        """Say what is about to happen, by headings."""
        for label, texts in lines.items():
            self.say(label, *texts)

    def note(self, text: str) -> None:
        """Say something worth a line."""
        self.say("note", text)

    def say(self, label: str, *lines: str, style: str = "cyan", always: bool = False) -> None:
        """Write lines that stay."""
        if self.quiet and not always:
            return
        clean = [text for line in lines if (text := printable(line))]
        if not self._lively:
            for line in clean:
                self.console.print(Text(f"{label}: {line}"))
            return
        grid = Table.grid(padding=(0, 1))
        grid.add_column(min_width=self.label_width, style=style)
        grid.add_column(overflow="fold")
        for number, line in enumerate(clean):
            grid.add_row(Text("" if number else label), Text(line))
        self.console.print(grid)

    def moved(self, label: str, line: Callable[[], str]) -> None:
        """Redraw; elsewhere write a line of progress, if the label is a new one or the last is long ago."""
        if self._lively:
            self.redraw()
        elif not self.quiet and (label != self._last or self._clock() >= self._due):
            self._last, self._due = label, self._clock() + _SECONDS_BETWEEN_LINES
            self.say(label, line())

    def redraw(self) -> None:
        """Begin to redraw in place, which then goes on by itself."""
        if self._lively and not self.quiet and self._live is None:
            self._live = Live(
                console=self.console, get_renderable=self.drawn, refresh_per_second=4, transient=True
            )
            self._live.start()

    def stop(self) -> None:
        """Take away what is redrawn."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def bar(self, label: str, done: float, total: float, words: str) -> Table:
        """Return a progress bar with words behind it."""
        made = Table.grid(padding=(0, 1))
        made.add_column(min_width=self.label_width, style="cyan")
        made.add_column(width=30)
        made.add_column()
        made.add_row(Text(label), ProgressBar(total=max(total, 1e-9), completed=done), Text(printable(words)))
        return made


def how_far(done: float, total: float, seconds_left: float | None) -> str:
    """Say a share and what is left.

    >>> how_far(50, 200, 30.0), how_far(0, 0, None)
    ('25 %, about 30 s left', '100 %')
    """
    share = 100 * min(1.0, done / total) if total > 0 else 100.0
    return f"{share:.0f} %" + ("" if seconds_left is None else f", about {spoken_seconds(seconds_left)} left")


def printable(text: str) -> str:
    """One line, without control codes: names from a person's data may hold anything."""
    return "".join(
        letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in " ".join(text.split())
    )
