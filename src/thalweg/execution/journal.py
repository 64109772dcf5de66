"""The journal of a list of runs: what happened once is read back, never computed twice.

A race is a pure function of its options and of the values that pass through :meth:`Journal.once`:
outcomes of runs, and everything that depends on the machine (measurements, how runs are carried out,
how often a test split was looked at). Resuming a race is therefore running it again on the
same directory: what the journal knows is handed back, and the rest is computed as it would have been.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from thalweg.run.directory import RunDirectory
from thalweg.run.directory.writing import plain

__all__ = ["Journal"]


class Journal:
    """Remembers values by key in the run directory's ``events.jsonl``.

    Args:
        directory: where the events are kept; without one they are remembered as long as the journal is.
    """

    def __init__(self, directory: RunDirectory | None = None) -> None:
        self.directory = directory
        self._known: dict[str, Any] = {}
        self.seconds_before = 0.0
        for event in () if directory is None else directory.events():
            if "key" in event:
                self._known[event["key"]] = event["value"]
            self.seconds_before = max(self.seconds_before, float(event.get("elapsed", 0.0)))
        self._began = time.monotonic()

    @property
    def elapsed(self) -> float:
        """Seconds spent so far, the interrupted attempts included."""
        return self.seconds_before + time.monotonic() - self._began

    def __contains__(self, key: str) -> bool:
        return key in self._known

    def once(self, event: str, key: str, compute: Callable[[], Any]) -> Any:
        """Return what is known under ``key``; compute it and write it down if nothing is.

        Args:
            event: what kind of event this is, for whoever reads the file.
            key: unique within the journal.
            compute: returns what JSON can hold; NaN and infinity become ``None``.
        """
        if key not in self._known:
            # as it will be read back, so that a resume goes on from the same value
            value = plain(compute())
            if self.directory is not None:
                self.directory.append({"event": event, "key": key, "value": value, "elapsed": self.elapsed})
            self._known[key] = value
        return self._known[key]
