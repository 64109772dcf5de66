"""What ``thalweg list`` prints."""

from __future__ import annotations

import json

import pytest

from thalweg import catalogue, data, models, schedules
from thalweg.cli import app

NAMES = {
    "optimizers": list(catalogue.names()),
    "schedules": list(schedules.names()),
    "data": list(data.describe()),
    "models": list(models.names()),
}


@pytest.mark.parametrize("kind", NAMES)
def test_a_line_each(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert app.run(["list", kind]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(NAMES[kind])
    for line, name in zip(lines, NAMES[kind], strict=True):
        assert line.startswith(f"{name} ")
        assert len(line.split("  ", 1)[1].strip()) > 10, "a name without a word about it"


@pytest.mark.parametrize("kind", NAMES)
def test_json_has_names_and_summaries(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert app.run(["list", kind, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in rows] == NAMES[kind]
    assert all(row["summary"] for row in rows)


def test_json_of_optimizers_has_the_search_space(capsys: pytest.CaptureFixture[str]) -> None:
    assert app.run(["list", "optimizers", "--json"]) == 0
    adam = next(row for row in json.loads(capsys.readouterr().out) if row["name"] == "adam")
    lr = next(one for one in adam["hyperparameters"] if one["name"] == "lr")
    assert lr["low"] < lr["default"] < lr["high"]
    assert lr["scale"] == "log"
    assert lr["searched"] is True
    assert "O6" in adam["source"]
