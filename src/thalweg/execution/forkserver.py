"""Imported by the server that processes are forked from, and nowhere else.

It compiles what draws random numbers, which each process would do anew, in half a second.

The server is started with signals blocked, so that a Ctrl-C while it or a worker starts ends neither with a
traceback. What else it forks, for anybody in the same program, hears them once it begins its work.
"""

from __future__ import annotations

import signal
from multiprocessing import util

from thalweg.randomness import streams
from thalweg.run.workers import BLOCKED

__all__: list[str] = []


class _Registration:
    """A callback is registered for as long as an object lives."""


def _unblock(_: _Registration) -> None:
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, BLOCKED)


_registration = _Registration()
util.register_after_fork(_registration, _unblock)
streams.compile_words()
