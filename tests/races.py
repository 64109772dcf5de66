"""Tiny races: less than a second of work, with nothing left to the clock."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from thalweg.execution.choose import Choice
from thalweg.execution.journal import Journal
from thalweg.racing import race
from thalweg.racing.options import Options
from thalweg.racing.plan import Cost
from thalweg.racing.race_setup import RaceSetup
from thalweg.racing.results import EngineInfo, Results
from thalweg.racing.watch import RaceWatcher

TINY: dict[str, Any] = {
    "model": "linear",
    "data": "iris",
    "optimizers": ["sgd", "adam"],
    "trials": 4,
    "splits": 2,
    "epochs": 2,
    "batch_size": 16,
}


def options(**changes: Any) -> Options:
    """What a tiny race is asked for."""
    return Options(**{**TINY, **changes})


@contextmanager
def engine(
    kind: str = "lanes", *, processes: int = 1, chunk: int = 64, lane_processes: int = 1
) -> Iterator[None]:
    """Leave the choice of an engine, and the seconds of a step, to nobody's clock."""
    info = {
        "kind": kind, "forward": "batched", "reason": "asked for by a test", "chunk": chunk,
        "processes": processes, "threads": 1, "loop_threads": 1, "lane_processes": lane_processes,
        "device": "cpu", "promise": "bits",
    }  # fmt: skip

    def choose(setup: RaceSetup, journal: Journal) -> tuple[EngineInfo, Choice, Cost]:
        cost = {"step_seconds": dict.fromkeys(setup.entries, 1e-4), "evaluation_seconds": 1e-4}
        value = journal.once("engine", "engine", lambda: {"info": info, "cost": cost})
        choice = {name: of for name, of in value["info"].items() if name not in ("device", "promise")}
        return EngineInfo(**value["info"]), Choice(**choice), Cost(**value["cost"])

    def seconds(setup: RaceSetup, plan: Any, records: Any, journal: Journal) -> dict[str, Any]:
        return dict.fromkeys(plan.optimizers, (1e-4, 2e-4, 3e-4))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(race, "choose_engine", choose)
        patch.setattr(race, "step_seconds", seconds)
        patch.setattr(race, "forward_backward", lambda setup, journal: 3.0)
        yield


def run(out: Path, *, resume: bool = False, watcher: RaceWatcher | None = None, **changes: Any) -> Results:
    """Run a tiny race to its results, without a report."""
    return race.run_race(options(**changes, out=out, resume=resume, watcher=watcher))[0]


def comparable(results: Results) -> dict[str, Any]:
    """Everything that two identical races have in common."""
    values = results.model_dump(mode="json")
    del values["timing"]
    return values


def kill() -> None:
    """End this process as a power cut would."""
    os.kill(os.getpid(), signal.SIGKILL)
