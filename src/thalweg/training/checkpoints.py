"""Checkpoints written beside the loop: it waits for the copy, not for the disk."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from thalweg.runs.directory import RunDirectory
from thalweg.training.core import copied

__all__ = ["Writer"]

_WAITING = 2


class Writer:
    """Writes states of a run one after another, in a thread; what went wrong is raised at the next call.

    States are written in the order in which they were given, so that a later one never stands on the disk
    without an earlier one.

    Args:
        directory: of the run.
        keep: how many of each name stay.
    """

    def __init__(self, directory: RunDirectory, *, keep: int = 3) -> None:
        self._directory, self._keep = directory, keep
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="checkpoints")
        self._under_way: list[Future[None]] = []

    @property
    def busy(self) -> bool:
        """Whether something is still being written.

        Raises:
            RunDirectoryError: what was written couldn't be.
        """
        self._look()
        return bool(self._under_way)

    def save(self, name: str, state: Any) -> None:
        """Copy a state, and have it written.

        Raises:
            RunDirectoryError: something given before couldn't be written.
        """
        self._look()
        while len(self._under_way) >= _WAITING:
            self._under_way.pop(0).result()
        held = copied(state)
        self._under_way.append(
            self._pool.submit(self._directory.save_checkpoint, name, held, keep=self._keep)
        )

    def wait(self) -> None:
        """Return when everything is written.

        Raises:
            RunDirectoryError: it couldn't be.
        """
        while self._under_way:
            self._under_way.pop(0).result()

    def close(self) -> None:
        """Let what is under way be written, whatever comes of it, and end the thread."""
        self._pool.shutdown(wait=True)

    def _look(self) -> None:
        while self._under_way and self._under_way[0].done():
            self._under_way.pop(0).result()
