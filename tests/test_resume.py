"""Killed at any moment and taken up again, a race ends with the results of one that was left alone."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

import races
from killing import Moment, race
from thalweg.errors import DataError, OptionError, RunDirectoryError
from thalweg.racing.results import Results
from thalweg.run.directory import RunDirectory

pytestmark = pytest.mark.skipif(os.name != "posix", reason="kills processes")

LANES: dict[str, Any] = {}
# two chunks a stage, so that there is a moment between them
HALVING: dict[str, Any] = {"trials": 8, "confirm": 1, "eliminate": True, "engine": {"chunk": 12}}
LOOP: dict[str, Any] = {"optimizers": ["momentum"], "trials": 3, "confirm": 1, "engine": {"kind": "loop"}}
HALVING_LOOP: dict[str, Any] = {**LOOP, "trials": 5, "eliminate": True}
# one setting, so that only the reruns start processes
PROCESSES: dict[str, Any] = {**LOOP, "trials": 1, "engine": {"kind": "loop", "processes": 2}}


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The results of a race that was left alone, by what was asked for."""
    found: dict[str, dict[str, Any]] = {}

    def results(asked: dict[str, Any]) -> dict[str, Any]:
        key = json.dumps(asked)
        if key not in found:
            out = tmp_path_factory.mktemp("undisturbed") / "out"
            assert race(out, **asked) == 0
            found[key] = races.comparable(Results.read(out / "results.json"))
        return found[key]

    return results


def ends_alike(out: Path, expected: dict[str, Any]) -> None:
    found = races.comparable(Results.read(out / "results.json"))
    for part in expected:
        assert found[part] == expected[part], part
    assert found == expected
    left = [path.name for path in out.rglob("*") if path.name.endswith(".draft")]
    assert left == []
    keys = [event["key"] for event in RunDirectory.read(out).events()]
    assert len(keys) == len(set(keys)), "something was computed twice"


MOMENTS = [
    *(("lanes", LANES, Moment("event", number)) for number in (1, 2, 5)),
    *(("lanes", LANES, Moment("written", number)) for number in (2, 3, 7)),
    *(("lanes", LANES, Moment("torn", number)) for number in (1, 4)),
    *(("lanes", LANES, Moment("file", name)) for name in ("winner.toml", "results.json")),
    *(("lanes", LANES, Moment("state", number)) for number in (2, 13)),
    ("lanes", LANES, Moment("half state", 3)),
    *(("lanes, halving", HALVING, Moment("written", number)) for number in (4, 6)),
    *(("lanes, halving", HALVING, Moment("state", number)) for number in (4, 8)),
    *(("loop", LOOP, Moment("state", number)) for number in (3, 25)),
    ("loop", LOOP, Moment("written", 9)),
    *(("loop, halving", HALVING_LOOP, Moment("written", number)) for number in (4, 5, 7)),
    *(("loop, halving", HALVING_LOOP, Moment("state", number)) for number in (5, 17, 30)),
]


@pytest.mark.parametrize(("asked", "moment"), [(asked, moment) for _, asked, moment in MOMENTS],
                         ids=[f"{name}, {moment}" for name, _, moment in MOMENTS])  # fmt: skip
def test_a_killed_race_ends_alike(
    asked: dict[str, Any], moment: Moment, tmp_path: Path, undisturbed: Any
) -> None:
    out = tmp_path / "out"
    assert race(out, moment=moment, every_state="state" in moment.place, **asked) == -9
    assert not (out / "results.json").exists()
    assert race(out, resume=True, **asked) == 0
    ends_alike(out, undisturbed(asked))


def test_a_race_killed_again_and_again_ends_alike(tmp_path: Path, undisturbed: Any) -> None:
    """Every attempt gets two events further."""
    out, deaths = tmp_path / "out", 0
    while race(out, moment=Moment("written", 2), resume=deaths > 0, **HALVING) == -9:
        deaths += 1
    assert deaths == len(RunDirectory.read(out).events()) // 2 > 10
    ends_alike(out, undisturbed(HALVING))


@pytest.mark.parametrize("asked", [LANES, HALVING, LOOP, HALVING_LOOP], ids=str)
def test_an_interrupted_race_ends_alike(asked: dict[str, Any], tmp_path: Path, undisturbed: Any) -> None:
    """Asked to stop between two steps, wherever they are."""
    out = tmp_path / "out"
    for attempt, step in enumerate((7, 38)):
        assert race(out, moment=Moment("asked", step), resume=attempt > 0, **asked) == 130
        assert [path for path in (out / "checkpoints").iterdir() if path.name != "run_id"], (
            "nothing was saved"
        )
    assert race(out, resume=True, **asked) == 0
    ends_alike(out, undisturbed(asked))


def test_a_race_in_two_processes_ends_alike(tmp_path: Path, undisturbed: Any) -> None:
    """And as a race in one process, apart from the record of how it ran."""
    out = tmp_path / "out"
    # the reruns of the first split: one is done, the other under way
    assert race(out, moment=Moment("written", 5), **PROCESSES) == -9
    assert race(out, resume=True, **PROCESSES) == 0
    alone = undisturbed({**PROCESSES, "engine": {"kind": "loop"}})
    ends_alike(out, {**alone, "engine": {**alone["engine"], "processes": 2}})


def test_lanes_in_two_processes_end_alike(tmp_path: Path, undisturbed: Any) -> None:
    """Other chunks, other company, a closure's runs beside them: the same scores as in one process."""
    out = tmp_path / "out"
    asked = {"optimizers": ["sgd", "adam", "steepest-descent"], "trials": 3, "confirm": 1}
    engine = {"kind": "lanes", "processes": 2, "lane_processes": 2}
    # the second chunk of the first split's reruns is under way
    assert race(out, moment=Moment("written", 7), **asked, engine=engine) == -9
    assert race(out, resume=True, **asked, engine=engine) == 0
    alone = undisturbed({**asked, "engine": {"kind": "lanes"}})
    ends_alike(out, {**alone, "engine": {**alone["engine"], "processes": 2, "lane_processes": 2}})


# What a resume refuses ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def half_done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("half")
    rows = [f"{i % 7},{i % 5},{'xy'[i % 2]}\n" for i in range(60)]
    (folder / "t.csv").write_text("a,b,kind\n" + "".join(rows))
    assert race(folder / "out", moment=Moment("written", 4), data=str(folder / "t.csv"), target="kind") == -9
    return folder


def again(folder: Path, **changes: Any) -> Results:
    with races.engine():
        asked = {"data": str(folder / "t.csv"), "target": "kind", **changes}
        return races.run(folder / "out", resume=True, **asked)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("trials", 5),
        ("optimizers", ["adam", "sgd"]),
        ("eliminate", True),
        ("seed", 1),
        ("spaces", {"adam.lr": (0.1, 1.0)}),
    ],
)
def test_another_option_is_refused(name: str, value: Any, half_done: Path) -> None:
    before = (half_done / "out" / "events.jsonl").read_bytes()
    with pytest.raises(OptionError, match="was begun with"):
        again(half_done, **{name: value})
    assert (half_done / "out" / "events.jsonl").read_bytes() == before


def test_changed_data_are_refused(half_done: Path) -> None:
    table = half_done / "t.csv"
    whole = table.read_text()
    table.write_text(whole.replace("3,2,", "3,4,", 1))
    try:
        with pytest.raises(DataError, match=r"t\.csv has changed since the race"):
            again(half_done)
    finally:
        table.write_text(whole)
    assert (half_done / "out" / "config.toml").exists()


def test_a_race_under_way_is_refused(half_done: Path) -> None:
    with RunDirectory.resume(half_done / "out"), pytest.raises(RunDirectoryError, match="another process"):
        again(half_done)


def test_options_left_out_are_those_of_the_beginning(tmp_path: Path, undisturbed: Any) -> None:
    out = tmp_path / "out"
    assert race(out, moment=Moment("written", 4)) == -9
    with races.engine():
        races.race.run_race(races.Options(out=out, resume=True, command="another command"))
    expected, found = undisturbed(LANES), races.comparable(Results.read(out / "results.json"))
    assert found["plan"] == expected["plan"]
    assert found["command"] == expected["command"]
    assert [o["name"] for o in found["optimizers"]] == [o["name"] for o in expected["optimizers"]]


def test_a_finished_race_can_be_taken_up_and_stays_the_same(tmp_path: Path, undisturbed: Any) -> None:
    out = tmp_path / "out"
    assert race(out) == 0
    events = (out / "events.jsonl").read_bytes()
    assert race(out, resume=True) == 0
    assert (out / "events.jsonl").read_bytes() == events
    ends_alike(out, undisturbed(LANES))
