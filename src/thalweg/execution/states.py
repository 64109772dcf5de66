"""States of runs that are under way, as files of a run directory."""

from __future__ import annotations

import contextlib
import hashlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from thalweg.errors import RunDirectoryError, option
from thalweg.run.directory.writing import drop_state, load_state, reason, save_state

__all__ = ["States"]

_STATE = re.compile(r"[0-9a-f]{24}\.\d+\.[0-9a-f]{16}\.pt|\..*\.draft")


class States:
    """Keeps the states of unfinished runs as files of the run directory; may be sent to other processes.

    Args:
        folder: where the files lie.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def save(self, chunk: str, state: dict[str, Any]) -> None:
        """Keep a state in place of the earlier one.

        Raises:
            RunDirectoryError: it can't be written.
        """
        with self._writing():
            save_state(self._path(chunk), state)

    def load(self, chunk: str) -> dict[str, Any] | None:
        """Return the newest sound state kept under this name, or ``None``."""
        found = load_state(self._path(chunk), lambda damaged: None)
        return None if found is None else dict(found)

    def clear(self) -> None:
        """Forget all states: what they were for is in the journal now."""
        with self._writing():
            for file in self._folder.iterdir() if self._folder.is_dir() else ():
                # nothing else, wherever a stranger's folder may lead
                if _STATE.fullmatch(file.name):
                    file.unlink(missing_ok=True)

    def drop(self, chunk: str) -> None:
        """Forget one run's states."""
        with self._writing():
            drop_state(self._path(chunk))

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as problem:
            raise RunDirectoryError(
                f"{self._folder} can't be written ({reason(problem)}); the "
                f"earlier version is intact: free some space and run again with {option('resume', True)}"
            ) from problem

    def _path(self, chunk: str) -> Path:
        # an optimizer's name may be a path, longer than a file's name may be
        return self._folder / hashlib.blake2b(chunk.encode(), digest_size=12).hexdigest()
