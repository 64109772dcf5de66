"""Weights, checkpoints and models of a stranger: nothing in them is run; one sentence says what is wrong."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from faults.damage import BOMB, malicious

import thalweg
from thalweg import recipe
from thalweg.commands import app
from thalweg.errors import ModelError
from thalweg.initial import from_saved
from thalweg.layers.models import build

RECIPE = """version = 1
data.spec = "iris"
model.spec = "linear"
optimizer = {name = "adam", lr = 0.1}
training = {batch_size = 16, epochs = 2}
"""
FILES = [
    (ending, zipped) for ending in ("safetensors", "pt", "pth", "bin", "ckpt") for zipped in (False, True)
]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_bomb_is_one() -> None:
    import pickle

    pickle.loads(malicious())
    assert Path(BOMB).exists()


@pytest.mark.parametrize(("ending", "zipped"), FILES)
def test_a_start_from_a_strangers_weights(
    ending: str, zipped: bool, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = folder / f"weights.{ending}"
    file.write_bytes(malicious(zipped=zipped))
    with pytest.raises(ModelError):
        from_saved(build("linear", (4,), 3), file)
    (folder / "r.toml").write_text(RECIPE + f'[strategies.initialization]\nsaved = "{file.name}"\n')
    assert app.run(["train", "r.toml", "--out", "out", "--quiet"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert said.count("\n") == 1
    assert file.name in said
    assert not (folder / "out").exists()
    assert not (folder / BOMB).exists()


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("name", ["weights.safetensors", "best.safetensors", "model.json"])
def test_prediction_with_a_strangers_directory(
    name: str, zipped: bool, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    thalweg.train(recipe.loads(RECIPE), out="out")
    (folder / "out" / name).write_bytes(malicious(zipped=zipped))
    (folder / "new.csv").write_text("a,b,c,d\n1,2,3,4\n")
    weights = "best" if name.startswith("best") else "result"
    arguments = ["predict", "out", "--data", "new.csv", "--out", "p.csv", "--weights", weights]
    assert app.run(arguments) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert said.count("\n") == 1
    assert not (folder / BOMB).exists()
    assert not (folder / "p.csv").exists()


@pytest.mark.parametrize("zipped", [False, True])
def test_a_resume_from_a_strangers_checkpoints(
    zipped: bool, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from faults.damage import DAMAGES

    thalweg.train(recipe.loads(RECIPE), out="out")
    kind = "archive" if zipped else "pickle with"
    damage = next(function for name, function in DAMAGES.items() if kind in name)
    for file in sorted((folder / "out" / "checkpoints").glob("*.pt")):
        damage(file)
    assert app.run(["train", "--out", "out", "--resume", "--quiet"]) == 2
    said = capsys.readouterr().err
    assert "is damaged, and so is any before it" in said
    assert said.count("\n") == 1
    assert not (folder / BOMB).exists()
    shutil.rmtree("out")
