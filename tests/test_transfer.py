"""``thalweg transfer``: measurements, the row of the table, and a recipe that trains."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from sklearn.datasets import load_digits

import thalweg
from thalweg import recipe
from thalweg.commands import app
from thalweg.errors import DataError, OptionError, RunDirectoryError, TrustError, UserError
from thalweg.layers import models
from thalweg.recipe import transferring
from thalweg.run.directory import RunDirectory
from thalweg.training.transfer_options import TransferWatcher
from thalweg.training.transfer_results import TransferResults

WHOLE = {"spec": "cnn:8,8", "batch_norm": True}
OWN = """
from torch import nn

def net(input_shape, outputs):
    return nn.Sequential(
        nn.Flatten(), nn.Linear(64, 24), nn.Tanh(), nn.Linear(24, 16), nn.Tanh(), nn.Linear(16, outputs)
    )
"""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Digits up to 4 and from 5 on, and a net that knows the first."""
    folder = tmp_path_factory.mktemp("world")
    x, y = load_digits(return_X_y=True)
    x = (x / 16).astype(np.float32).reshape(-1, 1, 8, 8)
    np.savez(folder / "low.npz", x=x[y < 5], y=y[y < 5])
    np.savez(folder / "high.npz", x=x[y >= 5], y=y[y >= 5])
    source = recipe.Recipe.model_validate(
        {
            "data": {"spec": str(folder / "low.npz")},
            "model": {"spec": "cnn:8,8", "batch_norm": True},
            "optimizer": {"name": "adam", "lr": 0.01},
            "training": {"batch_size": 64, "epochs": 4},
        }
    )
    thalweg.train(source, out=folder / "source")
    return folder


def short(results: TransferResults) -> list[str]:
    """What makes the training of a recipe short."""
    stage = tomllib.loads(results.recipe)["stage"][0]
    return ["training.epochs=1", *["stage.0.head_epochs=1"] * ("head_epochs" in stage)]


class Watcher(TransferWatcher):
    def __init__(self) -> None:
        self.told: list[Any] = []

    def progress(self, done: int, total: int, what: str) -> None:
        self.told.append((done, total, what))


@pytest.fixture(scope="module")
def measured(world: Path) -> tuple[TransferResults, Path, Watcher]:
    watcher = Watcher()
    out = world / "transfer"
    return thalweg.transfer(world / "source", data=world / "high.npz", out=out, watcher=watcher), out, watcher


def test_what_is_measured(measured: tuple[TransferResults, Path, Watcher]) -> None:
    results, out, watcher = measured
    assert [block.features for block in results.blocks] == [8, 8]
    assert results.metric == "accuracy"
    assert len(results.blocks[0].random) == 3
    assert results.blocks[results.best - 1].score[0] == max(block.score[0] for block in results.blocks)
    assert [part.examples for part in results.parts] == sorted(part.examples for part in results.parts)
    assert results.parts[-1].score == results.blocks[results.best - 1].score
    assert all(block.error is not None and 0 <= block.error[0] < 0.6 for block in results.blocks)
    assert sum(results.data["classes"].values()) == results.data["train"] == results.parts[-1].examples
    assert [done for done, _, _ in watcher.told] == list(range(11))
    assert TransferResults.read(out / "results.json") == results
    assert "row" in repr(results)
    assert "transfer.toml" in repr(results)


def test_the_recipe_trains(measured: tuple[TransferResults, Path, Watcher], tmp_path: Path) -> None:
    results, out, _ = measured
    text = (out / "transfer.toml").read_text(encoding="utf-8")
    assert text == results.recipe
    assert all(f"# - {line}" in text for line in results.evidence)
    stage = tomllib.loads(text)["stage"][0]
    assert stage["method"] == "transfer"
    trained = thalweg.train(out / "transfer.toml", changes=short(results), out=tmp_path / "trained")
    assert trained.result["test"] is not None


@pytest.mark.parametrize(
    ("row", "model", "stage"),
    [
        ({"data": "little", "similar": True}, WHOLE, {"tune": 0}),
        ({"data": "little", "similar": False, "best": 1}, {"spec": "cnn:8", "batch_norm": True}, {"tune": 0}),
        ({"data": "little", "similar": False, "best": 2}, WHOLE, {"tune": 0}),
        ({"data": "much", "similar": True}, WHOLE, {"tune": 1, "head_epochs": 11}),
        ({"data": "much", "similar": False}, WHOLE, {"head_epochs": 11, "depth_factor": 0.7}),
    ],
)  # fmt: skip
def test_each_row_is_a_recipe(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, row: dict[str, Any], model: dict[str, Any],
    stage: dict[str, Any],
) -> None:  # fmt: skip
    import dataclasses

    choose = transferring.choose_row
    monkeypatch.setattr(transferring, "choose_row", lambda *given: dataclasses.replace(choose(*given), **row))
    results = thalweg.transfer(world / "source", data=world / "high.npz", out=tmp_path / "out", most=100)
    read = tomllib.loads(results.recipe)
    assert read["model"] == model
    assert read["optimizer"] == {"name": "adam", "lr": 0.01}
    assert read["stage"] == [{"method": "transfer", "source": str(world / "source"), **stage}]
    # batches of 32, for about 700 steps
    assert read["training"] == {"batch_size": 32, "epochs": 44, "seed": 0, "evaluations": 20}
    trained = thalweg.train(
        tmp_path / "out" / "transfer.toml", changes=short(results), out=tmp_path / "trained"
    )
    assert trained.result["test"] is not None
    # what is frozen is the source's, to the bit
    if stage.get("tune") == 0:
        mine = safetensors.torch.load_file(tmp_path / "trained" / "weights.safetensors")
        theirs = safetensors.torch.load_file(world / "source" / "weights.safetensors")
        first = next(iter(mine))
        assert torch.equal(mine[first], theirs[first])


def test_a_net_of_ones_own_is_cut_in_a_file(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import dataclasses

    (tmp_path / "own.py").write_text(OWN, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    model = models.build("own.py:net", (1, 8, 8), 5)
    safetensors.torch.save_file(model.state_dict(), tmp_path / "own.safetensors")
    choose = transferring.choose_row
    monkeypatch.setattr(
        transferring, "choose_row",
        lambda *given: dataclasses.replace(choose(*given), data="little", similar=False, best=1),
    )  # fmt: skip
    results = thalweg.transfer(
        "own.safetensors", data=world / "high.npz", model="own.py:net", out="out", most=100
    )
    assert len(results.notes) == 1
    assert "own.safetensors doesn't say what it was trained on" in results.notes[0]
    assert results.blocks[0].error is None
    read = tomllib.loads(results.recipe)
    assert read["model"] == {"spec": "out/transfer_net.py:net"}
    cut = models.build("out/transfer_net.py:net", (1, 8, 8), 5)
    assert list(cut.state_dict()) == ["1.weight", "1.bias", "head.0.weight", "head.0.bias"]
    trained = thalweg.train("out/transfer.toml", changes=short(results), out="trained")
    assert trained.result["test"] is not None
    mine = safetensors.torch.load_file("trained/weights.safetensors")
    assert torch.equal(mine["1.weight"], model.state_dict()["1.weight"])


def test_code_of_strangers_isnt_run(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "strange.py").write_text("open('ran', 'w')\n" + OWN, encoding="utf-8")
    source = tmp_path / "strange"
    source.mkdir()
    for name in ("config.toml", "events.jsonl", "environment.json", "weights.safetensors"):
        (source / name).write_bytes((world / "source" / name).read_bytes())
    stored = json.loads((world / "source" / "model.json").read_text(encoding="utf-8"))
    stored |= {"spec": "strange.py:net", "parts": {}, "code": {}}
    (source / "model.json").write_text(json.dumps(stored), encoding="utf-8")
    with pytest.raises(TrustError, match=r"names code that you haven't trained with here"):
        thalweg.transfer(source, data=world / "high.npz", out="out")
    assert not (tmp_path / "ran").exists()
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["SOURCE"], "there are no data to learn; give --data DATA"),
        (["nowhere", "--data", "HIGH"], "there is no file 'nowhere' with saved weights"),
        (["SOURCE", "--data", "HIGH", "--model", "mlp:8"], "says itself what model it holds; leave"),
        (["WEIGHTS", "--data", "HIGH"], "doesn't say of what model; give --model mlp:128,64"),
        (["WEIGHTS", "--data", "HIGH", "--model", "mlp:8"], "of the first block isn't in the source"),
        (["SOURCE", "--data", "iris"], "the model 'cnn:8,8' needs images"),
        (["SOURCE", "--data", "HIGH", "--most", "3"], "--most is 3, but must be a whole"),
        (["SOURCE", "--data", "nowhere.npz"], "there is no file 'nowhere.npz'"),
        (["EMPTY", "--data", "HIGH"], "isn't there; give the directory of a finished training"),
    ],
)  # fmt: skip
def test_bad_input_is_one_sentence_and_nothing_is_written(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    (tmp_path / "empty").mkdir()
    names = {
        "SOURCE": world / "source", "HIGH": world / "high.npz", "EMPTY": tmp_path / "empty",
        "WEIGHTS": world / "source" / "weights.safetensors",
    }  # fmt: skip
    given = [str(names.get(word, word)) for word in words]
    assert app.run(["transfer", *given, "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_python_is_told_too(world: Path, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="there is no source to transfer from: None"):
        thalweg.transfer()
    with pytest.raises(OptionError, match="the source is of type Linear"):
        thalweg.transfer(torch.nn.Linear(2, 1), data="iris")
    with pytest.raises(OptionError, match="the data are of type tuple, which a recipe can't name"):
        thalweg.transfer(world / "source", data=(np.zeros(3), np.zeros(3)))


def test_other_data_have_no_distance(world: Path, tmp_path: Path) -> None:
    results = thalweg.transfer(
        world / "source", data=world / "high.npz", source_data="iris", out=tmp_path / "out", most=60
    )
    assert results.blocks[0].error is None
    assert "an example of iris has shape [4], one of these data [1, 8, 8]" in results.notes[0]


def test_the_command_and_the_page(world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    words = ["transfer", str(world / "source"), "--data", str(world / "high.npz"), "--out", str(out)]
    assert app.run([*words, "--most", "80"]) == 0
    said = capsys.readouterr().out
    results = TransferResults.read(out / "results.json")
    assert f"row: {results.row}" in said
    assert f"recipe: {out / 'transfer.toml'}" in said
    assert "measure: 1 of 11, features of the source" in said
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "transfer report" in page
    assert all(block.name in page for block in results.blocks)
    (out / "report.html").unlink()
    assert app.run(["report", str(out)]) == 0
    assert (out / "report.html").read_text(encoding="utf-8").count("<strong>") == 1
    assert RunDirectory.read(out).config()["kind"] == "transfer"
    capsys.readouterr()
    # another into the same place, and a resume as a training
    assert app.run(words) == 2
    assert "holds what was measured for a transfer; give another --out\n" in capsys.readouterr().err
    with pytest.raises(RunDirectoryError, match="holds what was measured for a transfer, no training of a"):
        thalweg.train(out=out, resume=True)
    assert app.run([*words[:-1], str(tmp_path / "other"), "--most", "80", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["row"] == results.row
    assert found["blocks"] == results.model_dump(mode="json")["blocks"]


def test_a_damaged_file_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text("{}", encoding="utf-8")
    (tmp_path / "config.toml").write_text('kind = "transfer"', encoding="utf-8")
    with pytest.raises(UserError, match=r"isn't what thalweg writes of a transfer; copy it again"):
        thalweg.report.write(tmp_path)


def test_numbers_have_rows_too_and_a_net_its_raw_input(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    x = generator.normal(size=(300, 6)).astype(np.float32)
    np.savez(tmp_path / "one.npz", x=x, y=(x[:, 0] * x[:, 1]).astype(np.float32))
    np.savez(tmp_path / "other.npz", x=x, y=(x[:, 0] * x[:, 1] + x[:, 2]).astype(np.float32))
    source = recipe.Recipe.model_validate(
        {
            "data": {"spec": str(tmp_path / "one.npz")},
            "model": {"spec": "mlp:32,16", "raw_input": True},
            "optimizer": {"name": "adam", "lr": 0.01},
            "training": {"batch_size": 32, "epochs": 5},
        }
    )
    thalweg.train(source, out=tmp_path / "source")
    other = tmp_path / "other.npz"
    results = thalweg.transfer(tmp_path / "source", data=other, examples=150, out=tmp_path / "out")
    assert results.metric == "R²"
    assert results.data["classes"] == {}
    assert results.data["train"] == results.parts[-1].examples == 150
    read = tomllib.loads(results.recipe)
    assert read["data"] == {"spec": str(other), "examples": 150}
    cut = {"spec": f"{tmp_path / 'out' / 'transfer_net.py'}:net"}
    assert read["model"] in (cut, {"spec": "mlp:32,16", "raw_input": True})
    trained = thalweg.train(
        tmp_path / "out" / "transfer.toml", changes=short(results), out=tmp_path / "trained"
    )
    assert trained.result["test"] is not None


def test_a_source_of_other_inputs_is_said_as_such(tmp_path: Path) -> None:
    """A table's net has no place for images of digits."""
    text = 'version = 1\ndata.spec = "iris"\nmodel.spec = "mlp:8,8"\noptimizer.name = "adam"\n'
    (tmp_path / "r.toml").write_text(text + "training = {batch_size = 16, epochs = 1}\n", encoding="utf-8")
    thalweg.train(tmp_path / "r.toml", out=tmp_path / "source")
    with pytest.raises(
        DataError, match=r"takes inputs of shape \[4\], but an example of digits has shape \[1, 8, 8\]"
    ):
        thalweg.transfer(tmp_path / "source", data="digits", out=tmp_path / "out")
    assert not (tmp_path / "out").exists()
