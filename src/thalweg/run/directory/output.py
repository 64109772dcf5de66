"""What is shown beside the work may be lost, and the work goes on; a result that is lost is an error."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Iterator
from typing import Any, TextIO

from thalweg.errors import ThalwegError

__all__ = [
    "Losable",
    "Unread",
    "give",
    "losable_streams",
    "quiet_at_exit",
    "say",
    "unshown",
    "usable_descriptors",
]

_Problem = (OSError, ValueError)
"""Of a stream that is closed, or whose reader, disk or terminal is gone."""


class Unread(ThalwegError):
    """Whoever read what was written has seen enough; the command adds nothing."""


class Losable(io.TextIOBase):
    """A stream whose loss is no error: a pipe that nobody reads, a full disk, a closed terminal.

    Each write is tried, so that what comes after there is room again is shown.

    Args:
        stream: to write to; ``None`` where there is none.

    Attributes:
        stream: as given.
        problem: the first that there was; ``None`` while all has arrived.
    """

    def __init__(self, stream: TextIO | None) -> None:
        self.stream: TextIO | None = stream.stream if isinstance(stream, Losable) else stream
        self.problem: Exception | None = None

    def write(self, text: str) -> int:
        """Write, or don't."""
        try:
            if self.stream is not None:
                self.stream.write(text)
        except _Problem as problem:
            self.problem = self.problem or problem
        return len(text)

    def flush(self) -> None:
        """Flush, or don't."""
        try:
            if self.stream is not None:
                self.stream.flush()
        except _Problem as problem:
            self.problem = self.problem or problem

    def isatty(self) -> bool:
        """Whether it is a terminal, as far as that can be known."""
        with contextlib.suppress(*_Problem):
            return self.stream is not None and self.stream.isatty()
        return False

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        """Return the stream's descriptor.

        Raises:
            OSError: it has none.
        """
        if self.stream is None:
            raise OSError("there is no stream")
        return self.stream.fileno()

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return getattr(self.stream, "encoding", None) or "utf-8"

    @property
    def errors(self) -> str | None:  # type: ignore[override]
        return getattr(self.stream, "errors", None)

    def __getattr__(self, name: str) -> Any:
        # what code of a person's own asks of a standard stream, such as ``buffer``
        return getattr(self.__dict__["stream"], name)


@contextlib.contextmanager
def losable_streams() -> Iterator[tuple[Losable, Losable]]:
    """Let standard output and error be lost, for whoever writes to them, a person's own code included."""
    before = sys.stdout, sys.stderr
    made = Losable(before[0]), Losable(before[1])
    sys.stdout, sys.stderr = made
    try:
        yield made
    finally:
        # unless somebody else has put a stream of theirs there meanwhile
        if sys.stdout is made[0]:
            sys.stdout = before[0]
        if sys.stderr is made[1]:
            sys.stderr = before[1]


def say(text: str, *, error: bool = False) -> None:
    """Write a line beside the work; if nobody can see it, that is no failure."""
    stream = Losable(sys.stderr if error else sys.stdout)
    stream.write(text + "\n")
    stream.flush()


def give(text: str, elsewhere: str = "") -> None:
    """Write a result to standard output.

    Args:
        text: without the end of its last line.
        elsewhere: where it can be found too, as the end of a sentence.

    Raises:
        Unread: whoever read it has seen enough.
        ThalwegError: it can't be written.
    """
    stream = Losable(sys.stdout).stream
    try:
        if stream is None:
            raise OSError("it is closed")
        stream.write(text + "\n")
        stream.flush()
    except BrokenPipeError as problem:
        raise Unread("nobody reads standard output any more") from problem
    except _Problem as problem:
        raise ThalwegError(unshown(problem, elsewhere)) from problem


def unshown(problem: Exception, elsewhere: str = "") -> str:
    """Say that standard output can't be written, and why."""
    reason = (getattr(problem, "strerror", None) or str(problem)).lower()
    return f"standard output can't be written ({reason})" + (f"; {elsewhere}" if elsewhere else "")


def usable_descriptors() -> None:
    """Give a process that was started with a standard stream closed something in its place.

    Otherwise the next file that is opened takes its number, and whatever is printed goes into that file. What
    is in its place can't be written, so that a result that can't be given is noticed.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            # the lowest number that is free, which is this one
            os.open(os.devnull, os.O_RDONLY)
    for number, name in ((1, "stdout"), (2, "stderr")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, "w", encoding="utf-8", closefd=False))  # noqa: SIM115


def quiet_at_exit() -> None:
    """Keep Python, which flushes at its end, from streams that can't be: it would change the exit code."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except _Problem:
            with contextlib.suppress(*_Problem):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
