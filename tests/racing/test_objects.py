"""Races and sweeps of models with several inputs and outputs come to what plain ones do, in lanes too."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import default_collate

import races
import thalweg
from structured import LABELS, A, B, Items, Joined, Net, OfOne, Registered, X, named
from thalweg import recipe
from thalweg.errors import DataError, ModelError, UserError
from thalweg.execution import lanes, loop
from thalweg.execution.choose import choose
from thalweg.layers.interface import part_of
from thalweg.racing import race_setup as setup
from thalweg.racing.race_setup import RaceSetup, understand
from thalweg.run.spec import Outcome, Run, Setting

ITEMS = Items(named)


def smooth(outputs: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(outputs, targets, label_smoothing=0.1)


def of_all(outputs: Any, targets: Tensor) -> Tensor:
    assert not isinstance(outputs, Tensor)
    return smooth(part_of(outputs), targets)


def right(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs.argmax(1) == targets).double().mean()


def right_of_all(outputs: Any, targets: Tensor) -> Tensor:
    assert not isinstance(outputs, Tensor)
    return right(part_of(outputs), targets)


def understood(model: Callable[[], nn.Module], data: Any, **more: Any) -> RaceSetup:
    return understand(
        setup.Options(model=model, data=data, optimizers=["adam"], splits=2, epochs=2, batch_size=16, **more)
    )


def outcomes(made: RaceSetup, kind: str) -> list[Outcome]:
    runs = [
        Run(identity=f"{i}", setting=Setting(optimizer="adam", hyperparameters={"lr": lr}), seed=3)
        for i, lr in enumerate((0.01, 0.05))
    ]
    words: dict[str, Any] = {
        "problem": made.problem(),
        "workload": made.workload(made.plan, score_test=True),
    }
    return lanes.run(runs, **words) if kind == "lanes" else [loop.run(run, **words) for run in runs]


@functools.cache
def plain(loss: Any, metric: Any) -> list[Outcome]:
    return outcomes(understood(lambda: Joined(drop=0.2), (X, LABELS), loss=loss, metric=metric), "loop")


CASES: dict[str, tuple[Callable[[], nn.Module], Any, Any, Any]] = {
    "tuple": (lambda: Net("tuple", drop=0.2), ITEMS, "cross-entropy", "accuracy"),
    "dataclass": (
        lambda: Net("dataclass", drop=0.2), {"a": A, "b": B, "y": LABELS}, "cross-entropy", "accuracy",
    ),
    "ModelOutput": (lambda: Net("ModelOutput", drop=0.2), (({"a": A, "b": B}), LABELS), smooth, "accuracy"),
    "all of a dataclass": (lambda: Net("dataclass", drop=0.2), ITEMS, of_all, right_of_all),
    "all of a dict": (lambda: Net("dict", drop=0.2), ((A, B), LABELS), of_all, right_of_all),
    "a metric by name of all": (lambda: Net("registered", drop=0.2), ITEMS, of_all, "accuracy"),
    "one dictionary": (lambda: OfOne("dict", drop=0.2), ITEMS, smooth, right),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("kind", ["loop", "lanes"])
def test_a_race_comes_to_what_the_plain_model_does(name: str, kind: str) -> None:
    model, data, loss, metric = CASES[name]
    twins = {of_all: smooth, right_of_all: right}
    expected = plain(twins.get(loss, loss), twins.get(metric, metric))
    for one, other in zip(
        outcomes(understood(model, data, loss=loss, metric=metric), kind), expected, strict=True
    ):
        if kind == "loop":
            assert one.validation_loss == other.validation_loss
            assert (one.validation, one.test) == (other.validation, other.test)
        assert one.validation_loss == pytest.approx(other.validation_loss, rel=1e-4)
        assert one.validation == pytest.approx(other.validation, abs=1e-6)
        assert one.test == pytest.approx(other.test, abs=1e-6)


def test_lanes_are_chosen_for_them() -> None:
    made = understood(lambda: Net("dataclass"), ITEMS)
    runs = [Run(identity=str(n), setting=Setting(optimizer="adam"), seed=n) for n in range(2)]
    choice = choose(runs, made.problem(), made.workload(made.plan), engine="lanes", processes=1, seconds=0.0)
    assert choice.kind == "lanes"


def test_a_loop_takes_over_with_a_collate_function() -> None:
    made = understood(lambda: Net("dataclass", drop=0.2), ITEMS, collate=default_collate)
    runs = [Run(identity="0", setting=Setting(optimizer="adam"), seed=3)]
    choice = choose(runs, made.problem(), made.workload(made.plan), processes=1, seconds=0.0)
    assert (choice.kind, choice.reason) == (
        "loop", "the batches come from a collate function, and lanes need whole tensors",
    )  # fmt: skip
    for one, other in zip(outcomes(made, "loop"), plain("cross-entropy", "accuracy"), strict=True):
        assert one.validation_loss == other.validation_loss


def test_a_built_in_model_takes_a_single_input(tmp_path: Path) -> None:
    with races.engine():
        found = races.run(
            tmp_path / "run", data=Items(lambda n: {"x": X[n], "y": LABELS[n]}), model="linear", trials=2
        )
    assert found.data.kind == "classification"
    assert all(run.score is not None for one in found.optimizers for run in one.runs)


SETTINGS = {"optimizer": "sgd", "lr": [0.1, 0.5]}


def test_a_whole_race_and_a_sweep(tmp_path: Path) -> None:
    with races.engine():
        words: dict[str, Any] = {"trials": 2, "metric": "accuracy"}
        one = races.run(tmp_path / "a", data=ITEMS, model=Net("ModelOutput"), **words)
        other = races.run(tmp_path / "b", data=(X, LABELS), model=Joined(), **words)
    for mine, theirs in zip(one.optimizers, other.optimizers, strict=True):
        assert [run.score for run in mine.runs] == pytest.approx([run.score for run in theirs.runs], abs=1e-6)
    for engine in ("loop", "lanes"):
        tables = [
            thalweg.sweep(
                model, data, {"optimizer": "sgd", "lr": [0.1, 0.5]}, seeds=2, epochs=2, engine=engine
            ).table
            for model, data in (
                (lambda: Net("dataclass"), {"a": A, "b": B, "label": LABELS}),
                (lambda: Joined(), (X, LABELS)),
            )
        ]
        for name in ("train_loss", "validation_loss", "accuracy"):
            assert tables[0][name].to_list()[1:] == pytest.approx(tables[1][name].to_list()[1:], rel=1e-4)


def two(outputs: Tensor, hidden: Tensor) -> Any:
    return Registered(start=outputs, end=outputs)


BAD: dict[str, tuple[Any, dict[str, Any], str]] = {
    "two candidates": (Net("two"), {}, r"returns a Registered \(start, end\), and .*as output='start'$"),
    "unknown output": (Net("two"), {"output": "strat"}, r"output='strat' isn't in .* mean 'start'\?$"),
    "no targets": (Net(), {"target": "c"}, r"has no 'c', which target names; "),
    "text": (Net(), {"data": Items(lambda n: {**named(n), "t": "a"})}, r"'t' holds text"),
    "lengths": (Net(), {"data": {"a": A, "b": B[:9], "y": LABELS}}, r"has shape \[9, 3\], but there are 96"),
    "ragged": (Net(), {"data": Items(lambda n: {"a": A[: n + 1], "y": 0})}, "can't be put together"),
    "unknown input": (Net(), {"data": {"a": A, "c": B, "y": LABELS}}, r"the forward of Net doesn't take 'c'"),
}  # fmt: skip


@pytest.mark.parametrize("what", BAD)
def test_what_cant_race_gets_a_sentence(what: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import structured

    monkeypatch.setitem(structured.WRAPS, "two", two)
    model, more, says = BAD[what]
    words = {"data": ITEMS, "trials": 1, "epochs": 1, "out": tmp_path / "run", **more}
    with pytest.raises(UserError, match=says) as said:
        thalweg.race(model, **words)
    assert isinstance(said.value, DataError | ModelError)
    assert not (tmp_path / "run").exists()


MODULE = """
from dataclasses import dataclass
import torch
from torch import nn


@dataclass
class Found:
    first: torch.Tensor
    second: torch.Tensor


class Net(nn.Module):
    def __init__(self, input_shape, outputs):
        super().__init__()
        self.layer = nn.Linear(input_shape[0], outputs)

    def forward(self, x):
        return Found(0 * self.layer(x), self.layer(x))
"""


def test_a_recipe_names_the_output_and_what_validation_is_judged_by(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("m.py").write_text(MODULE)
    chosen: dict[str, Any] = {
        "data": {"spec": "iris"},
        "model": {"spec": "m.py:Net", "output": "second"},
        "objective": {"loss": "cross-entropy", "metric": "accuracy"},
        "optimizer": {"name": "adam", "lr": 0.05},
        "training": {"batch_size": 16, "epochs": 6},
    }
    recipe.write(recipe.Recipe.model_validate(chosen), "r.toml")
    results = thalweg.train("r.toml", out="out")
    assert results.result["test"] > 0.6
    from sklearn.datasets import load_iris

    frame, _ = load_iris(return_X_y=True)
    made = thalweg.predict("out", frame)
    names = ["setosa", "versicolor", "virginica"]
    assert sum(made.values[n] == names[n // 50] for n in range(150)) > 100
    del chosen["model"]["output"]
    recipe.write(recipe.Recipe.model_validate(chosen), "r.toml")
    with pytest.raises(ModelError, match=r"one tensor of it, .* as model.output = .first.$"):
        thalweg.train("r.toml", out="other")
    chosen["model"]["output"] = "second"
    chosen["ensemble"] = {"members": 2}
    recipe.write(recipe.Recipe.model_validate(chosen), "r.toml")
    assert thalweg.train("r.toml", out="ensemble").result["test"] > 0.6


@pytest.mark.parametrize("kind", ["loop", "lanes"])
def test_a_recipe_s_objective_trains_one_loss_and_judges_by_another(kind: str) -> None:
    from dataclasses import replace

    from thalweg.run.objective import Objective

    made = understood(lambda: Joined(), (X, LABELS), loss=smooth)
    problem = replace(
        made.problem(), objective=Objective(loss=smooth, metric="accuracy", judged="cross-entropy")
    )
    run = Run(identity="0", setting=Setting(optimizer="adam", hyperparameters={"lr": 0.01}), seed=3)
    work = made.workload(made.plan)
    found = lanes.run([run], problem, work)[0] if kind == "lanes" else loop.run(run, problem, work)
    validation = problem.data.validation.batch(torch.arange(len(problem.data.validation)))
    by_hand = F.cross_entropy(problem.model(run)(validation[0]).detach(), validation[1])
    assert found.validation_loss[0] == pytest.approx(float(by_hand), rel=1e-5)
    trained = loop.run(run, made.problem(), work)
    assert found.train_loss[1:] == pytest.approx(trained.train_loss[1:], rel=1e-4)
