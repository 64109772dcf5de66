"""Ctrl-C and SIGTERM in the middle of a race: saved, said how to go on, exit code 130."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.skipif(os.name != "posix", reason="sends POSIX signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_race_says_how_to_go_on(number: signal.Signals, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "thalweg", "race", "--data", "iris", "--model", "linear"]
    # so many epochs that it can't have ended before the signal, on any machine
    command += [
        "--optimizers",
        "sgd",
        "--trials",
        "2",
        "--splits",
        "2",
        "--epochs",
        "1000000",
        "--out",
        "here",
    ]
    race = subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, bufsize=1
    )
    assert race.stdout is not None
    try:
        lines = []
        for line in race.stdout:
            lines.append(line)
            if line.startswith("screen: "):
                race.send_signal(number)
                break
        _, said = race.communicate(timeout=120)
    finally:
        race.kill()
    assert race.returncode == 130, (said, lines)
    assert said.count("\n") == 1
    assert "--out here --resume" in said
    assert (tmp_path / "here" / "events.jsonl").exists()
    assert not (tmp_path / "here" / "results.json").exists()
