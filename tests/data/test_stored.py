"""Preparation that is kept beside a model: the same inputs again, and what earlier versions kept."""

from __future__ import annotations

import datetime
import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from thalweg.data import load, prepare
from thalweg.data.fresh import read_new
from thalweg.data.stored import ArrayPreparation, TablePreparation, store
from thalweg.errors import DataError

ROWS = 80

# as the version before inputs for missing values wrote it
EARLIER = """{"kind": "table", "target": "y", "dtypes": {"a": "Float64", "zip": "Int64", "c": "String"},
"numbers": ["a", "zip"], "mean": [2.0, 5.0], "scale": [0.5, 2.0], "median": [1.5, 4.0],
"categories": ["c"], "levels": [["(missing)", "u", "v"]], "missing": "median", "filled": true}"""


def gappy() -> pl.DataFrame:
    rng = np.random.default_rng(0)
    a = [None if i % 5 == 0 else float(v) for i, v in enumerate(rng.normal(size=ROWS))]
    return pl.DataFrame(
        {
            "a": a,
            "b": rng.normal(size=ROWS),
            "far": rng.normal(size=ROWS) * 1e250,
            "zip": [("02134", "10001", "94105")[i % 3] for i in range(ROWS)],
            "day": [f"2020-01-{i % 28 + 1:02d}" for i in range(ROWS)],
            "ok": [None if i % 7 == 0 else i % 2 == 0 for i in range(ROWS)],
            "y": rng.normal(size=ROWS),
        }
    )


@pytest.mark.parametrize("name", ["t.csv", "t.parquet", "t.jsonl"])
def test_a_file_of_new_data_becomes_the_inputs_that_training_had(folder: Path, name: str) -> None:
    frame = gappy()
    write = {"csv": frame.write_csv, "parquet": frame.write_parquet, "jsonl": frame.write_ndjson}
    write[name.partition(".")[2]](name)
    source = load(name, target="y", missing="median")
    prepared = prepare(source, seed=0, replicate=0)
    made = store(source, prepared.indices, "median")
    assert isinstance(made, TablePreparation)
    kept = TablePreparation.model_validate_json(made.model_dump_json())
    assert kept.gaps == ["a", "ok"]
    rows = prepared.indices["test"]
    new, called, _ = read_new(Path(name), kept)
    inputs, notes = kept.apply(new, called)
    assert torch.equal(inputs[torch.from_numpy(rows)], prepared.test.inputs)
    assert any("missing numbers are replaced by the medians" in note for note in notes)
    # a few rows alone, none of whose codes has a zero in front, and a frame in Python
    part = frame[rows].filter(pl.col("zip") != "02134")
    part.write_csv("part.csv")
    expected = prepared.test.inputs[torch.tensor((frame[rows]["zip"] != "02134").to_list())]
    assert torch.equal(kept.apply(*read_new(Path("part.csv"), kept))[0], expected)
    assert torch.equal(kept.apply(part)[0], expected)


def test_what_an_earlier_version_kept_is_applied_as_it_was() -> None:
    kept = TablePreparation.model_validate(json.loads(EARLIER))
    frame = pl.DataFrame({"a": [3.0, None], "zip": [7, 9], "c": ["u", None]})
    expected = torch.tensor([[2.0, 1.0, 0.0, 1.0, 0.0], [-1.0, 2.0, 1.0, 0.0, 0.0]])
    assert torch.equal(kept.apply(frame)[0], expected)


def test_an_earlier_model_of_codes_as_numbers_reads_new_files_as_then(folder: Path) -> None:
    kept = TablePreparation.model_validate(json.loads(EARLIER))
    (folder / "t.csv").write_text("a,zip,c\n3.0,007,u\n,009,\n")
    expected = torch.tensor([[2.0, 1.0, 0.0, 1.0, 0.0], [-1.0, 2.0, 1.0, 0.0, 0.0]])
    assert torch.equal(kept.apply(*read_new(folder / "t.csv", kept))[0], expected)
    levels = json.loads(EARLIER) | {"numbers": ["a"], "mean": [2.0], "scale": [0.5], "median": [1.5]}
    levels |= {"categories": ["zip"], "levels": [["7", "9"]], "filled": False}
    as_levels = TablePreparation.model_validate(levels)
    inputs, _ = as_levels.apply(*read_new(folder / "t.csv", as_levels))
    assert torch.equal(inputs, torch.tensor([[2.0, 1.0, 0.0], [-1.0, 0.0, 1.0]]))


def test_a_name_above_several_columns_of_new_data_can_not_be_meant(folder: Path) -> None:
    kept = TablePreparation.model_validate(json.loads(EARLIER))
    (folder / "t.csv").write_text("a,a,zip,c\n3.0,1,7,u\n")
    with pytest.raises(DataError, match="several columns called 'a', which training used"):
        read_new(folder / "t.csv", kept)


def test_what_is_no_frame_is_refused() -> None:
    kept = TablePreparation.model_validate(json.loads(EARLIER))
    with pytest.raises(
        DataError, match=r"is a ndarray, but training had a table; give a polars or pandas frame"
    ):
        kept.apply(np.zeros((3, 3)))


def test_new_data_of_no_kind_that_fits_say_the_shape_that_does(folder: Path) -> None:
    preparation = ArrayPreparation(shape=[3, 4, 5], scaling="as given", number=True)
    with pytest.raises(
        DataError, match=r"60 numbers a row, or an NPZ archive with an array x of shape \[N, 3, 4, 5\]"
    ):
        read_new(folder / "photos", preparation)


@pytest.mark.parametrize("kind", ["number", "category"])
def test_which_number_is_the_day_is_remembered(folder: Path, kind: str) -> None:
    """New data may be a single row, which alone wouldn't tell."""
    rows = [f"{i % 12 + 1}/{i % 28 + 1}/2020,{i % 5}" for i in range(200)]
    (folder / "t.csv").write_text("\n".join(["when,y", *rows]))
    source = load("t.csv", target="y", task="regression", types={"when": kind})
    prepared = prepare(source, seed=0, replicate=0)
    made = store(source, prepared.indices, None)
    assert isinstance(made, TablePreparation)
    kept = TablePreparation.model_validate_json(made.model_dump_json())
    kept.check()
    number = next(
        int(i) for i in prepared.indices["train"] if i % 12 < 11 and i % 28 < 12 and i % 12 != i % 28
    )
    month, day = number % 12 + 1, number % 28 + 1
    where = int(np.flatnonzero(prepared.indices["train"] == number)[0])
    expected = prepared.train.inputs[where : where + 1]
    for text in (f"{month}/{day}/2020", f"2020-{month:02d}-{day:02d}"):
        (folder / "new.csv").write_text(f"when\n{text}\n\n")
        assert torch.equal(kept.apply(*read_new(folder / "new.csv", kept))[0], expected)
        assert torch.equal(kept.apply(pl.DataFrame({"when": [text]}))[0], expected)
    assert torch.equal(kept.apply(pl.DataFrame({"when": [datetime.date(2020, month, day)]}))[0], expected)
    if kind == "number":
        (folder / "new.csv").write_text("when\n31/1/2020\n")
        with pytest.raises(
            DataError, match=r"holds '31/1/2020' \(row 1\), but in training it was of type Date"
        ):
            kept.apply(*read_new(folder / "new.csv", kept))


def test_new_dates_that_leave_the_day_open_are_refused_where_training_does_not_say(folder: Path) -> None:
    rows = [f"2020-{i % 12 + 1:02d}-{i % 28 + 1:02d},{i % 5}" for i in range(200)]
    (folder / "t.csv").write_text("\n".join(["when,y", *rows]))
    source = load("t.csv", target="y", task="regression")
    kept = store(source, prepare(source, seed=0, replicate=0).indices, None)
    assert isinstance(kept, TablePreparation)
    (folder / "new.csv").write_text("when\n3/4/2020\n")
    with pytest.raises(
        DataError, match="doesn't tell days from months, and training had dates in another form"
    ):
        read_new(folder / "new.csv", kept)
    (folder / "new.csv").write_text("when\n\n3/14/2020\n\n3/4/2020\n")
    inputs, notes = kept.apply(*read_new(folder / "new.csv", kept))
    assert torch.equal(inputs, kept.apply(pl.DataFrame({"when": ["2020-03-14", "2020-03-04"]}))[0])
    assert notes == ["2 blank lines are skipped"]


def test_patterns_of_another_language_are_refused() -> None:
    made = {"target": "y", "dtypes": {"a": "Date"}, "numbers": ["a"], "mean": [0.0], "scale": [1.0]}
    made |= {"median": [0.0], "categories": [], "levels": [], "missing": None, "filled": False}
    for patterns in ({"a": "%Q"}, {"b": "%d"}):
        with pytest.raises(ValueError, match="is no pattern of dates"):
            TablePreparation.model_validate(made | {"patterns": patterns}).check()
