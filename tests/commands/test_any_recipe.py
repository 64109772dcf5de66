"""Whatever stands in a recipe or a table: a training, or one sentence and exit code 2; never a traceback."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from hypothesis import example, given, settings
from hypothesis import strategies as st

from thalweg import catalogue, recipe, schedules, strategies
from thalweg.commands import app
from thalweg.errors import OptionError, RecipeError
from thalweg.recipe.schema import Recipe
from thalweg.strategies.table import STRATEGIES
from thalweg.training.training_run import TrainingRun

BEGUN = "the training has begun; end it"
SMALL: dict[str, Any] = {
    "version": 1,
    "data": {"spec": "iris"},
    "model": {"spec": "mlp:3"},
    "optimizer": {"name": "adam", "lr": 0.01},
    "training": {"batch_size": 16, "epochs": 2},
}
TABLE = "a,b,kind\n" + "".join(f"{i % 7},{i % 5},{'xy'[i % 2]}\n" for i in range(60))

numbers = st.sampled_from(
    [0, -1, 1, 2, 3, 7, 2**31, 2**63 - 1, 2**63, 2**70, -(2**70), 0.0, -0.0, 0.5, 1e-308, 1e308]
) | st.sampled_from([float("nan"), float("inf"), float("-inf"), 1.5, -0.5])
texts = st.text(max_size=6) | st.sampled_from(
    ["", ":", "a:b", "a.py:b", "cosine", "adam", "adma", "mse", "nan", "é\u202e\x1b[2J", "../..", "x" * 300]
)
values: st.SearchStrategy[Any] = st.recursive(
    numbers | texts | st.booleans(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=2),
    max_leaves=4,
)
TABLES = {
    "data": ["spec", "target", "task", "missing", "types", "seed", "replicate"],
    "model": ["spec"],
    "objective": ["loss", "metric"],
    "optimizer": ["name", "lr", "beta1", "eps", "weight_decay", "momentum", "history", "tolerance"],
    "schedule": ["name", "final", "warmup", "cycles", "every", "gamma", "power", "boundaries", "factors"],
    "training": ["batch_size", "epochs", "seed", "evaluations", "accumulate", "precision"],
    "groups": ["decay", "depth_factor", "patterns"],
}
KEYS = [(table, key) for table, keys in TABLES.items() for key in keys]
KEYS += [
    ("strategies", name, key)
    for name, (_, settings_) in STRATEGIES.items()
    for key in settings_.model_fields
]  # fmt: skip
odd_keys = st.tuples(st.sampled_from(sorted(TABLES)), texts) | st.tuples(texts) | st.tuples(texts, texts)
places = st.sampled_from(KEYS) | odd_keys
changes = st.lists(st.tuples(places, values), min_size=1, max_size=4)
names = st.fixed_dictionaries(
    {},
    optional={
        "optimizer": st.sampled_from(catalogue.names()),
        "schedule": st.sampled_from(schedules.names()),
        "strategies": st.lists(st.sampled_from(strategies.names()), max_size=3),
    },
)


@pytest.fixture(autouse=True)
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder in which a training ends as soon as everything that was written is understood."""
    path = tmp_path_factory.mktemp("any")

    def begun(self: TrainingRun) -> None:
        raise OptionError(BEGUN)

    before = Path.cwd()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TrainingRun, "run", begun)
        os.chdir(path)
        yield path
        os.chdir(before)


def said(*arguments: str) -> str:
    """Carry out a command line; return the one sentence that it said."""
    folder = Path.cwd()
    before = sorted(folder.rglob("*"))
    spoken, shown = io.StringIO(), io.StringIO()
    with contextlib.redirect_stderr(spoken), contextlib.redirect_stdout(shown):
        code = app.run(arguments)
    assert code == 2, (arguments, code, shown.getvalue()[:200])
    assert spoken.getvalue().startswith("error: ")
    assert spoken.getvalue().count("\n") == 1
    assert sorted(folder.rglob("*")) == before, "something was left behind"
    return spoken.getvalue()


def train(content: bytes) -> str:
    Path("recipe.toml").write_bytes(content)
    return said("train", "recipe.toml", "--out", "out", "--quiet")


def changed(given: list[tuple[tuple[str, ...], Any]]) -> dict[str, Any]:
    made: dict[str, Any] = {
        key: dict(value) if isinstance(value, dict) else value for key, value in SMALL.items()
    }
    for place, value in given:
        target = made
        for part in place[:-1]:
            if not isinstance(target.get(part), dict):
                target[part] = {}
            target = target[part]
        target[place[-1]] = value
    return made


@settings(max_examples=80, deadline=None)
@given(changes, names)
@example([(("model", "spec"), "mlp:1000000,1000000")], {})
@example([(("training", "evaluations"), 10**12)], {})
@example([(("training", "epochs"), 10**18)], {})
@example([(("training", "epochs"), 2**70)], {})
@example([(("training", "accumulate"), 2**70)], {})
@example([(("training", "batch_size"), 2**70)], {})
@example([(("strategies", "snapshots", "cycles"), 10**12)], {})
@example([(("strategies", "averaging", "every"), 2**70)], {})
@example([(("data", "seed"), 2**70)], {})
@example([(("schedule", "cycles"), 10**18)], {"schedule": "cosine"})
@example([(("groups", "patterns"), [{"match": "["}])], {})
@example([(("optimizer", "eps"), -1.0)], {})
@example([(("data", "spec"), "\x00.csv")], {})
@example([(("strategies", "initialization", "saved"), "\x00")], {})
def test_recipes_with_anything_in_them(
    given: list[tuple[tuple[str, ...], Any]], named: dict[str, Any]
) -> None:
    made = changed(given)
    for table in ("optimizer", "schedule"):
        if table in named and isinstance(made.get(table, {}), dict):
            made[table] = {**made.get(table, {}), "name": named[table]}
            if table == "optimizer":
                made[table].pop("lr", None)
    if isinstance(made.get("strategies", {}), dict):
        made["strategies"] = {
            **{name: {} for name in named.get("strategies", [])},
            **made.get("strategies", {}),
        }
    train(tomli_w.dumps(made).encode("utf-8", errors="surrogatepass"))


@settings(max_examples=80, deadline=None)
@given(st.binary(max_size=60), st.integers(0, 400), st.integers(0, 20))
@example(b"x = " + b"[" * 5000, 0, 0)
@example(b"a" + b".a" * 3000 + b" = 1\n", 0, 0)
def test_recipes_that_are_broken(noise: bytes, at: int, drop: int) -> None:
    whole = tomli_w.dumps(SMALL).encode()
    train(whole[:at] + noise + whole[at + drop :])


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(KEYS), st.data())
def test_a_key_with_a_letter_wrong_names_the_right_one_with_line_and_column(
    place: tuple[str, ...], data: st.DataObject
) -> None:
    key = place[-1]
    if place[0] in ("optimizer", "schedule") or len(key) < 4:
        return
    at = data.draw(st.integers(1, len(key) - 1))
    wrong = key[:at] + key[at + 1 :]
    if wrong in _fields(place):
        return
    text = tomli_w.dumps(changed([((*place[:-1], wrong), 1)]))
    with pytest.raises(RecipeError) as caught:
        recipe.loads(text, name="r.toml")
    line = next(n for n, each in enumerate(text.splitlines(), 1) if each.startswith(f"{wrong} ="))
    sentence = str(caught.value)
    assert sentence.startswith(f"r.toml, line {line}, column 1: ")
    assert f"no {wrong!r}; did you mean" in sentence
    assert repr(key) in sentence


def _fields(place: tuple[str, ...]) -> set[str]:
    if place[0] == "strategies":
        return set(STRATEGIES[place[1]][1].model_fields)
    annotation = Recipe.model_fields[place[0]].annotation
    return set(annotation.model_fields)  # type: ignore[union-attr]


# Tables ---------------------------------------------------------------------------------------------

cells = st.sampled_from(
    [
        "",
        "1",
        "-1",
        "nan",
        "inf",
        "1e400",
        "x",
        '"',
        '""',
        "'",
        "é",
        "\x00",
        "1,5",
        "2020-01-01",
        "true",
        " ",
        "9" * 40,
    ]
)


@settings(max_examples=80, deadline=None)
@given(
    st.lists(st.lists(cells, max_size=4), max_size=8),
    st.sampled_from(["", "a,b,kind\n", "kind\n", "a,a,kind\n"]),
)
def test_tables_with_anything_in_them(rows: list[list[str]], head: str) -> None:
    Path("t.csv").write_text(head + "\n".join(",".join(row) for row in rows), encoding="utf-8")
    _table()


@settings(max_examples=30, deadline=None)
@given(st.binary(max_size=80), st.integers(0, len(TABLE)), st.booleans())
@example(b"\xff\xfe", 0, True)
@example(b'"', 20, True)
@example(b"\x00", 30, True)
def test_tables_of_any_bytes(noise: bytes, at: int, kept: bool) -> None:
    whole = TABLE.encode() if kept else b""
    Path("t.csv").write_bytes(whole[:at] + noise + whole[at:])
    _table()


@settings(max_examples=15, deadline=None)
@given(st.lists(texts, min_size=1, max_size=5))
def test_tables_with_odd_columns(columns: list[str]) -> None:
    quoted = ",".join('"' + name.replace('"', '""') + '"' for name in [*columns, "kind"])
    lines = [",".join([str(i % 7)] * len(columns) + ["xy"[i % 2]]) for i in range(60)]
    Path("t.csv").write_text("\n".join([quoted, *lines]), encoding="utf-8")
    _table()


def _table() -> None:
    made = changed([(("data",), {"spec": "t.csv", "target": "kind"})])
    train(tomli_w.dumps(made).encode())


def test_what_fits_would_train() -> None:
    assert BEGUN in train(tomli_w.dumps(SMALL).encode())
