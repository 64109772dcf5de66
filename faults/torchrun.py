"""The command in two processes: started by torchrun, killed one by one or together, asked to end."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
import traceback
import uuid
from pathlib import Path

import thalweg
from faults.process import PATIENCE_SECONDS, Command, Process

__all__ = ["Torchrun", "end", "interrupted", "ranks", "sentences"]


class Torchrun(Command):
    """Starts ``torchrun --nproc-per-node 2 -m thalweg`` with arguments; its process is torchrun's.

    Args:
        folder: as of :class:`~faults.process.Command`.
        forked: torchrun's agent and both processes are forked from what has everything imported.
    """

    _line = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "thalweg")

    def __init__(self, folder: Path, *, forked: bool = False) -> None:
        super().__init__(folder, forked=forked)
        self._within = _launch


def _launch(words: list[str]) -> int:
    """What torchrun does with its arguments, but the processes are forked instead of begun anew."""
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    config = LaunchConfig(
        min_nodes=1, max_nodes=1, nproc_per_node=2, run_id=str(uuid.uuid4()), rdzv_backend="c10d",
        rdzv_endpoint="localhost:0", max_restarts=0, monitor_interval=0.1, start_method="fork",
    )  # fmt: skip
    try:
        elastic_launch(config, _rank)(words)
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def _rank(words: list[str]) -> None:
    from torch.multiprocessing import _prctl_pr_set_pdeathsig  # type: ignore[attr-defined]

    from thalweg.cli import app

    # as in a process begun anew
    _prctl_pr_set_pdeathsig(0)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    code = 1
    try:
        code = app.run(words)
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    if code:
        os._exit(code)


def ranks(process: Process) -> list[int]:
    """The processes that torchrun has started, in the order of their ranks."""
    with contextlib.suppress(OSError):
        found = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
        return [int(word) for word in found.split()]
    return []


def end(process: Process, pids: list[int]) -> float:
    """Wait until torchrun and its processes have ended; return after how many seconds."""
    begun = time.monotonic()
    process.wait()
    while left := [pid for pid in pids if _lives(pid)]:
        if time.monotonic() - begun > PATIENCE_SECONDS / 5:
            for pid in left:
                os.kill(pid, signal.SIGKILL)
            raise TimeoutError(f"{left} of {pids} hang; they said: {process.sentence()[-500:]}")
        time.sleep(0.01)
    return time.monotonic() - begun


def _lives(pid: int) -> bool:
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    # who isn't waited for is a zombie
    return status.rpartition(")")[2].split()[0] != "Z"


def sentences(said: str) -> list[str]:
    """What thalweg said, amid what torchrun says: tracebacks through thalweg's own files as well."""
    own = f'File "{Path(thalweg.__file__).resolve().parent}'
    return [
        line.strip()
        for line in said.splitlines()
        if line.startswith(("error: ", "interrupted")) or own in line
    ]


def interrupted(sentence: str) -> bool:
    """Whether a sentence is the one that a training ends with when it is asked to."""
    return sentence.startswith("interrupted at step ") and "everything is saved" in sentence
