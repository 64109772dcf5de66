"""A tiny recipe, and trainings of it in processes of their own that kill themselves at a chosen moment."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

import forking
from thalweg.commands import app
from thalweg.execution import states
from thalweg.run.directory import RunDirectory
from thalweg.training.results import TrainResults

RECIPE = """version = 1
[data]
spec = "iris"
[model]
spec = "mlp:8"
[optimizer]
name = "adam"
lr = 0.02
[schedule]
name = "cosine"
[training]
batch_size = 16
epochs = 4
evaluations = 6
seed = 3
"""


def written(folder: Path, text: str = RECIPE) -> Path:
    path = folder / "recipe.toml"
    path.write_text(text, encoding="utf-8")
    return path


def comparable(out: Path) -> dict[str, Any]:
    """All that two trainings of a recipe have in common."""
    values = TrainResults.read(out / "results.json").model_dump()
    del values["timing"]
    return values


def run(
    out: Path, path: Path, changes: Sequence[str], *, resume: bool = False, place: str = "", count: int = 0
) -> int:
    """Train in a process of its own, which dies at the ``count``-th time; return its exit code.

    Places are ``"event"``, after an event is written; ``"term"``, asked to end there; ``"state"``, after
    a checkpoint was saved; and the name of a file, before it is renamed to its place.
    """
    process = forking.context().Process(target=_child, args=(out, path, list(changes), resume, place, count))
    process.start()
    process.join(240)
    assert process.exitcode is not None, "it hangs"
    return process.exitcode


def _child(out: Path, path: Path, changes: list[str], resume: bool, place: str, count: int) -> None:
    os.environ["MKL_CBWR"] = "AVX2"
    torch.set_num_threads(1)
    os.fsync = lambda descriptor: None
    append, replace, seen = RunDirectory.append, Path.replace, 0
    # of a training, and of what an execution keeps
    save, save_state = RunDirectory.save_checkpoint, states.save_state

    def die() -> None:
        nonlocal seen
        seen += 1
        if seen == count:
            os.kill(os.getpid(), signal.SIGTERM if place == "term" else signal.SIGKILL)

    def appended(self: RunDirectory, event: Any) -> None:
        append(self, event)
        if place in ("event", "term"):
            die()

    def replaced(self: Path, target: Any) -> Any:
        if Path(target).name == place:
            die()
        return replace(self, target)

    def saved(self: RunDirectory, *given: Any, **more: Any) -> None:
        save(self, *given, **more)
        if place == "state":
            die()

    def saved_state(path: Path, state: Any) -> Path:
        written = save_state(path, state)
        if place == "state":
            die()
        return written

    states.save_state = saved_state  # type: ignore[assignment]
    RunDirectory.append, Path.replace, RunDirectory.save_checkpoint = appended, replaced, saved  # type: ignore[method-assign,assignment]
    arguments = ["train", str(path), "--out", str(out), "--checkpoint-seconds", "0", "--quiet"]
    for change in changes:
        arguments += ["--set", change]
    os._exit(app.run([*arguments, *(["--resume"] if resume else [])]))
