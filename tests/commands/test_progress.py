"""What a training says where nobody looks: plain lines, progress now and then, the result at the end."""

from __future__ import annotations

import io

import pytest

from thalweg.commands.progress import TrainingTerminal
from thalweg.training.watch import Evaluation, TrainingProgress


class FakeTerminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def point(step: int, validation: float | None) -> Evaluation:
    return Evaluation(step=step, train_loss=0.5, validation_loss=0.4, validation=validation)


def test_plain_lines_of_progress_come_now_and_then() -> None:
    now, stream = 0.0, io.StringIO()
    with TrainingTerminal(stream, clock=lambda: now) as terminal:
        terminal.begun({"data": ["iris: 150 rows\x1b[2J"]})
        for step in range(0, 100, 5):
            now += 5.0
            terminal.evaluated(point(step, step / 100), point(step, step / 100))
            terminal.progress(TrainingProgress(step=step, steps=100, seconds_left=200.0))
        terminal.note("the learning rate falls")
    lines = stream.getvalue().splitlines()
    assert "\x1b" not in stream.getvalue()
    assert lines[0].startswith("data: iris: 150 rows")
    assert len([line for line in lines if line.startswith("train: ")]) == 7
    assert (
        "15 %, about 3.3 min left; step 15: training loss 0.5, validation 0.15; best 0.15 at step 15"
        in lines[2]
    )
    assert lines[-1] == "note: the learning rate falls"


def test_quiet_says_nothing_on_the_way() -> None:
    stream = io.StringIO()
    with TrainingTerminal(stream, quiet=True) as terminal:
        terminal.begun({"data": ["iris"]})
        terminal.progress(TrainingProgress(step=1, steps=2, seconds_left=None))
        terminal.note("a note")
    assert stream.getvalue() == ""


def test_a_terminal_is_redrawn_in_place_and_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "160")
    stream = FakeTerminal()
    with TrainingTerminal(stream) as terminal:
        terminal.begun({"data": ["iris: 150 rows", "90 train"]})
        terminal.evaluated(point(5, 0.5), point(5, 0.5))
        terminal.progress(TrainingProgress(step=50, steps=200, seconds_left=30.0))
        assert "\x1b[?25l" in stream.getvalue(), "the cursor is hidden"
    text = stream.getvalue()
    assert "25 %, about 30 s left; step 5: training loss 0.5, validation 0.5; best 0.5 at step 5" in text
    assert text.count("data") == 1, "a label stands in front of its first line"
    assert text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l")
