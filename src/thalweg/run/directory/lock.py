"""One process at a time writes a run directory."""

from __future__ import annotations

import os
import sys
from pathlib import Path

if sys.platform != "win32":
    import fcntl

__all__ = ["give_up", "take_lock"]

# Record locks belong to the process: forked workers that outlive a kill don't hold them. Within one
# process they don't exclude, and closing any descriptor of the file gives them up: hence the set.
_held: set[Path] = set()


def take_lock(path: Path) -> int:
    """Lock the directory until closed, or until the process ends however it ends."""
    if path.resolve() in _held:
        raise BlockingIOError
    descriptor = os.open(path / ".lock", os.O_RDWR | os.O_CREAT, 0o666)
    if sys.platform != "win32":
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as problem:
            os.close(descriptor)
            raise BlockingIOError from problem
    _held.add(path.resolve())
    return descriptor


def give_up(path: Path, descriptor: int) -> None:
    """Let another process have the directory."""
    os.close(descriptor)
    _held.discard(path.resolve())
