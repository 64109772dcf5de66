"""The ledger of looks at test splits."""

from __future__ import annotations

from pathlib import Path

import pytest

from thalweg.racing import looks


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("THALWEG_STATE_DIR", str(tmp_path / "deep" / "state"))
    return tmp_path / "deep" / "state"


def test_races_are_counted_by_data_and_each_once() -> None:
    assert looks.count_and_add("iris", "one") == 1
    assert looks.count_and_add("wine", "one") == 1
    assert looks.count_and_add("iris", "two") == 2
    assert looks.count_and_add("iris", "three") == 3
    assert looks.count_and_add("iris", "two") == 2, "a race that was killed before it could write this down"
    assert looks.count_and_add("iris", "four") == 4


def test_it_holds_no_data(folder: Path) -> None:
    looks.count_and_add("abc", "one")
    assert (folder / "test-looks.jsonl").read_text() == '{"data": "abc", "race": "one"}\n'


def test_a_damaged_ledger_costs_no_race(folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / "test-looks.jsonl").write_bytes(b'\xff\xfe\x00 nonsense\n{"data": "iris"')
    assert [looks.count_and_add("iris", "one"), looks.count_and_add("iris", "two")] == [1, 2]


def test_a_folder_that_can_not_be_written_costs_no_race(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("THALWEG_STATE_DIR", str(tmp_path / "file" / "state"))
    assert looks.count_and_add("iris", "one") == 1


def test_where_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("THALWEG_STATE_DIR")
    monkeypatch.setenv("XDG_STATE_HOME", "/state")
    assert looks.ledger_path() == Path("/state/thalweg/test-looks.jsonl")
    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.setenv("HOME", "/home/somebody")
    assert looks.ledger_path() == Path("/home/somebody/.local/state/thalweg/test-looks.jsonl")
