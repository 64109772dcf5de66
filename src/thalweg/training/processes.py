"""Many runs through the ordinary loop, one after another or in several processes."""

from __future__ import annotations

import io
import multiprocessing
import os
import pickle
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeAlias

import torch

from thalweg import trust
from thalweg.catalogue import Entry
from thalweg.data.source import Prepared
from thalweg.entries import Outcome, Run, Workload
from thalweg.errors import Interrupted, OptionError
from thalweg.lanes.chunks import Keeper, Progress
from thalweg.lanes.chunks import run as run_lanes
from thalweg.models import Factory
from thalweg.runs.output import Losable
from thalweg.training import loop

__all__ = ["Workers", "portable", "run_chunks", "run_many"]


def run_many(
    runs: Sequence[Run],
    *,
    factory: Factory,
    prepared: Prepared,
    workload: Workload,
    catalogue_entries: Mapping[str, Entry],
    device: str = "cpu",
    processes: int = 1,
    threads: int = 1,
    workers: Workers | None = None,
    watch: Callable[[Progress], None] | None = None,
    checkpoint: Keeper | None = None,
    stop: Callable[[], bool] | None = None,
    until: int | None = None,
) -> list[Outcome]:
    """Train runs one after another, or in several processes at a time.

    Args:
        runs, factory, prepared, workload, catalogue_entries, device, stop: as for
            :func:`thalweg.training.loop.run`.
        processes: at most this many at a time. Above 1, everything given must be :func:`portable`.
        threads: torch threads of each run; together with the machine they decide the last bits, the number
            of processes doesn't.
        workers: kept from call to call, in place of ``processes`` and ``threads``.
        watch: told of each run's end as it comes, with the number of runs ended as ``step``; with one
            process also of every evaluation.
        checkpoint, until: as there; processes get a copy each.

    Returns:
        Outcomes in the order of ``runs``.

    Raises:
        Interrupted: ``stop`` returned ``True``.
        OptionError: several processes were asked for and something can't be sent to them.
    """
    common: dict[str, Any] = {
        "factory": factory,
        "prepared": prepared,
        "workload": workload,
        "catalogue_entries": catalogue_entries,
        "device": device,
        "checkpoint": checkpoint,
        "until": until,
    }
    found: dict[str, Outcome] = {}

    def ended(outcome: Outcome) -> None:
        found[outcome.identity] = outcome
        if watch is not None:
            watch(
                Progress(
                    chunk=len(found) - 1,
                    chunks=len(runs),
                    step=len(found),
                    steps=len(runs),
                    going=len(runs) - len(found),
                    finished=[outcome],
                )
            )

    if workers is not None:
        processes, threads = workers.processes, workers.threads
    if processes <= 1 or len(runs) <= 1:
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            for each in runs:
                ended(loop.run(each, watch=watch, stop=stop, **common))
        finally:
            torch.set_num_threads(before)
    else:
        jobs = [[each] for each in runs]

        def each_ended(_: int, outcomes: Sequence[Outcome]) -> None:
            ended(outcomes[0])

        with nullcontext(workers) if workers else Workers(min(processes, len(runs)), threads) as there:
            there.spread(_alone, jobs, common, each_ended, stop)
    return [found[each.identity] for each in runs]


def run_chunks(
    chunks: Sequence[Sequence[Run]],
    *,
    workers: Workers,
    factory: Factory,
    prepared: Prepared,
    workload: Workload,
    catalogue_entries: Mapping[str, Entry],
    ended: Callable[[int, Sequence[Outcome]], None],
    advanced: Callable[[float], None] | None = None,
    device: str = "cpu",
    checkpoint: Keeper | None = None,
    stop: Callable[[], bool] | None = None,
) -> None:
    """Train chunks of lanes, several at a time, each a program in a process of its own.

    Args:
        chunks: runs that are one program each.
        workers: the processes.
        factory, prepared, workload, catalogue_entries, device, checkpoint, stop: as for :func:`run_many`.
        ended: told a chunk's number and outcomes as they come.
        advanced: told how many steps of runs have been done since it was told last.

    Raises:
        Interrupted: ``stop`` returned ``True``.
        OptionError: something can't be sent to the processes.
    """
    common = {
        "factory": factory,
        "prepared": prepared,
        "workload": workload,
        "catalogue_entries": catalogue_entries,
        "device": device,
        "checkpoint": checkpoint,
    }
    workers.spread(_together, chunks, common, ended, stop, advanced)


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


_Train: TypeAlias = Callable[..., list[Outcome]]


class Workers:
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
        self._sent: Prepared | None = None
        self._data: Path | None = None
        self._files = 0

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the processes."""
        if self._pool is not None:
            self._pool.shutdown()
        if self._folder is not None:
            self._folder.cleanup()
        self._pool, self._folder, self._sent, self._data = None, None, None, None

    def spread(
        self,
        train: _Train,
        jobs: Sequence[Sequence[Run]],
        common: Mapping[str, Any],
        ended: Callable[[int, Sequence[Outcome]], None],
        stop: Callable[[], bool] | None,
        advanced: Callable[[float], None] | None = None,
    ) -> None:
        """Do several jobs at a time: ``train`` with the runs of one, and ``common``, in some process."""
        reason = portable(**common)
        if reason is not None:
            raise OptionError(f"{reason}; use one process")
        if self._pool is None:
            self._start()
        assert self._pool is not None
        assert self._folder is not None
        folder = Path(self._folder.name)
        rest = dict(common)
        prepared = rest.pop("prepared")
        # By file, since tensors sent directly would need as much shared memory, which containers lack; and
        # the data apart, since several calls have the same.
        if self._data is None or prepared is not self._sent:
            for old in folder.iterdir():
                old.unlink()
            self._data, self._sent = self._written(folder, prepared), prepared
        task = self._data, self._written(folder, rest)
        try:
            # code that changes while a race goes on would make its later runs others than its first ones
            code = trust.current().written()
            tasks = [(train, *task, runs, code) for runs in jobs]
            stopped = _collect(self._pool, tasks, self._halt, ended, stop, self._told(advanced))
        except BaseException:
            self.close()
            raise
        if stopped:
            self.close()
            raise Interrupted("stopped on request; everything up to the last step is saved")

    def _told(self, advanced: Callable[[float], None] | None) -> Callable[[], None]:
        """Hand on what the processes have done since this was called last."""
        before = sum(self._done)

        def tell() -> None:
            nonlocal before
            now = sum(self._done)
            if advanced is not None and now > before:
                advanced(now - before)
            before = now

        return tell

    def _start(self) -> None:
        context = _context()
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
    tasks: Sequence[tuple[Any, ...]],
    halt: Any,
    ended: Callable[[int, Sequence[Outcome]], None],
    stop: Callable[[], bool] | None,
    tell: Callable[[], None],
) -> bool:
    """Hand every job's outcomes on as they come; return whether the work was stopped."""
    stopped = False
    with _without_main(), _signals_blocked():
        numbers = {pool.submit(_work, *task): number for number, task in enumerate(tasks)}
    waiting = set(numbers)
    while waiting:
        done, waiting = wait(waiting, timeout=0.2, return_when=FIRST_COMPLETED)
        try:
            if not stopped and stop is not None and stop():
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
            if stop is not None and stop():
                return True
            raise
        except BaseException:
            halt.set()
            for future in waiting:
                future.cancel()
            raise
    return stopped


def _context() -> Any:
    """A server that imports torch once and forks, where there can be one; else each worker imports it."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    # the last two take seconds, and the first optimizer and its first step import them
    context.set_forkserver_preload([__name__, "torch._dynamo", "numba"])
    return context


_LOADED: dict[Path, Any] = {}
_HALT: list[Any] = []
_DONE: list[tuple[Any, int]] = []
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def _prepare(threads: int, halt: Any, done: Any, places: Any) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
    # prints of a person's code go where those of the command go, which may be lost
    sys.stdout, sys.stderr = Losable(sys.stdout), Losable(sys.stderr)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(threads)
    with places.get_lock():
        place, places.value = places.value, places.value + 1
    _HALT.append(halt)
    # one that takes the place of a process that died has none: who dies ends the race
    _DONE.append((done, place % len(done)))


def _end_with_parent() -> None:
    """Workers of a killed parent would wait for ever, and write beside the one that resumes."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _work(
    train: _Train, data: Path, common: Path, runs: Sequence[Run], code: Mapping[str, Mapping[str, str]]
) -> list[Outcome] | None:
    (halt,) = _HALT
    for old in set(_LOADED) - {data, common}:
        del _LOADED[old]
    try:
        if halt.is_set():
            return None
        with trust.Gate(recorded=code, what="race"):
            return train(runs, prepared=_loaded(data), stop=halt.is_set, **_loaded(common))
    except Interrupted:
        return None


def _alone(runs: Sequence[Run], **common: Any) -> list[Outcome]:
    return [loop.run(each, **common) for each in runs]


def _together(runs: Sequence[Run], **common: Any) -> list[Outcome]:
    ((done, place),) = _DONE
    begun = done[place]

    def watch(progress: Progress) -> None:
        done[place] = begun + float(progress.step * len(runs))

    return run_lanes(runs, chunk=len(runs), watch=watch, **common)


def _loaded(file: Path) -> Any:
    if file not in _LOADED:
        with file.open("rb") as source:
            _LOADED[file] = pickle.load(source)
    return _LOADED[file]


@contextmanager
def _signals_blocked() -> Iterator[None]:
    """Start processes that hear no signal before they are ready: a Ctrl-C would end them with a traceback."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _without_main() -> Iterator[None]:
    """Start processes that don't run the main script again: a script without a guard would call itself."""
    main = sys.modules["__main__"]
    names = [name for name in ("__file__", "__spec__") if name in main.__dict__]
    hidden: dict[str, Any] = {name: main.__dict__.pop(name) for name in names}
    main.__spec__ = None
    try:
        yield
    finally:
        main.__dict__.update(hidden)
