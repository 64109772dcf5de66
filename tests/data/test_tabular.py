from __future__ import annotations

import datetime
import gzip
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from thalweg.data import load, prepare
from thalweg.errors import DataError

ROWS = 60

Same = Callable[..., object]


def houses(**changes: object) -> pl.DataFrame:
    rng = np.random.default_rng(0)
    columns = {
        "area": rng.normal(100, 30, ROWS).round(2),
        "rooms": rng.integers(1, 7, ROWS),
        "city": [("Rome", "Oslo", "Bonn")[i % 3] for i in range(ROWS)],
        "garden": [i % 2 == 0 for i in range(ROWS)],
        "price": rng.normal(300_000, 50_000, ROWS).round(0),
        "sold": ["yes" if i % 4 else "no" for i in range(ROWS)],
    }
    return pl.DataFrame({**columns, **changes})


def write(folder: Path, name: str = "houses.csv", **changes: object) -> str:
    frame = houses(**changes)
    path = folder / name
    if name.endswith(".parquet"):
        frame.write_parquet(path)
    elif name.endswith(("jsonl", "ndjson")):
        frame.write_ndjson(path)
    elif name.endswith(".gz"):
        path.write_bytes(gzip.compress(frame.write_csv(separator="\t" if ".tsv" in name else ",").encode()))
    else:
        frame.write_csv(path, separator="\t" if name.endswith(".tsv") else ",")
    return name


@pytest.mark.parametrize(
    "name",
    ["houses.csv", "houses.csv.gz", "houses.tsv", "houses.parquet", "houses.jsonl", "houses.ndjson"],
)
@pytest.mark.parametrize("target", ["price", "sold"])
def test_every_format_gives_the_same_tensors_as_its_script(
    folder: Path, same_as_script: Same, name: str, target: str
) -> None:
    source = load(write(folder, name), target=target)
    assert source.rows == ROWS
    assert source.task.kind == ("regression" if target == "price" else "classification")
    same_as_script(source)


def test_numbers_are_standardised_and_texts_one_hot_by_the_training_part(folder: Path) -> None:
    source = load(write(folder), target="price", types={"sold": "ignore"})
    assert dict(source.columns) == {
        "area": "number",
        "rooms": "number",
        "city": "category",
        "garden": "number",
        "sold": "left out, as asked",
    }
    prepared = prepare(source, seed=0, replicate=0)
    frame, train = houses(), prepared.indices["train"]
    for position, name in enumerate(["area", "rooms", "garden"]):
        values = frame[name].cast(pl.Float64).to_numpy()
        for part in ("train", "validation", "test"):
            expected = (values[prepared.indices[part]] - values[train].mean()) / values[train].std()
            inputs = getattr(prepared, part).inputs[:, position]
            torch.testing.assert_close(inputs, torch.tensor(expected, dtype=torch.float32))
    cities = frame["city"].to_numpy()
    for position, city in enumerate(["Bonn", "Oslo", "Rome"]):
        expected = torch.tensor(cities[train] == city, dtype=torch.float32)
        assert torch.equal(prepared.train.inputs[:, 3 + position], expected)
    price = frame["price"].to_numpy()
    assert prepared.task.center == price[train].mean()
    assert prepared.task.scale == price[train].std()
    assert source.task.spread == price.std()


def test_category_that_training_never_saw_becomes_zeros(folder: Path) -> None:
    city = ["Rome", "Oslo"] * (ROWS // 2)
    probe = load(write(folder, city=city), target="price")
    strange = int(prepare(probe, seed=0, replicate=0).indices["test"][0])
    city[strange] = "Atlantis"
    prepared = prepare(load(write(folder, city=city), target="price"), seed=0, replicate=0)
    assert prepared.input_shape == (7,)
    assert not prepared.test.inputs[0, 3:5].any()


def test_semicolons_divide_columns(folder: Path, same_as_script: Same) -> None:
    houses().write_csv(folder / "h.csv", separator=";")
    source = load("h.csv", target="price")
    assert len(source.columns) == 5
    same_as_script(source)


def test_decimal_commas_are_numbers_where_semicolons_divide(folder: Path, same_as_script: Same) -> None:
    text = houses().write_csv(separator=";").replace(".", ",")
    (folder / "h.csv").write_text(text)
    source = load("h.csv", target="price")
    houses().write_csv(folder / "points.csv")
    points = load("points.csv", target="price")
    assert (source.columns, source.task) == (points.columns, points.task)
    ours, theirs = (prepare(each, seed=0, replicate=0).train for each in (source, points))
    assert torch.equal(ours.inputs, theirs.inputs)
    assert torch.equal(ours.targets, theirs.targets)
    same_as_script(source)
    # lists of numbers beside words are words
    (folder / "w.csv").write_text("a;kind\n" + "1,5;x\nmany;y\n" * 20)
    assert load("w.csv", target="kind").columns == {"a": "category"}


def test_missing_values_are_counted_by_column_and_refused(folder: Path, same_as_script: Same) -> None:
    area = [None if i < 3 else float(i) for i in range(ROWS)]
    city = [None if i == 5 else "ab"[i % 2] for i in range(ROWS)]
    name = write(folder, area=area, city=city)
    with pytest.raises(DataError, match=r"'area' \(3\), column 'city' \(1\), of 60 rows; say missing='drop'"):
        load(name, target="price")
    dropped = load(name, target="price", missing="drop")
    assert dropped.rows == ROWS - 4
    assert any("4 of 60 rows" in note for note in dropped.notes)
    same_as_script(dropped)
    filled = load(name, target="price", missing="median")
    assert filled.rows == ROWS
    same_as_script(filled)
    prepared = prepare(filled, seed=0, replicate=0)
    train = prepared.indices["train"]
    values = np.array([np.nan if a is None else a for a in area])
    whole = np.where(np.isnan(values), np.nanmedian(values[train]), values)
    expected = (whole[train] - whole[train].mean()) / whole[train].std()
    torch.testing.assert_close(prepared.train.inputs[:, 0], torch.tensor(expected, dtype=torch.float32))


def test_words_for_missing_are_missing(folder: Path) -> None:
    name = write(folder, area=["NA", "?", "NaN"] + [str(i) for i in range(ROWS - 3)])
    with pytest.raises(DataError, match=r"'area' \(3\)"):
        load(name, target="price")


def test_nan_in_parquet_is_missing(folder: Path, same_as_script: Same) -> None:
    name = write(folder, "h.parquet", area=[float("nan")] + [float(i) for i in range(ROWS - 1)])
    with pytest.raises(DataError, match=r"'area' \(1\)"):
        load(name, target="price")
    same_as_script(load(name, target="price", missing="median"))


def test_rows_without_a_target_are_left_out(folder: Path, same_as_script: Same) -> None:
    name = write(folder, sold=[None, *(["yes", "no"] * ROWS)[: ROWS - 1]])
    for missing in ("drop", "median"):
        source = load(name, target="sold", missing=missing)
        assert source.rows == ROWS - 1
        same_as_script(source)


def test_infinite_values_are_refused_by_column(folder: Path) -> None:
    name = write(folder, area=[float("inf")] + [float(i) for i in range(ROWS - 1)])
    with pytest.raises(DataError, match=r"infinite values in column 'area' \(1\)"):
        load(name, target="price", missing="median")


def test_columns_that_say_nothing_are_left_out_and_said(folder: Path) -> None:
    name = write(
        folder,
        unit=["m2"] * ROWS,
        owner=[f"owner {i}" for i in range(ROWS)],
        house_id=list(range(ROWS)),
        nothing=[None] * ROWS,
    )
    source = load(name, target="price")
    assert source.columns["unit"] == "left out: one value"
    assert source.columns["owner"] == "left out: like an identifier"
    assert source.columns["nothing"] == "left out: no values"
    assert source.columns["house_id"] == "left out: row numbers"
    said = " | ".join([*source.notes, *source.warnings])
    for words in (
        "'unit' is 'm2'",
        "'owner' looks like",
        "'house_id' only numbers the rows and is left out",
        "'nothing' has no",
    ):
        assert words in said
    kept = load(name, target="price", types={"owner": "category", "house_id": "number", "area": "ignore"})
    assert kept.columns["owner"] == "category"
    assert kept.columns["house_id"] == "number"
    assert kept.columns["area"] == "left out, as asked"


def test_types_override_what_was_inferred(folder: Path, same_as_script: Same) -> None:
    name = write(folder)
    source = load(name, target="price", types={"rooms": "category"})
    assert source.columns["rooms"] == "category"
    same_as_script(source)
    with pytest.raises(DataError, match=r"no column 'roms'.*'rooms'"):
        load(name, target="price", types={"roms": "category"})
    with pytest.raises(DataError, match=r"type 'categorie' of column 'rooms'.*'category'"):
        load(name, target="price", types={"rooms": "categorie"})
    with pytest.raises(DataError, match=r"'city' is to be a number, but holds 'Rome'"):
        load(name, target="price", types={"city": "number"})
    with pytest.raises(DataError, match=r"'price' is the target"):
        load(name, target="price", types={"price": "category"})


def test_dates_are_numbers(folder: Path, same_as_script: Same) -> None:
    days = [datetime.date(2020, 1, 1) + datetime.timedelta(days=7 * i) for i in range(ROWS)]
    source = load(write(folder, built=days), target="price")
    assert source.columns["built"] == "number"
    assert "the column 'built' holds dates, used as numbers" in source.notes
    same_as_script(source)
    with pytest.raises(DataError, match=r"the target 'built' holds date values"):
        load("houses.csv", target="built")


def test_stray_word_among_numbers_is_named(folder: Path) -> None:
    name = write(folder, area=["12 m2"] + [str(i) for i in range(ROWS - 1)])
    with pytest.raises(DataError, match=r"59 of 60 are numbers; not '12 m2' \(row 1\)"):
        load(name, target="price")


def test_lists_in_a_column_are_refused(folder: Path, same_as_script: Same) -> None:
    name = write(folder, "h.jsonl", tags=[["a"]] * ROWS)
    with pytest.raises(DataError, match=r"'tags' holds list values"):
        load(name, target="price")
    same_as_script(load(name, target="price", types={"tags": "ignore"}))


def test_categorical_and_boolean_and_decimal_targets(folder: Path, same_as_script: Same) -> None:
    name = write(
        folder,
        "h.parquet",
        sold=pl.Series(["yes", "no"] * (ROWS // 2), dtype=pl.Categorical),
        price=pl.Series([i + 0.5 for i in range(ROWS)]).cast(pl.Decimal(10, 2)),
    )
    for target, kind in (("sold", "classification"), ("garden", "classification"), ("price", "regression")):
        source = load(name, target=target)
        assert source.task.kind == kind
        same_as_script(source)
    assert load(name, target="garden").task.classes == ("False", "True")


def test_repeated_rows_are_pointed_out(folder: Path) -> None:
    pl.concat([houses(), houses()[:2]]).write_csv(folder / "h.csv")
    assert any(text.startswith("2 rows repeat") for text in load("h.csv", target="price").warnings)


def test_table_without_a_line_of_names_is_pointed_out(folder: Path) -> None:
    np.savetxt(folder / "h.csv", np.random.default_rng(0).normal(size=(40, 3)), delimiter=",")
    first = (folder / "h.csv").read_text().partition("\n")[0].split(",")
    source = load("h.csv", target=first[2])
    assert any("is taken for the names of the columns" in note for note in source.notes)


def test_names_with_quotes_and_braces_survive_the_script(folder: Path, same_as_script: Same) -> None:
    frame = houses().rename({"area": 'a\'r{e}a \\ "x"', "city": "città"})
    frame.write_csv(folder / "h's.csv")
    same_as_script(load("h's.csv", target="price"))


def test_many_columns_in_the_script(folder: Path, same_as_script: Same) -> None:
    rng = np.random.default_rng(0)
    wide = pl.DataFrame(
        {f"measurement_{i}": rng.normal(size=ROWS) for i in range(40)} | {"y": rng.normal(size=ROWS)}
    )
    wide.write_csv(folder / "wide.csv")
    source = load("wide.csv", target="y")
    same_as_script(source)
    assert max(map(len, source.script(0, 0).splitlines())) < 130


# Bad input: one clear sentence each -------------------------------------------------------------------


def test_no_such_file(folder: Path) -> None:
    write(folder)
    with pytest.raises(DataError, match=r"there is no file 'house.csv'; did you mean 'houses.csv'\?"):
        load("house.csv", target="price")


def test_file_in_no_folder(folder: Path) -> None:
    with pytest.raises(DataError, match=r"no folder 'nowhere' either"):
        load("nowhere/house.csv", target="price")


def test_empty_file(folder: Path) -> None:
    (folder / "h.csv").touch()
    with pytest.raises(DataError, match=r"h.csv is empty"):
        load("h.csv", target="price")


def test_gzip_of_nothing(folder: Path) -> None:
    (folder / "h.csv.gz").write_bytes(gzip.compress(b""))
    with pytest.raises(DataError, match=r"empty once unpacked"):
        load("h.csv.gz", target="price")


def test_names_without_rows(folder: Path) -> None:
    (folder / "h.csv").write_text("a,b\n")
    with pytest.raises(DataError, match=r"has columns but no rows"):
        load("h.csv", target="a")


def test_truncated_gzip(folder: Path) -> None:
    name = write(folder, "h.csv.gz")
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match=r"ends too early: the gzip file is truncated"):
        load(name, target="price")


def test_damaged_gzip(folder: Path) -> None:
    name = write(folder, "h.csv.gz")
    content = bytearray((folder / name).read_bytes())
    content[-6] ^= 0xFF
    (folder / name).write_bytes(content)
    with pytest.raises(DataError, match=r"is damaged and can't be unpacked"):
        load(name, target="price")


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("h.csv", b"PAR1abcdef", "isn't the csv file .* looks like a Parquet file"),
        ("h.csv", b"\x89PNG\r\n", "looks like a PNG image"),
        ("h.csv", b"a,b\n\0\0\0", "zero bytes"),
        ("h.csv", "a,b\nä,1\n".encode("latin-1"), "can't be read as csv"),
        ("h.csv", b"a,b\n1,2\n3,4,5,6\n", "can't be read as csv"),
        ("h.parquet", b"a,b\n1,2\n", "isn't the parquet file that its name says"),
        ("h.parquet", b"PAR1 and then nothing", "can't be read as parquet"),
        ("h.jsonl", b"a,b\n1,2\n", "can't be read as jsonl"),
        ("h.csv.gz", b"a,b\n1,2\n", "isn't a gzip file, though its name says so"),
    ],
)
def test_not_what_its_name_says(folder: Path, name: str, content: bytes, says: str) -> None:
    (folder / name).write_bytes(content)
    with pytest.raises(DataError, match=says) as caught:
        load(name, target="b")
    assert "\n" not in str(caught.value)


def test_folder_instead_of_a_file(folder: Path) -> None:
    (folder / "h.csv").mkdir()
    with pytest.raises(DataError, match=r"is a folder"):
        load("h.csv", target="a")


def test_target_missing_or_unknown(folder: Path) -> None:
    name = write(folder)
    with pytest.raises(DataError, match=r"needs target,.*'area', 'rooms'"):
        load(name)
    with pytest.raises(DataError, match=r"no column 'prize'; did you mean 'price'"):
        load(name, target="prize")


def test_table_of_a_target_alone(folder: Path) -> None:
    houses().select("price").write_csv(folder / "h.csv")
    with pytest.raises(DataError, match=r"no usable column besides the target 'price'"):
        load("h.csv", target="price")


def test_every_row_has_a_missing_value(folder: Path) -> None:
    area = [None if i % 2 else 1.0 * i for i in range(ROWS)]
    rooms = [i if i % 2 else None for i in range(ROWS)]
    with pytest.raises(DataError, match=r"every row of houses.csv has a missing value"):
        load(write(folder, area=area, rooms=rooms), target="price", missing="drop")
