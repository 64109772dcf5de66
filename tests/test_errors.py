from __future__ import annotations

import ast
import re
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

import thalweg
from thalweg import errors
from thalweg.commands import app
from thalweg.errors import UserError, option, spelled_as_command, spelled_as_recipe
from thalweg.racing.options import Options

SOURCE = Path(thalweg.__file__).parent


@pytest.mark.parametrize(
    ("name", "value", "python", "command"),
    [
        ("batch_size", 64, "batch_size=64", "--batch-size 64"),
        ("goal", 0.25, "goal=0.25", "--goal 0.25"),
        ("resume", True, "resume=True", "--resume"),
        ("task", "regression", "task='regression'", "--task regression"),
        ("types", {"zip": "ignore"}, "types={'zip': 'ignore'}", "--type zip=ignore"),
        (
            "types",
            {"net weight": "ignore", "a'b": "category"},
            "types={'net weight': 'ignore', \"a'b\": 'category'}",
            "--type 'net weight=ignore' --type 'a'\"'\"'b=category'",
        ),
        ("types", {"": "ignore"}, "types={'': 'ignore'}", "--type =ignore"),
        ("spaces", {"sgd.lr": ("LOW", "HIGH")}, "spaces={'sgd.lr': (LOW, HIGH)}", "--space sgd.lr=LOW:HIGH"),
        ("initializations", ["default", "sparse"], "initializations=['default', 'sparse']",
         "--initializations default,sparse"),
        ("changes", ["optimizer.lr=0.1"], "changes=['optimizer.lr=0.1']", "--set optimizer.lr=0.1"),
        ("out", Path("a b"), "out='a b'", "--out 'a b'"),
    ],
)  # fmt: skip
def test_a_setting_is_spelled_as_this_person_can_write_it(
    name: str, value: object, python: str, command: str
) -> None:
    assert option(name, value) == python
    with spelled_as_command():
        assert option(name, value) == command
    assert option(name, value) == python


def test_a_recipe_spells_what_it_has_and_leaves_the_rest() -> None:
    with spelled_as_recipe():
        assert option("missing", "drop") == 'data.missing = "drop"'
        assert option("types", {"a": "ignore", "b c": "number"}) == (
            'data.types = {a = "ignore", "b c" = "number"}'
        )
        assert option("out") == "out"
        with spelled_as_command():
            assert option("epochs") == "training.epochs"
            assert option("out") == "--out"


OURS = {field.name.replace("_", "-") for field in fields(Options)} | {
    *("out", "resume", "weights", "samples", "crops", "checkpoint-seconds", "trust-code"),
    *errors._IN_COMMAND.values(),
}


def _spelled_by_hand(path: Path) -> list[str]:
    """Texts, docstrings aside, that spell a setting as the command does."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    told = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    return [
        f"{path.relative_to(SOURCE)}:{node.lineno}: {found[0]}"
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in told
        for found in re.finditer(r"--([a-z]+(?:-[a-z]+)*)", node.value)
        # a whole command is one that the person runs
        if found[1] in OURS and not re.search(r"\bthalweg (race|train|predict) ", node.value)
    ]


def test_no_message_spells_settings_by_hand() -> None:
    modules = [path for path in SOURCE.rglob("*.py") if "commands" not in path.parts]
    found = [line for path in modules for line in _spelled_by_hand(path)]
    assert not found, f"say thalweg.errors.option(name, value) instead, since Python has no options: {found}"


def small(**changes: Any) -> Callable[[], object]:
    return lambda: thalweg.race("linear", "iris", **changes)


@pytest.mark.parametrize(
    ("call", "arguments", "python", "command"),
    [
        (small(trials=0), ["--trials", "0"], "trials is 0, but", "--trials is 0, but"),
        (small(epochs=0), ["--epochs", "0"], "epochs is 0, but", "--epochs is 0, but"),
        (small(margin=-1.0), ["--margin", "-1"], "margin is -1.0, but", "--margin is -1.0, but"),
        (small(target="x"), ["--target", "x"], "so target='x' doesn't", "so --target x doesn't"),
        (small(goal=1.5), ["--goal", "1.5"], "goal=1.5 can't be", "--goal 1.5 can't be"),
        (small(optimizers=[]), ["--optimizers", ""], "optimizers is empty", "--optimizers is empty"),
        (small(resume=True), ["--resume"], "resume needs out:", "--resume needs --out:"),
    ],
    ids=lambda value: "".join(value) if isinstance(value, list) else "",
)
def test_errors_of_a_race_name_the_argument_and_the_command_spells_it(
    call: Callable[[], object],
    arguments: list[str],
    python: str,
    command: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as caught:
        call()
    assert python in str(caught.value)
    assert "--" not in str(caught.value)
    assert app.run(["race", "--data", "iris", "--model", "linear", *arguments]) == 2
    assert command in capsys.readouterr().err


def test_a_recipe_that_lacks_something_is_told_its_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "t.csv").write_text("a,b\n" + "".join(f"{i},{i % 7}\n" for i in range(50)) + ",3\n")
    (tmp_path / "r.toml").write_text(
        'version = 1\ndata = {spec = "t.csv", target = "b"}\nmodel.spec = "linear"\n'
        'optimizer.name = "sgd"\ntraining = {batch_size = 8, epochs = 1}\n'
    )
    with pytest.raises(UserError, match=r'say data.missing = "drop" \(.*or data.missing = "median"'):
        thalweg.train("r.toml")
    assert app.run(["train", "r.toml", "--set", 'data.missing="mean"']) == 2
    assert capsys.readouterr().err.startswith("error: --set 'data.missing=\"mean\"': ")
    assert app.run(["train", "r.toml"]) == 2
    assert 'data.missing = "drop"' in capsys.readouterr().err
