"""Claims are measured in any number of processes, stopped and resumed, with the same numbers."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from thalweg import claims
from thalweg.claims import carrying_out, gallery
from thalweg.commands import app
from thalweg.errors import Interrupted, OptionError, RunDirectoryError

_QUIET = claims.ClaimsWatcher()


def test_processes_dont_change_a_number(tmp_path: Path) -> None:
    names = ("one-step", "lower-loss-more-errors")
    one = claims.run(*names, seeds=3, processes=1, watcher=_QUIET)
    two = claims.run(*names, seeds=3, processes=2, watcher=_QUIET, out=tmp_path / "out")
    for first, second in zip(one, two, strict=True):
        assert gallery.plain_result(first)["numbers"] == gallery.plain_result(second)["numbers"]
    assert (tmp_path / "out" / "gallery.html").exists()
    assert (tmp_path / "out" / "one-step.svg").exists()


def test_seeds_are_those_of_a_longer_measurement() -> None:
    few = claims.run("lower-loss-more-errors", seeds=2, processes=1, watcher=_QUIET)[0]
    more = claims.run("lower-loss-more-errors", seeds=4, processes=1, watcher=_QUIET)[0]
    assert more.numbers[""][:2] == few.numbers[""]
    assert len({str(row) for row in more.numbers[""]}) > 1


class _Stops(claims.ClaimsWatcher):
    def __init__(self, after: int) -> None:
        self.after, self.done, self.known = after, 0, -1

    def counted(self, claims: int, measurements: int, known: int) -> None:
        self.known = known

    def measured(self, name: str, done: int, measurements: int) -> None:
        self.done += 1
        if self.done == self.after:
            os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.parametrize("processes", [1, 2])
def test_what_is_stopped_goes_on(tmp_path: Path, processes: int) -> None:
    whole = claims.run("lower-loss-more-errors", seeds=6, processes=1, watcher=_QUIET)[0]
    out = tmp_path / "out"
    with pytest.raises(Interrupted, match="resume=True goes on"):
        claims.run("lower-loss-more-errors", seeds=6, out=out, processes=processes, watcher=_Stops(2))
    assert not (out / "gallery.html").exists()
    going_on = _Stops(-1)
    found = claims.run(out=out, resume=True, processes=processes, watcher=going_on)[0]
    assert 2 <= going_on.known < 6
    assert going_on.done == 6 - going_on.known
    assert found.numbers[""] == whole.numbers[""]


def test_without_a_directory_one_is_asked_for() -> None:
    with pytest.raises(Interrupted, match="give out"):
        claims.run("lower-loss-more-errors", seeds=4, processes=1, watcher=_Stops(1))


def test_a_claim_whose_file_has_changed_is_measured_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    claims.run("one-step", out=out, processes=1, watcher=_QUIET)
    watcher = _Stops(-1)
    claims.run(out=out, resume=True, processes=1, watcher=watcher)
    assert watcher.done == 0
    monkeypatch.setattr(claims.Claim, "digest", lambda self: "another")
    claims.run(out=out, resume=True, processes=1, watcher=watcher)
    assert watcher.done == 4


def test_a_killed_command_is_resumed(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "thalweg", "claims", "run"]
    out = str(tmp_path / "out")
    begun = subprocess.Popen(
        [*command, "lower-loss-more-errors", "--seeds", "300", "--out", out, "--processes", "2"],
        stdout=subprocess.DEVNULL,
    )
    events = tmp_path / "out" / "events.jsonl"
    until = time.monotonic() + 120
    while time.monotonic() < until and not (events.exists() and events.read_text().count("\n") > 3):
        time.sleep(0.05)
    begun.kill()
    begun.wait()
    kept = events.read_text().count("\n")
    assert 3 < kept < 300
    assert app.run(["claims", "run", "--out", out, "--resume", "--quiet"]) == 0
    (result,) = json.loads((tmp_path / "out" / "results.json").read_text())
    assert result["seeds"] == 300


def test_a_result_is_read_back(tmp_path: Path) -> None:
    (found,) = claims.run("fourth-point", seeds=8, processes=1, watcher=_QUIET)
    again = gallery.from_plain(json.loads(json.dumps(gallery.plain_result(found))))
    assert again.judged == found.judged
    assert gallery.page(again) == gallery.page(found)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"names": ()}, "no claim is named; give names, or all"),
        ({"names": ("one-stp",)}, "there is no claim 'one-stp'; did you mean one-step"),
        ({"names": ("one-step",), "seeds": 1}, "seeds"),
        ({"names": ("one-step",), "processes": 0}, "processes"),
    ],
)
def test_bad_input_is_refused(arguments: dict[str, object], said: str) -> None:
    given = dict(arguments)
    names = given.pop("names")
    with pytest.raises(OptionError, match=said):
        carrying_out.run(*names, watcher=_QUIET, **given)  # type: ignore[misc, arg-type]


def test_a_directory_that_is_there_is_refused(tmp_path: Path) -> None:
    out = tmp_path / "out"
    claims.run("one-step", out=out, processes=1, watcher=_QUIET)
    with pytest.raises(RunDirectoryError, match=r"claims\.run\(out='.*', resume=True\)"):
        claims.run("one-step", out=out, processes=1, watcher=_QUIET)
    with pytest.raises(OptionError, match="seeds"):
        claims.run("one-step", out=out, seeds=4, resume=True, processes=1, watcher=_QUIET)
    with pytest.raises(OptionError, match="out"):
        claims.run("one-step", resume=True, processes=1, watcher=_QUIET)


def test_the_command_lists_and_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert app.run(["claims", "list"]) == 0
    said = capsys.readouterr().out
    for name in claims.names():
        assert f"  {name} " in said
    assert app.run(["claims"]) == 0
    assert "list" in capsys.readouterr().out
    assert app.run(["claims", "list", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in rows] == list(claims.names())
    out = str(tmp_path / "out")
    assert app.run(["claims", "run", "one-step", "--out", out, "--processes", "1"]) == 0
    assert "verdict: one-step: holds" in capsys.readouterr().out
    for arguments, word in ((["run"], "no claim is named"), (["run", "x"], "no claim 'x'"), (["go"], "go")):
        assert app.run(["claims", *arguments]) == 2
        assert word in capsys.readouterr().err
    assert app.run(["claims", "run", "one-step", "--out", out]) == 2
    assert f"thalweg claims run --out {out} --resume" in capsys.readouterr().err
    assert app.run(["report", out]) == 2
    assert "its gallery.html shows them" in capsys.readouterr().err
    for verb in ("train", "race"):
        assert app.run([verb, "--out", out, "--resume"]) == 2
        assert "holds measurements of claims" in capsys.readouterr().err


def test_python_says_a_line_a_claim(capsys: pytest.CaptureFixture[str]) -> None:
    claims.run("one-step", processes=1)
    assert capsys.readouterr().err.startswith("one-step: holds")


def test_a_claim_of_ones_own_is_measured_here() -> None:
    own = dataclasses.replace(claims.get("one-step"), name="mine")
    mine, theirs = claims.run(own, "one-step", processes=2, watcher=_QUIET)
    assert (mine.claim.name, mine.judged.verdict) == ("mine", "holds")
    assert mine.numbers == theirs.numbers


@pytest.mark.parametrize(
    ("name", "said"), [("", "letters"), ("a/b", "letters"), ("zig-zag", "is a claim of the lectures")]
)
def test_names_of_ones_own_are_checked(name: str, said: str) -> None:
    with pytest.raises(OptionError, match=said):
        claims.run(dataclasses.replace(claims.get("one-step"), name=name), watcher=_QUIET)
