"""``thalweg report DIR``."""

from __future__ import annotations

from pathlib import Path

import pytest

from report.synthetic import make
from thalweg.cli import app


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
