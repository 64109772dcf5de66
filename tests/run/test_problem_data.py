"""Race, sweep and recipe make the same problem of the same data and losses."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import races
import thalweg
from thalweg import recipe
from thalweg.recipe.build import build
from thalweg.run.problem_data import ProblemData

G = torch.Generator().manual_seed(0)
X = torch.randn(90, 4, generator=G)
LABELS = (X.sum(1) > 0).long()
PARTLY = LABELS.masked_fill(torch.arange(90) % 6 == 0, -100)
THIRD = LABELS.masked_fill(torch.arange(90) % 6 == 0, 2)


def two_scores() -> nn.Module:
    return nn.Linear(4, 2)


def smooth(outputs: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(outputs, targets, label_smoothing=0.4)


def squares(outputs: Tensor, targets: Tensor) -> Tensor:
    return ((outputs - targets) ** 2).mean()


def distance(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs - targets).abs().max(1).values.mean()


def of_table(spec: Path, **objective: Any) -> recipe.Recipe:
    return recipe.Recipe(
        data=recipe.DataTable(spec=str(spec)),
        model=recipe.ModelTable(spec="linear"),
        objective=recipe.ObjectiveTable(**objective),
        optimizer=recipe.OptimizerTable(name="sgd", lr=0.1),
        training=recipe.TrainingTable(batch_size=8, epochs=2),
    )


@pytest.mark.parametrize("engine", ["lanes", "loop"])
def test_a_sweep_takes_labels_that_the_loss_leaves_out(engine: str) -> None:
    asked: dict[str, Any] = {"seeds": 1, "epochs": 2, "engine": engine, "evaluations": 2}
    setting = {"optimizer": "sgd", "lr": 0.1}
    found = thalweg.sweep(two_scores, (X, PARTLY), setting, **asked)
    third = functools.partial(F.cross_entropy, ignore_index=2)
    same = thalweg.sweep(two_scores, (X, THIRD), setting, loss=third, **asked)
    assert found.metric == same.metric == "accuracy"
    for column in ("train_loss", "validation_loss", "accuracy"):
        assert same.table[column].to_list() == pytest.approx(found.table[column].to_list(), rel=1e-5)


def test_a_recipe_takes_labels_that_the_loss_leaves_out(tmp_path: Path) -> None:
    np.savez(tmp_path / "data.npz", X=X.numpy(), y=PARTLY.numpy())
    made = build(of_table(tmp_path / "data.npz"), "cpu", 1)
    assert made.prepared.outputs == 2
    assert any("labels are -100" in note for note in made.source.notes)
    assert made.problem.functions.metric.name == "accuracy"


@pytest.mark.parametrize("engine", ["lanes", "loop"])
def test_a_sweep_is_judged_by_another_loss(engine: str) -> None:
    asked: dict[str, Any] = {"seeds": 2, "epochs": 2, "engine": engine, "evaluations": 2, "loss": smooth}
    setting = {"optimizer": "sgd", "lr": 0.5}
    alike = thalweg.sweep("linear", "iris", setting, **asked).table
    found = thalweg.sweep("linear", "iris", setting, validation_loss="cross-entropy", **asked).table
    plain = thalweg.sweep("linear", "iris", setting, **{**asked, "loss": "cross-entropy"}).table
    assert found["train_loss"].to_list() == pytest.approx(alike["train_loss"].to_list(), rel=1e-6)
    assert found["accuracy"].to_list() == alike["accuracy"].to_list()
    # before the first step all have the same weights
    first = found["step"] == 0
    assert found.filter(first)["validation_loss"].to_list() == pytest.approx(
        plain.filter(first)["validation_loss"].to_list(), rel=1e-6
    )
    assert abs(found["validation_loss"][-1] - alike["validation_loss"][-1]) > 0.01


def test_a_sweeps_resume_asks_for_the_same_validation_loss(tmp_path: Path) -> None:
    asked: dict[str, Any] = {"seeds": 1, "epochs": 1, "engine": "loop", "out": tmp_path / "run"}
    thalweg.sweep("linear", "iris", "sgd", validation_loss=smooth, **asked)
    with pytest.raises(thalweg.errors.UserError, match="validation_loss"):
        thalweg.sweep("linear", "iris", "sgd", resume=True, **asked)


@pytest.mark.parametrize("engine", ["lanes", "loop"])
def test_a_race_is_judged_by_another_loss(tmp_path: Path, engine: str) -> None:
    with races.engine(engine):
        alike = races.run(tmp_path / "alike", loss=smooth, trials=2)
        found = races.run(tmp_path / "found", loss=smooth, validation_loss="cross-entropy", trials=2)
    # counted, where another test of the process has a function of this name
    assert found.plan.loss.startswith("python:smooth")
    assert found.plan.validation_loss == "cross-entropy"
    assert alike.plan.validation_loss is None
    for one, other in zip(alike.optimizers, found.optimizers, strict=True):
        assert [run.score for run in one.runs] == [run.score for run in other.runs]
        for before, after in zip(one.curves, other.curves, strict=True):
            assert before.train_loss == after.train_loss
            assert all(a != b for a, b in zip(before.validation_loss, after.validation_loss, strict=True))


def test_a_race_chooses_by_the_validation_loss_where_data_settle_no_metric(tmp_path: Path) -> None:
    targets = torch.stack([X[:, 0], 2 * X[:, 1] + X[:, 2]], 1)
    with races.engine():
        found = races.run(
            tmp_path / "run", data=(X, targets), loss=squares, validation_loss=distance, trials=2
        )
    assert not found.plan.higher_is_better
    for one in found.optimizers:
        ends = {(curve.replicate, curve.seed): curve.validation_loss[-1] for curve in one.curves}
        for run in one.runs:
            assert run.validation == pytest.approx(ends[run.replicate, run.seed], rel=1e-5)


def test_what_a_metric_leaves_out_is_what_the_validation_loss_leaves_out() -> None:
    def own(outputs: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(outputs, targets, ignore_index=2)

    judge = nn.CrossEntropyLoss(ignore_index=2)
    read = ProblemData.read((X, THIRD), loss=own, validation_loss=judge, seed=0)
    outputs, targets = torch.randn(len(read.prepared.validation), 2), read.prepared.validation.targets
    assert targets is not None
    _, _, metric = read.functions
    counts = targets != 2
    by_hand = (outputs.argmax(1) == targets)[counts].double().mean()
    assert float(metric.score(metric.reduce(outputs, targets), targets)) == pytest.approx(float(by_hand))


def test_what_is_trained_may_read_outputs_otherwise_than_the_metric_does() -> None:
    """The pairing of a metric is with what judges beside it."""
    read = ProblemData.read((X, LABELS), loss=nn.BCELoss(), validation_loss="bce", metric="accuracy", seed=0)
    assert read.functions.metric.name == "accuracy"
    with pytest.raises(thalweg.errors.OptionError, match="takes probabilities"):
        ProblemData.read((X, LABELS), loss="bce", validation_loss=nn.BCELoss(), metric="accuracy", seed=0)


def test_a_validation_loss_that_raises_is_refused_before_anything_is_trained(tmp_path: Path) -> None:
    def broken(outputs: Tensor, targets: Tensor) -> Tensor:
        raise ValueError("no")

    with pytest.raises(thalweg.errors.UserError, match="the loss 'python:broken' raises"):
        thalweg.sweep("linear", "iris", "sgd", seeds=1, epochs=1, validation_loss=broken, out=tmp_path / "a")
    with pytest.raises(thalweg.errors.UserError, match="the loss 'python:broken' raises"):
        races.run(tmp_path / "b", validation_loss=broken)
    assert not list(tmp_path.iterdir())
