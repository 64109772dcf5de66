"""Results printed: a few lines that say what it is, the best value, where the rest is and how to go on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import thalweg
from thalweg import recipe
from thalweg.racing.results import Results
from thalweg.report.numbers import general
from thalweg.training.predicting import Predictions
from thalweg.training.results import TrainResults

RECIPE = """
data.spec = "iris"
model.spec = "linear"
optimizer = {name = "adam", lr = 0.1}
training = {batch_size = 16, epochs = 3}
"""


def shown(result: Any, most: int = 12) -> str:
    text = repr(result)
    assert str(result) == text
    lines = text.splitlines()
    assert 2 <= len(lines) <= most
    assert max(map(len, lines)) < 400
    return text


def test_a_fitted_model_shows_scores_and_where_they_were(capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    x = torch.randn(64, 3)
    y = (x[:, 0] > 0).long()
    fitted = thalweg.fit(
        nn.Linear(3, 2), (x, y), "cross-entropy", "adam", epochs=4, validation=(x, y), metric="accuracy"
    )
    print(fitted)
    assert capsys.readouterr().out == shown(fitted) + "\n"
    best = fitted.best
    assert best is not None
    assert best.validation is not None
    text = shown(fitted)
    assert text.startswith(f"Fitted: {fitted.updates} steps in ")
    assert f"validation {best.validation:.4g}" in text
    assert f"at step {best.step}; .best_state has the weights" in text
    assert "Linear of 8 parameters" in text
    assert f".curve, {len(fitted.curve)} evaluations" in text


def test_a_fit_without_validation_is_shown_too() -> None:
    x = torch.randn(64, 3)
    text = shown(thalweg.fit(nn.Linear(3, 1), (x, x.sum(1)), "mse", "sgd", steps=3))
    assert "best" not in text
    assert "nan" not in text.lower()


def test_a_training_shows_where_it_lies_and_what_predicts(tmp_path: Path) -> None:
    results = thalweg.train(recipe.loads(RECIPE), out=tmp_path / "run")
    text = shown(results)
    assert text.startswith("Training of linear on iris")
    assert f"test {results.result['test']:.4g}" in text
    assert results.best is not None
    assert f"at step {results.best.step}" in text
    assert str(tmp_path / "run") in text
    assert f"thalweg.predict('{tmp_path / 'run'}', data=FILE, out=FILE)" in text
    read = TrainResults.read(tmp_path / "run" / "results.json")
    assert read == results
    assert shown(read) == text
    # what isn't known isn't made up
    assert "lies in" not in shown(TrainResults.model_validate(results.model_dump()))


def test_a_race_shows_its_verdict_and_the_ranking(tmp_path: Path) -> None:
    results = thalweg.race(
        "linear",
        "iris",
        optimizers=["sgd", "adam"],
        trials=2,
        splits=2,
        epochs=2,
        goal=0.9,
        out=tmp_path / "race",
    )
    text = shown(results)
    assert text.startswith("Race of 2 optimizers on iris, by test accuracy: ")
    assert results.verdict.sentence in text
    first, second = sorted(results.optimizers, key=lambda o: -(o.mean or 0))
    assert text.index(f"  {first.name}") < text.index(f"  {second.name}")
    assert f"{first.mean:.4g} (95 % interval" in text
    assert f"thalweg.train('{tmp_path / 'race' / 'winner.toml'}', out=DIR)" in text
    assert Results.read(tmp_path / "race" / "results.json") == results


def test_an_ensemble_shows_what_it_gains() -> None:
    x = torch.randn(64, 3)
    y = (x[:, 0] > 0).long()
    ensemble = thalweg.fit_ensemble(
        lambda: nn.Linear(3, 2),
        (x, y),
        "cross-entropy",
        members=2,
        epochs=1,
        validation=(x, y),
        engine="lanes",
    )
    text = shown(ensemble)
    assert text.startswith("Ensemble of 2 models, trained as lanes")
    assert ensemble.evaluation is not None
    together = next(value for value in ensemble.evaluation.result.values() if value is not None)
    assert general(together, 3)[:4] in text


def test_predictions_show_a_few() -> None:
    values = np.arange(10_000, dtype=float)
    text = shown(Predictions(values=values, probabilities=None, classes=(), target="price", notes=["a note"]))
    assert text.startswith("Predictions of 'price' for 10,000 rows\n")
    assert "0.0, 1.0, 2.0, 3.0, 4.0, ..." in text
    assert "a note" in text
