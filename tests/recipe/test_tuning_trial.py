"""The trial of tuning: whether blocks are better tuned or left, where it is known."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

import thalweg
from thalweg import recipe
from thalweg.errors import OptionError
from thalweg.recipe import transferring
from thalweg.recipe.tuning_trial import errors_of

X = np.random.default_rng(0).normal(size=(1200, 8)).astype(np.float32)
TEACHER = np.random.default_rng(1).normal(size=(8, 4))


SOURCES = {"old": "knows-noisy.npz", "low": "knows-high.npz"}


def concept(x: np.ndarray) -> np.ndarray:
    """Which of four classes: a nonlinear function that takes some learning."""
    weights = np.array([[1, -1, 0.5], [0.5, 1, -1], [-1, 0.5, 1], [1, 1, -1]])
    return np.asarray((np.tanh(x @ TEACHER) @ weights).argmax(1))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A net that knows the concept; data where its features are all that is needed, and where they aren't."""
    folder = tmp_path_factory.mktemp("world")
    known, draws = concept(X), np.random.default_rng(2)
    np.savez(folder / "old.npz", x=X, y=known)
    # the same concept, three labels in ten wrong: little can be learnt but much be memorized
    wrong = draws.random(len(X)) < 0.3
    np.savez(folder / "noisy.npz", x=X, y=np.where(wrong, draws.integers(0, 3, len(X)), known))
    # digits from 5 on, of which a net that knows those up to 4 has few features
    images, digits = load_digits(return_X_y=True)
    images = (images / 16).astype(np.float32).reshape(-1, 1, 8, 8)
    np.savez(folder / "low.npz", x=images[digits < 5], y=digits[digits < 5])
    np.savez(folder / "high.npz", x=images[digits >= 5], y=digits[digits >= 5])
    for data, model in (("old", {"spec": "mlp:64,64"}), ("low", {"spec": "cnn:8,8", "batch_norm": True})):
        source = recipe.Recipe.model_validate(
            {
                "data": {"spec": str(folder / f"{data}.npz")},
                "model": model,
                "optimizer": {"name": "adam", "lr": 0.01},
                "training": {"batch_size": 64, "epochs": 10},
            }
        )
        thalweg.train(source, out=folder / SOURCES[data])
    return folder


def asked(world: Path, data: str, out: Path, **more: Any) -> Any:
    return thalweg.transfer(world / f"knows-{data}", data=world / data, out=out, **more)


def trained(results: Any, out: Path, stage: dict[str, Any]) -> float:
    """The test score of the recipe with another stage."""
    values = tomllib.loads(results.recipe)
    values["stage"] = [{"method": "transfer", "source": results.source, **stage}]
    score = thalweg.train(recipe.Recipe.model_validate(values), out=out).result["test"]
    assert score is not None
    return score


@pytest.mark.parametrize(("data", "examples", "little"), [("noisy.npz", 60, True), ("high.npz", None, False)])
def test_the_trial_says_what_does_better(
    data: str, examples: int | None, little: bool, world: Path, tmp_path: Path
) -> None:
    results = asked(world, data, tmp_path / "out", examples=examples)
    assert results.little == little
    assert results.trial is not None
    assert (results.trial.tuned <= results.trial.frozen) == little
    assert results.trial.updates == 120
    # and so it is in practice
    frozen = trained(results, tmp_path / "frozen", {"tune": 0})
    tuned = trained(results, tmp_path / "tuned", {"head_epochs": 5})
    assert (frozen > tuned) == little


def test_the_trial_leaves_no_trace_and_can_be_left_out(world: Path, tmp_path: Path) -> None:
    state = torch.get_rng_state()
    first = asked(world, "noisy.npz", tmp_path / "first", most=100, trial=5)
    assert torch.equal(torch.get_rng_state(), state)
    again = asked(world, "noisy.npz", tmp_path / "again", most=100, trial=5)
    assert first.trial.model_copy(update={"seconds": 0}) == again.trial.model_copy(update={"seconds": 0})
    without = asked(world, "noisy.npz", tmp_path / "without", most=100, trial=0)
    assert without.trial is None
    assert "examples save" in without.evidence[0]
    assert "so that" in without.evidence[0]
    assert "in a short trial" in first.evidence[0]


def test_what_cant_be_tried_is_a_note(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(*given: Any, **more: Any) -> Any:
        raise OptionError("no")

    monkeypatch.setattr(transferring, "errors_by", refuses)
    results = asked(world, "noisy.npz", tmp_path / "out", most=100)
    assert results.trial is None
    assert results.notes == ["tuning wasn't tried: no"]


def test_errors_are_those_of_probes() -> None:
    outputs = torch.tensor([[0.0, 2.0, 1.0], [3.0, 0.0, 0.0]])
    assert errors_of(outputs, torch.tensor([1, 2]), classes=True).tolist() == [0, 1]
    goals = torch.tensor([1.0, 3.0])
    assert errors_of(torch.tensor([[2.0], [3.0]]), goals, classes=False).tolist() == [1, 0]
    assert errors_of(torch.full((2,), 2.0), goals, classes=False).mean() == 1
