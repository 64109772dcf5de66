"""Directories that earlier code wrote: report and predict read them, a resume goes on or says why not.

``tests/directories/make.py`` writes those of the present version; those of earlier ones stay.
"""

from __future__ import annotations

import html
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars
import pytest

import thalweg
from directories import make
from thalweg.commands import app
from thalweg.errors import RunDirectoryError
from thalweg.run.directory import RunDirectory
from thalweg.run.directory.kinds import VERSION

FOLDER = Path(__file__).parents[2] / "directories"
ALL = {path.name: path for path in sorted(FOLDER.glob("*-v*"))}


@pytest.fixture(params=ALL)
def kind(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Stand beside a copy of a committed directory."""
    shutil.copytree(ALL[request.param], tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")
    return str(request.param).rpartition("-v")[0]


def values(path: Path | str = "run/results.json") -> dict[str, Any]:
    return dict(json.loads(Path(path).read_text())) if Path(path).exists() else {}


def evaluations() -> list[dict[str, Any]]:
    return [event for event in RunDirectory.read("run").events() if event["event"] == "evaluation"]


def told_by_the_report() -> str:
    text = re.sub(r"<(script|style).*?</\1>", " ", Path("run/report.html").read_text(), flags=re.DOTALL)
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", text)).split())


def test_the_present_version_has_one_of_each_kind() -> None:
    assert {f"{kind}-v{VERSION}" for kind in make.KINDS} <= set(ALL)
    assert sum(path.stat().st_size for path in FOLDER.rglob("*.*")) < 2**20


def test_report(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    code = app.run(["report", "run"])
    if kind == "sweep":
        assert code == 2
        assert "of which there is no report" in capsys.readouterr().err
        return
    assert code == 0
    told, results = told_by_the_report(), values()
    if kind == "race":
        # best first
        means = sorted((row["mean"] for row in results["optimizers"]), reverse=True)
        expected = f"{100 * means[0]:.1f} to {100 * means[-1]:.1f} % accuracy"
    elif results:
        expected = f" {results['result']['test']:.4g}"
    elif kind == "race-unfinished":
        expected = "1 screen 4 1 rerun 12 1 confirm 2"
    else:
        expected = f"its last evaluation was at step {evaluations()[-1]['step']}."
    assert expected in told


def test_predict(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    if not Path("predictions.csv").exists():
        Path("new.csv").touch()
        assert app.run(["predict", "run", "--data", "new.csv", "--out", "again.csv"]) == 2
        (said,) = capsys.readouterr().err.splitlines()
        assert "run holds a " in said
        return
    new = "new" if Path("new").exists() else "new.csv"
    assert app.run(["predict", "run", "--data", new, "--out", "again.csv"]) == 0
    found, before = polars.read_csv("again.csv"), polars.read_csv("predictions.csv")
    assert found.columns == before.columns
    for one, other in zip(found, before, strict=True):
        if one.dtype.is_numeric():
            np.testing.assert_allclose(one.to_numpy(), other.to_numpy(), rtol=1e-6, atol=1e-6)
        else:
            assert one.to_list() == other.to_list()


RESUMES: dict[str, Callable[[], Any]] = {
    **dict.fromkeys(make.KINDS, lambda: thalweg.train(None, out="run", resume=True)),
    **dict.fromkeys(("race", "race-unfinished"), lambda: thalweg.race(out="run", resume=True)),
    "fit": lambda: make.fit(resume=True),
    "sweep": lambda: thalweg.sweep(out="run", resume=True, **make.SWEEP),
}


def test_resume_goes_on_or_says_why_not(request: pytest.FixtureRequest, kind: str) -> None:
    name = request.node.callspec.params["kind"]
    version = int(name.rpartition("-v")[2])
    if version != VERSION:
        before = {path: path.read_bytes() for path in Path("run").rglob("*.*")}
        with pytest.raises(RunDirectoryError, match=f"in version {version} .* resumes version {VERSION} "):
            RESUMES[kind]()
        assert before == {path: path.read_bytes() for path in before}
        return
    # what is finished stays so, what isn't comes to what the finished one did
    whole = ALL[f"{kind.removesuffix('-unfinished')}-v{version}"] / "run"
    curve = evaluations()
    found = RESUMES[kind]()
    if kind == "sweep":
        assert found.table.equals(polars.read_csv(whole / "table.csv", schema=found.table.schema))
    elif kind == "fit":
        assert found.curve[-1].validation == pytest.approx(curve[-1]["validation"], rel=1e-5)
    elif kind.startswith("race"):
        paths = "run/results.json", whole / "results.json"
        means = [[(o["name"], o["mean"]) for o in values(p)["optimizers"]] for p in paths]
        assert means[0] == means[1]
    else:
        expected = values(whole / "results.json")["result"]
        assert values()["result"] == pytest.approx(expected, rel=1e-5)
