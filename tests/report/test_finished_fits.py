"""A training by ``fit`` leaves no results, and its report says all the same whether it is finished."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import thalweg
from thalweg.errors import Interrupted
from thalweg.report import write
from thalweg.report.stages import read_stages
from thalweg.run.directory.directory import RunDirectory
from thalweg.stages import Stage
from thalweg.strategies import EarlyStopping, Strategy

X = torch.randn(40, 3, generator=torch.Generator().manual_seed(0))
Y = (X.sum(1) > 0).long()
FIT_V1 = Path(__file__).parents[1] / "directories" / "fit-v1" / "run"


def fit(out: Path, *more: Strategy, **asked: Any) -> Any:
    torch.manual_seed(0)
    settings: dict[str, Any] = {"epochs": 2, "batch_size": 8, "validation": (X, Y), "metric": "accuracy"}
    return thalweg.fit(
        nn.Linear(3, 2), (X, Y), "cross-entropy", "sgd", "constant", list(more), out=out, **settings | asked
    )


def told(out: Path) -> str:
    return write(out).read_text(encoding="utf-8")


def test_a_finished_fit_is_reported_as_finished(tmp_path: Path) -> None:
    found = fit(tmp_path / "run")
    text = told(tmp_path / "run")
    assert "This training is finished" in text
    assert "finished; its last evaluation was at step 10." in text
    assert f"the metric {found.final['validation']:.4g}" in text
    assert "isn't finished" not in text
    events = RunDirectory.read(tmp_path / "run").events()
    fit(tmp_path / "run", resume=True)
    # and once only
    assert sum(event["event"] == "finished" for event in events) == 1
    assert RunDirectory.read(tmp_path / "run").events()[len(events) :] == []


def test_so_is_one_that_stopped_early(tmp_path: Path) -> None:
    found = fit(tmp_path / "run", EarlyStopping(patience=1, threshold=1.0), epochs=20, evaluations=100)
    assert found.stopped is not None
    text = told(tmp_path / "run")
    assert "This training is finished" in text
    assert "Training ended early" in text


def test_one_that_was_interrupted_is_not(tmp_path: Path) -> None:
    calls = 0

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        nonlocal calls
        calls += outputs.requires_grad
        if calls == 7:
            raise Interrupted("before the end")
        return nn.functional.cross_entropy(outputs, targets)

    torch.manual_seed(0)
    with pytest.raises(Interrupted):
        thalweg.fit(
            nn.Linear(3, 2), (X, Y), loss, "sgd", validation=(X, Y), epochs=2, batch_size=8,
            out=tmp_path / "run",
        )  # fmt: skip
    assert "This training isn&#39;t finished" in told(tmp_path / "run")


def test_one_that_was_written_before_is_finished_after_its_last_step(tmp_path: Path) -> None:
    shutil.copytree(FIT_V1, tmp_path / "run")
    assert "This training is finished" in told(tmp_path / "run")
    events = tmp_path / "run" / "events.jsonl"
    lines = events.read_text().splitlines()
    events.write_text("\n".join(lines[:-1]) + "\n")
    assert "This training isn&#39;t finished" in told(tmp_path / "run")


@pytest.mark.parametrize("engine", ["loop", "lanes"])
def test_so_are_an_ensembles_members(engine: Any, tmp_path: Path) -> None:
    thalweg.fit_ensemble(
        "linear", (X, Y), "cross-entropy", "sgd", members=2, epochs=1, engine=engine, out=tmp_path / "run"
    )
    assert "This ensemble is finished: its 2 members are trained." in told(tmp_path / "run")


def test_stages_stand_on_one_time_axis(tmp_path: Path) -> None:
    stages = [Stage(name="first", epochs=1), Stage(name="second", epochs=2)]
    fit(tmp_path / "run", stages=stages)
    events = RunDirectory.read(tmp_path / "run").events()
    found = read_stages(tmp_path / "run", events)
    assert [(each.name, each.finished) for each in found] == [("first", True), ("second", True)]
    assert found[0].began == 0
    assert found[1].began == found[0].curve[-1]["step"] == found[1].curve[0]["step"]
    assert found[1].curve[-1]["step"] == 3 * found[1].began
    text = told(tmp_path / "run")
    assert "first" in text
    assert "second" in text
    # one that is under way
    begun = [event for event in events if event.get("number") != 2 or event["event"] == "stage"]
    assert [each.finished for each in read_stages(tmp_path / "run", begun)] == [True, False]
    assert read_stages(tmp_path / "run" / "stages" / "1-first", []) == []
