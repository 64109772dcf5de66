"""An option of a race is declared once: Python, command, README, checks and directories read it there."""

from __future__ import annotations

import inspect
import os
import re
import shutil
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest
import typer

import thalweg
from thalweg.commands.app import app
from thalweg.errors import OptionError, in_command
from thalweg.racing.configuration import written
from thalweg.racing.options import Options
from thalweg.racing.race_setup import understand
from thalweg.racing.results import PlanInfo
from thalweg.settings.declared import declared

ROOT = Path(__file__).parent.parent.parent
DECLARED = declared(Options)


def test_python_has_every_option_in_its_signature_and_its_help() -> None:
    parameters = inspect.signature(thalweg.race).parameters
    assert list(parameters) == [field.name for field in fields(Options)]
    assert {name: one.default for name, one in parameters.items()} == vars(Options())
    positional = [name for name, one in parameters.items() if one.kind is not one.KEYWORD_ONLY]
    assert positional == ["model", "data"]
    assert str(parameters["trials"].annotation) == "int | None"
    told = " ".join((inspect.getdoc(thalweg.race) or "").split())
    for name, (_, one) in DECLARED.items():
        assert f" {name}: {one.said.removesuffix('.')}" in told
    assert told.index("Args:") < told.index("model:") < told.index("Returns:")


def test_the_command_has_every_option_that_can_be_typed() -> None:
    race = typer.main.get_command(app).commands["race"]  # type: ignore[attr-defined]
    typed = {one.name: one for one in race.params if one.name not in ("json", "quiet", "help")}
    told = {name: one for name, (_, one) in DECLARED.items() if one.panel}
    assert list(typed) == list(told)
    for name, one in typed.items():
        assert (one.opts, one.help) == ([in_command(name)], told[name].said)
        assert one.default == getattr(Options, name)
    assert {"collate", "watcher", "executor", "command"} == set(DECLARED) - set(told)


def test_the_readme_has_them_too() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(--[a-z-]+)", text, re.MULTILINE)
    assert rows == [
        *(in_command(name) for name, (_, one) in DECLARED.items() if one.panel),
        "--json",
        "--quiet",
    ]


@pytest.mark.parametrize(
    "name", [name for name, (kind, one) in DECLARED.items() if one.least is not None or one.above is not None]
)
def test_what_is_declared_of_a_number_is_checked(name: str) -> None:
    one = DECLARED[name][1]
    least = one.least if one.above is None else one.above
    for value in (least - 1, "2", True):  # type: ignore[operator]
        with pytest.raises(OptionError, match=f"^{name} is .*, but must be .* {least:g}$"):
            understand(Options("linear", "iris", **{name: value}))


@pytest.mark.parametrize("name", ["task", "missing", "engine"])
@pytest.mark.parametrize("value", ["medain", 3, ["auto"]])
def test_what_is_none_of_its_words_is_refused(name: str, value: object) -> None:
    with pytest.raises(OptionError, match=f"^{name} is .*, but must be .* or "):
        understand(Options("linear", "iris", **{name: value}))  # type: ignore[arg-type]


def test_the_plan_takes_by_name_what_was_asked_for() -> None:
    asked = {
        "splits": 3,
        "confirm": 4,
        "seed": 5,
        "minutes": 6.0,
        "eliminate": True,
        "goal": 0.5,
        "trials": 7,
    }
    asked |= {"epochs": 8, "batch_size": 9, "margin": 0.25}
    plan = understand(Options("linear", "iris", optimizers=["sgd"], **asked)).plan  # type: ignore[arg-type]
    assert {name: getattr(plan, name) for name in asked} == asked
    assert set(asked) < set(PlanInfo.model_fields)


def test_a_directory_keeps_all_but_what_is_of_one_call() -> None:
    left = {name for name, (_, one) in DECLARED.items() if not one.stored}
    assert left == {"out", "resume", "trust_code", "watcher", "executor", "command"}
    everything = Options("linear", "iris", target="a", out="here", resume=True, trust_code=True)
    assert written(everything) == {
        "kind": "race", "model": "linear", "data": "iris", "target": "a",
    }  # fmt: skip


DECLARATION = """
    patience: Annotated[int | None, Declared("Evaluations to wait.", _EFFORT, least=1)] = None
    goal: """
USE = """
    if options.patience is not None:
        _schedules([f"patience{options.patience}"])
    usable_device("""
PROGRAM = """
import inspect, runpy
import thalweg
from thalweg.commands.app import run
assert "patience: int | None = None" in str(inspect.signature(thalweg.race))
assert " patience: Evaluations to wait." in inspect.getdoc(thalweg.race)
for value in (0, 2.0, 3):
    try:
        thalweg.race("linear", "iris", patience=value)
    except ValueError as error:
        print(error)
print(run(["race", "--data", "iris", "--patience", "0"]), run(["race", "--data", "iris", "--patience", "4"]))
print(runpy.run_path("docs/generate.py")["options"]())
from thalweg.racing.configuration import written
from thalweg.racing.options import Options
print(written(Options(patience=5)))
"""


@pytest.mark.slow
def test_adding_an_option_takes_its_declaration_and_the_place_that_uses_it(tmp_path: Path) -> None:
    for part in ("src", "docs"):
        shutil.copytree(ROOT / part, tmp_path / part, ignore=shutil.ignore_patterns("__pycache__", "images"))
    for path, old, new in (
        ("options.py", "\n    goal: ", DECLARATION), ("race_setup.py", "\n    usable_device(", USE),
    ):  # fmt: skip
        file = tmp_path / "src" / "thalweg" / "racing" / path
        text = file.read_text(encoding="utf-8")
        assert text.count(old) == 1
        file.write_text(text.replace(old, new), encoding="utf-8")
    around = os.environ | {"PYTHONPATH": str(tmp_path / "src")}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=tmp_path, env=around, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert "patience is 0, but must be a whole number of at least 1" in done.stdout
    assert "patience is 2.0, but must be" in done.stdout
    assert "there is no schedule 'patience3'" in done.stdout
    assert done.stderr.splitlines()[-2].startswith("error: --patience is 0, but must be")
    assert "there is no schedule 'patience4'" in done.stderr.splitlines()[-1]
    assert "2 2" in done.stdout
    assert "| `--patience NUMBER` | Evaluations to wait. |" in done.stdout
    assert "'patience': 5" in done.stdout
