"""Where scenarios work, and what several of them do."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from faults import recipes
from faults.process import Command, same
from faults.table import Row

__all__ = [
    "SETTLED",
    "Workshop",
    "contents",
    "ends_alike",
    "last_state",
    "one_sentence",
    "small_disk",
]

SETTLED = {
    "version": 1,
    "data": {"spec": "digits"},
    "model": {"spec": "net.py:network"},
    "optimizer": {"name": "adam", "lr": 0.005},
    "schedule": {"name": "cosine"},
    "strategies": {"averaging": {"decay": 0.99}},
}


@dataclass
class Workshop:
    """Where scenarios work, and how much of it there is to be.

    Attributes:
        folder: for everything that is written.
        seed: of all that is drawn.
        kills: how many of trainings at random moments.
        work: how long trainings take, as a multiple of a few seconds.
        forked: start commands from a server, which saves seconds.
        beside: trainings under way at the same time.
    """

    folder: Path
    seed: int = 0
    kills: int = 60
    work: float = 1.0
    forked: bool = False
    beside: int = 2

    def command(self, name: str) -> Command:
        """Return a command in a folder of its own."""
        return Command(self.folder / name, forked=self.forked)

    def settled(self, command: Command, **training: Any) -> Path:
        """Write a recipe of which only what is given varies."""
        settings = {"batch_size": 16, "epochs": max(2, round(10 * self.work)), "evaluations": 12, **training}
        return recipes.write({**SETTLED, "training": settings}, command.folder)

    def arguments(self, path: Path, out: Path, *more: str, seconds: float = 0.0) -> list[str | Path]:
        """Return the arguments of a training."""
        return ["train", path, "--out", out, "--checkpoint-seconds", str(seconds), "--quiet", *more]


def ends_alike(shop: Workshop, command: Command, path: Path, out: Path, whole: Path, ends: int) -> list[str]:
    """Finish what was killed, and say in what it differs from what was left alone."""
    resume = ["--resume"] if out.exists() else []
    code, said = command.run(*shop.arguments(path, out, *resume, seconds=60))
    if code != ends:
        return [f"the last resume ended with {code}: {said}"]
    return [f"{part} differs" for part in same(out, whole)]


def last_state(out: Path) -> Any:
    from thalweg.run.directory import load_state

    return load_state(out / "checkpoints" / "last")


def one_sentence(row: Row, code: int, said: str, instead: dict[str, str], expected: int = 2) -> None:
    row.hear(said, instead=instead)
    row.expect(code == expected, f"it ended with {code}")
    row.expect(said.startswith("error: ") and said.count("\n") == 0, f"no one sentence: {said[-300:]}")


def contents(folder: Path) -> dict[str, bytes]:
    """What a person would miss: not the events, which tell of damage, nor drafts that a kill left behind."""
    return {
        str(file.relative_to(folder)): file.read_bytes()
        for file in sorted(folder.rglob("*"))
        if file.is_file() and file.name != "events.jsonl" and file.suffix != ".draft"
    }


@contextlib.contextmanager
def small_disk(place: Path, kib: int) -> Iterator[Path | None]:
    """A file system of that size; ``None`` where none can be mounted."""
    place.mkdir(parents=True)
    made = shutil.which("mount") and os.geteuid() == 0 and subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={kib}k", "thalweg-faults", str(place)], capture_output=True
    ).returncode == 0  # fmt: skip
    try:
        yield place if made else None
    finally:
        if made:
            subprocess.run(["umount", str(place)], check=True)
