"""A temperature as a part of a training: found on validation, kept in the record, applied by predict."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import thalweg
from thalweg import data, recipe
from thalweg.calibration import temperature
from thalweg.calibration.assessment import reliability
from thalweg.calibration.temperature import tempered
from thalweg.errors import OptionError, RecipeError, RunDirectoryError, UserError
from thalweg.report import training as report
from thalweg.training.predicting import load_model
from thalweg.training.results import Stored

RECIPE = """[data]
spec = "{spec}"
[model]
spec = "{model}"
[objective]
{objective}
[optimizer]
name = "adam"
lr = {lr}
[training]
batch_size = 32
epochs = {epochs}
evaluations = 2
{more}
"""


def trained(
    out: Path, more: str = "", *, spec: str = "digits", model: str = "mlp:64", objective: str = "",
    epochs: int = 12, lr: float = 0.02, calibrate: bool = True,
) -> Path:  # fmt: skip
    if calibrate and "[prediction]" not in more:
        more = f'[prediction]\ncalibrate = "temperature"\n{more}'
    text = RECIPE.format(spec=spec, model=model, objective=objective, epochs=epochs, lr=lr, more=more)
    thalweg.train(recipe.loads(text), out=out)
    return out


def split(spec: str, part: str) -> tuple[torch.Tensor, torch.Tensor, np.ndarray[Any, Any]]:
    source = data.load(spec)
    prepared = data.prepare(source, seed=0, replicate=0)
    examples = getattr(prepared, part)
    return examples.inputs, examples.targets, source.x[prepared.indices[part]]


def test_it_is_fitted_on_validation_and_applied_by_predict(tmp_path: Path) -> None:
    out = trained(tmp_path / "out")
    stored = Stored.read(out / "model.json")
    net = load_model(out, stored, "weights.safetensors", "cpu")
    x, y, _ = split("digits", "validation")
    with torch.no_grad():
        by_hand = temperature.fit_temperature(net(x), y)
    assert stored.temperatures["result"] == pytest.approx(by_hand.value, rel=1e-5)
    assert stored.temperatures.keys() == {"result", "best"}
    inputs, goal, new = split("digits", "test")
    predicted = thalweg.predict(out, new)
    with torch.no_grad():
        outputs = net(inputs).double()
    expected = (outputs / by_hand.value).softmax(1)
    np.testing.assert_allclose(predicted.probabilities, expected.numpy(), atol=1e-6)
    # the classes stay
    plain = trained(tmp_path / "plain", calibrate=False)
    assert not Stored.read(plain / "model.json").temperatures
    assert list(predicted.values) == list(thalweg.predict(plain, new).values)
    # what the record says of it
    record = json.loads((out / "results.json").read_text())["temperature"]
    assert record["value"] == stored.temperatures["result"]
    assert record["examples"] == len(y)
    for part, (z, target) in {"validation": (net(x), y), "test": (net(inputs), goal)}.items():
        for place, divisor in enumerate((1.0, record["value"])):
            scaled = z.detach().double() / divisor
            assert record["nll"][part][place] == pytest.approx(
                float(F.cross_entropy(scaled, target)), rel=1e-6
            )
            error = reliability(scaled.softmax(1), target).error
            assert record["error"][part][place] == pytest.approx(error, rel=1e-6)
    assert record["nll"]["validation"][1] < record["nll"]["validation"][0]
    # the rest is as without
    kept = [json.loads((folder / "results.json").read_text())["result"] for folder in (out, plain)]
    assert kept[0] == kept[1]
    best = thalweg.predict(out, new, weights="best")
    with torch.no_grad():
        z = load_model(out, stored, "best.safetensors", "cpu")(inputs).double()
    np.testing.assert_allclose(best.probabilities, (z / stored.temperatures["best"]).softmax(1), atol=1e-6)


def test_the_report_and_the_card_show_before_and_after(tmp_path: Path) -> None:
    out = trained(tmp_path / "out")
    record = json.loads((out / "results.json").read_text())["temperature"]
    page = report.read(out)
    assert [name for name, _ in page.calibrations] == ["the result", "the result, at its temperature"]
    (fact,) = [each for each in page.facts if each[0] == "temperature"]
    assert fact[1] == f"{record['value']:.3g}"
    html = out / "report.html"
    text = Path(html).read_text(encoding="utf-8")
    assert "at its temperature" in text
    card = (out / "README.md").read_text(encoding="utf-8")
    before, after = record["nll"]["test"]
    assert f"{before:.5g}" in card
    assert f"{after:.5g}" in card


@pytest.mark.parametrize(
    "more",
    [
        "[ensemble]\nmembers = 2\n",
        '[strategies.snapshots]\ncycles = 2\n[schedule]\nname = "constant"',
        '[prediction]\ncalibrate = "temperature"\nsamples = 4\n[model2]',
    ],
    ids=["members", "snapshots", "samples"],
)
def test_averaged_probabilities_are_tempered_together(more: str, tmp_path: Path) -> None:
    options: dict[str, Any] = {"model": "mlp:64"}
    if "[model2]" in more:
        more = more.replace("[model2]", "")
        net = tmp_path / "nets.py"
        net.write_text(
            "from torch import nn\n\n\ndef dropping(shape, outputs):\n    return nn.Sequential(nn.Flatten(), "
            "nn.Linear(64, 64), nn.ReLU(), nn.Dropout(0.5), nn.Linear(64, outputs))\n"
        )
        options["model"] = f"{net}:dropping"
    if "cycles" in more:
        more = more.partition("[schedule]")[0]
    out = trained(tmp_path / "out", more, **options)
    plain = tmp_path / "plain"
    shutil.copytree(out, plain)
    stored = json.loads((plain / "model.json").read_text())
    kind = "snapshots" if "cycles" in more else "result"
    value = stored.pop("temperatures")[kind]
    (plain / "model.json").write_text(json.dumps(stored))
    _, y, new = split("digits", "validation")
    before = torch.from_numpy(thalweg.predict(plain, new, trust_code=True).probabilities)
    after = thalweg.predict(out, new).probabilities
    # draws aren't the same in blocks of another size
    close = 0.3 if "samples" in more else 1e-4
    np.testing.assert_allclose(after, tempered(before, value).numpy(), atol=1e-9)
    assert value == pytest.approx(temperature.fit_temperature(before.log(), y).value, rel=close)
    if "samples" in more:
        # found for another prediction
        other = thalweg.predict(out, new, samples=0)
        assert any("temperature was found for" in note for note in other.notes)


def test_one_logit_is_tempered_as_two_classes_are(tmp_path: Path) -> None:
    out = trained(
        tmp_path / "out", spec="breast-cancer", model="mlp:64", objective='loss = "bce"', epochs=1, lr=1e-3
    )
    value = Stored.read(out / "model.json").temperatures["result"]
    inputs, _, new = split("breast-cancer", "test")
    net = load_model(out, Stored.read(out / "model.json"), "weights.safetensors", "cpu")
    with torch.no_grad():
        z = net(inputs).double()
    second = (z[:, 0] if z.shape[1] == 1 else z[:, 1] - z[:, 0]) / value
    np.testing.assert_allclose(
        thalweg.predict(out, new).probabilities[:, 1], second.sigmoid().numpy(), atol=1e-6
    )


def test_tempered_probabilities_are_those_of_divided_outputs() -> None:
    z = 5 * torch.randn(50, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for value in (0.3, 1.0, 4.0):
        torch.testing.assert_close(tempered(z.softmax(1), value), (z / value).softmax(1))
        torch.testing.assert_close(tempered(z[:, :1].sigmoid(), value), (z[:, :1] / value).sigmoid())
    certain = torch.tensor([[1.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    assert torch.equal(tempered(certain, 3.0), certain)


def test_where_no_temperature_is_best_training_ends_well_and_says_so(tmp_path: Path) -> None:
    out = trained(tmp_path / "out", spec="breast-cancer", objective='loss = "bce"')
    results = json.loads((out / "results.json").read_text())
    assert results["temperature"] is None
    assert "result" not in Stored.read(out / "model.json").temperatures
    (note,) = [note for note in results["notes"] if note.startswith("no temperature for the result")]
    assert "has its own class as the largest output" in note
    assert thalweg.predict(out, split("breast-cancer", "test")[2]).probabilities is not None


@pytest.mark.parametrize(
    ("more", "spec", "kind", "words"),
    [
        ('[prediction]\ncalibrate = "temperature"', "diabetes", OptionError, "calibrate .*for classes"),
        (
            '[prediction]\ncalibrate = "platt"',
            "digits",
            RecipeError,
            "prediction.calibrate is 'platt'; known",
        ),
    ],
)
def test_what_a_recipe_may_not_say(
    more: str, spec: str, kind: type[UserError], words: str, tmp_path: Path
) -> None:
    with pytest.raises(kind, match=words):
        trained(tmp_path / "out", more, spec=spec, model="linear")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "value", [{"result": 0.0}, {"result": -1.0}, {"result": float("nan")}, {"worst": 1.0}]
)
def test_a_damaged_temperature_is_refused(value: dict[str, float], tmp_path: Path) -> None:
    out = trained(tmp_path / "out", model="linear", epochs=1)
    stored = json.loads((out / "model.json").read_text())
    (out / "model.json").write_text(json.dumps({**stored, "temperatures": value}))
    with pytest.raises(RunDirectoryError, match="temperatures"):
        thalweg.predict(out, split("digits", "test")[2])


# fit ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", ["cross-entropy", nn.CrossEntropyLoss(), "bce"])
def test_fit_finds_it_too(loss: Any) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(120, 5, generator=generator)
    y = (x.sum(1) + torch.randn(120, generator=generator) > 0).long()
    outputs = 1 if loss == "bce" else 2
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 32), nn.ReLU(), nn.Linear(32, outputs))
    train, held = (x[:60], y[:60]), (x[60:], y[60:])
    fitted = thalweg.fit(
        model, train, loss, "adam", validation=held, epochs=40, hyperparameters={"lr": 0.02},
        calibrate="temperature",
    )  # fmt: skip
    expected = temperature.fit_temperature(model(held[0]), held[1])
    assert fitted.temperature is not None
    assert fitted.temperature.value == pytest.approx(expected.value, rel=1e-6)
    assert fitted.temperature.value > 1.2
    assert thalweg.fit(model, train, loss, "adam", validation=held, epochs=1).temperature is None


def test_fit_refuses_what_has_no_temperature() -> None:
    x, y = torch.randn(32, 3), torch.randn(32, 1)
    for more, words in (
        ({"validation": (x, y)}, "calibrate='temperature' is for classes"),
        ({}, "calibrate='temperature' needs validation"),
    ):
        with pytest.raises(OptionError, match=words):
            thalweg.fit(nn.Linear(3, 1), (x, y), "mse", "sgd", epochs=1, calibrate="temperature", **more)  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="calibrate is 'platt'"):
        thalweg.fit(nn.Linear(3, 1), (x, y), "mse", "sgd", epochs=1, validation=(x, y), calibrate="platt")  # type: ignore[arg-type]
