"""Predictions averaged over draws and crops, from a recipe and from ``thalweg predict``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits
from torch import Tensor, nn

import thalweg
from thalweg import data, objectives, recipe
from thalweg.averaging import Averaged
from thalweg.commands import app
from thalweg.errors import OptionError, RecipeError, UserError
from thalweg.training.predicting import load_model
from thalweg.training.results import Stored

MODEL = """
from torch import nn
from thalweg.layers import FractionalMaxPool2d

def dropping(shape, outputs):
    size = 1
    for n in shape:
        size *= n
    hidden = [nn.Linear(size, 16), nn.ReLU(), nn.Dropout(0.5)]
    return nn.Sequential(nn.Flatten(), *hidden, nn.Linear(16, outputs))

def still(shape, outputs):
    model = dropping(shape, outputs)
    model[3].eval()
    return model

def pooling(shape, outputs):
    return nn.Sequential(FractionalMaxPool2d(output_ratio=0.75), nn.Flatten(), nn.Linear(36, outputs))

class Flat(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(10, 1)

    def forward(self, x):
        return self.layer(x).squeeze(-1)
"""

RECIPE = """[data]
spec = "{data}"
[model]
spec = "{model}"
[optimizer]
name = "adam"
lr = 0.01
[training]
batch_size = 64
epochs = {epochs}
evaluations = 1
{more}
"""


def trained(folder: Path, *, spec: str = "digits", model: str = "dropping", more: str = "") -> Path:
    file, out = folder / "nets.py", folder / "out"
    file.write_text(MODEL, encoding="utf-8")
    named = f"{file}:{model}" if model in ("dropping", "still", "pooling", "Flat") else model
    text = RECIPE.format(data=spec, model=named, epochs=2, more=more)
    thalweg.train(recipe.loads(text), out=out)
    return out


def new(spec: str = "digits") -> np.ndarray[Any, Any]:
    source = data.load(spec)
    prepared = data.prepare(source, seed=0, replicate=0)
    found: np.ndarray[Any, Any] = source.x[prepared.indices["test"]]
    return found


def loaded(out: Path) -> tuple[nn.Module, Tensor]:
    stored = Stored.read(out / "model.json")
    prepared = data.prepare(data.load("digits"), seed=0, replicate=0)
    assert prepared.test.inputs is not None
    return load_model(out, stored, "weights.safetensors", "cpu"), prepared.test.inputs


@pytest.mark.parametrize(
    ("model", "options"),
    [("dropping", {"samples": 8}), ("pooling", {"samples": 8}), ("linear", {"crops": 5})],
)
def test_predictions_are_averages(model: str, options: dict[str, int], tmp_path: Path) -> None:
    if "crops" in options:
        pytest.importorskip("kornia")
    out = trained(tmp_path, model=model)
    found = thalweg.predict(out, new(), **options)
    net, inputs = loaded(out)
    each = torch.stack(list(Averaged(net, **options).draws(inputs)))  # type: ignore[arg-type]
    assert found.probabilities is not None
    np.testing.assert_allclose(found.probabilities, each.mean(0).numpy(), atol=1e-6)
    if "samples" in options:
        assert found.spread is not None
        chosen = each.mean(0).argmax(-1)
        np.testing.assert_allclose(found.spread, (each.argmax(-1) != chosen).double().mean(0).numpy())
        assert found.frame().columns[-1] == "disagreement"
        assert 0 < found.spread.mean() < 0.8
    else:
        assert found.spread is None
    assert not found.notes


def test_numbers_carry_their_standard_deviation(tmp_path: Path) -> None:
    out = trained(tmp_path, spec="diabetes")
    found = thalweg.predict(out, new("diabetes"), samples=20)
    assert found.spread is not None
    assert found.frame().columns == ["prediction", "spread"]
    stored = Stored.read(out / "model.json")
    prepared = data.prepare(data.load("diabetes"), seed=0, replicate=0)
    net = load_model(out, stored, "weights.safetensors", "cpu")
    assert prepared.test.inputs is not None
    each = torch.stack(list(Averaged(net, samples=20, activation="identity").draws(prepared.test.inputs)))
    numbers = each[..., 0] * stored.task["scale"] + stored.task["center"]
    np.testing.assert_allclose(found.spread, numbers.std(0).numpy(), rtol=1e-5)
    np.testing.assert_allclose(np.asarray(found.values), numbers.mean(0).numpy(), rtol=1e-5)


def test_a_model_that_gives_one_number_predicts_as_one_with_a_column(tmp_path: Path) -> None:
    found = []
    for model in ("Flat", "linear"):
        folder = tmp_path / model
        folder.mkdir()
        out = trained(folder, spec="diabetes", model=model)
        results = json.loads((out / "results.json").read_text())
        values = thalweg.predict(out, new("diabetes")).values
        found.append((results["result"]["test"], results["result"]["validation_loss"], list(values)))
    (one, loss, values), (other, same, expected) = found
    assert one == pytest.approx(other, rel=1e-5)
    assert loss == pytest.approx(same, rel=1e-5)
    assert values == pytest.approx(expected, rel=1e-5)


def test_a_recipe_says_how_its_result_predicts(tmp_path: Path) -> None:
    pytest.importorskip("kornia")
    more = "[prediction]\nsamples = 6\ncrops = 10\nwindow = 0.9\n[strategies.augmentation]\nflip = 0.5"
    out = trained(tmp_path, more=more)
    net, inputs = loaded(out)
    prepared = data.prepare(data.load("digits"), seed=0, replicate=0)
    averaged = Averaged(net, samples=6, crops=10, window=0.9)
    metric, loss = (make(None, prepared.task) for make in (objectives.metric, objectives.loss))
    outputs = averaged(inputs)
    results = json.loads((out / "results.json").read_text())
    goal = prepared.test.targets
    assert goal is not None
    assert results["result"]["test"] == pytest.approx(
        float(metric.score(metric.reduce(outputs, goal), goal)), abs=0.006
    )
    assert results["result"]["test_loss"] == pytest.approx(float(loss(outputs, goal)), rel=0.02)
    by_default = thalweg.predict(out, new())
    assert by_default.spread is not None
    np.testing.assert_allclose(by_default.probabilities, outputs.softmax(-1).numpy(), atol=1e-5)
    plain = thalweg.predict(out, new(), samples=0, crops=1)
    assert plain.spread is None
    np.testing.assert_allclose(plain.probabilities, net(inputs).softmax(-1).detach().numpy(), atol=1e-6)
    assert recipe.read(out / "recipe.toml").prediction.crops == 10


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = trained(tmp_path, spec="iris")
    table, written = tmp_path / "new.csv", tmp_path / "p.csv"
    source = data.load("iris")
    pl.DataFrame(source.x[:7]).write_csv(table)  # type: ignore[attr-defined]
    arguments = ["predict", str(out), "--data", str(table), "--out", str(written)]
    assert app.run([*arguments, "--samples", "4"]) == 0
    assert pl.read_csv(written).columns[-1] == "disagreement"
    assert app.run([*arguments, "--samples", "1"]) == 2
    assert "samples is 1, but must be greater than or equal to 2" in capsys.readouterr().err
    assert app.run([*arguments, "--crops", "5"]) == 2
    assert "crops are of images" in capsys.readouterr().err


def test_predictions_replace_nothing_that_they_are_made_of(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = trained(tmp_path, spec="iris", model="linear")
    table = tmp_path / "new.csv"
    source = data.load("iris")
    pl.DataFrame(source.x[:7]).write_csv(table)  # type: ignore[attr-defined]
    for place in (table, out / "model.json", out / "weights.safetensors", out / "config.toml"):
        before = place.read_bytes()
        link = tmp_path / f"link-{place.name}"
        link.symlink_to(place)
        for written in (place, link):
            assert app.run(["predict", str(out), "--data", str(table), "--out", str(written)]) == 2
            assert "which would be replaced; give another --out" in capsys.readouterr().err
            assert place.read_bytes() == before
    again = ["predict", str(out), "--data", str(table), "--out", str(out / "predictions.csv")]
    assert app.run(again) == app.run(again) == 0


def test_a_model_without_randomness_is_said(tmp_path: Path) -> None:
    out = trained(tmp_path, model="linear", spec="iris")
    found = thalweg.predict(out, new("iris"), samples=3)
    assert found.notes == ["all 3 samples are alike: nothing in the model is random"]


@pytest.mark.parametrize("more", ["", "[ensemble]\nmembers = 2"])
def test_dropout_that_its_model_keeps_in_evaluation_mode_is_not_sampled(tmp_path: Path, more: str) -> None:
    out = trained(tmp_path, model="still", spec="iris", more=more)
    one, sampled = thalweg.predict(out, new("iris")), thalweg.predict(out, new("iris"), samples=3)
    assert sampled.probabilities == pytest.approx(one.probabilities, rel=1e-6)


@pytest.mark.parametrize(
    ("more", "spec", "kind", "words"),
    [
        ("[prediction]\ncrops = 10", "digits", RecipeError, "10 crops are 5 and their mirror images"),
        ("[prediction]\ncrops = 7", "digits", RecipeError, "prediction.crops is 7; known: 1, 10, 5"),
        ("[prediction]\nsamples = 1", "digits", RecipeError, "prediction.samples is 1 but must be greater"),
        ("[prediction]\nwindow = 2.0", "digits", RecipeError, "prediction.window is 2.0 but must be less"),
        ("[prediction]\nsample = 2", "digits", RecipeError, "no 'sample'; did you mean 'samples'"),
        ("[prediction]\ncrops = 5", "iris", OptionError, r"inputs of shape \[4\] are no images"),
    ],
)
def test_what_a_recipe_may_not_say(
    more: str, spec: str, kind: type[UserError], words: str, tmp_path: Path
) -> None:
    with pytest.raises(kind, match=words):
        trained(tmp_path, spec=spec, model="linear", more=more)
    assert not (tmp_path / "out").exists()


def test_mirror_images_that_training_never_saw_are_refused(tmp_path: Path) -> None:
    out = trained(tmp_path, model="linear")
    with pytest.raises(OptionError, match="10 crops are 5 and their mirror images, which this"):
        thalweg.predict(out, new(), crops=10)


def test_a_race_is_no_training_to_predict_by(tmp_path: Path) -> None:
    (tmp_path / "winner.toml").write_text("version = 1\n")
    with pytest.raises(
        UserError, match=r"holds a race, not a training; train its winner first: thalweg.train"
    ):
        Stored.read(tmp_path / "model.json")


@pytest.mark.parametrize(("at", "layout"), [("", "nested"), ("@6x6", "flat")])
def test_a_folder_of_images_is_predicted_a_row_for_each_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], at: str, layout: str
) -> None:
    """The path of a file leads back to its image, in whatever order the folder lists them."""
    digits = load_digits()
    for number, (image, label) in enumerate(zip(digits.images[:500], digits.target[:500], strict=True)):
        if label > 2:
            continue
        for folder in (f"all/{label}", f"new/{'deep' if number % 2 else ''}" if at == "" else "new"):
            (tmp_path / folder).mkdir(parents=True, exist_ok=True)
            Image.fromarray((image * 15).astype(np.uint8)).save(tmp_path / folder / f"{number}-{label}.png")
    out, table = trained(tmp_path, spec=f"images:{tmp_path / 'all'}{at}", model="mlp:16"), tmp_path / "p.csv"
    where = tmp_path / ("new" if layout == "flat" else "all")
    assert app.run(["predict", str(out), "--data", str(where), "--out", str(table)]) == 0
    said = pl.read_csv(table)
    files = [path.relative_to(where).as_posix() for path in where.rglob("*.png")]
    assert said["file"].to_list() == sorted(files, key=lambda name: name.split("/"))
    assert f"({len(files)} rows)" in capsys.readouterr().out
    source = data.load(f"images:{tmp_path / 'all'}{at}")
    prepared = data.prepare(source, seed=0, replicate=0)
    stored = Stored.read(out / "model.json")
    with torch.no_grad():
        model = load_model(out, stored, "weights.safetensors", "cpu")
        assert prepared.test.inputs is not None
        expected = model(prepared.test.inputs).softmax(1).numpy()
    names = sorted((tmp_path / "all").glob("*/*.png"))
    found = {Path(row["file"]).name: [row[f"probability {k}"] for k in range(3)] for row in said.to_dicts()}
    for row, index in zip(expected, prepared.indices["test"], strict=True):
        np.testing.assert_allclose(found[names[index].name], row, rtol=1e-5, atol=1e-6)
