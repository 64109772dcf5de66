"""A damaged ``model.json``, and damaged files of new data: one sentence each, exit code 2."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from thalweg import recipe
from thalweg.commands import verbs
from thalweg.commands.app import run
from thalweg.training.results import Stored

Damage = Callable[[dict[str, Any]], object]
ROWS = 90


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One training on an array, ``array``, and one on a table, ``table``."""
    folder = tmp_path_factory.mktemp("stored")
    rng = np.random.default_rng(0)
    table = "a,b,y\n" + "".join(
        f"{rng.normal():.3f},{'uvw'[n % 3]},{['no', 'yes'][n % 2]}\n" for n in range(ROWS)
    )
    (folder / "t.csv").write_text(table)
    for name, spec in (("array", "iris"), ("table", str(folder / "t.csv"))):
        target = ', target = "y"' if name == "table" else ""
        asked = recipe.loads(
            f'data = {{spec = "{spec}"{target}}}\nmodel.spec = "linear"\n'
            'optimizer = {name = "sgd", lr = 0.1}\n'
            "training = {batch_size = 16, epochs = 1, evaluations = 1}\n"
        )
        verbs.train(asked, out=folder / name)
    np.savez(folder / "new.npz", x=rng.normal(size=(3, 4)))
    return folder


@pytest.fixture
def copied(trained: Path, tmp_path: Path) -> Path:
    shutil.copytree(trained, tmp_path / "runs")
    return tmp_path / "runs"


def predicted(folder: Path, name: str, data: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    code = run(["predict", str(folder / name), "--data", str(folder / data), "--out", str(folder / "p.csv")])
    return code, capsys.readouterr().err


def refused(folder: Path, name: str, data: str, capsys: pytest.CaptureFixture[str], says: str = "") -> None:
    code, said = predicted(folder, name, data, capsys)
    assert code == 2, said
    assert said.startswith("error: ")
    assert said.count("\n") == 1
    assert says in said
    assert not (folder / "p.csv").exists()


def test_what_training_wrote_is_sound(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, data in (("array", "new.npz"), ("table", "t.csv")):
        Stored.read(copied / name / "model.json")
        assert predicted(copied, name, data, capsys) == (0, "")


CONTENTS: dict[str, bytes] = {
    "empty": b"",
    "no JSON": b"hello",
    "cut off": b'{"version": 1, "spec": "lin',
    "not text": bytes(range(256)),
    "a list": b"[]",
    "a number": b"1e999",
    "nothing": b"null",
    "nothing in it": b"{}",
    "nested deeply": b"[" * 100_000,
}


@pytest.mark.parametrize("what", CONTENTS)
def test_what_is_no_model(copied: Path, what: str, capsys: pytest.CaptureFixture[str]) -> None:
    (copied / "array" / "model.json").write_bytes(CONTENTS[what])
    refused(copied, "array", "new.npz", capsys, "model.json")


def test_a_model_that_is_no_file(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = copied / "array" / "model.json"
    for make in (os.mkfifo, os.mkdir, lambda p: os.symlink("model.json", p), lambda p: None):
        path.unlink()
        make(path)
        refused(copied, "array", "new.npz", capsys, "model.json")
        if path.is_dir():
            path.rmdir()
            path.touch()
        path.unlink(missing_ok=True)
        path.touch()


DAMAGED: dict[str, tuple[str, Damage]] = {
    "another version": ("array", lambda m: m.update(version=2)),
    "no spec": ("array", lambda m: m.pop("spec")),
    "a spec of a number": ("array", lambda m: m.update(spec=3)),
    "an unknown spec": ("array", lambda m: m.update(spec="liinear")),
    "more than there is": ("array", lambda m: m.update(more=1)),
    "no inputs": ("array", lambda m: m.pop("inputs")),
    "inputs of another kind": ("array", lambda m: m["inputs"].update(kind="picture")),
    "inputs of text": ("array", lambda m: m.update(inputs="x")),
    "a mean too short": ("array", lambda m: m["inputs"]["mean"].pop()),
    "a mean of text": ("array", lambda m: m["inputs"].update(mean=["a"] * 4)),
    "no mean": ("array", lambda m: m["inputs"].update(mean=None)),
    "a scale of zero": ("array", lambda m: m["inputs"]["scale"].__setitem__(0, 0)),
    "a scale below zero": ("array", lambda m: m["inputs"]["scale"].__setitem__(0, -1)),
    "a ragged scale": ("array", lambda m: m["inputs"].update(scale=[[1], [1, 2], 3, 4])),
    "another scaling": ("array", lambda m: m["inputs"].update(scaling="channels")),
    "another shape": ("array", lambda m: m["inputs"].update(shape=[5])),
    "a shape of zero": ("array", lambda m: m["inputs"].update(shape=[0, 4])),
    "a shape of text": ("array", lambda m: m["inputs"].update(shape="4")),
    "another input shape": ("array", lambda m: m.update(input_shape=[5])),
    "an input shape below zero": ("array", lambda m: m.update(input_shape=[-4])),
    "a terabyte of outputs": ("array", lambda m: m.update(outputs=10**12)),
    "outputs below zero": ("array", lambda m: m.update(outputs=-3)),
    "fewer classes": ("array", lambda m: m["task"]["classes"].pop()),
    "classes of numbers": ("array", lambda m: m["task"].update(classes=[1, 2, 3])),
    "no kind": ("array", lambda m: m["task"].pop("kind")),
    "another kind": ("array", lambda m: m["task"].update(kind="regression")),
    "an unknown kind": ("array", lambda m: m["task"].update(kind="guess")),
    "a task of text": ("array", lambda m: m.update(task="classification")),
    "a scale of nothing": ("array", lambda m: m["task"].update(scale=None)),
    "a center without end": ("array", lambda m: m["task"].update(center=1e999)),
    "snapshots below zero": ("array", lambda m: m.update(snapshots=-1)),
    "snapshots that aren't there": ("array", lambda m: m.update(snapshots=10**9)),
    "members that aren't there": ("array", lambda m: m.update(members=[7])),
    "members twice": ("array", lambda m: m.update(members=[1, 1])),
    "a dropout of two": ("array", lambda m: m.update(parts={"dropout": 2})),
    "unknown parts": ("array", lambda m: m.update(parts={"wings": 2})),
    "endless samples": ("array", lambda m: m.update(prediction={"samples": 10**9})),
    "seven crops": ("array", lambda m: m.update(prediction={"crops": 7})),
    "an unknown activation": ("array", lambda m: m.update(activation="relu")),
    "a median too short": ("table", lambda m: m["inputs"]["median"].pop()),
    "a column that wasn't": ("table", lambda m: m["inputs"]["numbers"].append("z")),
    "a column twice": ("table", lambda m: m["inputs"].update(categories=["a"])),
    "levels for no column": ("table", lambda m: m["inputs"]["levels"].append(["x"])),
    "a level less": ("table", lambda m: m["inputs"]["levels"][0].pop()),
    "levels of numbers": ("table", lambda m: m["inputs"]["levels"][0].__setitem__(0, 3)),
    "a type less": ("table", lambda m: m["inputs"]["dtypes"].pop("a")),
    "an array's inputs": ("table", lambda m: m["inputs"].update(kind="array")),
}


@pytest.mark.parametrize("what", DAMAGED)
def test_damaged_models(copied: Path, what: str, capsys: pytest.CaptureFixture[str]) -> None:
    name, damage = DAMAGED[what]
    path = copied / name / "model.json"
    model = json.loads(path.read_bytes())
    damage(model)
    path.write_text(json.dumps(model))
    refused(copied, name, "new.npz" if name == "array" else "t.csv", capsys)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-40])


def huge(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content.replace(b"(3, 4), }  ", b"(99999, 4)}", 1))


NEW: dict[str, Callable[[Path], object]] = {
    "truncated": cut,
    "a shape that lies": huge,
    "empty": lambda path: path.write_bytes(b""),
    "no archive": lambda path: path.write_bytes(b"PK\x03\x04 broken"),
    "without arrays": lambda path: np.savez(path),
    "of text": lambda path: np.savez(path, x=np.array(["a", "b"])),
    "of objects": lambda path: np.savez(path, x=np.array([{}])),
    "of another width": lambda path: np.savez(path, x=np.zeros((3, 5))),
    "of no rows": lambda path: np.savez(path, x=np.zeros((0, 4))),
    "of one number": lambda path: np.savez(path, x=np.array(1.0)),
    "of NaN": lambda path: np.savez(path, x=np.full((3, 4), np.nan)),
    "of infinity": lambda path: np.savez(path, x=np.full((3, 4), np.inf)),
    "a FIFO": lambda path: (path.unlink(), os.mkfifo(path)),
    "a link to itself": lambda path: (path.unlink(), path.symlink_to(path.name)),
    "a folder": lambda path: (path.unlink(), path.mkdir()),
    "gone": lambda path: path.unlink(),
}


@pytest.mark.parametrize("what", NEW)
def test_hostile_new_data(copied: Path, what: str, capsys: pytest.CaptureFixture[str]) -> None:
    NEW[what](copied / "new.npz")
    refused(copied, "array", "new.npz", capsys, "new.npz")


@pytest.mark.parametrize("option", ["--samples", "--crops"])
@pytest.mark.parametrize("value", ["999999999", "-1", "1000000000000000000000000000000"])
def test_numbers_out_of_range(
    copied: Path, option: str, value: str, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["predict", str(copied / "array"), "--data", str(copied / "new.npz"), option, value]
    assert run([*command, "--out", str(copied / "p.csv")]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert said.count("\n") == 1
