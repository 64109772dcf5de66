"""Measure claims: side by side in processes, written down as they come, and resumed."""

from __future__ import annotations

import json
import re
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from thalweg.claims import gallery, registry
from thalweg.claims.claim import Claim, SizeName
from thalweg.claims.judging import ClaimResult, judge
from thalweg.errors import Interrupted, OptionError, option
from thalweg.execution.journal import Journal
from thalweg.randomness.generators import own_generators
from thalweg.run.directory import RunDirectory
from thalweg.run.directory.interrupt import Interruption
from thalweg.run.directory.output import Losable
from thalweg.run.workers import (
    BLOCKED,
    context_of_workers,
    cores,
    end_with_parent,
    signals_blocked,
    without_main,
)
from thalweg.settings.tables import whole_number

__all__ = ["ClaimsWatcher", "run"]

_MOST_SEEDS, _MOST_PROCESSES = 10_000, 1024


class ClaimsWatcher:
    """Told what happens; every method may be overridden and does nothing here."""

    def counted(self, claims: int, measurements: int, known: int) -> None:
        """So many claims take so many measurements, of which some are there already."""

    def measured(self, name: str, done: int, measurements: int) -> None:
        """One more is done, of this claim."""

    def judged(self, result: ClaimResult) -> None:
        """A claim has all its numbers."""

    def written(self, gallery: Path) -> None:
        """The gallery is there."""


class _Printing(ClaimsWatcher):
    """What a person in Python sees: a line a claim on standard error."""

    def judged(self, result: ClaimResult) -> None:
        print(result, file=sys.stderr, flush=True)


@dataclass(frozen=True)
class _Task:
    """A measurement: of one seed, or of all at once."""

    claim: str
    condition: str
    seeds: tuple[int, ...]
    changes: str

    def key(self, digest: str) -> str:
        return json.dumps([self.claim, self.condition, list(self.seeds), self.changes, digest])


def run(
    *names: str | Claim,
    full: bool = False,
    seeds: int | None = None,
    out: str | Path | None = None,
    resume: bool = False,
    processes: int | None = None,
    watcher: ClaimsWatcher | None = None,
) -> list[ClaimResult]:
    """Measure claims and judge them.

    >>> from thalweg import claims
    >>> (found,) = claims.run("zig-zag", watcher=claims.ClaimsWatcher())
    >>> found
    zig-zag: holds

    Args:
        names: of the claims (``thalweg.claims.names()``), or claims of one's own, which are measured in this
            process; ``"all"`` stands for all of the lectures. None are needed with ``resume``: then names
            and size are those it was begun with.
        full: the larger size, which takes hours for all of them.
        seeds: how many, at least 2; by default as each claim says. Those that nothing is drawn for have one.
        out: the run directory for results, pictures and the gallery; without one nothing is written.
        resume: go on with ``out`` where it was stopped. What is there isn't measured again, unless the
            claim's file has changed.
        processes: that measure side by side; by default one a core. With 1 it is this one.
        watcher: told what happens; by default a line a claim on standard error.

    Returns:
        one result a claim, in the order given.

    Raises:
        OptionError: an unknown name, or a number out of bounds.
        RunDirectoryError: ``out`` exists already, or can't be gone on with.
        Interrupted: Ctrl-C or SIGTERM; what is measured is kept in ``out``.
    """
    if resume and not names:
        names, full, seeds = _begun_with(out)
    asked = _asked(names)
    size: SizeName = "full" if full else "quick"
    if seeds is not None:
        seeds = whole_number("seeds", seeds, least=2, most=_MOST_SEEDS)
    if processes is None:
        processes = cores()
    processes = whole_number("processes", processes, least=1, most=_MOST_PROCESSES)
    config = {"kind": "claims", "claims": [each.name for each in asked], "size": size, "seeds": seeds}
    watcher = watcher or _Printing()
    directory = None if out is None and not resume else RunDirectory.begin(out, config, resume=resume)
    with nullcontext() if directory is None else directory:
        found = _measured(asked, size, seeds, directory, processes, watcher)
        if directory is not None:
            for name, text in gallery.files(found).items():
                directory.write_text(name, text)
            directory.write_json("results.json", [gallery.plain_result(each) for each in found])
            watcher.written(directory.path / "gallery.html")
    return found


def _asked(names: Sequence[str | Claim]) -> list[Claim]:
    if not names:
        raise OptionError("no claim is named; give names, or all")
    found: dict[str, Claim] = {}
    for name in names:
        if not isinstance(name, Claim):
            for each in registry.names() if name == "all" else [name]:
                found.setdefault(each, registry.get(each))
            continue
        if not re.fullmatch(r"[\w-]+", name.name):
            raise OptionError(
                f"a claim has the name {name.name!r}; give it one of letters, digits and hyphens"
            )
        if name.name in registry.names() and name != registry.get(name.name):
            raise OptionError(f"{name.name} is a claim of the lectures; give yours another name")
        if name != found.setdefault(name.name, name):
            raise OptionError(f"two claims have the name {name.name!r}; give each its own")
    return list(found.values())


def _begun_with(out: str | Path | None) -> tuple[tuple[str, ...], bool, int | None]:
    """Return names, size and seeds of a directory."""
    with RunDirectory.resume(out, "claims") as directory:
        config = directory.config()
    return tuple(config["claims"]), config["size"] == "full", config.get("seeds")


def _measured(
    asked: Sequence[Claim],
    size: SizeName,
    seeds: int | None,
    directory: RunDirectory | None,
    processes: int,
    watcher: ClaimsWatcher,
) -> list[ClaimResult]:
    journal = Journal(directory)
    digests = {claim.name: claim.digest() for claim in asked}
    tasks = {claim.name: _tasks(claim, size, seeds) for claim in asked}
    every = [task for each in tasks.values() for task in each]
    keys = {task: task.key(digests[task.claim]) for task in every}
    left = [task for task in every if keys[task] not in journal]
    watcher.counted(len(asked), len(every), len(every) - len(left))
    by_name = {claim.name: claim for claim in asked}
    open_tasks = Counter(task.claim for task in left)
    found: dict[str, ClaimResult] = {}

    def judge_if_done(name: str) -> None:
        if not open_tasks[name]:
            there = [keys[task] for task in tasks[name]]
            found[name] = _result(by_name[name], tasks[name], there, journal, size, digests[name])
            watcher.judged(found[name])

    for name in by_name:
        judge_if_done(name)
    with Interruption() as interruption:
        stop = interruption.asked if directory is None else directory.watched(interruption.asked)
        done = len(every) - len(left)
        for task, value in _values(left, by_name, processes, stop):
            journal.once("measured", keys[task], partial(dict, value))
            done += 1
            watcher.measured(task.claim, done, len(every))
            open_tasks[task.claim] -= 1
            judge_if_done(task.claim)
        if done < len(every):
            kept = (
                f"what was measured is saved, and {option('resume', True)} goes on"
                if directory is not None
                else f"give {option('out')} to be able to go on later"
            )
            raise Interrupted(f"interrupted; {kept}")
    return [found[claim.name] for claim in asked]


def _tasks(claim: Claim, size: SizeName, seeds: int | None) -> list[_Task]:
    wanted = claim.size(size, seeds)
    numbers = tuple(range(wanted.seeds))
    groups = [numbers] if claim.at_once else [(seed,) for seed in numbers]
    changes = json.dumps(dict(wanted.changes), sort_keys=True)
    return [
        _Task(claim.name, condition, group, changes) for condition in claim.conditions for group in groups
    ]


def _result(
    claim: Claim, tasks: Sequence[_Task], keys: Sequence[str], journal: Journal, size: SizeName, digest: str
) -> ClaimResult:
    numbers: dict[str, list[Any]] = {condition: [] for condition in claim.conditions}
    seconds = 0.0
    for task, key in zip(tasks, keys, strict=True):
        value = journal.once("measured", key, dict)
        numbers[task.condition] += value["numbers"]
        seconds += value["seconds"]
    return ClaimResult(
        claim=claim, judged=judge(claim, numbers), numbers=numbers, seconds=seconds, size=size, digest=digest
    )


def _values(
    tasks: Sequence[_Task], claims: Mapping[str, Claim], processes: int, stop: Callable[[], bool]
) -> Iterator[tuple[_Task, dict[str, Any]]]:
    """Carry out tasks, and give each with what it measured; ends early where it is stopped."""
    alone = min(processes, len(tasks)) <= 1
    elsewhere = set() if alone else set(registry.names())
    here = [task for task in tasks if task.claim not in elsewhere]
    with _one_thread():
        for task in here:
            if stop():
                return
            yield task, _carry_out(task, claims[task.claim])
    tasks = [task for task in tasks if task.claim in elsewhere]
    if not tasks:
        return
    pool = ProcessPoolExecutor(
        min(processes, len(tasks)), mp_context=context_of_workers(), initializer=_prepare
    )
    try:
        with without_main(), signals_blocked():
            places = {pool.submit(_carry_out, task): task for task in tasks}
        waiting = set(places)
        while waiting:
            done, waiting = wait(waiting, timeout=0.2, return_when=FIRST_COMPLETED)
            try:
                for future in done:
                    yield places[future], future.result()
            except BrokenProcessPool:
                # a signal to the whole process group ends the workers too; ours may be a moment behind
                time.sleep(0.2)
                if stop():
                    return
                raise
            if stop():
                return
    finally:
        workers = list((pool._processes or {}).values())
        pool.shutdown(wait=False, cancel_futures=True)
        # what is under way is measured again: nothing of it is written
        for worker in workers:
            worker.terminate()
        for worker in workers:
            worker.join()


def _carry_out(task: _Task, claim: Claim | None = None) -> dict[str, Any]:
    claim, began = claim or registry.get(task.claim), time.perf_counter()
    with own_generators(task.seeds[0], task.claim):
        numbers = claim.measured(task.seeds, task.condition, json.loads(task.changes))
    return {"numbers": numbers, "seconds": time.perf_counter() - began}


@contextmanager
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _prepare() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # the default, so that it can be ended at once
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, BLOCKED)
    sys.stdout, sys.stderr = Losable(sys.stdout), Losable(sys.stderr)
    end_with_parent()
    torch.set_num_threads(1)
