"""``thalweg train`` and ``thalweg predict``: a recipe carried out, killed, taken up again, and put to use."""

from __future__ import annotations

import datetime
import json
import os
import random
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import safetensors.torch
import torch

import thalweg
from thalweg import catalogue, data, recipe
from thalweg.commands import app
from thalweg.data.stored import TablePreparation, store
from thalweg.data.tabular import from_frame
from thalweg.errors import DataError, OptionError, RecipeError, RunDirectoryError, UserError
from thalweg.execution import loop
from thalweg.layers import models
from thalweg.run.directory import RunDirectory
from thalweg.run.objective import Objective
from thalweg.run.problem import Problem
from thalweg.run.spec import Run, Setting, Workload
from thalweg.training.results import TrainResults
from trainings import RECIPE, comparable, run, written


@pytest.mark.parametrize("schedule", ["cosine", "plateau"])
def test_a_recipe_of_a_race_trains_as_the_race_did(schedule: str, tmp_path: Path) -> None:
    changes = [f"schedule.name={schedule}", "training.evaluations=20", "optimizer.lr=0.3"]
    results = thalweg.train(written(tmp_path), changes=changes, out=tmp_path / "out")
    prepared = data.prepare(data.load("iris"), seed=0, replicate=0)
    setting = Setting(optimizer="adam", hyperparameters={"lr": 0.3}, schedule=schedule)
    problem = Problem(
        factory=models.factory("mlp:8"), data=prepared,
        objective=Objective(loss="cross-entropy", metric="accuracy"),
        optimizers={"adam": catalogue.get("adam")},
    )  # fmt: skip
    workload = Workload(epochs=4, batch_size=16, evaluations=20, score_test=True)
    outcome = loop.run(Run(identity="a", setting=setting, seed=3), problem, workload)
    assert [p.step for p in results.curve] == outcome.steps
    assert [p.validation for p in results.curve] == outcome.validation
    assert [p.validation_loss for p in results.curve] == outcome.validation_loss
    assert [p.train_loss for p in results.curve] == outcome.train_loss
    assert results.result["test"] == outcome.test[-1]


def test_what_a_training_leaves_behind(tmp_path: Path) -> None:
    out = tmp_path / "out"
    results = thalweg.train(written(tmp_path), out=out)
    assert TrainResults.read(out / "results.json") == results
    assert recipe.read(out / "recipe.toml") == recipe.read(tmp_path / "recipe.toml")
    model = models.build("mlp:8", (4,), 3)
    model.load_state_dict(safetensors.torch.load_file(out / "weights.safetensors"))
    prepared = data.prepare(data.load("iris"), seed=0, replicate=0)
    right = (model(prepared.test.inputs).argmax(1) == prepared.test.targets).double().mean()
    assert float(right) == pytest.approx(results.result["test"])
    assert "| test | 0." in (out / "README.md").read_text()
    html = (out / "report.html").read_text()
    assert "mlp:8 on iris" in html
    assert "This training isn" not in html


def test_parts_of_the_model_go_wherever_it_goes(tmp_path: Path) -> None:
    changes = [
        "data.spec=digits", "model.spec=cnn:4,4", "model.batch_norm=true", "model.dropout=0.1",
        "model.maxout=2", "model.skip=true", "model.stochastic_depth=0.3",
        "training.memory_format=channels_last",
        "strategies.initialization.output_bias=true",
        "strategies.averaging.decay=0.9",
    ]  # fmt: skip
    out = tmp_path / "out"
    results = thalweg.train(written(tmp_path), changes=changes, out=out)
    parts = {"batch_norm": True, "dropout": 0.1, "maxout": 2, "skip": True, "stochastic_depth": 0.3}
    assert results.model["parts"] == parts
    assert json.loads((out / "model.json").read_text())["parts"] == parts
    words = "batch_norm, dropout 0.1, maxout 2, skip, stochastic_depth 0.3"
    assert f"Into the model were put: {words}" in (out / "README.md").read_text()
    assert words in (out / "report.html").read_text()
    state = safetensors.torch.load_file(out / "weights.safetensors")
    assert state["0.0.weight"].shape == (8, 1, 3, 3)
    assert "0.0.bias" not in state
    # predictions are those of the model that was scored, put together anew
    source = data.load("digits")
    prepared = data.prepare(source, seed=0, replicate=0)
    test = prepared.test
    inputs, targets = test.batch(torch.arange(len(test)))
    raw = source.x[prepared.indices["test"]]  # type: ignore[attr-defined]
    said = thalweg.predict(out, raw)
    right = np.mean([source.task.classes[int(t)] == v for t, v in zip(targets, said.values, strict=True)])
    assert right == pytest.approx(results.result["test"])
    assert len(inputs) == len(raw)


# Killed and taken up again ---------------------------------------------------------------------------------

FULL = ["strategies.averaging.decay=0.9", "strategies.guard.every=5", "strategies.snapshots.cycles=2"]


SECOND_ORDER = [
    "optimizer={name = 'lbfgs'}", "strategies.averaging.decay=0.9", "strategies.plateau.patience=0",
    "training.epochs=20",
]  # fmt: skip


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed")
    assert run(folder / "out", written(folder), FULL) == 0
    return folder / "out"


@pytest.mark.skipif(os.name != "posix", reason="kills processes")
@pytest.mark.parametrize(
    ("place", "count", "code"),
    [
        ("event", 1, -9),
        ("event", 4, -9),
        ("weights.safetensors", 1, -9),
        ("results.json", 1, -9),
        ("term", 3, 130),
    ],
)
def test_a_killed_training_ends_alike(
    place: str, count: int, code: int, tmp_path: Path, undisturbed: Path
) -> None:
    out, path = tmp_path / "out", written(tmp_path)
    assert run(out, path, FULL, place=place, count=count) == code
    assert not (out / "results.json").exists()
    # a report of what is there, finished or not
    assert app.run(["report", str(out)]) == 0
    assert "finished: its last evaluation was at step" in (out / "report.html").read_text()
    assert run(out, path, FULL, resume=True) == 0
    assert comparable(out) == comparable(undisturbed)
    for name in ("weights", "best", "snapshot-1", "snapshot-2"):
        file = f"{name}.safetensors"
        assert (out / file).read_bytes() == (undisturbed / file).read_bytes()
    steps = [e["step"] for e in RunDirectory.read(out).events() if e["event"] == "evaluation"]
    assert sorted(set(steps)) == [point["step"] for point in comparable(out)["curve"]]


PARTS = [
    "model.spec=mlp:8,8,8", "model.skip=true", "model.stochastic_depth=0.5", "model.dropout=0.1",
    "model.batch_norm=true",
]  # fmt: skip


@pytest.mark.skipif(os.name != "posix", reason="kills processes")
def test_a_killed_training_with_parts_ends_alike(tmp_path: Path) -> None:
    """Killed twice in the midst of it: which blocks were left out is told by the step alone."""
    out, alone, path, changes = tmp_path / "out", tmp_path / "alone", written(tmp_path), [*FULL, *PARTS]
    assert run(alone, path, changes=changes) == 0
    for attempt in range(2):
        assert run(out, path, place="event", count=3, changes=changes, resume=attempt > 0) == -9
    assert run(out, path, resume=True, changes=changes) == 0
    assert comparable(out) == comparable(alone)
    for file in ("weights.safetensors", "best.safetensors"):
        assert (out / file).read_bytes() == (alone / file).read_bytes()


@pytest.mark.skipif(os.name != "posix", reason="kills processes")
def test_a_last_step_that_was_taken_back_stays_so(tmp_path: Path) -> None:
    """A second-order step that would go beyond the end isn't taken anew by who lays down the results anew."""
    path = written(tmp_path)
    assert run(tmp_path / "whole", path, SECOND_ORDER) == 0
    assert run(tmp_path / "out", path, SECOND_ORDER, place="event", count=3) == -9
    for _ in range(2):
        assert run(tmp_path / "out", path, SECOND_ORDER, resume=True) == 0
    assert comparable(tmp_path / "out") == comparable(tmp_path / "whole")
    for name in ("weights.safetensors", "best.safetensors"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_what_a_resume_refuses(tmp_path: Path) -> None:
    rows = [f"{i % 7},{i % 5},{'xy'[i % 2]}\n" for i in range(60)]
    table = tmp_path / "t.csv"
    table.write_text("a,b,kind\n" + "".join(rows))
    path = written(tmp_path, RECIPE.replace('"iris"', f'"{table}"\ntarget = "kind"'))
    out = tmp_path / "out"
    thalweg.train(path, out=out)
    with pytest.raises(OptionError, match=r"was begun with another optimizer\.lr"):
        thalweg.train(path, changes=["optimizer.lr=0.5"], out=out, resume=True)
    before = (out / "results.json").read_bytes()
    table.write_text("a,b,kind\n" + "".join(rows).replace("3,3,", "3,4,", 1))
    with pytest.raises(DataError, match=r"t\.csv has changed since the training"):
        thalweg.train(None, out=out, resume=True)
    assert (out / "results.json").read_bytes() == before
    with pytest.raises(RunDirectoryError, match="exists already"):
        thalweg.train(path, out=out)
    with pytest.raises(UserError, match="resume needs out:"):
        thalweg.train(path, resume=True)


def test_a_training_that_fails_says_where_the_good_weights_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = written(tmp_path)
    arguments = ["train", str(path), "--out", str(tmp_path / "out"), "--quiet", "--set", "optimizer.name=sgd"]
    arguments += ["--set", "optimizer.lr=1e9", "--set", "strategies.guard.attempts=1"]
    assert app.run(arguments) == 1
    said = capsys.readouterr().err
    assert "diverges again and again" in said
    assert "weights.safetensors holds the weights at that point" in said
    good = safetensors.torch.load_file(tmp_path / "out" / "weights.safetensors")
    assert all(bool(torch.isfinite(value).all()) for value in good.values())
    assert (tmp_path / "out" / "report.html").exists()


# Recipes ------------------------------------------------------------


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (
            "[strategies.averging]",
            r"line 16, column 13: \[strategies\] has no 'averging'; did you mean 'averaging'",
        ),
        (
            "[strategies.averaging]\ndecai = 0.9",
            r"line 17, column 1: \[strategies.averaging\] has no 'decai'; did y",
        ),
        ("[strategies.averaging]\ndecay = 1.5", "line 17, column 1: .*decay is 1.5 but must be less than 1"),
        ('[strategies.averaging]\nkind = "expo"', "line 17, column 1: .*known: exponential, tail, uniform"),
        ("[strategies.clipping]", "line 16, column 13: clipping: no bound is given"),
        ("[strategies.early-stopping]\npatience = '3'", "line 17, column 1: .*must be a whole number"),
        ("[groups]\ndepth_factor = 2", "line 17, column 1: .*must be less than or equal to 1"),
        ("[[groups.patterns]]\nmatsch = 'a'", r"line 17, column 1: \[groups.patterns.0\] has no 'matsch'"),
    ],
)
def test_recipes_with_mistakes(more: str, words: str) -> None:
    with pytest.raises(RecipeError, match=words):
        recipe.loads(RECIPE + more)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (["schedule.name=plateau", "strategies.plateau.patience=1"], "the schedule is 'plateau' already"),
        (["optimizer.name=lbfgs", "strategies.clipping.norm=1.0"], "clipping doesn't go with 'lbfgs'"),
        (["optimizer.name=lbfgs", "groups.decay=weights"], "treats all parameters as one"),
        (["optimizer.name=newton", "training.accumulate=2"], "can't be computed in parts"),
        (["optimizer.name=schedule-free", "strategies.averaging.decay=0.9"], "averages its points already"),
        (["training.accumulate=17"], "a batch of 16 can't be computed in 17 parts"),
        (["schedule.cycles=3", "strategies.snapshots.cycles=5"], "but the schedule has 3"),
        (["strategies.initialization.k=3"], "k is for the schemes sparse"),
        (["optimizer.lr"], "isn't KEY=VALUE"),
        (["optimizer.lrr=1"], r"changes=\['optimizer.lrr=1'\]: the optimizer 'adam' has no 'lrr'"),
        (["training.epochs=many"], r"changes=\['training.epochs=many'\]: .*must be a whole number"),
    ],
)
def test_contradictions_are_refused_before_anything_is_loaded(changes: list[str], words: str) -> None:
    text = RECIPE.replace("lr = 0.02\n", "") if "optimizer.name=" in changes[0] else RECIPE
    with pytest.raises(RecipeError, match=words):
        recipe.loads(text.replace('"iris"', '"no-such-file.csv"'), changes=changes)


def test_recipes_with_everything_read_back_equal() -> None:
    changes = [
        *FULL, "strategies.batch-size.growth=2.0", "strategies.early-stopping.patience=3",
        "groups.decay=weights", "groups.patterns=[{match = '0.*', rate = 0.5}]", "training.accumulate=2",
        "training.precision=bfloat16", "strategies.initialization.scheme=he",
    ]  # fmt: skip
    full = recipe.loads(RECIPE, changes=changes)
    assert recipe.loads(recipe.dumps(full)) == full
    assert list(full.strategies.given()) == [
        "initialization", "guard", "averaging", "snapshots", "batch-size", "early-stopping",
    ]  # fmt: skip


def test_one_sentence_and_exit_code_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(tmp_path / "out")
    for arguments in (
        ["train", str(tmp_path / "nowhere.toml")],
        ["train"],
        ["train", "--resume"],
        ["train", str(written(tmp_path)), "--out", out, "--device", "toaster"],
        ["train", str(written(tmp_path)), "--out", out, "--set", "model.spec=mlp:0"],
        ["train", str(written(tmp_path)), "--out", out, "--set", "training.batch_size=1000"],
        ["predict", str(tmp_path), "--data", "x.csv", "--out", "p.csv"],
    ):
        assert app.run(arguments) == 2, arguments
        said = capsys.readouterr().err
        assert said.startswith("error: ")
        assert said.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_json_alone_on_standard_output(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert app.run(["train", str(written(tmp_path)), "--out", str(tmp_path / "out"), "--json"]) == 0
    said = capsys.readouterr()
    assert json.loads(said.out) == json.loads((tmp_path / "out" / "results.json").read_text())
    assert "test: accuracy" in said.err


# Prediction ------------------------------------------------------------


def cars(rows: int = 80, *, missing: bool = True) -> pl.DataFrame:
    draw = random.Random(0)
    weights = [draw.uniform(800, 2000) for _ in range(rows)]
    return pl.DataFrame(
        {
            "weight": [None if missing and i % 9 == 1 else w for i, w in enumerate(weights)],
            "year": [datetime.date(1970 + i % 12, 1, 1) for i in range(rows)],
            "origin": [None if missing and i % 11 == 2 else "abc"[i % 3] for i in range(rows)],
            "doors": [2 + 2 * (i % 2) for i in range(rows)],
            "mileage": [w / 50 + i % 12 for i, w in enumerate(weights)],
        }
    )


@pytest.fixture(scope="module")
def regressed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cars")
    cars().write_csv(folder / "cars.csv")
    text = RECIPE.replace('"iris"', f'"{folder / "cars.csv"}"\ntarget = "mileage"\nmissing = "median"')
    thalweg.train(written(folder, text), out=folder / "out")
    return folder


def test_predictions_are_the_models_in_the_targets_units(regressed: Path) -> None:
    source = data.load(str(regressed / "cars.csv"), target="mileage", missing="median")
    prepared = data.prepare(source, seed=0, replicate=0)
    model = models.build("mlp:8", prepared.input_shape, 1)
    model.load_state_dict(safetensors.torch.load_file(regressed / "out" / "weights.safetensors"))
    with torch.no_grad():
        outputs = model(prepared.test.inputs)[:, 0].double().numpy()
    expected = prepared.task.center + prepared.task.scale * outputs
    new = cars()[prepared.indices["test"]].drop("mileage")
    found = thalweg.predict(regressed / "out", new.select(sorted(new.columns)))
    np.testing.assert_allclose(np.asarray(found.values), expected, rtol=1e-6)


def test_the_stored_preparation_is_the_training_ones_to_the_bit() -> None:
    source = from_frame(cars(), spec="cars", name="cars", target="mileage", missing="median")
    prepared = data.prepare(source, seed=0, replicate=0)
    stored = store(source, prepared.indices, "median")
    assert stored is not None
    stored = TablePreparation.model_validate_json(stored.model_dump_json())
    inputs, _ = stored.apply(cars()[prepared.indices["test"]])
    assert torch.equal(inputs, prepared.test.inputs)


def test_predict_writes_a_table_from_a_file(regressed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    new = regressed / "new.csv"
    frame = (
        cars(5, missing=False)
        .drop("mileage")
        .with_columns(pl.lit("z").alias("origin"), pl.lit(1).alias("odd"))
    )
    frame.write_csv(new)
    out = regressed / "p.csv"
    assert app.run(["predict", str(regressed / "out"), "--data", str(new), "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert "column 'odd', which training didn't use: left out" in said
    assert "5 rows of new.csv with values in column 'origin' that training never saw ('z')" in said
    assert pl.read_csv(out).columns == ["mileage"]
    assert len(pl.read_csv(out)) == 5


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda f: f.drop("year", "origin"), "has no columns 'year', 'origin', which training used"),
        (
            lambda f: f.with_columns(pl.lit("heavy").alias("weight")),
            "column 'weight' of the data holds 'heavy'",
        ),
        (
            lambda f: f.with_columns(pl.lit("soon").alias("year")),
            r"'soon' \(row 1\), but in training it was of type Date",
        ),
        (lambda f: f.head(0), "no rows"),
        (lambda f: f.with_columns(pl.lit(float("inf")).alias("weight")), "infinite values"),
    ],
)
def test_new_data_that_do_not_fit(change: Any, words: str, regressed: Path) -> None:
    with pytest.raises(DataError, match=words):
        thalweg.predict(regressed / "out", change(cars(5, missing=False)))


def test_classes_by_name_with_averaged_probabilities_of_snapshots(tmp_path: Path) -> None:
    changes = ["strategies.snapshots.cycles=2", "schedule.cycles=2"]
    thalweg.train(written(tmp_path), changes=changes, out=tmp_path / "out")
    source = data.load("iris")
    found = thalweg.predict(tmp_path / "out", source.x)
    assert found.classes == ("setosa", "versicolor", "virginica")
    np.testing.assert_allclose(found.probabilities.sum(1), 1, rtol=1e-6)
    prepared = data.prepare(source, seed=0, replicate=0)
    members = []
    for number in (1, 2):
        model = models.build("mlp:8", (4,), 3)
        model.load_state_dict(
            safetensors.torch.load_file(tmp_path / "out" / f"snapshot-{number}.safetensors")
        )
        with torch.no_grad():
            members.append(model(prepared.test.inputs).softmax(1))
    rows = prepared.indices["test"]
    expected = torch.stack(members).mean(0).numpy()
    np.testing.assert_allclose(found.probabilities[rows], expected, atol=1e-6)
    assert [found.values[row] for row in rows] == [found.classes[k] for k in expected.argmax(1)]
    alone = thalweg.predict(tmp_path / "out", source.x, weights="result")
    assert not np.allclose(alone.probabilities, found.probabilities)
    with pytest.raises(
        UserError, match=r"has the shape \[150, 2\], but training had examples of shape \[4\]"
    ):
        thalweg.predict(tmp_path / "out", source.x[:, :2])
