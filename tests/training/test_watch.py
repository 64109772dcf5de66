"""How far a training is and how long it will take: told a few times a second, from the steps seen."""

from __future__ import annotations

import pytest

from thalweg.training import watch


class Listening(watch.TrainingWatcher):
    def __init__(self) -> None:
        self.told: list[watch.TrainingProgress] = []

    def progress(self, progress: watch.TrainingProgress) -> None:
        self.told.append(progress)


def test_progress_is_told_a_few_times_a_second_with_an_estimate(monkeypatch: pytest.MonkeyPatch) -> None:
    now, listening = [100.0], Listening()
    monkeypatch.setattr(watch.time, "monotonic", lambda: now[0])
    pace = watch.Pace(listening)
    for step in range(1, 101):
        now[0] = 100.0 + (3.0 if step == 1 else 3.0 + (step - 1) / 32)  # the first step compiles
        pace.tell(step, 200)
    assert [progress.step for progress in listening.told] == [1, *range(8, 101, 7)]
    assert [progress.seconds_left for progress in listening.told] == pytest.approx(
        [None, *((200 - step) / 32 for step in range(8, 101, 7))]
    )
    assert {progress.steps for progress in listening.told} == {200}


def test_there_is_no_estimate_while_nothing_moves(monkeypatch: pytest.MonkeyPatch) -> None:
    now, listening = [0.0], Listening()
    monkeypatch.setattr(watch.time, "monotonic", lambda: now[0])
    pace = watch.Pace(listening)
    for seconds in range(1, 4):
        now[0] = float(seconds)
        pace.tell(5, 10)
    assert [progress.seconds_left for progress in listening.told] == [None, None, None]
