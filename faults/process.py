"""The command in processes of its own: started, killed, asked to end, taken up, compared."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import random
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import thalweg

__all__ = [
    "Command",
    "Process",
    "at_random",
    "damaged_where",
    "finished",
    "kill_at_random",
    "left_over",
    "moment_of",
    "same",
    "under_way",
]

PATIENCE_SECONDS = 600.0


@dataclass
class Process:
    """A command under way.

    Attributes:
        pid: of its process.
        said: the file that its standard error goes to.
        shown: the file that its standard output goes to.
    """

    pid: int
    said: Path
    shown: Path
    _handle: Any = field(repr=False)

    def running(self) -> bool:
        """Whether it hasn't ended."""
        return self.code() is None

    def code(self) -> int | None:
        """Return the exit code (``-9``: killed), or ``None`` while it runs."""
        if isinstance(self._handle, subprocess.Popen):
            found: int | None = self._handle.poll()
            return found
        return self._handle.exitcode

    def send(self, number: int) -> None:
        """Send a signal."""
        if self.running():
            os.kill(self.pid, number)

    def wait(self) -> int:
        """Return the exit code once it has ended."""
        end = time.monotonic() + PATIENCE_SECONDS
        while (code := self.code()) is None:
            if time.monotonic() > end:
                os.kill(self.pid, signal.SIGKILL)
                raise TimeoutError(f"process {self.pid} hangs; it said: {self.said.read_text()[-500:]}")
            time.sleep(0.005)
        return code

    def sentence(self) -> str:
        """What it said on standard error."""
        return self.said.read_text(encoding="utf-8", errors="replace").strip()


class Command:
    """Starts ``thalweg`` with arguments.

    Args:
        folder: where it runs, and where what it says is kept.
        forked: from a server that has everything imported, which saves seconds; else ``python -m thalweg``.
    """

    # what comes before the words on a command line, and what a forked process does with them
    _line: tuple[str, ...] = ("-m", "thalweg")

    def __init__(self, folder: Path, *, forked: bool = False) -> None:
        self._within: Callable[[list[str]], int] = _carry_out
        self.folder, self._forked = folder, forked
        self._count = 0
        folder.mkdir(parents=True, exist_ok=True)

    def start(self, *arguments: str | Path, largest_file: int | None = None) -> Process:
        """Start a command; ``largest_file`` is a limit in bytes on what it can write into one file."""
        self._count += 1
        said, shown = (self.folder / f"{name}-{self._count}.txt" for name in ("said", "shown"))
        words = [str(word) for word in arguments]
        if self._forked:
            context = multiprocessing.get_context("forkserver")
            context.set_forkserver_preload(
                ["thalweg.commands.verbs", "thalweg.commands.app", "torch._dynamo"]
            )
            handle: Any = context.Process(
                target=_child, args=(self.folder, said, shown, words, largest_file, self._within)
            )
            handle.start()
            return Process(handle.pid, said, shown, handle)
        # the thalweg that is imported here, wherever the command runs
        source = str(Path(thalweg.__file__).resolve().parent.parent)
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": source}

        def limited() -> None:
            if largest_file is not None:
                resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))

        with said.open("wb") as file, shown.open("wb") as output:
            popen = subprocess.Popen(
                [sys.executable, *self._line, *words],
                cwd=self.folder, stdout=output, stderr=file, env=environment,
                preexec_fn=limited,
            )  # fmt: skip
        return Process(popen.pid, said, shown, popen)

    def run(self, *arguments: str | Path, largest_file: int | None = None) -> tuple[int, str]:
        """Run a command to its end; return its exit code and what it said on standard error."""
        process = self.start(*arguments, largest_file=largest_file)
        return process.wait(), process.sentence()


def _carry_out(words: list[str]) -> int:
    from thalweg.commands import app

    return app.run(words)


def _child(
    folder: Path, said: Path, shown: Path, words: list[str], largest_file: int | None,
    within: Callable[[list[str]], int],
) -> None:  # fmt: skip
    os.setsid()
    os.chdir(folder)
    for number, target in ((1, shown), (2, said)):
        os.dup2(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644), number)
    if largest_file is not None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))
    signal.signal(signal.SIGINT, signal.default_int_handler)

    import torch

    torch.set_num_threads(1)
    code = within(words)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def under_way(out: Path) -> tuple[int, ...]:
    """What changes as soon as a training in a directory takes steps."""
    try:
        checkpoints = (out / "checkpoints").stat()
        return (out / "events.jsonl").stat().st_size, checkpoints.st_mtime_ns
    except OSError:
        return ()


def kill_at_random(process: Process, out: Path, rng: random.Random, seconds: float, number: int) -> bool:
    """Send a signal at a moment drawn at random, as :func:`at_random` has it; return whether it hit."""
    hit = at_random(process, out, rng, seconds)
    process.send(number)
    return hit


def at_random(
    process: Process, out: Path, rng: random.Random, seconds: float, *, starting: float = 3.0
) -> bool:
    """Wait for a moment drawn at random; return whether the process is still running then.

    One time in six the moment is drawn from the time of starting, else from that of training.

    Args:
        process: that trains.
        out: its run directory.
        rng: draws the moment.
        seconds: that a training takes which is left alone, from its first evaluation on.
        starting: seconds that it takes until then.
    """
    if rng.random() < 1 / 6:
        time.sleep(rng.uniform(0, starting))
    else:
        before = under_way(out)
        while process.running() and under_way(out) == before:
            time.sleep(0.002)
        time.sleep(rng.uniform(0, seconds))
    return process.running()


def moment_of(out: Path) -> str:
    """Where in its work a training was killed, from what it left."""
    if not out.exists():
        return "before its directory stood"
    drafts = [*out.glob(".*.draft"), *out.glob("checkpoints/.*.draft")]
    if (out / "results.json").exists():
        return "after its results"
    if (out / "weights.safetensors").exists():
        return "while results were laid down"
    if drafts or left_over(out):
        return "while a checkpoint was written"
    if not list(out.glob("checkpoints/last.*.pt")):
        return "before its first checkpoint"
    return "between two steps or within one"


def finished(out: Path) -> dict[str, Any]:
    """What two trainings that are the same have in common: results without times, and weights' bytes."""
    results = json.loads((out / "results.json").read_text(encoding="utf-8"))
    del results["timing"]
    weights = {file.name: file.read_bytes() for file in sorted(out.glob("*.safetensors"))}
    return {**results, "weights": weights, "card": (out / "README.md").read_text(encoding="utf-8")}


def same(out: Path, expected: Path) -> list[str]:
    """Return in what two finished trainings differ: nothing, if all is well; leftovers count too."""
    found, wanted = finished(out), finished(expected)
    differing = [key for key in wanted if found.get(key) != wanted[key]]
    left = [str(path.relative_to(out)) for path in out.rglob("*.draft")]
    return differing + left + left_over(out)


def left_over(out: Path) -> list[str]:
    """Shards that no checkpoint refers to."""
    import torch

    wanted = set()
    for file in out.glob("checkpoints/*.pt"):
        # a damaged one may be anything, and raise anything
        with contextlib.suppress(Exception):
            state = torch.load(file, map_location="cpu", weights_only=True)
            wanted.add(state["thalweg.shards"]["folder"])
    return [folder.name for folder in sorted(out.glob("checkpoints/*.shards")) if folder.name not in wanted]


def damaged_where(out: Path, name: str) -> list[Path]:
    """The checkpoints of a name, newest first."""
    return sorted((out / "checkpoints").glob(f"{name}.*.pt"), reverse=True)
