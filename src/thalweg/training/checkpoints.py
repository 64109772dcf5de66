"""Checkpoints written beside the loop: it waits for the copy, not for the disk."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

from thalweg.errors import UserError
from thalweg.run.directory.directory import RunDirectory
from thalweg.training.backend import Backend, copied
from thalweg.training.parallel import FullyShardedDataParallel
from thalweg.training.sharding import ShardFiles, Shards, are_sound, assembled, unsharded

__all__ = ["CheckpointKeeper", "Together", "Writer", "keeper_of"]

_WAITING = 2

Fits = Callable[[Any], bool]
"""Says whether a state, its shards not read yet, is one to go on from."""


def _any(state: Any) -> bool:
    return True


def _newest(directory: RunDirectory, name: str, say: Callable[[str], None], fits: Fits) -> Any | None:
    folder = directory.path / "checkpoints"
    states = directory.load_checkpoints(name, say, lambda state: are_sound(state, folder))
    return next((state for state in states if fits(unsharded(state))), None)


class CheckpointKeeper(Protocol):
    """Keeps the states of a training; of many processes all call the same at the same step."""

    @property
    def busy(self) -> bool:
        """Whether something is still being written."""

    def save(self, name: str, state: Any) -> None:
        """Copy a state, and have it written."""

    def load(self, name: str, say: Callable[[str], None], fits: Fits = _any) -> Any | None:
        """Return the newest sound state under a name that fits, if there is one."""

    def wait(self) -> None:
        """Return when everything is written."""

    def close(self) -> None:
        """Let what is under way be written, and end."""


def keeper_of(backend: Backend, directory: RunDirectory | None) -> CheckpointKeeper | None:
    """Return what keeps the states of a training in a directory, which process 0 alone has, if it has one."""
    if backend.world == 1:
        return None if directory is None else Writer(directory)
    place = backend.broadcast(None if directory is None else str(directory.path))
    if place is None:
        return None
    return Together(backend, directory, Path(place))


class Writer:
    """Writes states of a run one after another, in a thread; what went wrong is raised at the next call.

    States are written in the order in which they were given, so that a later one never stands on the disk
    without an earlier one.

    Args:
        directory: of the run.
        keep: how many of each name stay.
        write: writes a state; by default the directory does.
    """

    def __init__(
        self,
        directory: RunDirectory | None,
        *,
        keep: int = 3,
        write: Callable[[str, Any], None] | None = None,
    ) -> None:
        self._directory, self._keep = directory, keep
        self._write = self._save if write is None else write
        # of processes that have sharded before
        self._kept = None if directory is None or write else ShardFiles(directory.path / "checkpoints")
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
        self._under_way.append(self._pool.submit(self._write, name, held))

    def load(self, name: str, say: Callable[[str], None], fits: Fits = _any) -> Any | None:
        """Return the newest sound state that fits, or ``None``; what processes left in shards is whole.

        Raises:
            RunDirectoryError: there are files under that name, and all are damaged.
        """
        assert self._directory is not None
        folder = self._directory.path / "checkpoints"
        state = _newest(self._directory, name, say, fits)
        return None if state is None else assembled(state, folder, None)

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

    def _save(self, name: str, state: Any) -> None:
        assert self._directory is not None
        assert self._kept is not None
        self._kept.referred(self._directory.save_checkpoint(name, state, keep=self._keep))

    def _look(self) -> None:
        while self._under_way and self._under_way[0].done():
            self._under_way.pop(0).result()


class Together:
    """Keeps the states of many processes: process 0 writes what is whole, and each its own shards.

    What :func:`~thalweg.training.sharding.parted` finds sharded is written by all, in a thread each, through
    torch's distributed checkpoints; a state counts only when process 0 has written the rest behind it, with
    the checksums of all files. So a kill at any moment leaves a state whole or none.

    Args:
        backend: whose processes these are.
        directory: of the run; process 0 alone has it.
        path: of the directory, on a disk that all processes see.
        keep: how many of each name stay.
    """

    def __init__(
        self, backend: Backend, directory: RunDirectory | None, path: Path, *, keep: int = 3
    ) -> None:
        self._backend, self._directory = backend, directory
        self._folder = path / "checkpoints"
        self._shards = Shards(backend, directory, self._folder, keep=keep) if backend.sharded else None
        write = None if self._shards is None else self._shards.write
        writes = directory is not None or self._shards is not None
        self._writer = Writer(directory, keep=keep, write=write) if writes else None

    @property
    def busy(self) -> bool:
        """Whether this process is still writing.

        Raises:
            RunDirectoryError: what was written couldn't be.
        """
        return self._writer is not None and self._writer.busy

    def save(self, name: str, state: Any) -> None:
        """Copy what this process has of a state, and have it written.

        Raises:
            RunDirectoryError: something given before couldn't be written.
        """
        if self._writer is not None:
            self._writer.save(name, state)

    def load(self, name: str, say: Callable[[str], None], fits: Fits = _any) -> Any | None:
        """Return the newest sound state that fits: process 0 reads what is whole, all read their shards.

        Raises:
            RunDirectoryError: there are files under that name, and all are damaged.
        """
        found, problem = None, None
        if self._directory is not None:
            try:
                found = _newest(self._directory, name, say, fits)
            except UserError as error:
                problem = error
        found, problem = self._backend.broadcast((found, problem))
        if problem is not None:
            raise problem
        if not isinstance(self._backend, FullyShardedDataParallel):
            return None if found is None else assembled(found, self._folder, None)
        return self._backend.spread(assembled(found, self._folder, self._backend.mesh))

    def wait(self) -> None:
        """Return when everything is written, by all processes.

        Raises:
            RunDirectoryError: it couldn't be.
        """
        if self._writer is not None:
            self._writer.wait()

    def close(self) -> None:
        """Let what is under way be written, whatever comes of it, and end the thread."""
        if self._writer is not None:
            self._writer.close()
