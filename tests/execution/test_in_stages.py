"""A sweep over lists of stages: each run is what ``fit`` trains in these stages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars
import pytest
import torch

import thalweg
from thalweg import data
from thalweg.errors import Interrupted, OptionError
from thalweg.execution import in_stages
from thalweg.layers import models
from thalweg.run.problem import initial_module
from thalweg.stages import Stage, greedy

WAYS = {
    "direct": None,
    "greedy": lambda model, example: greedy(model, example, epochs=1, joint=2),
    "half": lambda model, example: [
        Stage(name="head", trains=["2"], epochs=1, loss="cross-entropy", metric=None),
        Stage(name="all", optimizer="adam", hyperparameters={"lr": 0.01}),
    ],
}


def sweep(**more: Any) -> Any:
    given: dict[str, Any] = {"seeds": 2, "epochs": 2, "evaluations": 3, "batch_size": 16, **more}
    return thalweg.sweep("mlp:6,6", "iris", {"optimizer": "momentum", "lr": [0.1, 0.02]}, **given)


def test_each_run_is_what_fit_trains() -> None:
    found = sweep(stages=WAYS, test=True, seeds=[3, 5])
    assert len(found.final()) == 2 * 3 * 2
    assert found.summary().columns[:3] == ["setting", "stages", "optimizer"]
    prepared = data.prepare(data.load("iris"), seed=0, replicate=0)
    inputs, targets = prepared.test.batch(torch.arange(len(prepared.test)))
    for number, (lr, way) in enumerate((lr, way) for lr in (0.1, 0.02) for way in WAYS):
        model = initial_module(models.factory("mlp:6,6"), prepared.input_shape, prepared.outputs, 5)
        function = WAYS[way]
        example = prepared.train.batch(torch.arange(16))[0]
        stages = [Stage(name="training")] if function is None else function(model, example)
        fitted = thalweg.fit(
            model, prepared.train, "cross-entropy", "momentum", validation=prepared.validation,
            metric="accuracy", epochs=2, evaluations=3, batch_size=16, hyperparameters={"lr": lr}, seed=5,
            stages=stages,
        )  # fmt: skip
        rows = found.table.filter((polars.col("setting") == number) & (polars.col("seed") == 5))
        assert set(rows["stages"]) == {way}
        assert set(rows["lr"]) == {lr}
        assert rows["step"][-1] == fitted.updates
        assert rows["step"].is_sorted()
        assert rows["validation_loss"][-1] == pytest.approx(fitted.final["validation_loss"], rel=1e-6)
        assert rows["accuracy"][-1] == pytest.approx(fitted.final["validation"])
        with torch.no_grad():
            right = float((model(inputs).argmax(1) == targets).double().mean())
        assert rows["test"][-1] == pytest.approx(right)
        assert rows["test"][:-1].is_null().all()


def test_the_last_evaluation_is_of_the_model_whatever_the_last_stage_has_trained() -> None:
    """A list that ends with a temporary head leaves the model's own head as drawn."""
    found = sweep(stages=lambda model, x: greedy(model, x, epochs=2, head="new", joint=False), seeds=1)
    last = found.final().filter(polars.col("setting") == 0)["accuracy"][0]
    before = found.table.filter(polars.col("setting") == 0)["accuracy"][-2]
    assert before > 0.6
    assert last < 0.6


def test_interrupted_it_goes_on_run_by_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = sweep(stages=WAYS)
    asked, trained = [0], list[str]()
    whole = in_stages._outcome

    def counted(run: Any, *rest: Any) -> Any:
        trained.append(run.identity)
        return whole(run, *rest)

    monkeypatch.setattr(in_stages, "_outcome", counted)

    def evaluated(self: Any, *more: Any) -> None:
        asked[0] += 1
        if asked[0] == 20:
            raise Interrupted("interrupted")

    with monkeypatch.context() as patch:
        patch.setattr(in_stages._Stopping, "evaluated", evaluated)
        with pytest.raises(Interrupted):
            sweep(stages=WAYS, out=tmp_path / "run")
    done = list(trained)
    assert done
    assert sweep(stages=WAYS, out=tmp_path / "run", resume=True).table.equals(expected.table)
    assert sorted(trained) == sorted({*trained}), "a run was trained twice"
    assert len(trained) == len(expected.final())
    with pytest.raises(OptionError, match="stages"):
        sweep(stages={**WAYS, "half": None}, out=tmp_path / "run", resume=True)


@pytest.mark.parametrize(
    ("stages", "words"),
    [
        ("greedy", "give a function of the model and a batch of inputs"),
        ({}, "give a function"),
        ({"a": 3}, "stages has 'a': 3"),
        (lambda model, example: [], "stages is empty"),
        (lambda model, example: [Stage(name="a", trains=["9"])], "trains of the stage 'a'"),
    ],
)
def test_what_can_not_be_is_said_before_anything_is_written(stages: Any, words: str, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=words):
        sweep(stages=stages, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_lanes_are_refused() -> None:
    with pytest.raises(OptionError, match="a training in stages is for the loop"):
        sweep(stages=WAYS, engine="lanes")
