"""What each verb says of a run directory of another kind, or one that isn't finished."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import thalweg
from thalweg.commands import app
from thalweg.errors import RunDirectoryError
from thalweg.run.directory import RunDirectory
from thalweg.run.directory.kinds import VERSION

KINDS: dict[str, dict[str, Any]] = {
    "race": {"kind": "race"},
    "train": {"kind": "train", "recipe": {"data": {"spec": "iris"}}},
    "ensemble": {"kind": "train", "recipe": {"ensemble": {"members": 8}}},
    "fit": {"kind": "fit"},
    "fit_ensemble": {"kind": "fit", "members": 4},
    "sweep": {"kind": "sweep"},
    "other": {"kind": "lab"},
}
HOLDS = {
    "race": "a race",
    "train": "a training",
    "ensemble": "an ensemble of 8 members",
    "fit": "a training begun by thalweg.fit in Python",
    "fit_ensemble": "a training begun by thalweg.fit_ensemble in Python",
    "sweep": "a sweep begun by thalweg.sweep in Python",
}
COMMANDS = {
    "race": "thalweg race --out {} --resume",
    "train": "thalweg train --out {} --resume",
    "ensemble": "thalweg train --out {} --resume",
    "fit": "thalweg.fit(..., out='{}', resume=True)",
    "fit_ensemble": "thalweg.fit_ensemble(..., out='{}', resume=True)",
    "sweep": "thalweg.sweep(..., out='{}', resume=True)",
}

ZEROS = torch.zeros(64, 1), torch.arange(64.0).reshape(64, 1)

Said = Callable[..., str]


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str]) -> Said:
    """Give the sentence that a command ends with."""

    def run(*words: str) -> str:
        capsys.readouterr()
        assert app.run(words) == 2
        (line,) = capsys.readouterr().err.splitlines()
        return line.removeprefix("error: ")

    return run


def begun(path: Path, kind: str) -> str:
    RunDirectory.create(path, KINDS[kind]).close()
    return str(path)


@pytest.mark.parametrize("kind", [*HOLDS, "other"])
@pytest.mark.parametrize("verb", ["race", "train"])
def test_resume_names_what_is_there_and_what_goes_on_with_it(
    tmp_path: Path, said: Said, verb: str, kind: str
) -> None:
    if kind == verb or (verb == "train" and kind == "ensemble"):
        return
    out = begun(tmp_path / "run", kind)
    wanted = {"race": "race", "train": "training of a recipe"}[verb]
    if kind == "other":
        expected = f"{out} holds no {wanted}, nor another run of this thalweg; give the directory of one"
    else:
        expected = f"{out} holds {HOLDS[kind]}, no {wanted}; resume it by: {COMMANDS[kind].format(out)}"
    assert said(verb, "--out", out, "--resume") == expected


VERSIONS = {"later": f"version = {VERSION + 1}\n", "none": "", "text": 'version = "x"\n'}


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("kind", HOLDS)
def test_another_version_is_gone_on_with_by_none_and_left_as_it_is(
    tmp_path: Path, kind: str, version: str
) -> None:
    out = begun(tmp_path / "run", kind)
    config = tmp_path / "run" / "config.toml"
    text = config.read_text()
    assert f"version = {VERSION}\n" in text
    config.write_text(text.replace(f"version = {VERSION}\n", VERSIONS[version]))
    with (tmp_path / "run" / "events.jsonl").open("w") as events:
        events.write('{"event": "torn')
    there = {"later": VERSION + 1, "none": 0, "text": "x"}[version]
    calls: dict[str, Callable[[], Any]] = {
        "race": lambda: thalweg.race(out=out, resume=True),
        "train": lambda: thalweg.train(None, out=out, resume=True),
        "fit": lambda: thalweg.fit(
            nn.Linear(1, 1), ZEROS, "mse", "sgd", steps=1, batch_size=4, out=out, resume=True
        ),
        "fit_ensemble": lambda: thalweg.fit_ensemble(
            "linear", ZEROS, "mse", "sgd", members=2, epochs=1, batch_size=4, out=out, resume=True
        ),
        "sweep": lambda: thalweg.sweep("linear", ZEROS, "sgd", epochs=1, batch_size=4, out=out, resume=True),
    }
    with pytest.raises(RunDirectoryError) as refusal:
        calls["train" if kind == "ensemble" else kind]()
    assert str(refusal.value) == (
        f"{out} holds {HOLDS[kind]} in version {there} of the format, and this thalweg resumes version "
        f"{VERSION} alone; finish it with the thalweg that began it, which environment.json names, or start "
        "again with another out"
    )
    assert (tmp_path / "run" / "events.jsonl").read_text() == '{"event": "torn'


@pytest.mark.parametrize("kind", HOLDS)
@pytest.mark.parametrize("verb", ["race", "train"])
def test_a_new_run_is_not_put_where_one_is(tmp_path: Path, said: Said, verb: str, kind: str) -> None:
    """Whatever goes on with what is there, --resume of this verb may not."""
    out, toml = begun(tmp_path / "run", kind), tmp_path / "r.toml"
    toml.write_text(
        'data.spec = "iris"\nmodel.spec = "linear"\noptimizer.name = "adam"\n'
        "[training]\nbatch_size = 8\nepochs = 1\n"
    )
    words = ["race", "--data", "iris"] if verb == "race" else ["train", str(toml)]
    assert said(*words, "--out", out) == (
        f"the run directory {out} exists already and holds {HOLDS[kind]}; give another --out, or resume "
        f"it by: {COMMANDS[kind].format(out)}"
    )


def test_predict_says_what_a_directory_lacks(tmp_path: Path, said: Said) -> None:
    (tmp_path / "new.csv").write_text("a\n1\n")

    def predicted(out: str) -> str:
        return said("predict", out, "--data", str(tmp_path / "new.csv"), "--out", str(tmp_path / "p.csv"))

    paths = {kind: begun(tmp_path / kind, kind) for kind in KINDS}
    race = paths["race"]
    assert predicted(race) == (
        f"{race} holds a race that isn't finished; finish it by: thalweg race --out {race} --resume, then "
        f"train its winner by: thalweg train {race}/winner.toml"
    )
    (tmp_path / "race" / "results.json").write_text("{}")
    assert "holds a race of Python objects, for which there is no winner.toml" in predicted(race)
    (tmp_path / "race" / "winner.toml").touch()
    assert predicted(race) == (
        f"{race} holds a race, not a training; train its winner first: thalweg train {race}/winner.toml"
    )
    for kind in ("train", "ensemble"):
        out = paths[kind]
        assert predicted(out) == (
            f"{out} holds {HOLDS[kind]} that isn't finished; finish it by: thalweg train --out {out} --resume"
        )
    for kind in ("fit", "fit_ensemble"):
        out = paths[kind]
        assert f"keeps no preparation of data; have its model by: {COMMANDS[kind].format(out)}" in predicted(
            out
        )
    assert predicted(paths["sweep"]).endswith("which keeps no weights; train with its best setting")
    assert predicted(paths["other"]).endswith("isn't there; give the directory of a finished training")
    assert predicted(str(tmp_path / "none")).endswith("none; give that of a finished training")


def test_report_says_what_is_no_run(tmp_path: Path, said: Said) -> None:
    (tmp_path / "folder").mkdir()
    assert "holds neither results.json nor events.jsonl; give the directory of a run" in said(
        "report", str(tmp_path / "folder")
    )


def test_a_sweep_is_no_race_that_is_not_finished(tmp_path: Path, said: Said) -> None:
    out = begun(tmp_path / "run", "sweep")
    assert said("report", out) == (
        f"{out} holds {HOLDS['sweep']}, of which there is no report; its table.csv is all it found"
    )


@pytest.mark.parametrize("kind", [kind for kind in HOLDS if kind != "sweep"])
def test_report_knows_every_kind(tmp_path: Path, kind: str) -> None:
    config = KINDS[kind] | ({"recipe": {}} if kind in ("train", "ensemble") else {})
    RunDirectory.create(tmp_path / "run", config).close()
    assert app.run(["report", str(tmp_path / "run")]) == 0
    page = (tmp_path / "run" / "report.html").read_text()
    assert ("race" if kind == "race" else "training") in page.lower()


def test_in_python_calls_are_of_python(tmp_path: Path) -> None:
    race, training = begun(tmp_path / "race", "race"), begun(tmp_path / "train", "train")
    x, y = torch.zeros(8, 1), torch.zeros(8, 1)
    with pytest.raises(
        RunDirectoryError, match=r"no training of a recipe; .* by: thalweg.race\(out='.*race', resu"
    ):
        thalweg.train(None, out=race, resume=True)
    with pytest.raises(
        RunDirectoryError, match=r"no race; resume it by: thalweg.train\(None, out='.*train', r"
    ):
        thalweg.race(out=training, resume=True)
    with pytest.raises(
        RunDirectoryError, match=r"a race, no training begun by fit; resume it by: thalweg.race"
    ):
        thalweg.fit(nn.Linear(1, 1), (x, y), "mse", "sgd", steps=1, batch_size=4, out=race, resume=True)
