"""Whose code may run: fingerprints, changed code, and directories of strangers."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import shutil
import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tomli_w

import thalweg
from report.synthetic import make
from thalweg.commands import app
from thalweg.errors import TrustError
from thalweg.execution import RunList
from thalweg.execution import pool as processes
from thalweg.layers import models
from thalweg.run.directory import RunDirectory
from thalweg.run.objective import Objective
from thalweg.run.problem import Problem
from thalweg.run.spec import Workload
from thalweg.settings import trust
from thalweg.settings.plugins import load_object
from thalweg.settings.trust import gate
from thalweg.training.predicting import load_model
from thalweg.training.results import Stored

NET = """from torch import nn


def net(input_shape, outputs):
    return nn.Sequential(nn.Linear(input_shape[0], 4), nn.ReLU(), nn.Linear(4, outputs))
"""
EVIL = "import pathlib\npathlib.Path('evil ran').touch()\ndef f(*_, **__):\n    raise ValueError('evil')\n"
RECIPE: dict[str, Any] = {
    "version": 1,
    "data": {"spec": "iris"},
    "model": {"spec": "m.py:net"},
    "optimizer": {"name": "adam", "lr": 0.05},
    "training": {"batch_size": 32, "epochs": 2},
}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder that a person works in; what they remember is in it too."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setenv("THALWEG_STATE_DIR", str(tmp_path / "state"))
    for name in ("_noted", "_stated", "_remembered_here"):
        monkeypatch.setattr(gate, name, type(getattr(gate, name))())
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if name.startswith("thalweg_file_") or name.partition(".")[0] in ("beside", "pack"):
            del sys.modules[name]


def write(text: str, name: str = "m.py") -> str:
    """Write a file and return the first digits of its SHA-256."""
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    Path(name).write_text(text, encoding="utf-8")
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def train(capsys: pytest.CaptureFixture[str], *more: str, recipe: dict[str, Any] = RECIPE) -> tuple[int, str]:
    Path("r.toml").write_text(tomli_w.dumps(recipe), encoding="utf-8")
    given = [] if "--resume" in more else ["r.toml"]
    return command(capsys, "train", *given, "--out", "out", "--quiet", *more)


def command(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    capsys.readouterr()
    code = app.run(list(words))
    return code, capsys.readouterr().err


def predict(capsys: pytest.CaptureFixture[str], directory: str = "out", *more: str) -> tuple[int, str]:
    Path("new.csv").write_text("a,b,c,d\n5.1,3.5,1.4,0.2\n", encoding="utf-8")
    return command(capsys, "predict", directory, "--data", "new.csv", "--out", "predicted.csv", *more)


def files(spec: str) -> list[str]:
    found = trust.fingerprint(spec)
    assert found is not None
    return list(found.files)


# Fingerprints


def test_a_fingerprint_covers_what_a_file_imports_and_runs_nothing() -> None:
    for name in ("beside", "later", "pack/__init__", "pack/inner", "pack/deep/other", "unused", "numpy"):
        write("raise SystemExit('it ran')\n" if name != "beside" else "import pack.inner\n", f"{name}.py")
    write("from . import nothing\nfrom .deep import other\n", "pack/inner.py")
    text = "import beside, numpy\nfrom torch import nn\nimport no_such\ndef net(*_):\n    import later\n"
    sha = write(text)
    found = trust.fingerprint("m.py:net")
    assert found is not None
    assert set(found.files) == {"m.py", "beside", "later", "pack", "pack.inner", "pack.deep.other"}
    assert found.files["m.py"].startswith(sha)
    assert [each for each in sys.modules if each in ("beside", "later", "pack")] == []


def test_a_module_is_its_own_file_and_its_packages(capsys: pytest.CaptureFixture[str]) -> None:
    write("raise SystemExit('it ran')\n", "pack/__init__.py")
    write("from pack import other\nfrom . import third\n", "pack/inner.py")
    write("", "pack/other.py")
    write("", "pack/third.py")
    assert set(files("pack.inner:value")) == {"pack", "pack.inner", "pack.other", "pack.third"}
    assert files("torch.optim:SGD") == ["torch.optim"]
    assert files("os:abort") == ["os"]
    assert files("sys:exit") == ["sys"]
    for nothing in ("gone.py:f", "pack.gone:f", "no_such:f", "a b:c"):
        assert trust.fingerprint(nothing) is None


def test_each_file_and_the_name_make_the_digest() -> None:
    write("import beside\n")
    write("x = 1\n", "beside.py")

    def digest(spec: str = "m.py:net") -> str:
        found = trust.fingerprint(spec)
        assert found is not None
        return found.digest

    first = digest()
    shutil.copytree(".", "moved", ignore=shutil.ignore_patterns("moved"))
    assert digest("moved/m.py:net") == first, "the same code in another place"
    assert digest("m.py:other") != first, "another function of the same file"
    write("x = 2\n", "beside.py")
    assert digest() != first
    write("x = 1\n", "beside.py")
    assert digest() == first


def test_a_compiled_module_that_would_be_imported_in_place_of_a_file_counts() -> None:
    from importlib.machinery import EXTENSION_SUFFIXES

    write("import beside\n")
    write("", "beside.py")
    before = trust.fingerprint("m.py:net")
    Path(f"beside{EXTENSION_SUFFIXES[0]}").write_bytes(b"machine code")
    assert trust.fingerprint("m.py:net") != before


# Code that changed


def test_changed_code_is_refused_by_resume_and_predict_until_it_is_accepted(
    capsys: pytest.CaptureFixture[str],
) -> None:
    before = write(NET)
    assert train(capsys) == (0, "")
    assert predict(capsys) == (0, "")
    after = write(NET.replace("ReLU", "Tanh"))
    standing = Path("predicted.csv").read_bytes()
    for code, said in (
        train(capsys, "--resume"), command(capsys, "train", "r.toml", "--out", "out", "--resume"),
        predict(capsys),
    ):  # fmt: skip
        assert code == 2
        assert said.count("\n") == 1
        assert f"m.py has changed (sha256 {before}, now {after})" in said
        assert "--trust-code" in said
    assert Path("predicted.csv").read_bytes() == standing
    write(NET)
    assert predict(capsys) == (0, "")
    write(NET.replace("ReLU", "Tanh"))
    assert predict(capsys, "out", "--trust-code") == (0, "")
    assert Path("predicted.csv").read_bytes() != standing
    assert predict(capsys)[0] == 2, "accepted for that once"
    assert train(capsys, "--resume", "--trust-code") == (0, "")
    assert train(capsys, "--resume") == (0, ""), "what the training went on with is its code now"
    assert predict(capsys) == (0, "")


def test_changed_code_beside_it_is_refused_too(capsys: pytest.CaptureFixture[str]) -> None:
    write("from beside import net\n")
    before = write(NET, "beside.py")
    assert train(capsys) == (0, "")
    after = write(NET + "# \n", "beside.py")
    code, said = train(capsys, "--resume")
    assert code == 2
    assert f"beside.py has changed (sha256 {before}, now {after})" in said


def test_changed_code_of_every_kind_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    own = {
        "data": "def data():\n    from sklearn.datasets import load_iris\n"
        "    x, y = load_iris(return_X_y=True)\n    return x.astype('float32'), y\n",
        "loss": "from torch.nn.functional import cross_entropy as loss\n",
        "metric": "def metric(outputs, targets):\n"
        "    return float((outputs.argmax(1) == targets).float().mean())\n",
        "rule": "from thalweg.rules import rule\n@rule\ndef rule(p, g, *, lr=0.1):\n    return p - lr * g\n",
    }
    for name, text in own.items():
        write(text, f"own_{name}.py")
    recipe = {
        **RECIPE, "model": {"spec": "linear"}, "data": {"spec": "own_data.py:data"},
        "objective": {"loss": "own_loss.py:loss", "metric": "own_metric.py:metric"},
        "optimizer": {"name": "own_rule.py:rule", "lr": 0.1},
    }  # fmt: skip
    assert train(capsys, recipe=recipe) == (0, "")
    for name, text in own.items():
        write(text + "# changed\n", f"own_{name}.py")
        code, said = train(capsys, "--resume")
        assert code == 2
        assert f"own_{name}.py has changed" in said
        write(text, f"own_{name}.py")
    assert train(capsys, "--resume") == (0, "")


def test_a_race_and_fit_refuse_changed_code(capsys: pytest.CaptureFixture[str]) -> None:
    import torch
    from torch import nn

    write("from torch.nn.functional import cross_entropy as loss\n")
    x, y = torch.randn(40, 3), torch.arange(40) % 2

    def fit(**more: Any) -> None:
        net = nn.Linear(3, 2)
        thalweg.fit(net, (x, y), "m.py:loss", "sgd", epochs=1, out="fitted", **more)

    fit()
    write("from torch.nn.functional import cross_entropy as loss\n# changed\n")
    with pytest.raises(TrustError, match=r"m\.py has changed"):
        fit(resume=True)
    fit(resume=True, trust_code=True)
    fit(resume=True)
    write(NET)
    now = trust.fingerprint("m.py:net")
    assert now is not None
    config = {"kind": "race", "data": "iris", "model": "m.py:net"}
    RunDirectory.create("race", {**config, "code": {"m.py:net": dict(now.files)}}).close()
    write(NET.replace("ReLU", "Tanh"))
    code, said = command(capsys, "race", "--out", "race", "--resume", "--model", "m.py:net")
    assert code == 2
    assert "m.py has changed" in said
    assert "the race in race was begun" in said


def test_code_that_changes_while_a_run_is_under_way_is_not_run() -> None:
    write("value = 1\n")
    assert load_object("m.py:value") == 1
    with trust.own_code():
        assert load_object("m.py:value") == 1
        write("value = 2\n")
        with pytest.raises(TrustError, match=r"has changed .* under way"):
            load_object("m.py:value")
    assert load_object("m.py:value") == 2, "of no run's concern"


def built(runs: Any, task: RunList, *, stop: Any, advanced: Any) -> Any:
    return [task.problem.factory((4,), 3)]


def test_processes_of_a_race_run_the_code_that_it_began_with(monkeypatch: pytest.MonkeyPatch) -> None:
    class Halt:
        def is_set(self) -> bool:
            return False

    write(NET)
    with trust.own_code() as entered:
        given: dict[str, Any] = {
            "data": None,
            "objective": Objective(loss="mse", metric="mse"),
            "optimizers": {},
        }
        problem = Problem(factory=models.factory("m.py:net"), **given)
        task = RunList(train=built, groups=(), problem=problem, workload=Workload(epochs=1, batch_size=1))
        for name, thing in (("data", None), ("bare", task)):
            Path(name).write_bytes(pickle.dumps(thing))
        code = entered.written()
    monkeypatch.setattr(processes, "_HALT", [Halt()])
    monkeypatch.setattr(processes, "_DONE", [([0.0], 0)])
    paths = Path("data").absolute(), Path("bare").absolute()
    made: Any = processes._work(*paths, [], code)
    assert len(made[0]) == 3
    write(NET.replace("ReLU", "Tanh"))
    processes._LOADED.clear()
    with pytest.raises(TrustError, match="has changed"):
        processes._work(*paths, [], code)
    processes._LOADED.clear()


# Directories of strangers


def strangers(**tables: Any) -> None:
    """Lay down a training that a stranger says they began."""
    recipe = {**RECIPE, "model": {"spec": "linear"}, **tables}
    RunDirectory.create("theirs", {"kind": "train", "fingerprint": "", "recipe": recipe}).close()


@pytest.mark.parametrize("spec", ["w/evil.py:f", "pack.evil:f"])
@pytest.mark.parametrize("where", ["data", "model", "loss", "metric", "optimizer"])
def test_nobodys_code_runs_from_a_recipe_that_a_directory_holds(
    where: str, spec: str, capsys: pytest.CaptureFixture[str]
) -> None:
    sha = write(EVIL, "w/evil.py" if "/" in spec else "pack/evil.py")
    write(EVIL, "pack/__init__.py")
    tables: dict[str, dict[str, Any]] = {
        "data": {"data": {"spec": spec}},
        "model": {"model": {"spec": spec}},
        "loss": {"objective": {"loss": spec}},
        "metric": {"objective": {"metric": spec}},
        "optimizer": {"optimizer": {"name": spec, "lr": 0.1}},
    }
    strangers(**tables[where])
    code, said = command(capsys, "train", "--resume", "--out", "theirs")
    assert code == 2
    assert said.count("\n") == 1
    assert f"evil.py (sha256 {sha})" in said
    assert "--trust-code" in said
    options: dict[str, Any] = {"data": "iris", "optimizers": ["sgd"], "model": "linear"}
    name = "optimizers" if where == "optimizer" else where
    options[name] = [spec] if where == "optimizer" else spec
    RunDirectory.create("race", {"kind": "race", **options}).close()
    code, said = command(capsys, "race", "--resume", "--out", "race")
    assert code == 2
    assert f"evil.py (sha256 {sha})" in said
    for directory in ("theirs", "race"):
        assert command(capsys, "report", directory)[0] == 0
    assert not Path("evil ran").exists()
    code, said = command(capsys, "race", "--resume", "--out", "race", "--trust-code")
    assert Path("evil ran").exists(), said


@pytest.mark.parametrize("spec", ["w/evil.py:f", "os:abort", "pack.evil:f", "m.py:other"])
def test_nobodys_code_runs_from_a_model_that_a_directory_holds(
    spec: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write(NET + "def other(*_):\n    open('evil ran', 'w')\n")
    assert train(capsys) == (0, "")
    write(EVIL, "w/evil.py")
    write(EVIL, "pack/evil.py")
    write(EVIL, "pack/__init__.py")
    values = json.loads(Path("out/model.json").read_text())
    for code in ({}, values["code"], dict(getattr(trust.fingerprint(spec), "files", {}))):
        Path("out/model.json").write_text(json.dumps({**values, "spec": spec, "code": code}))
        ended, said = predict(capsys)
        assert ended == 2
        assert said.count("\n") == 1
        assert "--trust-code" in said
        stored = Stored.read(Path("out/model.json"))
        with pytest.raises(TrustError, match=r"you haven't trained with here"):
            # as a verb would that forgot to ask
            load_model(Path("out"), stored, "weights.safetensors", "cpu")
    assert not Path("evil ran").exists()
    assert not Path("predicted.csv").exists()


def test_reports_run_no_code(capsys: pytest.CaptureFixture[str]) -> None:
    write(EVIL, "evil.py")
    values = json.loads(make().model_dump_json())
    values["model"]["spec"] = values["data"]["spec"] = "evil.py:f"
    values["plan"]["loss"] = values["plan"]["metric"] = "evil.py:f"
    Path("race").mkdir()
    Path("race/results.json").write_text(json.dumps(values))
    assert command(capsys, "report", "race")[0] == 0
    assert not Path("evil ran").exists()
    with pytest.raises(TrustError):
        models.factory("evil.py:f")


def test_what_a_person_says_themselves_may_run(capsys: pytest.CaptureFixture[str]) -> None:
    write(NET)
    RunDirectory.create("race", {"kind": "race", "data": "gone", "model": "m.py:net"}).close()
    # named on the command line too: it gets as far as to miss the data
    code, said = command(capsys, "race", "--out", "race", "--resume", "--model", "m.py:net")
    assert (code, "gone" in said) == (2, True)
    code, said = command(capsys, "race", "--out", "race", "--resume")
    assert (code, "gone" in said) == (2, True)
    assert "m.py" not in said, "the data come first"
    strangers(model={"spec": "m.py:net"})
    with pytest.raises(TrustError):
        thalweg.train(None, out="theirs", resume=True)
    with trust.own_code():
        models.factory("m.py:net")
    models.factory("m.py:net")


def test_what_was_trained_with_here_is_remembered_and_nothing_else(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write(NET)
    assert train(capsys) == (0, "")
    ledger = Path("state/code.jsonl")
    assert stat.S_IMODE(ledger.stat().st_mode) == 0o600
    assert train(capsys, "--resume") == (0, "")
    assert len(ledger.read_text().split()) == len(ledger.read_text().splitlines()[1].split())
    shutil.copytree("out", "elsewhere/out")
    shutil.copy("m.py", "elsewhere/m.py")
    monkeypatch.chdir("elsewhere")
    assert predict(capsys) == (0, ""), "the same code in another place"
    monkeypatch.setenv("THALWEG_STATE_DIR", str(Path("other state").absolute()))
    code, said = predict(capsys)
    assert code == 2
    assert "out names code that you haven't trained with here: m.py (sha256" in said
    assert predict(capsys, "out", "--trust-code") == (0, "")
    assert predict(capsys)[0] == 2, "looking is not training"


def test_what_is_remembered_stands_damage_and_no_stranger(capsys: pytest.CaptureFixture[str]) -> None:
    write(NET)
    assert train(capsys) == (0, "")
    ledger = Path("state/code.jsonl")
    ledger.write_bytes(b'\xff\xfe nonsense\n[]\n{"code": 5}\n{"cod' + ledger.read_bytes())
    assert predict(capsys) == (0, "")
    ledger.chmod(0o666)
    assert predict(capsys)[0] == 2, "anybody may have written this"


@pytest.mark.parametrize("place", ["file/state", "\0"])
def test_without_a_folder_to_remember_in_it_trains_all_the_same(
    place: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("file").write_text("")
    if place == "\0":
        monkeypatch.delenv("THALWEG_STATE_DIR")
        monkeypatch.delenv("XDG_STATE_HOME", raising=False)
        monkeypatch.setattr(Path, "home", lambda: (_ for _ in ()).throw(RuntimeError("no home")))
    else:
        monkeypatch.setenv("THALWEG_STATE_DIR", str(Path(place).absolute()))
    write(NET)
    assert train(capsys) == (0, "")
    assert predict(capsys) == (0, "")
    assert train(capsys, "--resume") == (0, "")
    assert command(capsys, "train", "r.toml", "--out", "out", "--resume", "--quiet") == (0, "")
    assert not os.path.exists("state")
