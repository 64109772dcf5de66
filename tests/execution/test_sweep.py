"""A sweep is its runs, each as the loop trains it, in one table."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import polars
import pytest
import torch
from torch import Tensor
from torch.utils.data import Dataset

import thalweg
from thalweg import catalogue, data
from thalweg.errors import Interrupted, OptionError, UserError
from thalweg.execution import loop
from thalweg.execution.sweep import Sweep
from thalweg.layers import models
from thalweg.run.objective import Objective
from thalweg.run.problem import Problem
from thalweg.run.spec import Run, Setting, Workload
from thalweg.training.watch import TrainingProgress, TrainingWatcher


def sweep(settings: Any, **more: Any) -> Sweep:
    given: dict[str, Any] = {"seeds": 2, "epochs": 2, "evaluations": 4, "engine": "loop", **more}
    return thalweg.sweep("mlp:6", "iris", settings, **given)


def alone(setting: Setting, seed: int, **more: Any) -> Any:
    prepared = data.prepare(data.load("iris"), seed=0, replicate=0)
    problem = Problem(
        factory=models.factory("mlp:6"), data=prepared,
        objective=Objective(loss="cross-entropy", metric="accuracy"),
        optimizers={setting.optimizer: catalogue.get(setting.optimizer)},
    )  # fmt: skip
    workload = Workload(epochs=2, batch_size=16, evaluations=4, **more)
    return loop.run(Run(identity="x", setting=setting, seed=seed), problem, workload)


@pytest.mark.parametrize("engine", ["lanes", "loop"])
def test_each_run_is_what_the_loop_trains(engine: str) -> None:
    found = sweep({"optimizer": ["sgd", "adam"], "lr": [0.1, 0.01]}, seeds=[3, 5], engine=engine, test=True)
    assert found.metric == "accuracy"
    assert found.higher_is_better
    settings = [("sgd", 0.1), ("sgd", 0.01), ("adam", 0.1), ("adam", 0.01)]
    assert len(found.table) == 4 * 2 * 5
    for number, (name, lr) in enumerate(settings):
        for seed in (3, 5):
            expected = alone(Setting(optimizer=name, hyperparameters={"lr": lr}), seed, score_test=True)
            rows = found.table.filter((polars.col("setting") == number) & (polars.col("seed") == seed))
            assert rows["optimizer"].unique().to_list() == [name]
            assert rows["lr"].unique().to_list() == [lr]
            assert rows["step"].to_list() == expected.steps
            for column, values in [
                ("train_loss", expected.train_loss), ("validation_loss", expected.validation_loss),
                ("accuracy", expected.validation), ("test", expected.test),
            ]:  # fmt: skip
                assert rows[column].to_list() == pytest.approx(values, rel=1e-4), column


def test_the_summary_is_of_the_last_evaluations() -> None:
    found = sweep({"optimizer": "momentum", "lr": [1e-4, 0.1]}, seeds=3)
    last = found.table.filter(polars.col("step") == found.table["step"].max())
    assert found.final().equals(last)
    summary = found.summary()
    assert summary["lr"].to_list() == [0.1, 1e-4]
    for row in summary.iter_rows(named=True):
        values = last.filter(polars.col("setting") == row["setting"])["accuracy"].to_numpy()
        assert [row["mean"], row["low"], row["high"]] == pytest.approx(
            [values.mean(), values.min(), values.max()]
        )
        assert row["diverged"] == 0
    assert "Sweep of 6 runs, accuracy" in repr(found)


def test_where_less_is_better_the_least_comes_first() -> None:
    found = thalweg.sweep(
        "linear", "diabetes", {"optimizer": "sgd", "lr": [1e-6, 0.05]}, seeds=1, epochs=3, engine="loop"
    )
    assert found.metric == "rmse"
    assert found.summary()["lr"].to_list() == [0.05, 1e-6]


def test_what_diverged_says_so_and_stands_last() -> None:
    found = sweep([{"optimizer": "sgd", "lr": 1e9}, {"optimizer": "sgd", "lr": 1e-6}])
    gone = found.table.filter((polars.col("lr") == 1e9) & polars.col("diverged"))
    assert len(gone) > 0
    assert gone["accuracy"].null_count() == len(gone)
    assert found.summary()["diverged"].to_list() == [0, 2]


def test_second_order_schedules_starting_points_and_own_rules() -> None:
    def halves(p: Any, g: Any, *, lr: float = 0.5) -> Any:
        return p - lr * g

    found = sweep(
        [
            "lbfgs",
            thalweg.rules.rule(halves),
            {"optimizer": "sgd", "schedule": ["cosine", "plateau"], "initialization": "normalized"},
            {"optimizer": "sgd", "schedule": "step", "schedule_options": {"every": 2}},
        ],
        seeds=1,
    )
    final = found.final()
    names = [name.rpartition(".")[2] for name in final["optimizer"]]
    assert names == ["lbfgs", "halves", "sgd", "sgd", "sgd"]
    assert final["schedule"].to_list() == ["constant", "constant", "cosine", "plateau", "step"]
    assert final["initialization.scheme"].to_list() == [None, None, "normalized", "normalized", None]
    assert final["schedule.every"].to_list() == [None, None, None, None, 2]
    assert final["accuracy"].null_count() == 0
    expected = alone(Setting(optimizer="lbfgs"), 0)
    assert found.table.filter(polars.col("setting") == 0)["validation_loss"].to_list() == pytest.approx(
        expected.validation_loss, rel=1e-4
    )


class Pairs(Dataset[Any]):
    def __len__(self) -> int:
        return 60

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        x = torch.tensor([float(index % 7), 1.0])
        return x, (x[0] > 3).long()


def collate(items: list[Any]) -> tuple[Tensor, Tensor]:
    return torch.stack([x for x, _ in items]), torch.stack([y for _, y in items])


def test_a_dataset_with_a_loss_and_a_metric_of_ones_own() -> None:
    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        return torch.nn.functional.cross_entropy(outputs, targets)

    def error(outputs: Tensor, targets: Tensor) -> float:
        return float((outputs.argmax(1) != targets).double().mean())

    found = thalweg.sweep(
        lambda shape, outputs: torch.nn.Linear(2, 2), Pairs(), {"optimizer": "adam", "lr": np.float64(0.1)},
        seeds=np.int64(2), epochs=np.int64(3), loss=loss, metric=error, collate=collate, task="custom",
        batch_size=8, engine="loop",
    )  # fmt: skip
    assert found.metric == "error"
    assert found.final()["error"].null_count() == 0
    assert found.table["lr"].unique().to_list() == [0.1]


class Until(TrainingWatcher):
    """Ends the sweep by a signal once so many steps are done."""

    def __init__(self, steps: float) -> None:
        self.steps, self.notes, self.sent = steps, list[str](), False

    def progress(self, progress: TrainingProgress) -> None:
        if progress.step >= self.steps and not self.sent:
            self.sent = True
            os.kill(os.getpid(), signal.SIGTERM)

    def note(self, text: str) -> None:
        self.notes.append(text)


def ended_runs(path: Path) -> int:
    return (path / "events.jsonl").read_text().count('"event":"runs"')


def test_a_sweep_that_is_interrupted_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("thalweg.training.watch._SECONDS_BETWEEN", 0.0)
    asked = {"optimizer": "adam", "lr": [0.1, 0.01, 0.001]}
    whole = sweep(asked)
    out = tmp_path / "a" / "sweep"
    with pytest.raises(Interrupted, match="resume"):
        sweep(asked, out=out, watcher=Until(20))
    before = ended_runs(out)
    assert 0 < before < 6
    assert not (out / "table.csv").exists()
    again = sweep(asked, out=out, resume=True)
    assert again.table.equals(whole.table)
    assert ended_runs(out) == 6
    assert polars.read_csv(out / "table.csv").columns == whole.table.columns
    with pytest.raises(UserError, match="begun with epochs = 2, not 3"):
        sweep(asked, out=out, resume=True, epochs=3)
    with pytest.raises(UserError, match="exists"):
        sweep(asked, out=out)


def test_without_a_directory_an_interruption_says_what_would_help(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("thalweg.training.watch._SECONDS_BETWEEN", 0.0)
    with pytest.raises(Interrupted, match="give out"):
        sweep("adam", watcher=Until(10))


@pytest.mark.parametrize(
    ("settings", "more", "words"),
    [
        ("adm", {}, "did you mean 'adam'"),
        ([], {}, "settings is empty"),
        ({"lr": 0.1}, {}, "has no optimizer"),
        ({"optimizer": "adam", "lr": []}, {}, "lr of a setting is an empty list"),
        ({"optimizer": "adam", "lr": -1.0}, {}, "lr is -1.0, but must be"),
        ({"optimizer": "adam", "rate": 0.1}, {}, "no hyperparameter 'rate'"),
        ({"optimizer": "adam", "schedule": "cos"}, {}, "did you mean 'cosine'"),
        ({"optimizer": "adam", "initialization": "spars"}, {}, "did you mean 'sparse'"),
        ({"optimizer": "adam", "initialization": {"k": 3}}, {}, "must be a scheme's name, or have a scheme"),
        ("adam", {"epochs": 0}, "epochs is 0"),
        ("adam", {"epochs": 2.5}, "epochs is 2.5"),
        ("adam", {"seeds": 0}, "seeds is 0"),
        ("adam", {"seeds": [1, 1]}, "names one twice"),
        ("adam", {"seeds": 10**9}, "more than 1,000,000 runs"),
        ("adam", {"evaluations": True}, "evaluations is True"),
        ("adam", {"batch_size": 1000}, "fewer than one batch of 1000"),
        ("adam", {"epochs": 10**9}, "more than"),
        ("adam", {"engine": "fast"}, "must be auto, lanes or loop"),
        ("adam", {"resume": True}, "resume needs out"),
        ("newton", {}, "newton: one step takes"),
    ],
)
def test_what_can_not_be_is_one_sentence(settings: Any, more: Any, words: str, tmp_path: Path) -> None:
    if "resume" not in more:
        more = {**more, "out": tmp_path / "out"}
    with pytest.raises(UserError, match=words):
        sweep(settings, **more)
    assert list(tmp_path.iterdir()) == []


class Deciding(torch.nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        outputs = super().forward(x)
        return outputs if outputs.sum().item() > 0 else 2 * outputs


def test_lanes_that_can_not_be_leave_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="lanes"):
        thalweg.sweep(Deciding(4, 3), "iris", "adam", epochs=1, engine="lanes", out=tmp_path / "a" / "out")
    assert list(tmp_path.iterdir()) == []


def test_two_rules_of_one_name_are_not_one() -> None:
    def made(factor: float) -> Any:
        def own(p: Any, g: Any, *, lr: float = 0.1) -> Any:
            return p - factor * lr * g

        return own

    with pytest.raises(OptionError, match=r"two optimizers of the name .*own"):
        sweep([made(1.0), made(2.0)])
    once = made(1.0)
    assert len(sweep([once, {"optimizer": once, "lr": 0.2}], seeds=1).final()) == 2


def test_a_setting_is_taken_as_it_is() -> None:
    setting = Setting(optimizer="adam", hyperparameters={"lr": 0.02})
    assert sweep(setting, seeds=1).table["lr"].unique().to_list() == [0.02]
    with pytest.raises(OptionError, match="lr is -1"):
        sweep(Setting(optimizer="adam", hyperparameters={"lr": -1.0}))
