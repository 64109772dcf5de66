"""Runs the tests of mutants, each on a copy of the source that has its change."""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Literal

from mutants.place import Mutant, find

__all__ = ["Outcome", "outcomes", "passes"]

# pytest's exit codes
_PASSED, _FAILED, _INTERRUPTED = 0, 1, 2


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of a mutant.

    ``caught``: a test failed, or the tests couldn't even be imported. ``timed out``: a test went on for ever,
    which counts as caught. ``survived``: all tests passed. ``broken``: its tests can't be run.
    """

    mutant: Mutant
    end: Literal["caught", "timed out", "survived", "broken"]
    output: str


class _Pool:
    """Copies of the source, each for one run of tests at a time."""

    def __init__(self, root: Path, folder: Path, count: int) -> None:
        self.root = root
        self._copies: SimpleQueue[Path] = SimpleQueue()
        for number in range(count):
            copy = folder / str(number)
            shutil.copytree(root / "src", copy / "src", ignore=shutil.ignore_patterns("__pycache__"))
            self._copies.put(copy)

    def test(
        self, tests: Sequence[str], seconds: float, mutant: Mutant | None = None
    ) -> tuple[int | None, str]:
        """Run tests; return pytest's exit code, ``None`` after so many seconds, and what was printed."""
        copy = self._copies.get()
        try:
            with _applied(mutant, copy / "src") if mutant else contextlib.nullcontext():
                return _pytest(self.root, copy / "src", tests, seconds)
        finally:
            self._copies.put(copy)


def outcomes(
    mutants: Sequence[Mutant], *, root: Path, folder: Path, jobs: int = 2, seconds: float = 900.0
) -> Iterator[Outcome]:
    """Yield what becomes of each mutant, as it is known.

    Args:
        mutants: those to try.
        root: of the project: ``src/`` and the tests lie below.
        folder: an empty one, for copies of the source.
        jobs: runs of tests at a time.
        seconds: after which the tests of a mutant are ended.
    """
    pool = _Pool(root, folder, jobs)
    with ThreadPoolExecutor(jobs) as threads:
        for done in as_completed([threads.submit(_outcome, pool, mutant, seconds) for mutant in mutants]):
            yield done.result()


def passes(tests: Sequence[str], *, root: Path, folder: Path, jobs: int = 1) -> tuple[bool, str]:
    """Return whether tests pass on the source as it is, and what they printed."""
    pool = _Pool(root, folder, jobs)
    shares = [share for number in range(jobs) if (share := tests[number::jobs])]
    with ThreadPoolExecutor(jobs) as threads:
        done = list(threads.map(lambda share: pool.test(share, 3600.0), shares))
    return all(code == _PASSED for code, _ in done), "\n".join(output for _, output in done)


def _outcome(pool: _Pool, mutant: Mutant, seconds: float) -> Outcome:
    code, output = pool.test(mutant.tests, seconds, mutant)
    if code is None:
        return Outcome(mutant=mutant, end="timed out", output=output)
    if code in (_FAILED, _INTERRUPTED):
        return Outcome(mutant=mutant, end="caught", output=output)
    return Outcome(mutant=mutant, end="survived" if code == _PASSED else "broken", output=output)


@contextlib.contextmanager
def _applied(mutant: Mutant, source: Path) -> Iterator[None]:
    place = find(mutant, source / "thalweg")
    before = place.path.read_text(encoding="utf-8")
    when = place.path.stat().st_mtime
    place.path.write_text(place.mutated, encoding="utf-8")
    # Python knows bytecode by the file's size and the second of its change, which a mutation may keep
    unique = next(_SECONDS)
    os.utime(place.path, (unique, unique))
    try:
        yield
    finally:
        place.path.write_text(before, encoding="utf-8")
        os.utime(place.path, (when, when))


_SECONDS = itertools.count(1)


def _pytest(root: Path, source: Path, tests: Sequence[str], seconds: float) -> tuple[int | None, str]:
    """Run pytest on this source, which goes before every other that is installed."""
    command = [sys.executable, "-m", "pytest", "-x", "-q", "--no-header", "-p", "no:cacheprovider", *tests]
    environment = {**os.environ, "PYTHONPATH": str(source)}
    try:
        done = subprocess.run(
            command, cwd=root, env=environment, timeout=seconds, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired as late:
        return None, str(late.output or "")
    return done.returncode, done.stdout
