"""Groups of runs in several processes at a time, on this machine."""

from __future__ import annotations

import io
import pickle
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from thalweg import catalogue
from thalweg.data.source import Prepared
from thalweg.errors import Interrupted, OptionError, ThalwegError
from thalweg.execution.executors import RunList, groups_of
from thalweg.run.directory.output import Losable
from thalweg.run.problem import Problem
from thalweg.run.spec import Outcome, Run
from thalweg.run.workers import (
    BLOCKED,
    context_of_workers,
    end_with_parent,
    signals_blocked,
    without_main,
)
from thalweg.settings import trust

__all__ = ["ProcessPool", "not_portable", "portable"]


def portable(**things: Any) -> str | None:
    """Say in one sentence why something can't be sent to another process; ``None`` where all can.

    >>> portable(factory=lambda shape, outputs: None)
    "the factory can't be sent to another process, since it isn't importable by name"
    """
    for name, thing in things.items():
        what = name.replace("_", " ")
        sent = io.BytesIO()
        try:
            _Skeleton(sent).dump(thing)
        except Exception:
            return f"the {what} can't be sent to another process, since it isn't importable by name"
        if b"__main__" in sent.getvalue():
            return f"the {what} can't be sent to another process, since it is defined in the main script"
    return None


class _Skeleton(pickle.Pickler):
    """Pickles everything but the content of tensors."""

    def reducer_override(self, thing: Any) -> Any:
        return (int, ()) if isinstance(thing, torch.Tensor) else NotImplemented


def not_portable(problem: Problem) -> str | None:
    """Say as :func:`portable` why a problem can't be sent to another process."""
    for name in problem.optimizers:
        # an entry travels as its name, so that rules from files do too
        try:
            catalogue.resolve(name)
        except ThalwegError:
            return f"the optimizer {name} can't be sent to another process, since it isn't importable by name"
    return portable(
        factory=problem.factory, data=problem.data, loss=problem.objective.loss,
        metric=problem.objective.metric, judged=problem.objective.judged, output=problem.objective.output,
        optimizers=dict(problem.optimizers),
    )  # fmt: skip


# stands for data that go their own way
_ELSEWHERE: Any = None


class ProcessPool:
    """Processes that train runs, started with the first and kept until closed: each takes a second to start.

    Args:
        processes: how many.
        threads: torch threads of each.
    """

    def __init__(self, processes: int, threads: int = 1) -> None:
        self.processes, self.threads = processes, threads
        self._pool: ProcessPoolExecutor | None = None
        self._halt: Any = None
        self._done: Any = ()
        self._folder: TemporaryDirectory[str] | None = None
        # data that were sent, by identity, and held here so that no identity is used twice
        self._sent: dict[int, tuple[Prepared, Path]] = {}
        self._files = 0

    def __enter__(self) -> ProcessPool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the processes."""
        if self._pool is not None:
            self._pool.shutdown()
        if self._folder is not None:
            self._folder.cleanup()
        self._pool, self._folder, self._sent = None, None, {}

    def carry_out(
        self,
        lists: Sequence[RunList],
        *,
        ended: Callable[[int, list[Outcome]], None],
        advanced: Callable[[float], None],
        stop: Callable[[], bool],
    ) -> None:
        """Carry lists out side by side, as :class:`~thalweg.execution.executors.Executor` says."""
        for asked in lists:
            reason = not_portable(asked.problem) or portable(
                way_to_train=asked.train, states=asked.states, keep=asked.keep, elimination=asked.eliminate
            )
            if reason is not None:
                raise OptionError(f"{reason}; use one process")
        if self._pool is None:
            self._start()
        assert self._pool is not None
        assert self._folder is not None
        folder = Path(self._folder.name)
        # By file, since tensors sent directly would need as much shared memory, which containers lack; and
        # the data apart, since several tasks have the same.
        self._forget({id(asked.problem.data) for asked in lists})
        files = {id(asked): self._files_of(folder, asked) for asked in lists}
        try:
            # code that changes while a race goes on would make its later runs others than its first ones
            code = trust.current().written()
            jobs = [(*files[id(each)], runs, code) for each, runs in groups_of(lists)]
            stopped = _collect(self._pool, jobs, self._halt, ended, stop, self._told(advanced))
        # closing waits for the workers, so that none still writes when the error is told
        except BaseException:
            self.close()
            raise
        for _, bare in files.values():
            bare.unlink()
        if stopped:
            self.close()
            raise Interrupted("stopped on request; everything up to the last step is saved")

    def _forget(self, kept: set[int]) -> None:
        """Remove the files of data that nobody trains on any more."""
        for number in self._sent.keys() - kept:
            self._sent.pop(number)[1].unlink()

    def _files_of(self, folder: Path, asked: RunList) -> tuple[Path, Path]:
        """Write a list's data, unless they are there, and the rest of it."""
        data = asked.problem.data
        if id(data) not in self._sent:
            self._sent[id(data)] = data, self._written(folder, data)
        bare = replace(asked, groups=(), problem=replace(asked.problem, data=_ELSEWHERE))
        return self._sent[id(data)][1], self._written(folder, bare)

    def _told(self, advanced: Callable[[float], None]) -> Callable[[], None]:
        """Hand on what the processes have done since this was called last."""
        before = sum(self._done)

        def tell() -> None:
            nonlocal before
            now = sum(self._done)
            if now > before:
                advanced(now - before)
            before = now

        return tell

    def _start(self) -> None:
        context = context_of_workers()
        self._halt = context.Event()
        # steps of runs done by each process, which takes the next place when it starts
        self._done, places = context.Array("d", self.processes, lock=False), context.Value("i", 0)
        self._folder = TemporaryDirectory(prefix="thalweg-")
        self._pool = ProcessPoolExecutor(
            self.processes,
            mp_context=context,
            initializer=_prepare,
            initargs=(self.threads, self._halt, self._done, places),
        )

    def _written(self, folder: Path, thing: Any) -> Path:
        self._files += 1
        file = folder / str(self._files)
        with file.open("wb") as out:
            pickle.dump(thing, out)
        return file


def _collect(
    pool: ProcessPoolExecutor,
    jobs: Sequence[tuple[Any, ...]],
    halt: Any,
    ended: Callable[[int, list[Outcome]], None],
    stop: Callable[[], bool],
    tell: Callable[[], None],
) -> bool:
    """Hand every job's outcomes on as they come; return whether the work was stopped."""
    stopped = False
    with without_main(), signals_blocked():
        numbers = {pool.submit(_work, *job): number for number, job in enumerate(jobs)}
    waiting = set(numbers)
    while waiting:
        done, waiting = wait(waiting, timeout=0.2, return_when=FIRST_COMPLETED)
        try:
            if not stopped and stop():
                # and wait on: a worker saves what is under way before it answers
                stopped = True
                halt.set()
            tell()
            for future in done:
                outcomes = future.result()
                if outcomes is not None:
                    ended(numbers[future], outcomes)
        except BrokenProcessPool:
            # a signal to the whole process group ends the workers too; ours may be a moment behind theirs
            time.sleep(0.2)
            if stop():
                return True
            raise
        except BaseException:
            halt.set()
            for future in waiting:
                future.cancel()
            raise
    return stopped


_LOADED: dict[Path, Any] = {}
_HALT: list[Any] = []
_DONE: list[tuple[Any, int]] = []


def _prepare(threads: int, halt: Any, done: Any, places: Any) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, BLOCKED)
    # prints of a person's code go where those of the command go, which may be lost
    sys.stdout, sys.stderr = Losable(sys.stdout), Losable(sys.stderr)
    end_with_parent()
    torch.set_num_threads(threads)
    with places.get_lock():
        place, places.value = places.value, places.value + 1
    _HALT.append(halt)
    # one that takes the place of a process that died has none: who dies ends the race
    _DONE.append((done, place % len(done)))


def _work(
    data: Path, bare: Path, runs: Sequence[Run], code: Mapping[str, Mapping[str, str]]
) -> list[Outcome] | None:
    (halt,) = _HALT
    ((done, place),) = _DONE
    # a worker lives as long as the race, and keeps the data of one task at a time
    for old in set(_LOADED) - {data, bare}:
        del _LOADED[old]

    def advanced(steps: float) -> None:
        # without a lock: each place has one process that writes it
        done[place] += steps

    try:
        if halt.is_set():
            return None
        with trust.Gate(recorded=code, what="race"):
            asked: RunList = _loaded(bare)
            asked = replace(asked, problem=replace(asked.problem, data=_loaded(data)))
            return asked.train(runs, asked, stop=halt.is_set, advanced=advanced)
    except Interrupted:
        return None


def _loaded(file: Path) -> Any:
    if file not in _LOADED:
        with file.open("rb") as source:
            _LOADED[file] = pickle.load(source)
    return _LOADED[file]
