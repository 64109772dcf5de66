"""A table with all that is odd about tables, through race, train and predict."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from thalweg import data
from thalweg.commands import app
from thalweg.racing.results import Results
from thalweg.report import write

ROWS = 60


def odd(folder: Path) -> pl.DataFrame:
    rng = np.random.default_rng(0)
    frame = pl.DataFrame(
        {
            "": range(1, ROWS + 1),
            "week": range(100, 100 + ROWS),
            "gaps": [None if i % 3 == 0 else float(i % 7) for i in range(ROWS)],
            "zip": [("02134", "10001", "94105")[i % 3] for i in range(ROWS)],
            "net weight": rng.normal(size=ROWS),
            "noise": ["x"] * 59 + ["1 2"],
            "y": rng.normal(size=ROWS),
        }
    )
    frame.write_csv(folder / "t.csv")
    return frame


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> pl.DataFrame:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("THALWEG_STATE_DIR", str(tmp_path / "state"))
    return odd(tmp_path)


SMALL = ["--model", "linear", "--optimizers", "sgd,adam", "--trials", "2", "--splits", "2", "--epochs", "1"]


def test_what_is_odd_about_a_table_stands_before_the_verdict(
    table: pl.DataFrame, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["--data", "t.csv", "--target", "y", "--missing", "median", "--type", "noise=ignore"]
    assert app.run(["race", *asked, *SMALL, "--out", "race"]) == 0
    said = capsys.readouterr().out
    results = Results.read(tmp_path / "race" / "results.json")
    assert len(results.data.warnings) == 3
    assert [w.text for w in results.warnings if w.code == "data"] == results.data.warnings
    page = (tmp_path / "race" / "report.html").read_text()
    top = page.partition("Before you rely on it")[2].partition("<nav>")[0]
    for word in ("without a name only numbers the rows", "--type week=ignore", "20 of 60 values of column"):
        assert f"warning: {next(text for text in results.data.warnings if word in text)}" in said
        assert word in top
    # trained and predicted by the same preparation
    assert app.run(["train", "race/winner.toml", "--set", "training.epochs=1", "--out", "trained"]) == 0
    assert 'leave it out: data.types = {week = "ignore"}' in capsys.readouterr().out
    page = write(tmp_path / "trained").read_text()
    assert "only numbers the rows" in page.partition("Before you rely on it")[2].partition("</header>")[0]
    table.head(7).drop("y", "").write_csv(tmp_path / "new.csv")
    assert app.run(["predict", "trained", "--data", "new.csv", "--out", "p.csv"]) == 0
    predicted = pl.read_csv(tmp_path / "p.csv")["y"]
    assert len(predicted) == 7
    assert predicted.n_unique() == 7


def test_large_data_is_announced_before_it_is_read(
    table: pl.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert data.announcement("t.csv") is None
    monkeypatch.setattr(sys.modules["thalweg.data.load"], "_LARGE", 1000)
    assert data.announcement(tmp_path / "t.csv") == f"reading {tmp_path / 't.csv'}, 0.0 MB"
    (tmp_path / "images" / "cats").mkdir(parents=True)
    assert data.announcement("images:images@8x8") is None
    (tmp_path / "images" / "cats" / "a.png").write_bytes(bytes(2000))
    assert data.announcement("images:images@8x8") == "reading images:images@8x8"
    # the file can't be used, and its name was said before that was known
    assert app.run(["race", "--data", "t.csv", "--target", "yy"]) == 2
    assert capsys.readouterr().out == "note: reading t.csv, 0.0 MB\n"
    (tmp_path / "r.toml").write_text(
        'version = 1\ndata = {spec = "t.csv", target = "yy"}\nmodel.spec = "linear"\noptimizer.name = "sgd"\n'
        "training = {batch_size = 8, epochs = 1}\n"
    )
    assert app.run(["train", "r.toml"]) == 2
    assert capsys.readouterr().out == "note: reading t.csv, 0.0 MB\n"
