"""Targets and metrics of every form that ``fit`` takes have the same values in a race, as lanes and alone."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn import metrics as sk
from torch import Tensor, nn
from torch.nn import functional as F

import races
import thalweg
from thalweg import data
from thalweg.data.source import Prepared
from thalweg.errors import OptionError
from thalweg.execution import lanes, loop
from thalweg.racing import build_results
from thalweg.racing.options import Options
from thalweg.racing.race_setup import RaceSetup, understand
from thalweg.run.problem import initial_module
from thalweg.run.spec import Outcome, Run, Setting
from thalweg.run.targets import objective_of

G = torch.Generator().manual_seed(0)
X = torch.randn(90, 6, generator=G)
NOISE = 0.5 * torch.randn(90, 6, generator=G)
LABELS = (X.sum(1) + NOISE[:, 0] > 0).long()
MANY = X[:, :3] + NOISE[:, :3] > 0
NUMBERS = 3 * X[:, :2] + NOISE[:, :2] + 1
STEPS = torch.randn(90, 5, 6, generator=G)
TOKENS = (STEPS.sum(2) > 0).long() + (STEPS[..., 0] > 0.5).long()


def with_(labels: Tensor, left_out: int, *where: int | slice) -> Tensor:
    changed = labels.clone()
    for part in where:
        changed[..., part] = left_out
    return changed


def three(outputs: int = 3) -> Callable[[], nn.Module]:
    return lambda: nn.Linear(6, outputs)


class PerToken(nn.Module):
    """Scores [N, C, T] of steps [N, T, 6]."""

    def __init__(self) -> None:
        super().__init__()
        self.scores = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.scores(x).transpose(1, 2)


class Named(nn.Module):
    """Outputs as a dictionary."""

    def __init__(self) -> None:
        super().__init__()
        self.scores = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"logits": self.scores(x), "inputs": x}


def exact_match(outputs: Tensor, targets: Tensor) -> float:
    return float(((outputs > 0) == (targets > 0.5)).all(1).double().mean())


def of_dict(outputs: dict[str, Tensor], targets: Tensor) -> float:
    return float((outputs["logits"].argmax(1) == targets).double().mean())


def loss_of_dict(outputs: dict[str, Tensor], targets: Tensor) -> Tensor:
    return F.cross_entropy(outputs["logits"], targets)


def squares(outputs: Tensor, targets: Tensor) -> Tensor:
    return ((outputs - targets) ** 2).mean()


def accuracy(outputs: Tensor, targets: Tensor) -> float:
    """By scikit-learn, of what isn't left out; scores at axis 1."""
    counts = (targets >= 0) & (targets != 7)
    return float(sk.accuracy_score(targets[counts], outputs.argmax(1)[counts]))


def log_loss(outputs: Tensor, targets: Tensor) -> float:
    counts = (targets >= 0) & (targets != 7)
    rows = outputs.movedim(1, -1)[counts]
    return float(sk.log_loss(targets[counts], rows.double().softmax(-1), labels=range(rows.shape[-1])))


def rmse(outputs: Tensor, targets: Tensor) -> float:
    return float(np.sqrt(np.mean((outputs.double().numpy() - targets.double().numpy()) ** 2)))


@dataclass(frozen=True, eq=False)
class Case:
    model: Callable[[], nn.Module]
    inputs: Tensor
    targets: Tensor
    loss: Any
    metric: Any
    oracle: Callable[[Any, Tensor], float]


CASES = {
    "many labels, bce": Case(three(), X, MANY.float(), "bce", exact_match, exact_match),
    "many labels, whole numbers": Case(three(), X, MANY.long(), "bce", exact_match, exact_match),
    "many labels, yes and no": Case(three(), X, MANY, "bce", exact_match, exact_match),
    "many labels, torch's loss": Case(
        three(), X, MANY.long(), nn.BCEWithLogitsLoss(), exact_match, exact_match
    ),
    "one logit, torch's loss": Case(
        three(1), X, LABELS, nn.BCEWithLogitsLoss(), "accuracy",
        lambda outputs, targets: accuracy(F.pad(outputs, (1, 0)), targets),
    ),
    "several numbers, rmse": Case(three(2), X, NUMBERS, "mse", "rmse", rmse),
    "several numbers, mae": Case(
        three(2), X, NUMBERS, "huber", "mae",
        lambda outputs, targets: float(sk.mean_absolute_error(targets, outputs)),
    ),
    "several numbers, r2": Case(
        three(2), X, NUMBERS, squares, "r2", lambda outputs, targets: float(sk.r2_score(targets, outputs))
    ),
    "some left out": Case(
        three(2), X, with_(LABELS, -100, slice(0, 60, 7)), "cross-entropy", "accuracy", accuracy
    ),
    "some left out, log-loss": Case(
        three(2), X, with_(LABELS, -100, slice(0, 60, 7)), None, "log-loss", log_loss
    ),
    "one left out": Case(three(2), X, with_(LABELS, -100, 5), None, None, accuracy),
    "another number left out": Case(
        three(2), X, with_(LABELS, 7, slice(0, 60, 7)), nn.CrossEntropyLoss(ignore_index=7), "accuracy",
        accuracy,
    ),
    "tokens": Case(PerToken, STEPS, TOKENS, "cross-entropy", "accuracy", accuracy),
    "tokens, some left out": Case(
        PerToken, STEPS, with_(TOKENS, -100, 0, 4), "cross-entropy", "accuracy", accuracy
    ),
    "tokens, log-loss": Case(
        PerToken, STEPS, with_(TOKENS, -100, 2), nn.CrossEntropyLoss(), "log-loss", log_loss
    ),
    "dictionaries": Case(Named, X, LABELS, loss_of_dict, of_dict, of_dict),
}  # fmt: skip


@functools.cache
def understood(case: Case) -> RaceSetup:
    return understand(
        Options(
            model=lambda: case.model(),
            data=(case.inputs, case.targets),
            loss=case.loss,
            metric=case.metric,
            optimizers=["sgd"],
            splits=2,
            epochs=2,
            batch_size=16,
        )
    )


@functools.cache
def outcomes(case: Case, kind: str) -> list[Outcome]:
    made = understood(case)
    runs = [
        Run(identity=f"{i}", setting=Setting(optimizer="sgd", hyperparameters={"lr": lr}), seed=i)
        for i, lr in enumerate((0.05, 0.2))
    ]
    words: dict[str, Any] = {
        "problem": made.problem(),
        "workload": made.workload(made.plan, score_test=True),
    }
    return lanes.run(runs, **words) if kind == "lanes" else [loop.run(run, **words) for run in runs]


def by_hand(case: Case, module: nn.Module, part: Any) -> float:
    inputs, targets = part.batch(torch.arange(len(part)))
    with torch.no_grad():
        return case.oracle(module(inputs), targets)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("kind", ["loop", "lanes"])
def test_a_race_has_the_values_of_the_definition_and_of_fit(name: str, kind: str) -> None:
    case = CASES[name]
    made = understood(case)
    found = outcomes(case, kind)
    prepared = made.first
    for run, outcome in enumerate(found):
        module = initial_module(made.factory, prepared.input_shape, prepared.outputs, run)
        assert outcome.validation[0] == pytest.approx(by_hand(case, module, prepared.validation), rel=1e-5)
        assert outcome.test[0] == pytest.approx(by_hand(case, module, prepared.test), rel=1e-5)
        assert outcome.validation[-1] != outcome.validation[0] or outcome.train_loss[-1] is not None
        splits = [part.batch(torch.arange(len(part))) for part in (prepared.train, prepared.validation)]
        fitted = thalweg.fit(
            module, splits[0], "cross-entropy" if case.loss is None else case.loss, "sgd",
            validation=splits[1], metric="accuracy" if case.metric is None else case.metric, epochs=1,
        )  # fmt: skip
        assert outcome.validation[0] == pytest.approx(fitted.curve[0].validation, rel=1e-6)
        assert outcome.validation_loss[0] == pytest.approx(fitted.curve[0].validation_loss, rel=1e-5)


@pytest.mark.parametrize("name", CASES)
def test_lanes_and_loop_agree_to_the_end(name: str) -> None:
    case = CASES[name]
    for one, other in zip(outcomes(case, "loop"), outcomes(case, "lanes"), strict=True):
        assert one.validation == pytest.approx(other.validation, rel=1e-4, abs=1e-6)
        assert one.test == pytest.approx(other.test, rel=1e-4, abs=1e-6)
        assert one.validation_loss == pytest.approx(other.validation_loss, rel=1e-4)
        assert (one.test_predictions is None) == (other.test_predictions is None)
        if one.test_predictions is not None:
            assert np.allclose(one.test_predictions, other.test_predictions, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", ["several numbers, r2", "tokens, some left out", "some left out"])
def test_a_resample_of_a_fixed_test_set_counts_examples_as_often_as_they_are_drawn(name: str) -> None:
    case = CASES[name]
    made = understood(case)
    outcome = outcomes(case, "lanes")[0]
    part = made.first.test
    _, targets = part.batch(torch.arange(len(part)))
    drawn = torch.randint(len(part), (len(part),), generator=torch.Generator().manual_seed(3))
    counts = torch.bincount(drawn, minlength=len(part))
    predictions = torch.tensor(outcome.test_predictions, dtype=torch.float64)
    once = made.metric.score(predictions.expand(2, *predictions.shape), targets)
    assert once.tolist() == pytest.approx([outcome.test[-1]] * 2)
    again = made.metric.score(predictions.expand(2, *predictions.shape), targets, counts.expand(2, -1))
    repeated = made.metric.score(predictions[drawn], targets[drawn])
    assert again.tolist() == pytest.approx([float(repeated)] * 2)


def test_labels_that_are_left_out_are_said() -> None:
    notes = understood(CASES["some left out"]).data_info.notes
    assert any("9 of 90 labels are -100, which the loss leaves out" in note for note in notes)
    # whoever gives a loss that counts them means classes
    plain = Case(three(3), X, with_(LABELS, 2, slice(0, 60, 7)), "cross-entropy", "accuracy", accuracy)
    assert understood(plain).data_info.classes == ["0", "1", "2"]


def test_built_in_models_have_an_output_for_each_label_and_class() -> None:
    for targets, loss, metric, outputs in (
        (MANY, "bce", exact_match, 3),
        (NUMBERS, "mse", "rmse", 2),
        (with_(LABELS, -100, 3), None, None, 2),
    ):
        made = understand(
            Options(data=(X, targets), loss=loss, metric=metric, optimizers=["sgd"], splits=2, epochs=2)
        )
        assert made.first.outputs == outputs
        assert made.model_info.spec == "mlp:64"


def test_one_example_is_worth_its_share_of_what_counts() -> None:
    made = understood(CASES["some left out"])
    targets = made.first.test.targets
    assert targets is not None
    assert build_results._one_example(made, made.plan) == pytest.approx(1 / int((targets >= 0).sum()))
    made = understood(CASES["tokens, some left out"])
    assert build_results._one_example(made, made.plan) == pytest.approx(1 / len(made.first.test))
    made = understood(CASES["many labels, bce"])
    assert build_results._one_example(made, made.plan) == 0


def test_what_fit_refuses_a_race_refuses_too() -> None:
    case = Case(three(), X, MANY.float(), "bce", "accuracy", exact_match)
    with pytest.raises(OptionError, match="the metric 'accuracy' is for classification"):
        understood(case)
    with pytest.raises(OptionError, match="takes probabilities as outputs, but the metric 'accuracy'"):
        understood(Case(three(1), X, LABELS, nn.BCELoss(), "accuracy", exact_match))


def own_mae(outputs: Tensor, targets: Tensor) -> float:
    return float((outputs[:, 0] - targets).abs().mean())


own_mae.higher_is_better = False  # type: ignore[attr-defined]
own_mae.margin = 1.0  # type: ignore[attr-defined]


def test_a_persons_own_metric_has_the_units_of_each_split(tmp_path: Path) -> None:
    # each split standardizes the target by its own training part
    with races.engine():
        words: dict[str, Any] = {"data": "diabetes", "optimizers": ["sgd"], "trials": 2}
        named = races.run(tmp_path / "named", metric="mae", **words)
        own = races.run(tmp_path / "own", metric=own_mae, **words)
    for one, other in zip(named.optimizers[0].runs, own.optimizers[0].runs, strict=True):
        assert other.score == pytest.approx(one.score, rel=1e-5)


def test_a_whole_race_of_many_labels(tmp_path: Path) -> None:
    with races.engine():
        found = races.run(
            tmp_path / "run", data=(X, MANY), model=None, loss="bce", metric=exact_match, trials=2
        )
    assert found.data.kind == "custom"
    assert all(run.score is not None for one in found.optimizers for run in one.runs)


def test_objectives_of_prepared_data_stay_what_they_are() -> None:
    prepared: Prepared = data.prepare(data.load("iris"), seed=0, replicate=0)
    loss, metric = objective_of(None, None, prepared)
    assert loss.per_example is not None
    assert objective_of(loss, metric, prepared) == (loss, metric)
