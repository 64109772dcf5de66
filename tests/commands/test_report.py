"""``thalweg report DIR``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from report.synthetic import make
from thalweg.commands import app


def test_report_is_written_anew_and_its_path_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "results.json").write_text(make().model_dump_json(), encoding="utf-8")
    assert app.run(["report", str(tmp_path)]) == 0
    assert capsys.readouterr().out == f"report: {tmp_path / 'report.html'}\n"
    assert "<html" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_a_directory_without_a_race_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert app.run(["report", str(tmp_path / "nowhere")]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("error: ")
    assert "nowhere" in said.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "event",
    [
        {"event": "evaluation"},
        {"event": "evaluation", "step": None},
        {"event": "evaluation", "step": [1], "train_loss": "low"},
        {"event": "begun", "key": "begun", "value": None},
        {"event": "runs", "key": "r0/screen1/chunk0", "value": None, "elapsed": "long"},
    ],
)
@pytest.mark.parametrize("kind", ["training", "race"])
def test_events_that_are_other_json_are_one_sentence(
    kind: str, event: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Either a report is written, of what can be read, or the directory is said to be damaged."""
    run = tmp_path / "run"
    run.mkdir()
    configs = {"training": "kind = 'train'\n[recipe.data]\nspec = 'iris'\n", "race": "data = 'iris'\n"}
    (run / "config.toml").write_text(configs[kind], encoding="utf-8")
    (run / "events.jsonl").write_text(json.dumps(event) + "\n", encoding="utf-8")
    code = app.run(["report", str(run)])
    said = capsys.readouterr().err
    assert code == (2 if said else 0)
    assert said.count("\n") <= 1
    assert "Traceback" not in said
    assert (run / "report.html").exists() == (code == 0)
