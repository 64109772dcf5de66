"""Ctrl-C and SIGTERM in the middle of a race: saved, said how to go on, exit code 130."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest


def wait_for_a_child(process: int, seconds: float) -> None:
    """Wait until a process has started another one; it may well never do so."""
    children = Path(f"/proc/{process}/task/{process}/children")
    end = time.monotonic() + seconds
    while time.monotonic() < end and children.exists() and not children.read_text().strip():
        time.sleep(0.05)


@pytest.mark.skipif(os.name != "posix", reason="sends POSIX signals")
@pytest.mark.parametrize("engine", ["lanes", "loop"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_race_says_how_to_go_on(number: signal.Signals, engine: str, tmp_path: Path) -> None:
    """The signal goes to the whole process group, as from a terminal or from ``timeout``."""
    command = [sys.executable, "-m", "thalweg", "race", "--data", "iris", "--model", "linear"]
    # so many epochs that it can't have ended before the signal, on any machine
    command += ["--optimizers", "sgd", "--trials", "2", "--splits", "2", "--epochs", "1000000"]
    with subprocess.Popen(
        [*command, "--engine", engine, "--out", "here"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as race:
        assert race.stdout is not None
        try:
            begun = any(line.startswith("note: estimated") for line in race.stdout)
            if engine == "loop":
                wait_for_a_child(race.pid, 5)
            os.killpg(race.pid, number)
            _, said = race.communicate(timeout=120)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(race.pid, signal.SIGKILL)
    assert begun, said
    assert race.returncode == 130, said
    assert said.count("\n") == 1, said
    assert "--out here and --resume" in said
    assert (tmp_path / "here" / "events.jsonl").exists()
    assert not (tmp_path / "here" / "results.json").exists()
