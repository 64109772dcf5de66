"""What happened once is read back."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from thalweg.execution.journal import Journal
from thalweg.run.directory import RunDirectory


def never() -> None:
    raise AssertionError("computed twice")


def test_a_value_is_computed_once_also_over_a_resume(tmp_path: Path) -> None:
    with RunDirectory.create(tmp_path / "run", {}) as directory:
        journal = Journal(directory)
        assert "a" not in journal
        first = journal.once("kind", "a", lambda: {"x": (1, 2.5), "nan": math.nan, "y": [math.inf]})
        assert "a" in journal
        assert journal.once("kind", "a", never) is first
    with RunDirectory.resume(tmp_path / "run") as directory:
        journal = Journal(directory)
        # nothing may depend on whether a value was just computed or read back
        assert journal.once("kind", "a", never) == first == {"x": [1, 2.5], "nan": None, "y": [None]}


def test_what_raises_is_not_known(tmp_path: Path) -> None:
    with RunDirectory.create(tmp_path / "run", {}) as directory:
        journal = Journal(directory)
        with pytest.raises(AssertionError):
            journal.once("kind", "a", never)
        assert "a" not in journal
        assert directory.events() == []


def test_elapsed_goes_on_after_a_resume(tmp_path: Path) -> None:
    with RunDirectory.create(tmp_path / "run", {}) as directory:
        directory.append({"event": "kind", "key": "a", "value": 1, "elapsed": 100.0})
        assert Journal(directory).elapsed >= 100.0
