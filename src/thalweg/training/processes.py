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
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from thalweg.catalogue import Entry
from thalweg.data.source import Prepared
from thalweg.entries import Outcome, Run, Workload
from thalweg.errors import Interrupted, OptionError
from thalweg.lanes.chunks import Keeper, Progress
from thalweg.models import Factory
from thalweg.training import loop

__all__ = ["portable", "run_many"]


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
    watch: Callable[[Progress], None] | None = None,
    checkpoint: Keeper | None = None,
    stop: Callable[[], bool] | None = None,
) -> list[Outcome]:
    """Train runs one after another, or in several processes at a time.

    Args:
        processes: at most this many at a time. Above 1, everything given must be :func:`portable`.
        threads: torch threads of each run; together with the machine they decide the last bits, the number
            of processes doesn't.
        watch: told of each run's end as it comes, with the number of runs ended as ``step``; with one
            process also of every evaluation.
        checkpoint: as for :func:`run`; processes get a copy each.

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

    if processes <= 1 or len(runs) <= 1:
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            for each in runs:
                ended(loop.run(each, watch=watch, stop=stop, **common))
        finally:
            torch.set_num_threads(before)
    else:
        _spread(runs, common, min(processes, len(runs)), threads, ended, stop)
    return [found[each.identity] for each in runs]


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


def _spread(
    runs: Sequence[Run],
    common: dict[str, Any],
    processes: int,
    threads: int,
    ended: Callable[[Outcome], None],
    stop: Callable[[], bool] | None,
) -> None:
    reason = portable(**common)
    if reason is not None:
        raise OptionError(f"{reason}; use one process")
    context = _context()
    halt = context.Event()
    stopped = False
    with TemporaryDirectory(prefix="thalweg-") as folder:
        # By file, since tensors sent directly would need as much shared memory, which containers lack.
        file = Path(folder) / "common"
        with file.open("wb") as out:
            pickle.dump(common, out)
        pool = ProcessPoolExecutor(
            processes, mp_context=context, initializer=_prepare, initargs=(file, threads, halt)
        )
        with pool:
            stopped = _collect(pool, runs, halt, ended, stop)
    if stopped:
        raise Interrupted("stopped on request; everything up to the last step is saved")


def _collect(
    pool: ProcessPoolExecutor,
    runs: Sequence[Run],
    halt: Any,
    ended: Callable[[Outcome], None],
    stop: Callable[[], bool] | None,
) -> bool:
    """Hand every outcome on as it comes; return whether the work was stopped."""
    stopped = False
    with _without_main(), _signals_blocked():
        waiting = {pool.submit(_work, each) for each in runs}
    while waiting:
        done, waiting = wait(waiting, timeout=0.2, return_when=FIRST_COMPLETED)
        if not stopped and stop is not None and stop():
            stopped = True
            halt.set()
        try:
            for future in done:
                outcome = future.result()
                if outcome is not None:
                    ended(outcome)
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


_COMMON: dict[str, Any] = {}
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def _prepare(file: Path, threads: int, halt: Any) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(threads)
    with file.open("rb") as source:
        _COMMON.update(pickle.load(source), stop=halt.is_set)


def _end_with_parent() -> None:
    """Workers of a killed parent would wait for ever, and write beside the one that resumes."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _work(run: Run) -> Outcome | None:
    try:
        return None if _COMMON["stop"]() else loop.run(run, **_COMMON)
    except Interrupted:
        return None


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
