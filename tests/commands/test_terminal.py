"""What a race says, in a terminal and in a pipe."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from report.synthetic import make
from thalweg.commands.terminal import Terminal, _hyperparameter
from thalweg.racing.results import Results
from thalweg.racing.watch import LeaderboardRow, RaceProgress, RaceWatcher
from thalweg.run.summaries import repeated


class FakeTerminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def row(name: str, best: float | None = 0.9712345) -> LeaderboardRow:
    return LeaderboardRow(
        optimizer=name,
        best_validation=best,
        confirmed_score=None,
        tried=12,
        diverged=3,
        setting="lr 0.01, cosine",
    )


def step(done: float, *, stage: str = "screen", left: float | None = 30.0) -> RaceProgress:
    return RaceProgress(stage=stage, detail="split 2 of 5", done=done, total=200.0, seconds_left=left)


def tell(watcher: RaceWatcher, results: Results) -> None:
    watcher.understood(results.data, results.model, results.plan)
    watcher.engine(results.engine)
    watcher.note("estimated time: 40 s")
    watcher.progress(step(50))
    watcher.leaderboard([row("adam"), row("sgd", None)])
    watcher.progress(step(100, left=None))
    watcher.finished(results, Path("runs/one/report.html"))


def test_a_pipe_gets_plain_lines() -> None:
    stream = io.StringIO()
    results = make()
    with Terminal(stream) as terminal:
        tell(terminal, results)
    text = stream.getvalue()
    assert "\x1b" not in text
    assert "\r" not in text
    lines = text.splitlines()
    assert lines[0] == "data: digits: 1,797 rows, 64 numbers; 10 classes of 'label'"
    assert "data: 1,077 train, 360 validation, 360 test" in lines
    assert f"data: {results.data.notes[0]}" in lines
    assert "model: mlp:64,32, 6,570 parameters" in lines
    assert any(
        line.startswith("plan: 7 optimizers (sgd, momentum") and "x 16 settings x 5 splits" in line
        for line in lines
    )
    assert any(
        line.startswith("engine: lanes: up to 64 runs as one program, cpu; 64 lanes took") for line in lines
    )
    assert f"engine: run again, it gives {repeated(results.engine.promise)}" in lines
    assert "note: estimated time: 40 s" in lines
    assert "screen: 25 %, about 30 s left (split 2 of 5)" in lines
    assert f"verdict: {results.verdict.sentence}" in lines
    assert f"warning: {results.warnings[0].text}" in lines
    assert lines[-1] == "report: runs/one/report.html"
    table = next(number for number, line in enumerate(lines) if line.startswith("optimizer"))
    rows = [line.split() for line in lines[table + 1 : table + 8]]
    means = {o.name: -1.0 if o.mean is None else o.mean for o in results.optimizers}
    assert [words[0] for words in rows] == sorted(means, key=lambda name: -means[name]), "best first"
    assert " ".join(rows[-1]).startswith("rmsprop 1 of 10 runs diverged"), "no mean over a diverged run"


def test_progress_in_a_pipe_is_a_line_now_and_then() -> None:
    stream = io.StringIO()
    now = [0.0]
    terminal = Terminal(stream, clock=lambda: now[0])
    for seconds in range(60):
        now[0] = float(seconds)
        terminal.progress(step(seconds))
    terminal.progress(step(100, stage="confirm"))
    terminal.progress(step(101, stage="confirm"))
    lines = stream.getvalue().splitlines()
    assert [line.split(":")[0] for line in lines] == ["screen"] * 4 + ["confirm"]


def test_progress_in_a_pipe_names_who_is_ahead() -> None:
    stream = io.StringIO()
    terminal = Terminal(stream)
    terminal.leaderboard([row("adam"), row("sgd")])
    terminal.progress(step(50))
    assert stream.getvalue().endswith("; ahead: adam 0.9712 on validation\n")


def test_a_terminal_is_redrawn_in_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "120")
    stream = FakeTerminal()
    results = make()
    with Terminal(stream) as terminal:
        tell(terminal, results)
    text = stream.getvalue()
    assert "\x1b[" in text
    assert "so far" in text
    assert "sgd" in text
    assert "50 %" in text
    assert text.count("\x1b[?25l") == text.count("\x1b[?25h") == 1, "the cursor is hidden, and comes back"
    assert results.verdict.sentence.split()[-1] in text


def test_the_cursor_comes_back_after_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    stream = FakeTerminal()

    def watch_and_be_interrupted() -> None:
        with Terminal(stream) as terminal:
            terminal.progress(step(1))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        watch_and_be_interrupted()
    assert stream.getvalue().count("\x1b[?25h") == 1


def test_a_dumb_terminal_gets_plain_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    stream = FakeTerminal()
    with Terminal(stream) as terminal:
        tell(terminal, make())
    assert "\x1b" not in stream.getvalue()


def test_a_forced_colour_does_not_reach_a_pipe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    stream = io.StringIO()
    with Terminal(stream) as terminal:
        tell(terminal, make())
    assert "\x1b" not in stream.getvalue()


def test_quiet_says_only_the_verdict() -> None:
    for stream in (io.StringIO(), FakeTerminal()):
        results = make()
        with Terminal(stream, quiet=True) as terminal:
            tell(terminal, results)
        assert stream.getvalue().count("\n") >= 1
        assert "report" not in stream.getvalue()
        assert "verdict" in stream.getvalue()


def test_names_from_the_data_can_not_steer_the_terminal() -> None:
    stream = FakeTerminal()
    results = make(target="price\x1b[2J\x07\nnext [bold]x[/bold]")
    terminal = Terminal(stream)
    terminal.understood(results.data, results.model, results.plan)
    assert "\x1b[2J" not in stream.getvalue()
    assert "\x07" not in stream.getvalue()
    assert "[bold]x[/bold]" in "".join(stream.getvalue().split("\n")).replace(" ", "")


@pytest.mark.parametrize("eliminate", [False, True])
@pytest.mark.parametrize("regression", [False, True])
def test_every_kind_of_result_can_be_told(eliminate: bool, regression: bool) -> None:
    stream = io.StringIO()
    with Terminal(stream) as terminal:
        tell(
            terminal,
            make(("adam",), regression=regression, eliminate=eliminate, seconds_axis=False, goal=False),
        )
    assert "verdict: " in stream.getvalue()
    assert "nan" not in stream.getvalue().lower().replace("nesterov", "")


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (0.0123456, "0.0123"),
        (0.9, "0.9"),
        (0.95, "0.95"),
        (0.9998, "0.9998"),
        (0.99983, "0.99983"),
        (0.999999, "0.999999"),
        (1.0, "1"),
        (12.0, "12"),
        (1e-8, "1e-08"),
        (True, "True"),
    ],
)
def test_hyperparameters_near_1_keep_their_distance_to_it(value: float | bool, said: str) -> None:
    assert _hyperparameter(value) == said
