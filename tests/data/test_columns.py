"""Columns that mislead: row numbers, identifiers, stray units, near-doubles; and what is said of them."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from thalweg.data import Source, load, prepare
from thalweg.errors import DataError

ROWS = 60
Same = Callable[..., object]


def table(**columns: object) -> pl.DataFrame:
    rng = np.random.default_rng(0)
    return pl.DataFrame({"a": rng.normal(size=ROWS), **columns, "y": rng.normal(size=ROWS)})


def written(frame: pl.DataFrame, name: str = "t.csv") -> str:
    frame.write_csv(name)
    return name


def warned(source: Source, *words: str) -> list[str]:
    return [text for text in source.warnings if all(word in text for word in words)]


# Row numbers ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["", "Unnamed: 0", "index", "rownames", "X", "row", "id", "S.No.", "PassengerId"]
)
@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize("shuffled", [False, True])
def test_a_column_that_numbers_the_rows_is_left_out(
    folder: Path, same_as_script: Same, name: str, first: int, shuffled: bool
) -> None:
    numbers = np.arange(first, first + ROWS)
    if shuffled:
        numbers = np.random.default_rng(1).permutation(numbers)
    source = load(written(pl.DataFrame({name: numbers}).hstack(table())), target="y")
    assert source.columns[name] == "left out: row numbers"
    assert prepare(source, seed=0, replicate=0).input_shape == (1,)
    called = repr(name) if name else "without a name"
    assert warned(source, f"the column {called} only numbers the rows", f"types={{{name!r}: 'number'}}")
    assert load("t.csv", target="y", types={name: "number"}).columns[name] == "number"
    if name == "":
        same_as_script(source)


def test_row_numbers_of_a_table_sorted_by_its_target_do_not_leak(folder: Path) -> None:
    frame = table().sort("y").with_row_index("Unnamed: 0")
    source = load(written(frame), target="y")
    kept = load("t.csv", target="y", types={"Unnamed: 0": "number"})

    def knows(source: Source) -> float:
        """How much of the target a line through the inputs explains."""
        part = prepare(source, seed=0, replicate=0).train
        x = torch.cat([part.inputs, torch.ones(len(part), 1)], 1).double()
        left = (
            part.targets.double() - x @ torch.linalg.lstsq(x, part.targets.double()[:, None]).solution[:, 0]
        )
        return 1 - float(left.square().mean())

    assert knows(kept) > 0.9
    assert knows(source) < 0.2


@pytest.mark.parametrize(
    ("columns", "kind"),
    [
        ({"id": np.arange(2, ROWS + 2)}, "number"),
        ({"id": np.r_[np.arange(ROWS - 1), ROWS - 2]}, "number"),
        ({"index": np.arange(ROWS) + 0.5}, "number"),
        ({"x": np.arange(ROWS)}, "number"),
        ({"week": np.arange(ROWS)}, "number"),
    ],
)
def test_what_only_looks_like_row_numbers_stays(folder: Path, columns: dict[str, object], kind: str) -> None:
    source = load(written(table(**columns)), target="y")
    assert source.columns[next(iter(columns))] == kind


def test_row_numbers_that_are_all_there_is_stay_with_a_warning(folder: Path) -> None:
    source = load(written(pl.DataFrame({"index": np.arange(ROWS), "y": np.arange(ROWS) ** 2.0})), target="y")
    assert source.columns == {"index": "number"}
    assert warned(source, "'index' rises from each row to the next")


@pytest.mark.parametrize(
    ("values", "says"),
    [
        (np.arange(1960, 1960 + ROWS), "rises from each row to the next"),
        (np.arange(ROWS)[::-1] * 0.5, "falls from each row to the next"),
        (np.random.default_rng(2).permutation(np.arange(5, ROWS + 5)), "numbers the rows, from 5 to 64"),
        (
            [datetime.date(2020, 1, 1) + datetime.timedelta(days=7 * i) for i in range(ROWS)],
            "rises from each row",
        ),
    ],
)
def test_a_column_that_orders_the_rows_is_used_with_a_warning(
    folder: Path, values: object, says: str
) -> None:
    source = load(written(table(**{"my week": values})), target="y")
    assert source.columns["my week"] == "number"
    assert warned(source, "'my week'", says, "types={'my week': 'ignore'}")
    # who says what it is has seen it
    assert not warned(load("t.csv", target="y", types={"my week": "number"}), "'my week'")
    assert not warned(load(written(table(b=np.arange(ROWS) % 30)), target="y"), "'b'")


def test_an_identifier_that_numbers_the_rows_is_warned_of_once(folder: Path) -> None:
    numbers = np.random.default_rng(2).permutation(np.arange(5, ROWS + 5))
    source = load(written(table(id=numbers)), target="y")
    assert [w for w in source.warnings if "'id'" in w] == [
        w for w in source.warnings if "numbers the rows" in w
    ]
    assert warned(source, "'id' numbers the rows, from 5 to 64")
    assert warned(load(written(table(id=numbers * 7)), target="y"), "'id' looks like an identifier")


def test_rows_repeat_by_what_is_left_out_too(folder: Path) -> None:
    """Names are left out as identifiers, and without them many rows are alike."""
    names = [f"passenger {i}" for i in range(ROWS)]
    frame = pl.DataFrame({"row": range(ROWS), "name": names, "class": [1, 2, 3] * 20, "y": ["n", "y"] * 30})
    assert load(written(frame), target="y").columns["name"] == "left out: like an identifier"
    assert not warned(load("t.csv", target="y"), "repeat")
    # row numbers alone don't make rows differ
    names[7] = names[1]
    frame = frame.with_columns(pl.Series("name", names))
    assert warned(load(written(frame), target="y"), "1 row repeats")


def test_a_copy_of_the_target_is_pointed_out(folder: Path) -> None:
    frame = table()
    source = load(written(frame.with_columns(pl.col("y").alias("price net"))), target="y")
    assert warned(source, "'price net' has the target's value in every row", "types={'price net': 'ignore'}")
    words = pl.Series(["yes", "no"] * 30)
    assert warned(
        load(written(table(b=words).with_columns(words.alias("y"))), target="y"), "'b' has the target's"
    )
    assert not warned(load(written(table(b=words)), target="y"), "the target's")


# Identifiers ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("digits", [19, 25])
def test_long_whole_numbers_are_text(folder: Path, same_as_script: Same, digits: int) -> None:
    rng = np.random.default_rng(0)
    codes = [int("".join(map(str, [1, *rng.integers(1, 9, digits - 1)]))) for _ in range(ROWS)]
    few = [codes[i % 3] for i in range(ROWS)]
    frame = table()
    rows = [f"{codes[i]},{few[i]},{frame['a'][i]},{frame['y'][i]}" for i in range(ROWS)]
    (folder / "t.csv").write_text("\n".join(["code,group,a,y", *rows]))
    source = load("t.csv", target="y")
    assert source.columns["code"] == "left out: like an identifier"
    assert source.columns["group"] == "category"
    said = " ".join(source.notes)
    assert f"'code' holds whole numbers of {digits} digits, more than a number keeps: it is text" in said
    assert "types={'code': 'number'}" in said
    same_as_script(source)
    number = load("t.csv", target="y", types={"code": "number"})
    assert number.columns["code"] == "number"
    same_as_script(number)


@pytest.mark.parametrize("unit", [10**9, 10**6, 10**3])
def test_times_in_nanoseconds_are_numbers(folder: Path, unit: int) -> None:
    rng = np.random.default_rng(0)
    times = (1_600_000_000 * 10**9 // unit + rng.integers(1, 10**6, ROWS)) * unit
    assert load(written(table(time=times)), target="y").columns["time"] == "number"


def test_zeros_in_front_make_codes(folder: Path, same_as_script: Same) -> None:
    codes = ["02134", "10001", "94105"]
    rows = [f"{codes[i % 3]},{i % 12 + 1:02d},{i * 7 % 11},{i % 5}" for i in range(ROWS)]
    (folder / "t.csv").write_text("\n".join(["zip,month,a,y", *rows]))
    source = load("t.csv", target="y", task="regression")
    assert dict(source.columns) == {"zip": "category", "month": "number", "a": "number"}
    assert any("'zip' has zeros in front, such as '02134': it is text" in note for note in source.notes)
    assert prepare(source, seed=0, replicate=0).input_shape == (5,)
    same_as_script(source)
    same_as_script(load("t.csv", target="y", task="regression", types={"zip": "number"}))
    # as a target they are labels, or amounts if that is asked for
    assert load("t.csv", target="zip").task.classes == ("02134", "10001", "94105")
    amounts = load("t.csv", target="zip", task="regression")
    assert amounts.y.max() == 94105
    same_as_script(amounts)


def test_a_stray_zero_in_front_makes_no_code(folder: Path) -> None:
    rows = [f"{'007' if i == 3 else i * 7},{i % 5}" for i in range(1, 301)]
    (folder / "t.csv").write_text("\n".join(["a,y", *rows]))
    assert load("t.csv", target="y", task="regression").columns == {"a": "number"}


# Numbers that aren't all numbers ---------------------------------------------------------------------------


@pytest.mark.parametrize("endless", ["inf", "Inf", "-INF", "Infinity", " inf"])
def test_infinite_cells_do_not_make_an_identifier(folder: Path, endless: str) -> None:
    cells = [str(i * 3) for i in range(ROWS)]
    cells[10] = cells[20] = endless
    name = written(table(weight=cells))
    with pytest.raises(
        DataError, match=r"infinite values in column 'weight' \(2\), the first in row 11;"
    ) as caught:
        load(name, target="y")
    assert "types={'weight': 'ignore'}" in str(caught.value)
    assert load(name, target="y", types={"weight": "ignore"}).columns["weight"] == "left out, as asked"


def test_a_stray_unit_is_named_with_its_row(folder: Path) -> None:
    cells = [str(i * 3) for i in range(ROWS)]
    cells[16] = cells[40] = "12 kg"
    name = written(table(**{"net weight": cells}))
    with pytest.raises(DataError, match=r"58 of 60 are numbers; not '12 kg' \(row 17\)") as caught:
        load(name, target="y")
    assert "types={'net weight': 'category'} or types={'net weight': 'ignore'}" in str(caught.value)
    for kind in ("category", "ignore"):
        load(name, target="y", types={"net weight": kind})


def test_units_on_many_cells_are_a_warning(folder: Path) -> None:
    cells = [f"{i * 3} kg" if i % 3 == 0 else str(i * 3) for i in range(ROWS)]
    source = load(written(table(weight=cells)), target="y")
    assert source.columns["weight"] == "left out: like an identifier"
    assert warned(source, "'weight'", "40 of 60 are numbers; not '0 kg' (row 1)", "left out")


def test_numbers_among_spaces_are_numbers(folder: Path, same_as_script: Same) -> None:
    cells = [f" {i * 3}" if i % 2 else str(i * 3) for i in range(ROWS)]
    source = load(written(table(weight=cells)), target="y")
    assert source.columns["weight"] == "number"
    same_as_script(source)


def test_a_value_far_out_is_pointed_out(folder: Path) -> None:
    values = np.random.default_rng(0).normal(size=ROWS)
    values[5] = 1e300
    source = load(written(table(far=values)), target="y")
    assert warned(source, "the column 'far' has values so far out, such as 1e+300")
    counts = np.where(np.arange(ROWS) == 3, 1e6, 0.0)
    assert not warned(load(written(table(counts=counts)), target="y"), "far out")
    assert warned(
        load(written(table().with_columns(pl.Series("y", values))), target="y"), "the target 'y' has"
    )


# Missing values ---------------------------------------------------------------------------------------------


def test_a_target_without_values_is_refused_as_such(folder: Path) -> None:
    frame = table(b=["x", None] * 30).with_columns(pl.lit(None, dtype=pl.Float64).alias("y"))
    for missing in (None, "drop", "median"):
        with pytest.raises(DataError, match=r"the target 'y' has no values in any of the 60 rows") as caught:
            load(written(frame), target="y", missing=missing)
        assert "missing=" not in str(caught.value)


def test_a_remedy_for_missing_values_is_one_that_works(folder: Path) -> None:
    """Without numbers to fill only dropping helps; where every row has a gap only filling does."""
    frame = table().with_columns(pl.when(pl.col("a") > 0).then(pl.col("y")).alias("y"))
    with pytest.raises(DataError, match=r"say missing='drop' \(leave these rows out\)$"):
        load(written(frame), target="y")
    load("t.csv", target="y", missing="drop")
    gaps = table(b=[None, 1.0] * 30, c=[2.0, None] * 29 + [None, None])
    with pytest.raises(
        DataError, match=r"most of them in column 'c' \(31 of 60\); fill in medians by"
    ) as caught:
        load(written(gaps), target="y", missing="drop")
    assert "types={'c': 'ignore'}" in str(caught.value)
    load("t.csv", target="y", missing="median")
    assert load("t.csv", target="y", missing="drop", types={"c": "ignore"}).rows == 30


def test_many_medians_are_a_warning(folder: Path) -> None:
    gaps = table(many=[None, 1.0, 2.0] * 20, few=[None] * 5 + list(range(55)))
    source = load(written(gaps), target="y", missing="median")
    assert warned(source, "20 of 60 values of column 'many' are missing", "types={'many': 'ignore'}")
    assert not warned(source, "'few'")


def test_missing_values_have_an_input_that_says_so(folder: Path, same_as_script: Same) -> None:
    b = [None if i % 4 == 0 else float(i % 7) for i in range(ROWS)]
    source = load(written(table(b=b, c=["x", None, "z"] * 20)), target="y", missing="median")
    prepared = prepare(source, seed=0, replicate=0)
    # a, b, whether b is missing, and three texts of which one stands for a missing one
    assert prepared.input_shape == (6,)
    for part in ("train", "validation", "test"):
        gone = torch.tensor([b[row] is None for row in prepared.indices[part].tolist()])
        inputs = getattr(prepared, part).inputs
        assert torch.equal(inputs[:, 2], gone.float())
        assert inputs[gone][:, 1].unique().numel() == 1
    same_as_script(source)


def test_gaps_outside_the_training_part_alone_have_no_input(folder: Path, same_as_script: Same) -> None:
    """Nothing could be learnt of it: its weights would stay as they were drawn."""
    probe = prepare(
        load(written(table(b=[float(i % 7) for i in range(ROWS)])), target="y"), seed=3, replicate=2
    )
    b: list[float | None] = [float(i % 7) for i in range(ROWS)]
    b[int(probe.indices["test"][0])] = None
    source = load(written(table(b=b)), target="y", missing="median")
    assert prepare(source, seed=3, replicate=2).input_shape == (2,)
    same_as_script(source)


# Names ------------------------------------------------------------------------------------------------------


def test_a_name_above_several_columns_can_not_be_meant(folder: Path) -> None:
    (folder / "t.csv").write_text(
        "a,t,t,b,b\n" + "".join(f"{i % 7},{i},{i},{i % 5},{i % 3}\n" for i in range(ROWS))
    )
    with pytest.raises(DataError, match=r"several columns called 't', so it isn't clear which"):
        load("t.csv", target="t")
    with pytest.raises(DataError, match=r"several columns called 'b'"):
        load("t.csv", target="a", types={"b": "ignore"})
    source = load("t.csv", target="a")
    assert "the name 'b' stands above 2 columns; here 'b_duplicated_0' too" in source.notes


def test_names_that_differ_by_spaces_alone_are_said(folder: Path) -> None:
    source = load(written(table(**{" a": np.arange(ROWS) % 7.0, "A": np.arange(ROWS) % 3.0})), target="y")
    assert [note for note in source.notes if "differ by spaces" in note] == [
        "the columns 'a' and ' a' have names that differ by spaces alone; they are two columns"
    ]


def test_texts_that_are_nearly_the_same_are_said(folder: Path) -> None:
    source = load(written(table(b=["x", "x ", "X", "z"] * 15)), target="y")
    assert any("'b' has texts that differ by spaces, case or" in note for note in source.notes)
    labels = load(written(table().with_columns(pl.Series("y", ["a", "a ", "b"] * 20))), target="y")
    assert labels.task.classes == ("a", "a ", "b")
    assert warned(labels, "'a' and 'a '", "classes of their own")


@pytest.mark.parametrize("name", ["net weight", "it's", "", "größe", "a=b"])
def test_what_is_advised_can_be_typed(folder: Path, name: str) -> None:
    """The option that a message advises, put through a shell and the command's reader, does what it says."""
    import shlex

    from thalweg.commands.parsing import column_types
    from thalweg.errors import spelled_as_command

    frame = pl.DataFrame({name: [str(i) for i in range(ROWS - 1)] + ["1 kg"]}).hstack(table())
    with spelled_as_command(), pytest.raises(DataError) as caught:
        load(written(frame), target="y")
    advised = str(caught.value).partition(" or --type ")[2]
    types = column_types(shlex.split(advised))
    assert types == {name: "ignore"}
    assert load("t.csv", target="y", types=types).columns[name] == "left out, as asked"
