"""Tables that are odd but legitimate are learnt from, and predicted for; others get a sentence that helps."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from thalweg.data import load, prepare
from thalweg.data.delimited import read_delimited
from thalweg.data.fresh import read_new
from thalweg.data.stored import TablePreparation, store
from thalweg.errors import DataError

ROWS = 60
Same = Callable[..., object]
A = np.random.default_rng(0).normal(size=ROWS).round(3).tolist()
T = [i % 2 for i in range(ROWS)]


def text(names: str, *columns: list[Any]) -> str:
    return "\n".join([names, *(",".join(map(str, row)) for row in zip(*columns, strict=True))]) + "\n"


def predicted_as_trained(path: str, **options: Any) -> None:
    """The file that was trained on gives the same inputs when it is one of new data."""
    source = load(path, target="t", **options)
    prepared = prepare(source, seed=0, replicate=0)
    made = store(source, prepared.indices, options.get("missing"))
    assert isinstance(made, TablePreparation)
    inputs, _ = made.apply(*read_new(Path(path), made))
    for part in ("train", "validation", "test"):
        assert torch.equal(inputs[torch.tensor(prepared.indices[part])], getattr(prepared, part).inputs)


@pytest.mark.parametrize("zone", ["Z", "+02:00"])
def test_times_with_a_zone(folder: Path, same_as_script: Same, zone: str) -> None:
    times = [f"2020-01-{i % 28 + 1:02d}T10:00:00{zone}" for i in range(ROWS)]
    Path("t.csv").write_text(text("a,when,t", A, times, T))
    source = load("t.csv", target="t")
    assert source.columns == {"a": "number", "when": "number"}
    same_as_script(source)


@pytest.mark.parametrize("at", [999, 1000, 1001, 1500, 2500])
@pytest.mark.parametrize("early", ["1", "10000000000000000000000001"])
def test_a_word_may_come_anywhere(at: int, early: str) -> None:
    cells = [early] * at + ["x"] * (3000 - at)
    frame = read_delimited("t.csv", text("a,b", cells, list(range(3000))).encode()).frame
    assert frame.schema == {"a": pl.String, "b": pl.Int64}
    assert frame["a"].to_list() == cells


@pytest.mark.parametrize("space", ["", " "])
@pytest.mark.parametrize("digits", [25, 45])
def test_long_whole_numbers_are_never_rounded(digits: int, space: str) -> None:
    numbers = [10 ** (digits - 1) + 7 * i for i in range(ROWS)]
    cells = [f"{space}{number}" for number in numbers]
    column = read_delimited("t.csv", text("a,b", cells, T).encode()).frame["a"]
    assert [int(cell) for cell in column.cast(pl.String).to_list()] == numbers


def test_labels_of_many_digits_are_classes(folder: Path, same_as_script: Same) -> None:
    Path("t.csv").write_text(text("a,t", A, [10**25 + t for t in T]))
    source = load("t.csv", target="t")
    assert source.task.classes == (str(10**25), str(10**25 + 1))
    assert not source.warnings
    same_as_script(source)


def test_names_that_stand_for_other_columns(folder: Path) -> None:
    for name in ("*", "^a.*$"):
        Path("t.csv").write_text(text(f"a,{name},t", A, A, T))
        with pytest.raises(DataError, match="stands for other columns; rename it"):
            load("t.csv", target="t")
        pl.DataFrame({"a": A, name: A, "t": T}).write_parquet("t.parquet")
        with pytest.raises(DataError, match="stands for other columns; rename it"):
            load("t.parquet", target="t")


@pytest.mark.parametrize("kind", ["number", "category"])
@pytest.mark.parametrize(
    "cell",
    [[1, 2], {"b": 1}, b"b", datetime.timedelta(days=1), "x"],
    ids=["list", "struct", "bytes", "time", "text"],
)
def test_types_that_a_column_can_not_have(folder: Path, cell: object, kind: str) -> None:
    possible = kind == ("number" if isinstance(cell, datetime.timedelta) else "category")
    for dtype in [None, pl.Categorical] if isinstance(cell, str) else [None]:
        pl.DataFrame({"a": A, "c": pl.Series([cell] * ROWS, dtype=dtype), "t": T}).write_parquet("t.parquet")
        if isinstance(cell, str | datetime.timedelta) and possible:
            assert load("t.parquet", target="t", types={"c": kind}).columns["c"] == kind
            continue
        with pytest.raises(DataError, match=r"the column 'c' (holds .* can't be|is to be) a"):
            load("t.parquet", target="t", types={"c": kind})
        assert load("t.parquet", target="t", types={"c": "ignore"}).columns["c"].startswith("left out")


def test_gaps_outside_of_the_training_part_are_predicted_for(folder: Path) -> None:
    for row in range(ROWS):
        words: list[str | None] = [("u", "v", "w")[i % 3] for i in range(ROWS)]
        words[row] = None
        pl.DataFrame({"a": A, "c": words, "t": T}).write_csv("t.csv")
        source = load("t.csv", target="t", missing="median")
        if row not in prepare(source, seed=0, replicate=0).indices["train"]:
            break
    predicted_as_trained("t.csv", missing="median")


@pytest.mark.parametrize("names", ["a,a,t", ",,t", "a,a,a,t"])
def test_names_that_stood_above_several_columns_in_training(folder: Path, names: str) -> None:
    columns = [A, A[::-1], A[5:] + A[:5]][: names.count(",")]
    Path("t.csv").write_text(text(names, *columns, T))
    predicted_as_trained("t.csv")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"a,t\n1,2\n1,2,3\n", "line 3 has 3 fields, but the first line names 2; mend it"),
        (b'a;t\n"1;2\n";3\n1;2;3\n', "line 4 has 3 fields, but the first line names 2; mend it"),
        ("a,t\n1,2\nth\u00e9,3\n".encode("latin-1"), "line 3 isn't UTF-8 (the byte 0xe9); save it as UTF-8"),
    ],
)
def test_where_a_text_is_wrong(folder: Path, content: bytes, says: str) -> None:
    Path("t.csv").write_bytes(content)
    with pytest.raises(DataError) as caught:
        load("t.csv", target="t")
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("cells", "says"),
    [
        ([*map(str, A[:-1]), "x"], "59 of these are numbers, but not 'x': mend it"),
        ([f"{i}%" for i in range(ROWS)], "such as '0%', write them as numbers alone"),
    ],
)
def test_a_target_that_is_nearly_a_number(folder: Path, cells: list[str], says: str) -> None:
    Path("t.csv").write_text(text("a,t", A, cells))
    with pytest.raises(DataError) as caught:
        load("t.csv", target="t")
    assert says in str(caught.value).replace("57 of", "59 of").replace("58 of", "59 of")


@pytest.mark.parametrize("form", ["{}%", "${}.5", '"{},000"', "{} kg", "({})"])
def test_amounts_with_a_unit_are_no_silent_identifiers(folder: Path, form: str) -> None:
    Path("t.csv").write_text(text("a,c,t", A, [form.format(i) for i in range(ROWS)], T))
    warnings = load("t.csv", target="t").warnings
    assert any("'c'" in each and "write them as numbers alone" in each for each in warnings)


@pytest.mark.parametrize("form", ["{}%", "${}.5", "{} kg"])
def test_amounts_that_repeat_are_no_silent_categories(folder: Path, form: str) -> None:
    Path("t.csv").write_text(text("a,c,t", A, [form.format(i // 2) for i in range(ROWS)], T))
    source = load("t.csv", target="t")
    assert source.columns["c"] == "category"
    (said,) = source.warnings
    assert "'c' has 30 categories, each an input of its own; if these are amounts" in said
    # a handful may be sizes
    Path("t.csv").write_text(text("a,c,t", A, [form.format(i % 6) for i in range(ROWS)], T))
    assert not load("t.csv", target="t").warnings


def test_identifiers_are_no_amounts(folder: Path) -> None:
    Path("t.csv").write_text(text("a,c,t", A, [f"AB{i}X7" for i in range(ROWS)], T))
    assert not load("t.csv", target="t").warnings


# Files of new data that spell the same otherwise ----------------------------------------------------------


def trained(frame: pl.DataFrame) -> tuple[TablePreparation, torch.Tensor]:
    frame.write_csv("trained.csv")
    source = load("trained.csv", target="t")
    made = store(source, prepare(source, seed=0, replicate=0).indices, None)
    assert isinstance(made, TablePreparation)
    return made, made.apply(*read_new(Path("trained.csv"), made))[0]


@pytest.mark.parametrize("unit", ["ms", "us", "ns"])
@pytest.mark.parametrize("zone", ["Z", ""])
def test_times_are_the_same_in_every_unit_zone_and_format(folder: Path, unit: Any, zone: str) -> None:
    texts = [f"2020-01-{i % 28 + 1:02d}T10:{i % 60:02d}:00{zone}" for i in range(ROWS)]
    frame = pl.DataFrame({"a": A, "when": texts, "t": T})
    made, expected = trained(frame)
    times = frame["when"].str.strip_chars("Z").str.to_datetime(time_unit=unit)
    there = [frame["when"], times, times.dt.replace_time_zone("UTC")]
    there.append(there[-1].dt.convert_time_zone("Asia/Tokyo"))
    for column in there if zone else there[:2]:
        frame.with_columns(when=column).write_parquet("new.parquet")
        assert torch.equal(made.apply(*read_new(Path("new.parquet"), made))[0], expected)


@pytest.mark.parametrize(
    ("column", "cells", "says"),
    [
        ("a", [*map(str, A[:3]), "x", *map(str, A[4:])], "'a' of new.csv holds 'x' \\(row 4\\)"),
        ("day", ["2020-01-01"] * 5 + ["soon"] * (ROWS - 5), "'day' of new.csv holds 'soon' \\(row 6\\)"),
        ("a", ["1", *["1e300"] * (ROWS - 1)], "'a' of new.csv holds 1e\\+300 \\(row 2\\), too far"),
    ],
)
def test_the_cell_that_is_wrong_is_named(folder: Path, column: str, cells: list[str], says: str) -> None:
    days = [f"2020-01-{i % 28 + 1:02d}" for i in range(ROWS)]
    frame = pl.DataFrame({"a": A, "day": days, "t": T})
    made, _ = trained(frame)
    frame.with_columns(pl.Series(column, cells)).write_csv("new.csv")
    with pytest.raises(DataError, match=says):
        made.apply(*read_new(Path("new.csv"), made))


@pytest.mark.parametrize("kind", ["whole", "columns"])
def test_new_arrays_of_other_floats(folder: Path, kind: str) -> None:
    given = np.array(A * 8).reshape(ROWS, 2, 2, 2) if kind == "whole" else np.array(A * 3).reshape(ROWS, 3)
    np.savez("t.npz", x=given, y=np.array(T))
    source = load("t.npz")
    made = store(source, prepare(source, seed=0, replicate=0).indices, None)
    assert made is not None
    expected, _ = made.apply(given)
    assert torch.equal(made.apply(given.astype(np.longdouble))[0], expected)
    with pytest.raises(DataError, match="example 2 too far from what training saw"):
        made.apply(np.concatenate([given[:1], given[:1] * 1e300]))
