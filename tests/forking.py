"""Processes forked from one server that has imported and compiled what they need: each starts at once."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import forkserver
from typing import Any

PRELOAD = [
    "thalweg.execution.pool", "thalweg.execution.forkserver", "thalweg.racing.race", "thalweg.commands.app",
    "thalweg.commands.verbs", "thalweg.training.fitting", "torch._dynamo",
    # what a training reads and writes with at its ends
    "thalweg.data.tabular", "thalweg.data.stored_nested", "thalweg.data.builtin", "thalweg.training.results",
    "thalweg.report.page", "pytest",
]  # fmt: skip

_set = forkserver.set_forkserver_preload


def everything(modules: list[str]) -> None:
    """Take the place of ``set_forkserver_preload``: whoever starts the server first, it has all."""
    _set([*modules, *PRELOAD])


def context() -> Any:
    """Return a context whose ``Process`` is forked from the server."""
    found = multiprocessing.get_context("forkserver")
    found.set_forkserver_preload(PRELOAD)
    return found


@contextmanager
def imported_as_outside() -> Iterator[None]:
    """Let a new server import what one outside of tests imports, and end it."""
    server: Any = forkserver._forkserver  # type: ignore[attr-defined]
    server._stop()
    forkserver.set_forkserver_preload = _set
    try:
        yield
    finally:
        server._stop()
        forkserver.set_forkserver_preload = everything
