"""What is refused has started no process: neither the server that workers are forked from, nor a pool."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import thalweg
from races import TINY
from thalweg.commands import app
from thalweg.errors import OptionError, UserError
from thalweg.execution.pool import ProcessPool
from thalweg.racing import race
from thalweg.racing.configuration import written
from thalweg.racing.options import Options
from thalweg.run import workers
from thalweg.run.directory.directory import RunDirectory


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Note what would be started, and start nothing."""
    calls: list[str] = []
    monkeypatch.setattr(workers, "cores", lambda: 2)
    monkeypatch.setattr(workers.forkserver, "ensure_running", lambda: calls.append("server"))
    monkeypatch.setattr(workers.resource_tracker, "ensure_running", lambda: None)
    monkeypatch.setattr(ProcessPool, "_start", lambda pool: calls.append("pool"))
    return calls


@pytest.fixture
def places(tmp_path: Path) -> dict[str, str]:
    """Places that a run can't begin in, or go on in."""
    RunDirectory.create(tmp_path / "race", written(Options(**TINY))).close()
    RunDirectory.create(tmp_path / "sweep", {"kind": "sweep"}).close()
    (tmp_path / "file").write_text("x")
    return {name: str(tmp_path / name) for name in ("race", "sweep", "file", "none", "file/below")}


WRONG: list[dict[str, Any]] = [
    {"trials": 0},
    {"splits": 1},
    {"minutes": 0.0},
    {"engine": "lane"},
    {"task": "clasification"},
    {"data": None},
    {"out": "race"},
    {"out": "file"},
    {"out": "file/below"},
    {"out": "none", "resume": True},
    {"out": "sweep", "resume": True},
    {"out": "race", "resume": True, "trials": 5},
    {"out": "race", "resume": True, "data": "wine"},
    {"resume": True},
]
# what shows once torch is there
LATER: list[dict[str, Any]] = [
    {"optimizers": ["adma"]},
    {"schedules": ["cosin"]},
    {"initializations": ["spars"]},
    {"spaces": {"adam.lr": (1.0, 0.1)}},
    {"device": "nowhere"},
    {"data": "irsi"},
    {"loss": "cross"},
    {"metric": "acuracy"},
    {"goal": 7.0},
    {"batch_size": 5000},
    {"model": "mlp:x"},
    {"optimizers": ["newton"], "model": "mlp:30"},
]


def given(wrong: dict[str, Any], places: dict[str, str]) -> dict[str, Any]:
    there = {"out": places[wrong["out"]]} if "out" in wrong else {}
    return {**({} if wrong.get("resume") else TINY), **wrong, **there}


@pytest.mark.parametrize("wrong", [*WRONG, *LATER], ids=str)
def test_a_refused_race_starts_no_process(
    wrong: dict[str, Any], places: dict[str, str], started: list[str]
) -> None:
    with pytest.raises(UserError):
        thalweg.race(**given(wrong, places))
    assert started == []


@pytest.mark.parametrize("wrong", WRONG, ids=str)
def test_nor_does_the_command(
    wrong: dict[str, Any], places: dict[str, str], started: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["race"]
    for name, value in given(wrong, places).items():
        if value is True:
            arguments.append(f"--{name}")
        elif value is not None:
            words = ",".join(value) if isinstance(value, list) else str(value)
            arguments += [f"--{name.replace('_', '-')}", words]
    assert app.run(arguments) == 2
    assert capsys.readouterr().err.startswith("error: ")
    assert started == []


def test_a_race_that_begins_starts_the_server(
    started: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def ends(*_: Any) -> Any:
        raise OptionError("that was all")

    monkeypatch.setattr(race, "_run", ends)
    with pytest.raises(OptionError, match="that was all"):
        thalweg.race(**TINY, out=tmp_path / "python")
    assert started == ["server"]
    words = ["race", "--model", "linear", "--data", "iris", "--out", str(tmp_path / "command")]
    assert app.run(words) == 2
    assert "that was all" in capsys.readouterr().err
    # early, and once more where it is there already
    assert started == ["server"] * 3
    with pytest.raises(OptionError, match="that was all"):
        thalweg.race(**TINY, out=tmp_path / "elsewhere", executor=object())
    assert started == ["server"] * 3


@pytest.mark.parametrize(
    "wrong",
    [
        {"epochs": 0}, {"settings": "adma"}, {"engine": "lane"}, {"out": "race"}, {"seeds": 0},
        {"out": "sweep", "resume": True}, {"batch_size": 5000}, {"model": "mlp:x"}, {"metric": "acuracy"},
        {"settings": [{"optimizer": "adam", "lr": -1.0}]},
    ],
    ids=str,
)  # fmt: skip
def test_a_refused_sweep_starts_no_process(
    wrong: dict[str, Any], places: dict[str, str], started: list[str]
) -> None:
    asked = {"model": "linear", "data": "iris", "settings": "adam", "epochs": 1, **wrong}
    if "out" in wrong:
        asked["out"] = places[wrong["out"]]
    with pytest.raises(UserError):
        thalweg.sweep(**asked)
    assert started == []


@pytest.mark.parametrize(
    "wrong", [{"members": 1}, {"engine": "lane"}, {"out": "race"}, {"optimizer": "adma"}], ids=str
)
def test_a_refused_ensemble_starts_no_process(
    wrong: dict[str, Any], places: dict[str, str], started: list[str]
) -> None:
    asked: dict[str, Any] = {"optimizer": "adam", "epochs": 1, **wrong}
    if "out" in wrong:
        asked["out"] = places[wrong["out"]]
    with pytest.raises(UserError):
        thalweg.fit_ensemble("linear", (torch.randn(8, 2), torch.zeros(8).long()), "cross-entropy", **asked)
    assert started == []


@pytest.mark.parametrize("place", ["race", "file", "file/below"])
def test_a_sweep_says_that_it_has_no_place_before_it_reads(
    place: str, places: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def read() -> Any:
        raise AssertionError("nothing is read")

    with pytest.raises(UserError, match="the run directory"):
        thalweg.sweep("linear", read, "adam", epochs=1, out=places[place])
