"""Preparation that is kept beside a model: the same inputs again, and what earlier versions kept."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from thalweg.data import load, prepare
from thalweg.data.stored import ArrayPreparation, TablePreparation, read_new, store
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
    new, called = read_new(Path(name), kept)
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
