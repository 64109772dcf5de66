"""States of runs under way, as files."""

from __future__ import annotations

from pathlib import Path

from thalweg.execution import States


def test_states_are_cleared_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    (tmp_path / "folder").mkdir()
    keeper = States(tmp_path)
    keeper.save("chunk", {"a": 1})
    keeper.clear()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder", "thesis.txt"]
    States(tmp_path / "gone").clear()
    assert not (tmp_path / "gone").exists()
