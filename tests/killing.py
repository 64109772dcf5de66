"""Races in processes of their own that kill themselves at a chosen moment."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import forking
import races
from thalweg.errors import Interrupted

__all__ = ["Moment", "race"]


@dataclass(frozen=True)
class Moment:
    """When to die.

    Attributes:
        place: ``"event"`` before an event is written, ``"torn"`` in the middle of its line, ``"written"``
            right after it; ``"state"`` after a checkpoint was saved, ``"half state"`` before it is renamed to
            its place; ``"file"`` before a file is; ``"asked"`` to be interrupted between two steps.
        count: the how-manieth, from 1; or the file's name.
    """

    place: str
    count: Any

    def __str__(self) -> str:
        return f"{self.place} {self.count}"


def race(
    out: Path,
    *,
    moment: Moment | None = None,
    resume: bool = False,
    engine: dict[str, Any] | None = None,
    every_state: bool = False,
    **options: Any,
) -> int:
    """Run a tiny race in a process of its own; return its exit code (-9: killed, 130: interrupted)."""
    arguments = (out, moment, resume, engine or {}, every_state, options)
    process = forking.context().Process(target=_race, args=arguments)
    process.start()
    process.join(120)
    assert process.exitcode is not None, "it hangs"
    return process.exitcode


def _race(
    out: Path,
    moment: Moment | None,
    resume: bool,
    engine: dict[str, Any],
    every_state: bool,
    options: dict[str, Any],
) -> None:
    # eager steps: a compiled kernel takes a second to load, and a process of ours does little more than that
    os.environ |= {
        "THALWEG_STATE_DIR": str(out.parent / f"state of {out.name}"),
        "MKL_CBWR": "AVX2",
    }
    sys.modules["numba"] = None  # type: ignore[assignment]
    # what was written survives the end of a process without it; only a power cut needs it
    os.fsync = lambda descriptor: None
    if every_state:
        _save_all()
    if moment is not None:
        _arm(moment)
    try:
        with races.engine(**engine):
            races.run(out, resume=resume, **options)
    except Interrupted as interrupted:
        os._exit(130 if f"out={str(out)!r} and resume=True" in str(interrupted) else 1)


def _save_all() -> None:
    from thalweg.execution import Execution

    Execution.__init__ = functools.partialmethod(Execution.__init__, checkpoint_seconds=0.0)  # type: ignore[method-assign,assignment]


def _arm(moment: Moment) -> None:
    from thalweg.execution import states
    from thalweg.run.directory import RunDirectory
    from thalweg.run.directory.interrupt import Interruption

    seen = 0

    def at_last() -> bool:
        nonlocal seen
        seen += 1
        return seen == moment.count

    append, save, replace = RunDirectory.append, states.save_state, Path.replace

    def append_or_die(self: RunDirectory, event: Any) -> None:
        now = at_last()
        if now and moment.place == "torn":
            with (self.path / "events.jsonl").open("ab") as file:
                file.write(b'{"event": "runs", "key": "r0/scr')
        if now and moment.place != "written":
            races.kill()
        append(self, event)
        if now:
            races.kill()

    def save_or_die(path: Path, state: Any) -> Path:
        saved = save(path, state)
        if at_last():
            races.kill()
        return saved

    def replace_or_die(self: Path, target: Any) -> Any:
        hit = Path(target).name == moment.count
        if moment.place == "half state":
            hit = Path(target).suffix == ".pt" and at_last()
        if hit:
            races.kill()
        return replace(self, target)

    patches: dict[str, Callable[[], None]] = {
        "event": lambda: setattr(RunDirectory, "append", append_or_die),
        "torn": lambda: setattr(RunDirectory, "append", append_or_die),
        "written": lambda: setattr(RunDirectory, "append", append_or_die),
        "state": lambda: setattr(states, "save_state", save_or_die),
        "half state": lambda: setattr(Path, "replace", replace_or_die),
        "file": lambda: setattr(Path, "replace", replace_or_die),
        "asked": lambda: setattr(Interruption, "asked", lambda self: at_last() or seen > moment.count),
    }
    patches[moment.place]()
