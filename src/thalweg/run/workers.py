"""The server that worker processes are forked from: it imports what they need once, and early.

Nothing here imports torch, so that a command can start the server before it imports anything itself.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import forkserver, resource_tracker
from typing import Any

__all__ = [
    "BLOCKED",
    "context_of_workers",
    "cores",
    "end_with_parent",
    "prepare_workers",
    "signals_blocked",
    "without_main",
]

BLOCKED = frozenset({signal.SIGINT, signal.SIGTERM})
"""The signals that the server of processes is started without hearing."""


def end_with_parent() -> None:
    """End this worker with the process that started it.

    Workers of a killed parent would wait for ever, and write beside the one that resumes.
    """
    parent = multiprocessing.parent_process()
    assert parent is not None

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def prepare_workers() -> None:
    """Begin to import what workers need, beside whatever this process does; workers then start at once.

    With one core, or where processes can't be forked from such a server, nothing happens.
    """
    if cores() > 1 and "forkserver" in multiprocessing.get_all_start_methods():
        context_of_workers()
        # first, since it unblocks signals once it has started
        resource_tracker.ensure_running()
        with without_main(), signals_blocked():
            forkserver.ensure_running()


def context_of_workers() -> Any:
    """A server that imports torch once and forks, where there can be one; else each worker imports it."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    # numba takes a second, and the first step of lanes imports it
    context.set_forkserver_preload(["thalweg.execution.pool", "numba", "thalweg.execution.forkserver"])
    return context


@contextmanager
def signals_blocked() -> Iterator[None]:
    """Start processes that hear no signal before they are ready: a Ctrl-C would end them with a traceback."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, BLOCKED)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def without_main() -> Iterator[None]:
    """Start processes that don't run the main script again: a script without a guard would call itself."""
    main = sys.modules["__main__"]
    names = [name for name in ("__file__", "__spec__") if name in main.__dict__]
    hidden: dict[str, Any] = {name: main.__dict__.pop(name) for name in names}
    main.__spec__ = None
    try:
        yield
    finally:
        main.__dict__.update(hidden)
