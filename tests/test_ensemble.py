"""Ensembles: members alone and together, as lanes and one after another, killed, taken up, put to use."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import safetensors.torch
import torch
from sklearn.metrics import accuracy_score, log_loss

import thalweg
from thalweg import calibration, catalogue, data, recipe
from thalweg.commands import app
from thalweg.ensembles.train import bootstrap, member_seed
from thalweg.errors import OptionError, RecipeError, ThalwegError
from thalweg.execution import lanes
from thalweg.layers import models
from thalweg.run.objective import Objective
from thalweg.run.problem import Problem
from thalweg.run.spec import Run, Setting, Workload
from thalweg.strategies import Clipping
from thalweg.training.results import Stored, TrainResults
from trainings import RECIPE, comparable, run, written

FOUR = ["ensemble.members=4", "ensemble.engine=lanes"]


def member(out: Path, number: int) -> dict[str, torch.Tensor]:
    return safetensors.torch.load_file(out / f"member-{number}.safetensors")


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    """To the bit where lanes promise bits, else within what they promise."""
    assert a.keys() == b.keys()
    if lanes.promise().startswith("bits"):
        return all(torch.equal(a[name], b[name]) for name in a)
    return all(torch.allclose(a[name], b[name], atol=1e-4) for name in a)


@pytest.fixture(scope="module")
def four(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("four")
    thalweg.train(written(folder), changes=FOUR, out=folder / "out")
    return folder / "out"


# Members -------------------------------------------------------------------------------------------------


def test_a_member_is_what_a_lane_of_its_seed_is_alone(four: Path) -> None:
    prepared = data.prepare(data.load("iris"), seed=0, replicate=0)
    setting = Setting(optimizer="adam", hyperparameters={"lr": 0.02}, schedule="cosine")
    run = Run(identity="alone", setting=setting, seed=member_seed(3, 2))
    problem = Problem(
        factory=models.factory("mlp:8"), data=prepared,
        objective=Objective(loss="cross-entropy", metric="accuracy"),
        optimizers={"adam": catalogue.get("adam")},
    )  # fmt: skip
    found: dict[str, torch.Tensor] = {}
    lanes.run(
        [run],
        problem,
        Workload(epochs=4, batch_size=16, evaluations=6),
        keep=lambda outcome, tensors: found.update({name: t.clone() for name, t in tensors.items()}),
    )
    assert same(found, member(four, 2))


def test_members_do_not_depend_on_how_many_there_are(four: Path, tmp_path: Path) -> None:
    changes = ["ensemble.members=2", "ensemble.engine=lanes"]
    thalweg.train(written(tmp_path), changes=changes, out=tmp_path / "out")
    assert all(same(member(four, number), member(tmp_path / "out", number)) for number in (1, 2))


@pytest.mark.parametrize(
    "changed",
    [
        [],
        ["schedule.cycles=2"],
        ["schedule.name=plateau", "optimizer.lr=0.3"],
        ["strategies.initialization.scheme=sparse", "strategies.initialization.k=6"],
        ["model.spec=mlp:8,8", "model.skip=true", "model.stochastic_depth=0.5", "model.dropout=0.1"],
    ],
)
def test_a_member_is_the_training_of_its_seed(changed: list[str], tmp_path: Path) -> None:
    path = written(tmp_path)
    both = {
        engine: thalweg.train(
            path,
            changes=[*changed, "ensemble.members=2", f"ensemble.engine={engine}"],
            out=tmp_path / engine,
        )
        for engine in ("lanes", "loop")
    }
    found = both["loop"].ensemble
    assert found is not None
    seed = found.members[1].seed
    assert seed == member_seed(3, 2)
    single = thalweg.train(path, changes=[*changed, f"training.seed={seed}"], out=tmp_path / "single")
    expected = (tmp_path / "single" / "weights.safetensors").read_bytes()
    # one after another to the bit, as lanes within rounding
    assert (tmp_path / "loop" / "member-2.safetensors").read_bytes() == expected
    assert found.members[1].curve == single.curve
    assert found.members[1].result == single.result
    for name, value in member(tmp_path / "lanes", 2).items():
        torch.testing.assert_close(value, safetensors.torch.load(expected)[name], rtol=1e-3, atol=1e-4)
    in_lanes = both["lanes"].ensemble
    assert in_lanes is not None
    assert [p.step for p in in_lanes.members[1].curve] == [p.step for p in single.curve]
    losses = [[p.validation_loss for p in curve] for curve in (in_lanes.members[1].curve, single.curve)]
    np.testing.assert_allclose(*losses, rtol=1e-3)


def net(input_shape: tuple[int, ...], outputs: int) -> torch.nn.Module:
    return torch.nn.Sequential(
        torch.nn.Linear(6, 9), torch.nn.BatchNorm1d(9), torch.nn.Tanh(), torch.nn.Dropout(0.3),
        torch.nn.Linear(9, outputs),
    ).double()  # fmt: skip


def points(rows: int = 96) -> tuple[torch.Tensor, torch.Tensor]:
    x = torch.randn(rows, 6, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    return x, (x[:, 0] > x[:, 1]).long()


@pytest.mark.parametrize("resample", [False, True])
def test_one_s_own_models_as_lanes_and_by_fit(resample: bool) -> None:
    x, y = points()
    asked: dict[str, Any] = {
        "members": 3, "epochs": 4, "batch_size": 16, "seed": 5, "hyperparameters": {"lr": 0.05},
        "validation": (x, y), "metric": "log-loss", "resample": resample,
    }  # fmt: skip
    both = [
        thalweg.fit_ensemble(net, (x, y), "cross-entropy", "momentum", "cosine", engine=engine, **asked)
        for engine in ("lanes", "loop")
    ]
    assert [each.engine for each in both] == ["lanes", "loop"]
    for one, other in zip(both[0].models, both[1].models, strict=True):
        for name, value in one.state_dict().items():
            torch.testing.assert_close(value, other.state_dict()[name], rtol=1e-5, atol=1e-6)
    assert both[0].evaluation is not None
    assert both[1].evaluation is not None
    assert both[0].evaluation.result["validation"] == pytest.approx(
        both[1].evaluation.result["validation"], rel=1e-5
    )
    # a member by hand
    seed = member_seed(5, 2)
    with torch.random.fork_rng():
        torch.manual_seed(thalweg.randomness.streams.seed32(seed, "initial"))
        model = net((6,), 2)
    places = bootstrap(len(x), seed=seed) if resample else torch.arange(len(x))
    thalweg.fit(
        model, (x[places], y[places]), "cross-entropy", "momentum", "cosine", epochs=4, batch_size=16,
        hyperparameters={"lr": 0.05}, seed=seed, validation=(x, y), metric="log-loss",
    )  # fmt: skip
    for name, value in model.state_dict().items():
        assert torch.equal(value, both[1].models[1].state_dict()[name])


def distilled() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Inputs, classes, and a teacher's logits of them, which training targets are."""
    x, y = points()
    teacher = torch.nn.Linear(6, 2, dtype=torch.float64)
    with torch.no_grad():
        for part in teacher.parameters():
            part.copy_(torch.linspace(-1, 1, part.numel(), dtype=torch.float64).reshape(part.shape))
        return x, y, teacher(x)


def softened(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.cross_entropy(outputs, targets.softmax(-1))


@pytest.mark.parametrize("metric", ["accuracy", None])
def test_members_are_judged_by_another_loss_than_they_are_trained_on(metric: str | None) -> None:
    x, y, logits = distilled()
    asked: dict[str, Any] = {
        "members": 2, "epochs": 3, "batch_size": 16, "seed": 5, "hyperparameters": {"lr": 0.05},
        "validation": (x, y), "metric": metric, "validation_loss": "cross-entropy",
    }  # fmt: skip
    both = [
        thalweg.fit_ensemble(net, (x, logits), softened, "momentum", "cosine", engine=engine, **asked)
        for engine in ("lanes", "loop")
    ]
    with torch.random.fork_rng():
        torch.manual_seed(thalweg.randomness.streams.seed32(member_seed(5, 2), "initial"))
        model = net((6,), 2)
    alone = thalweg.fit(
        model, (x, logits), softened, "momentum", "cosine", epochs=3, batch_size=16,
        hyperparameters={"lr": 0.05}, seed=member_seed(5, 2), validation=(x, y),
        metric="accuracy", validation_loss="cross-entropy",
    )  # fmt: skip
    for found in both:
        last = found.trained[1].curve[-1]
        assert last.validation_loss == pytest.approx(alone.final["validation_loss"], rel=1e-6)
        assert last.train_loss == pytest.approx(alone.curve[-1].train_loss, rel=1e-6)
        assert found.evaluation is not None
        p = torch.stack([each(x).detach().softmax(-1) for each in found.models])
        together = found.evaluation.result
        assert together["validation_loss"] == pytest.approx(log_loss(y, p.mean(0)), rel=1e-5)
        assert together["validation"] == accuracy_score(y, p.mean(0).argmax(1))
        assert found.activation == "softmax"
    # one after another to the bit
    assert both[1].trained[1].curve == alone.curve


def test_targets_may_mean_one_thing_in_training_and_another_in_validation() -> None:
    """Several yes or no in training, which class numbers wouldn't be, and class numbers in validation."""
    x, y, logits = distilled()
    several = (torch.cat([logits, logits[:, :1]], 1) > 0).double()
    found = thalweg.fit_ensemble(
        net, (x, several), torch.nn.BCEWithLogitsLoss(), "adam", members=2, epochs=1,
        validation=(x, y + 1), validation_loss=torch.nn.CrossEntropyLoss(ignore_index=2), metric="accuracy",
        engine="loop",
    )  # fmt: skip
    assert found.evaluation is not None


# Together ------------------------------------------------------------------------------------------------


def by_hand(out: Path, numbers: tuple[int, ...], outputs: int = 3) -> tuple[np.ndarray, Any]:
    """Outputs ``[M, N, C]`` on the test split."""
    prepared = data.prepare(data.load("iris"), seed=0, replicate=0)
    each = []
    for number in numbers:
        model = models.build("mlp:8", (4,), outputs)
        model.load_state_dict(member(out, number))
        with torch.no_grad():
            each.append(model(prepared.test.inputs).double())
    return torch.stack(each).numpy(), prepared


def test_scores_are_those_of_the_averaged_probabilities(four: Path) -> None:
    results = TrainResults.read(four / "results.json")
    found = results.ensemble
    assert found is not None
    outputs, prepared = by_hand(four, (1, 2, 3, 4))
    y = prepared.test.targets.numpy()
    p = torch.from_numpy(outputs).softmax(-1).numpy()
    assert results.result["test"] == accuracy_score(y, p.mean(0).argmax(1))
    assert results.result["test_loss"] == pytest.approx(log_loss(y, p.mean(0)), rel=1e-5)
    for number, one in enumerate(found.members):
        assert one.result["test"] == accuracy_score(y, p[number].argmax(1))
        assert one.result["test_loss"] == pytest.approx(log_loss(y, p[number]), rel=1e-5)
    assert found.growing == [accuracy_score(y, p[:k].mean(0).argmax(1)) for k in (1, 2, 3, 4)]
    labels = p.argmax(-1)
    expected = [[float(np.mean(a != b)) for b in labels] for a in labels]
    np.testing.assert_allclose(found.disagreement, expected)
    came = np.eye(3)[y]
    assert found.squared is not None
    assert found.squared.of == "brier"
    assert found.squared.member == pytest.approx(((p - came) ** 2).sum(-1).mean())
    assert found.squared.ambiguity == pytest.approx(((p - p.mean(0)) ** 2).sum(-1).mean())
    assert found.squared.ensemble == pytest.approx(found.squared.member - found.squared.ambiguity)
    assert results.calibration is not None
    mean = torch.from_numpy(p.mean(0))
    assert results.calibration.error == pytest.approx(calibration.reliability(mean, torch.tensor(y)).error)
    assert results.calibration.brier == pytest.approx(found.squared.ensemble)
    assert found.pooled is not None
    assert found.pooled.brier == pytest.approx(found.squared.member)


def test_what_an_ensemble_leaves_behind(four: Path) -> None:
    names = {path.name for path in four.iterdir()}
    assert {f"member-{n}.safetensors" for n in (1, 2, 3, 4)} <= names
    assert "weights.safetensors" not in names
    assert [path.name for path in (four / "checkpoints").iterdir()] == ["run_id"]
    assert Stored.read(four / "model.json").members == [1, 2, 3, 4]
    card = (four / "README.md").read_text()
    assert "4 independent models, each with 67 parameters; their average predicts" in card
    assert "| `member-N.safetensors` | 4 independent models, an ensemble |" in card
    page = (four / "report.html").read_text()
    for words in ("Together the 4 models reach", "Calibration", "Disagreement", "side by side, as lanes"):
        assert words in page
    assert recipe.read(four / "recipe.toml").ensemble == recipe.EnsembleTable(members=4, engine="lanes")


def test_classes_with_the_share_of_members_that_disagree(four: Path, tmp_path: Path) -> None:
    source = data.load("iris")
    found = thalweg.predict(four, source.x)
    outputs, prepared = by_hand(four, (1, 2, 3, 4))
    rows = prepared.indices["test"]
    p = torch.from_numpy(outputs).softmax(-1).numpy()
    np.testing.assert_allclose(found.probabilities[rows], p.mean(0), atol=1e-6)
    assert found.spread is not None
    np.testing.assert_allclose(found.spread[rows], (p.argmax(-1) != p.mean(0).argmax(-1)).mean(0))
    columns = ["prediction", *(f"probability {name}" for name in found.classes), "disagreement"]
    assert found.frame().columns[1:] == columns[1:]
    assert thalweg.predict(four, source.x, weights="result").values == found.values
    with pytest.raises(OptionError, match="holds an ensemble, whose members have no best weights"):
        thalweg.predict(four, source.x, weights="best")


def test_numbers_with_their_spread_and_the_ambiguity(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    x = generator.normal(size=(90, 2))
    frame = pl.DataFrame({"a": x[:, 0], "b": x[:, 1], "y": 100 + 30 * x[:, 0] + generator.normal(size=90)})
    frame.write_csv(tmp_path / "t.csv")
    text = RECIPE.replace('"iris"', f'"{tmp_path / "t.csv"}"\ntarget = "y"')
    out = tmp_path / "out"
    results = thalweg.train(written(tmp_path, text), changes=FOUR, out=out)
    assert results.calibration is None
    assert results.ensemble is not None
    squared = results.ensemble.squared
    assert squared is not None
    assert squared.of == "error"
    assert squared.ensemble == pytest.approx(squared.member - squared.ambiguity)
    assert results.result["test"] == pytest.approx(squared.ensemble**0.5, rel=1e-5)
    mean = sum(m.result["test"] ** 2 for m in results.ensemble.members) / 4
    assert squared.member == pytest.approx(mean, rel=1e-5)
    found = thalweg.predict(out, frame.drop("y"))
    source = data.load(str(tmp_path / "t.csv"), target="y")
    prepared = data.prepare(source, seed=0, replicate=0)
    each = []
    for number in (1, 2, 3, 4):
        model = models.build("mlp:8", prepared.input_shape, 1)
        model.load_state_dict(member(out, number))
        with torch.no_grad():
            each.append(model(prepared.test.inputs)[:, 0].double().numpy())
    units = prepared.task.center + prepared.task.scale * np.stack(each)
    rows = prepared.indices["test"]
    np.testing.assert_allclose(np.asarray(found.values)[rows], units.mean(0), rtol=1e-6)
    assert found.spread is not None
    np.testing.assert_allclose(found.spread[rows], units.std(0, ddof=1), rtol=1e-4)
    assert found.frame().columns == ["y", "spread"]
    assert "Every member" in (out / "report.html").read_text()


def test_snapshots_are_judged_together_too(tmp_path: Path) -> None:
    changes = ["strategies.snapshots.cycles=3", "schedule.cycles=3"]
    results = thalweg.train(written(tmp_path), changes=changes, out=tmp_path / "out")
    found = results.ensemble
    assert found is not None
    assert (found.kind, len(found.members), found.engine) == ("snapshots", 3, None)
    # the last one is the result
    assert found.members[2].result["test"] == results.result["test"]
    assert found.members[2].brier == pytest.approx(results.calibration.brier)
    assert "The snapshots as an ensemble" in (tmp_path / "out" / "report.html").read_text()
    assert "disagreement" in thalweg.predict(tmp_path / "out", data.load("iris").x).frame().columns


# What can't be lanes, and what fails ---------------------------------------------------------------------


def test_members_with_strategies_are_trained_one_after_another(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    arguments = ["train", str(written(tmp_path)), "--out", str(out)]
    for change in (
        "ensemble.members=2",
        "strategies.averaging.decay=0.9",
        "strategies.early-stopping.patience=2",
    ):
        arguments += ["--set", change]
    assert app.run(arguments) == 0
    said = capsys.readouterr().out
    assert "2 members one after another: strategies (averaging, early-stopping) accompany one run" in said
    assert "member 1 of 2: the weights given back are those of step" in said
    assert "test accuracy" in said
    results = TrainResults.read(out / "results.json")
    assert results.ensemble is not None
    assert results.ensemble.engine == "loop"
    changes = ["strategies.averaging.decay=0.9", "strategies.early-stopping.patience=2"]
    changes.append(f"training.seed={results.ensemble.members[0].seed}")
    thalweg.train(tmp_path / "recipe.toml", changes=changes, out=tmp_path / "single")
    expected = (tmp_path / "single" / "weights.safetensors").read_bytes()
    assert (out / "member-1.safetensors").read_bytes() == expected


def fragile(input_shape: tuple[int, ...], outputs: int) -> torch.nn.Module:
    """Begins with infinite weights for some seeds."""
    layer = torch.nn.Linear(6, outputs)
    if float(torch.rand(())) < 0.5:
        layer.weight.data.fill_(float("inf"))
    return layer


@pytest.mark.parametrize("engine", ["lanes", "loop"])
def test_a_member_that_fails_is_left_out(engine: str) -> None:
    x, y = points()
    ensemble = thalweg.fit_ensemble(
        fragile, (x.float(), y), "cross-entropy", "sgd", members=6, epochs=2, engine=engine,  # type: ignore[arg-type]
        hyperparameters={"lr": 0.1}, validation=(x.float(), y), metric="accuracy",
    )  # fmt: skip
    failed = [m for m in ensemble.trained if m.failed]
    assert 0 < len(failed) < 6
    assert all("isn't finite before the first step" in str(m.stopped) for m in failed)
    assert len(ensemble.models) == 6 - len(failed)
    assert ensemble.evaluation is not None
    assert len(ensemble.evaluation.alone) == len(ensemble.models)


def test_an_ensemble_whose_members_all_fail(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["train", str(written(tmp_path)), "--out", str(tmp_path / "out"), "--quiet"]
    for change in (*FOUR, "optimizer.name=sgd", "optimizer.lr=1e30", "schedule.name=constant"):
        arguments += ["--set", change]
    assert app.run(arguments) == 1
    assert "every member failed (member 1: the loss was no longer finite" in capsys.readouterr().err
    assert (tmp_path / "out" / "report.html").exists()


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ("[ensemble]\nmembers = 0", "line 17, column 1: ensemble.members is 0 but must be greater than"),
        (
            "[ensemble]\nmembers = 2.5",
            "line 17, column 1: ensemble.members is 2.5 but must be a whole number",
        ),
        ("[ensemble]", r"line 16, column 2: ensemble.members is missing from \[ensemble\]"),
        (
            "[ensemble]\nmembres = 3",
            r"line 17, column 1: \[ensemble\] has no 'membres'; did you mean 'members'",
        ),
        ("[ensemble]\nmembers = 3\nresample = 1", "line 18, column 1: .*must be true or false"),
        ("[ensemble]\nmembers = 3\nengine = 'lane'", "line 18, column 1: .*did you mean 'lanes'"),
        ("[ensemble]\nmembers = 3\n[strategies.snapshots]", "line 18, column 13: snapshots make an ensemble"),
        (
            "[ensemble]\nmembers = 3\nengine = 'lanes'\n[strategies.averaging]",
            r"line 18, column 1: the members can't be lanes: strategies \(averaging\)",
        ),
    ],
)
def test_recipes_with_mistakes(more: str, words: str) -> None:
    with pytest.raises(RecipeError, match=words):
        recipe.loads(RECIPE + more)


def test_one_sentence_and_exit_code_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    begin = ["train", str(written(tmp_path)), "--out", str(out), "--set"]
    for changes in (["ensemble.members=0"], ["ensemble.members=4", "--set", "strategies.snapshots.cycles=2"]):
        assert app.run([*begin, *changes]) == 2
        said = capsys.readouterr().err
        assert said.startswith("error: ")
        assert said.count("\n") == 1
    # found out only when the optimizer is looked at
    changes = [*FOUR[:1], "--set", FOUR[1], "--set", "optimizer.name=lbfgs"]
    text = RECIPE.replace("lr = 0.02\n", "")
    written(tmp_path, text)
    assert app.run([*begin, *changes]) == 2
    assert "use the loop engine" in capsys.readouterr().err
    assert not out.exists()


def test_another_ensemble_is_refused_when_taken_up(four: Path, tmp_path: Path) -> None:
    path = written(tmp_path)
    for changes, key in (([], "ensemble.members"), (["ensemble.members=5", FOUR[1]], "ensemble.members")):
        with pytest.raises(OptionError, match=f"was begun with another {key}"):
            thalweg.train(path, changes=changes, out=four, resume=True)


def test_a_validation_loss_is_of_validation_data() -> None:
    x, y = points()
    with pytest.raises(OptionError, match="validation_loss is of validation data; give these, or leave it"):
        thalweg.fit_ensemble(net, (x, y), "cross-entropy", epochs=1, validation_loss="cross-entropy")


def test_what_fit_ensemble_refuses(tmp_path: Path) -> None:
    x, y = points(32)
    for words, asked in (
        ("members is 1, but must be", {"members": 1}),
        ("engine is 'lane'", {"engine": "lane"}),
        ("the optimizer isn't given by name", {"engine": "lanes", "optimizer": torch.optim.SGD}),
        ("resume needs out", {"resume": True}),
    ):
        given = {"optimizer": "sgd", "epochs": 1, "members": 2, **asked}
        with pytest.raises(OptionError, match=words):
            thalweg.fit_ensemble(net, (x, y), "cross-entropy", **given)
    with pytest.raises(ThalwegError, match="come in batches of their own"):
        thalweg.fit_ensemble(net, [(x, y)], "cross-entropy", epochs=1)


# Killed and taken up again ---------------------------------------------------------------------------------

LOOP = ["ensemble.members=3", "ensemble.resample=true", "strategies.averaging.decay=0.9"]
LANES = ["ensemble.members=3", "ensemble.resample=true", "ensemble.engine=lanes", "schedule.name=plateau"]


@pytest.mark.skipif(os.name != "posix", reason="kills processes")
@pytest.mark.parametrize(
    ("changes", "deaths"),
    [
        (LANES, [("state", 3, -9), ("term", 2, 130), ("member-2.safetensors", 1, -9)]),
        (
            LOOP,
            [("state", 4, -9), ("term", 4, 130), ("results.json", 1, -9)],
        ),
    ],
    ids=["lanes", "loop"],
)
def test_a_killed_ensemble_ends_alike(
    changes: list[str], deaths: list[tuple[str, int, int]], tmp_path: Path
) -> None:
    path, whole, out = written(tmp_path), tmp_path / "whole", tmp_path / "out"
    assert run(whole, path, changes) == 0
    for attempt, (place, count, code) in enumerate(deaths):
        assert run(out, path, changes, resume=attempt > 0, place=place, count=count) == code, place
        assert not (out / "results.json").exists()
        assert app.run(["report", str(out)]) == 0
        assert "finished" in (out / "report.html").read_text()
    assert run(out, path, changes, resume=True) == 0
    assert comparable(out) == comparable(whole)
    for number in (1, 2, 3):
        name = f"member-{number}.safetensors"
        assert (out / name).read_bytes() == (whole / name).read_bytes()
    assert not (out / "members").exists()
    # and once more, when all is done
    assert run(out, path, changes, resume=True) == 0
    assert comparable(out) == comparable(whole)


def test_fit_ensemble_goes_on_where_it_was(tmp_path: Path) -> None:
    x, y = points()

    class Stop(thalweg.training.watch.TrainingWatcher):
        def evaluated(self, evaluation: Any, best: Any) -> None:
            if self.armed and evaluation.step >= 6:
                raise RuntimeError("pulled the plug")

    for engine in ("lanes", "loop"):
        asked: dict[str, Any] = {
            "members": 2, "epochs": 3, "batch_size": 16, "engine": engine, "validation": (x, y),
            "metric": "accuracy", "checkpoint_seconds": 0.0,
        }  # fmt: skip
        whole = thalweg.fit_ensemble(net, (x, y), "cross-entropy", "adam", **asked)
        watcher = Stop()
        watcher.armed = True  # type: ignore[attr-defined]
        out = tmp_path / engine
        with pytest.raises(RuntimeError, match="pulled the plug"):
            thalweg.fit_ensemble(net, (x, y), "cross-entropy", "adam", out=out, watcher=watcher, **asked)
        with pytest.raises(OptionError, match="begun with epochs = 3"):
            thalweg.fit_ensemble(
                net, (x, y), "cross-entropy", "adam", out=out, resume=True, **{**asked, "epochs": 4}
            )
        if engine == "lanes":
            changed: dict[str, Any] = {**asked, "engine": "auto", "strategies": [Clipping(norm=1.0)]}
            with pytest.raises(OptionError, match="begun as lanes, which is impossible now: strategies"):
                thalweg.fit_ensemble(net, (x, y), "cross-entropy", "adam", out=out, resume=True, **changed)
        again = thalweg.fit_ensemble(net, (x, y), "cross-entropy", "adam", out=out, resume=True, **asked)
        for one, other in zip(whole.models, again.models, strict=True):
            for name, value in one.state_dict().items():
                assert torch.equal(value, other.state_dict()[name])


def test_an_ensemble_that_is_refused_leaves_nothing_behind(tmp_path: Path) -> None:
    x, y = points()
    with pytest.raises(OptionError, match="use the loop engine"):
        thalweg.fit_ensemble(
            net, (x, y), "cross-entropy", "lbfgs", members=2, epochs=1, engine="lanes", out=tmp_path / "out"
        )
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("engine", ["lanes", "loop"])
def test_members_that_an_earlier_version_has_trained_stay_and_the_others_follow(
    engine: str, tmp_path: Path
) -> None:
    whole = Path(__file__).parent / "directories" / "ensemble-v1" / "run"
    out = Path(shutil.copytree(whole, tmp_path / "run"))
    events = [json.loads(line) for line in (out / "events.jsonl").read_text().splitlines()]
    assert [event["member"]["number"] for event in events if event["event"] == "member"] == [1, 2]
    for event in events:
        if event["event"] == "engine":
            event["how"]["engine"] = engine
    left = [event for event in events if event.get("member", {}).get("number") != 2]
    (out / "events.jsonl").write_text("".join(json.dumps(event) + "\n" for event in left))
    (out / "results.json").unlink()
    (out / "member-2.safetensors").unlink()
    assert app.run(["report", str(out)]) == 0
    assert "1 of its members are trained" in (out / "report.html").read_text()
    before = (out / "member-1.safetensors").read_bytes()
    found = thalweg.train(None, out=out, resume=True).ensemble
    expected = TrainResults.read(whole / "results.json").ensemble
    assert (out / "member-1.safetensors").read_bytes() == before
    assert found is not None
    assert expected is not None
    assert found.engine == engine
    assert found.members[0] == expected.members[0]
    curves = [[p.validation_loss for p in each.members[1].curve] for each in (found, expected)]
    np.testing.assert_allclose(*curves, rtol=1e-4)


def test_the_report_of_an_unfinished_ensemble_counts_members(four: Path, tmp_path: Path) -> None:
    out = Path(shutil.copytree(four, tmp_path / "run"))
    (out / "results.json").unlink()
    assert app.run(["report", str(out)]) == 0
    assert "4 of its members are trained" in (out / "report.html").read_text()
