"""The command in two processes: started by torchrun, killed one by one or together, asked to end."""

from __future__ import annotations

import contextlib
import math
import os
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import NoReturn

import thalweg
from faults.process import PATIENCE_SECONDS, Command, Process

__all__ = ["Torchrun", "end", "interrupted", "ranks", "sentences"]

# as long as torchrun has it
_PATIENCE_SECONDS = 30.0


class Torchrun(Command):
    """Starts ``torchrun --nproc-per-node 2 -m thalweg`` with arguments; its process is torchrun's.

    Args:
        folder: as of :class:`~faults.process.Command`.
        forked: both processes, and what does torchrun's work, are forked from what has everything imported.
    """

    _line = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "thalweg")

    def __init__(self, folder: Path, *, forked: bool = False) -> None:
        super().__init__(folder, forked=forked)
        self._within = _launch


def _launch(words: list[str]) -> int:
    """Do what torchrun does: keep the store, hand signals on, and end all where one has failed."""
    import torch.distributed as dist

    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    running = [os.fork() or _rank(rank, store.port, words) for rank in range(2)]

    def send(number: int) -> None:
        for pid in running:
            os.kill(pid, number)

    signal.signal(signal.SIGTERM, lambda number, frame: send(number))
    failed, until = False, math.inf
    while running:
        time.sleep(0.1)
        for pid in list(running):
            found, status = os.waitpid(pid, os.WNOHANG)
            if found:
                running.remove(pid)
                failed = failed or status != 0
        if failed and until == math.inf:
            send(signal.SIGTERM)
            until = time.monotonic() + _PATIENCE_SECONDS
        elif time.monotonic() > until:
            send(signal.SIGKILL)
    return int(failed)


def _rank(rank: int, port: int, words: list[str]) -> NoReturn:
    from thalweg.commands import app

    values = {
        "RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port,
        "TORCHELASTIC_USE_AGENT_STORE": True, "TORCHELASTIC_RESTART_COUNT": 0,
    }  # fmt: skip
    os.environ.update({name: str(value) for name, value in values.items()})
    code = 1
    try:
        code = app.run(words)
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
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
    while left := [pid for pid in [process.pid, *pids] if _lives(pid)]:
        if time.monotonic() - begun > PATIENCE_SECONDS / 3:
            for pid in left:
                os.kill(pid, signal.SIGKILL)
            raise TimeoutError(f"{left} of {pids} hang; they said: {process.sentence()[-500:]}")
        time.sleep(0.01)
    process.wait()
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
