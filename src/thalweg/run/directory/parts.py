"""What a run directory is made of: its files from the first on, its lock, its events."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from filelock import BaseFileLock, FileLock

from thalweg.errors import RunDirectoryError
from thalweg.run.directory.environment import environment
from thalweg.run.directory.links import RUN_ID, note_owner
from thalweg.run.directory.writing import as_json, as_toml, reason, write_whole

__all__ = ["fill", "locked", "read_events", "remove_empty", "umask", "unfill"]

_SECONDS = 2.0


def locked(path: Path) -> BaseFileLock:
    """Lock the directory until released, or until the process ends however it ends.

    Forked workers that outlive a kill don't hold it: filelock closes its file in each of them as soon
    as they run, for which there is time here.
    """
    lock = FileLock(path / ".lock", timeout=_SECONDS, mode=0o666 & ~umask(), thread_local=False)
    lock.acquire()
    return lock


def read_events(path: Path) -> tuple[list[dict[str, Any]], int]:
    """The events, and how many bytes of the file are sound."""
    try:
        content = path.read_bytes()
    except OSError as problem:
        raise RunDirectoryError(f"{path} can't be read ({reason(problem)})") from problem
    events: list[dict[str, Any]] = []
    sound = 0
    *lines, torn = content.split(b"\n")
    for number, line in enumerate(lines, 1):
        try:
            event = json.loads(line)
        except ValueError:
            event = None
        if not isinstance(event, dict):
            if number == len(lines) and not torn:
                break
            raise RunDirectoryError(f"line {number} of {path} is damaged; delete it and what follows it")
        events.append(event)
        sound += len(line) + 1
    return events, sound


def fill(folder: Path, config: Mapping[str, Any]) -> None:
    """Put into an empty folder what a run begins with; the configuration last, which makes it one."""
    run_id = uuid.uuid4().hex
    (folder / "checkpoints").mkdir()
    note_owner(folder / "checkpoints", run_id)
    (folder / "events.jsonl").touch()
    write_whole(folder / "environment.json", as_json(environment()))
    write_whole(folder / "config.toml", as_toml({RUN_ID: run_id, **config}))


def unfill(folder: Path) -> None:
    """Empty a folder that held nothing but a run."""
    with contextlib.suppress(OSError):
        for each in folder.iterdir():
            if each.is_dir() and not each.is_symlink():
                shutil.rmtree(each, ignore_errors=True)
            else:
                each.unlink(missing_ok=True)


def remove_empty(folders: list[Path]) -> None:
    """Remove those of some folders that are empty."""
    for folder in folders:
        with contextlib.suppress(OSError):
            folder.rmdir()


def umask() -> int:
    """Return which permissions new files of this process lack."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
