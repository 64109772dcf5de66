"""What ``thalweg list`` prints."""

from __future__ import annotations

import importlib
import json
from dataclasses import asdict, fields
from typing import Any

import pytest
import torch

from thalweg import catalogue, data, schedules
from thalweg.commands import app
from thalweg.layers import models

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


def found(path: str) -> Any:
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(module), name)


def test_json_of_optimizers_has_every_field(capsys: pytest.CaptureFixture[str]) -> None:
    assert app.run(["list", "optimizers", "--json"]) == 0
    printed = capsys.readouterr().out
    assert "<" not in printed, "Python's way to show an object"
    for row in json.loads(printed):
        entry = catalogue.get(row["name"])
        assert set(row) == {field.name for field in fields(entry)}
        for field in (
            "title",
            "family",
            "summary",
            "formula",
            "source",
            "step_kind",
            "dense",
            "raced",
            "scheduled",
        ):
            assert row[field] == getattr(entry, field)
            assert row[field] != ""
        assert [one["name"] for one in row["hyperparameters"]] == [one.name for one in entry.hyperparameters]
        for one, kept in zip(row["hyperparameters"], entry.hyperparameters, strict=True):
            assert one == asdict(kept)
        assert found(row["call"]["target"]) is entry.call.target
        assert issubclass(found(row["call"]["spelling"]), torch.optim.Optimizer)
        assert row["call"]["fixed"] == dict(entry.call.fixed)
        assert row["options"] == dict(entry.options)
        if entry.rule is None:
            assert row["rule"] is None
        else:
            assert row["rule"]["name"] == entry.rule.name
            assert row["rule"]["states"] == list(entry.rule.states)
            assert row["rule"]["hyperparameters"] == dict(entry.rule.hyperparameters)


def test_json_of_optimizers_has_the_search_space(capsys: pytest.CaptureFixture[str]) -> None:
    assert app.run(["list", "optimizers", "--json"]) == 0
    adam = next(row for row in json.loads(capsys.readouterr().out) if row["name"] == "adam")
    lr = next(one for one in adam["hyperparameters"] if one["name"] == "lr")
    assert lr["low"] < lr["default"] < lr["high"]
    assert lr["scale"] == "log"
    assert lr["searched"] is True
    assert "O6" in adam["source"]
