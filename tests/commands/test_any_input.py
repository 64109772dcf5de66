"""Whatever is typed: a race, or one sentence and exit code 2; no traceback, and nothing left behind."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from thalweg.commands import app
from thalweg.errors import OptionError
from thalweg.racing import race

# what a shell can hand over: no NUL, but bytes that are no text
words = st.text(st.characters(exclude_characters="\0", exclude_categories=[]), max_size=12)
names = st.sampled_from(
    ["", " ", ",", ":", ".", "..", "/", "~", "*", "-", "--", "a" * 300, "\udcff", "é\n\x1b[2J"]
)
own = st.sampled_from(
    ["own.py", "own.py:", ":own", "own.py:thing", "own.py:nothing", "os:path", "os:nothing.at.all"]
)
numbers = st.sampled_from(["0", "-1", "1", "2", "1e400", "nan", "inf", "-inf", "1.5", "1_0", "٣", "9" * 30])
anything = words | names | own | numbers
spaces = st.builds("{}.{}={}:{}".format, anything, anything, anything, anything) | anything

OPTIONS: dict[str, st.SearchStrategy[str]] = {
    "--data": anything | st.builds("{}:{}".format, st.sampled_from(["idx", "images", "t.csv"]), anything),
    "--model": anything | st.builds("{}:{}".format, st.sampled_from(["mlp", "cnn", "linear"]), anything),
    "--target": anything,
    "--task": anything | st.sampled_from(["classification", "regression"]),
    "--type": anything | st.builds("{}={}".format, anything, st.sampled_from(["category", "number", ""])),
    "--missing": anything | st.sampled_from(["drop", "median"]),
    "--loss": anything | st.sampled_from(["mse", "bce", "cross-entropy"]),
    "--metric": anything | st.sampled_from(["r2", "auc", "log-loss"]),
    "--optimizers": anything | st.builds("{},{}".format, st.sampled_from(["sgd", "adam"]), anything),
    "--schedules": anything | st.builds("{},{}".format, st.sampled_from(["cosine", "plateau"]), anything),
    "--initializations": anything | st.builds("{},{}".format, st.sampled_from(["sparse", "he"]), anything),
    "--space": spaces | st.builds("adam.lr={}:{}".format, numbers, numbers),
    "--device": anything | st.sampled_from(["cpu:0", "cpu:1", "cuda", "meta", "mps"]),
    "--engine": anything,
    "--out": anything,
    **dict.fromkeys(["--trials", "--splits", "--confirm", "--epochs", "--batch-size"], numbers | words),
    **dict.fromkeys(["--minutes", "--goal", "--margin", "--seed"], numbers | words),
}  # fmt: skip


@pytest.fixture(autouse=True)
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with a table, where a race ends as soon as everything that was typed is understood."""
    path = tmp_path_factory.mktemp("any")
    (path / "t.csv").write_text("a,b,kind\n" + "".join(f"{i % 7},{i % 5},{'xy'[i % 2]}\n" for i in range(60)))
    (path / "own.py").write_text("thing = object()\n")
    before = Path.cwd()

    def begun(*_: Any) -> None:
        raise OptionError("the race has begun; end it")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(race, "_race", begun)
        os.chdir(path)
        yield path
        os.chdir(before)


def typed(*arguments: str) -> str:
    """Carry out a command line; return what it said, which is one sentence."""
    folder = Path.cwd()
    before = sorted(path for path in folder.rglob("*") if "__pycache__" not in path.parts)
    said, shown = io.StringIO(), io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(shown):
        code = app.run(arguments)
    assert code == 2, (arguments, shown.getvalue()[:200])
    assert shown.getvalue() == ""
    assert said.getvalue().startswith("error: ")
    assert said.getvalue().count("\n") == 1
    after = sorted(path for path in folder.rglob("*") if "__pycache__" not in path.parts)
    assert after == before
    return said.getvalue()


one = st.sampled_from(sorted(OPTIONS)).flatmap(lambda name: st.tuples(st.just(name), OPTIONS[name]))


@settings(max_examples=120, deadline=None)
@given(st.sampled_from(["iris", "t.csv"]), one)
@example("iris", ("--out", "a" * 300))
@example("iris", ("--data", "a" * 300))
@example("iris", ("--model", "a" * 300 + ".py:net"))
@example("iris", ("--data", "images:" + "a" * 300))
@example("iris", ("--device", "meta"))
def test_one_option(data: str, option: tuple[str, str]) -> None:
    given = dict([("--data", data), *([("--target", "kind")] if data == "t.csv" else []), option])
    typed("race", *(f"{name}={value}" for name, value in given.items()))


@settings(max_examples=60, deadline=None)
@given(st.lists(one, max_size=4))
def test_several_options(options: list[tuple[str, str]]) -> None:
    given = dict([("--data", "iris"), *options])
    typed("race", *(f"{name}={value}" for name, value in given.items()))


@settings(max_examples=60, deadline=None)
@given(st.lists(anything, min_size=1, max_size=4))
def test_any_words(arguments: list[str]) -> None:
    if not {"-h", "--help", "--version"} & set(arguments):
        typed(*arguments)


def test_what_fits_would_race() -> None:
    assert "has begun" in typed("race", "--data", "t.csv", "--target", "kind", "--optimizers", "sgd,adam")
