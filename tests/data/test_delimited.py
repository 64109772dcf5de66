"""CSV and TSV: what types are proposed on a sample and verified, and how lines end."""

from __future__ import annotations

import datetime
import io
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

from thalweg.data import delimited, load
from thalweg.data.delimited import MISSING, read_delimited

ROWS = 3000
Same = Callable[..., object]

MOMENT = datetime.datetime(2001, 2, 25, 3, 4, 5)


def moments(pattern: str) -> list[str]:
    return [(MOMENT + datetime.timedelta(days=i, seconds=7 * i)).strftime(pattern) for i in range(ROWS)]


def csv(**columns: list[str]) -> bytes:
    rows = [",".join(columns), *(",".join(row) for row in zip(*columns.values(), strict=True))]
    return "\n".join(rows).encode()


@pytest.mark.parametrize(
    "pattern",
    [
        "%Y-%m-%d", "%Y/%m/%d", "%d-%m-%Y", "%d/%m/%Y", "%d.%m.%Y", "%Y.%m.%d", "%Y-%m-%dT%H:%M", "%H:%M:%S",
        "%Y-%m-%d %H:%M:%S", "%Y-%m-%dT%H:%M:%SZ", "%d/%m/%Y %H:%M", "%H:%M", "%Y-%m", "%b %d %Y", "%m/%d/%Y",
        "week %W",
    ],
)  # fmt: skip
@pytest.mark.parametrize("gaps", [0, 500])
def test_dates_are_those_that_polars_reads_by_trying_every_cell(pattern: str, gaps: int) -> None:
    texts = ["NA"] * gaps + moments(pattern)[gaps:]
    content = csv(a=[str(i) for i in range(ROWS)], when=texts)
    frame = read_delimited("t.csv", content).frame
    everywhere = pl.read_csv(
        io.BytesIO(content), infer_schema_length=None, try_parse_dates=True, null_values=list(MISSING)
    )
    assert frame.schema == everywhere.schema
    assert frame.equals(everywhere)


def test_a_column_is_read_otherwise_only_where_all_of_it_can_be() -> None:
    """The one text lies where no sample of 200 takes it from."""
    days, numbers = moments("%Y-%m-%d"), [f" {i}" for i in range(ROWS)]
    days[1201], numbers[1201] = "soon", "many"
    frame = read_delimited("t.csv", csv(day=days, number=numbers, right=moments("%d.%m.%Y"))).frame
    assert frame.schema == {"day": pl.String, "number": pl.String, "right": pl.Date}
    assert frame["day"][1201] == "soon"


def test_whole_columns_are_parsed_only_where_a_sample_proposes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever parses cells as dates goes through here: texts are tried on a sample alone."""
    parsed: list[tuple[str, str, int]] = []
    whole = delimited._whole

    def counted(column: pl.Series, method: str) -> pl.Series | None:
        parsed.append((str(column.name), method, len(column)))
        return whole(column, method)

    monkeypatch.setattr(delimited, "_whole", counted)
    monkeypatch.setattr(
        pl, "read_csv", lambda *a, read=pl.read_csv, **k: read(*a, **{**k, "try_parse_dates": False})
    )
    texts = {f"text {i}": [f"title {i} {row}" for row in range(ROWS)] for i in range(9)}
    frame = read_delimited("t.csv", csv(**texts, day=moments("%Y-%m-%d"))).frame
    assert frame["day"].dtype == pl.Date
    assert [each for each in parsed if each[2] == ROWS] == [("day", "to_date", ROWS)]
    assert max(rows for _, _, rows in parsed if rows < ROWS) <= 2 * delimited._SAMPLE


@pytest.mark.parametrize("name", ["t.csv", "t.tsv"])
def test_lines_may_end_with_carriage_returns_alone(folder: Path, same_as_script: Same, name: str) -> None:
    divider = "\t" if name.endswith("tsv") else ","
    rows = [["a", "day", "y"], *([str(i % 7), f"2020-01-{i % 28 + 1:02d}", str(i % 5)] for i in range(60))]
    for end in ("\r", "\n", "\r\n"):
        content = end.join(divider.join(row) for row in rows) + end
        (folder / name).write_bytes(content.encode())
        source = load(name, target="y", task="regression")
        assert (source.rows, dict(source.columns)) == (60, {"a": "number", "day": "number"})
        same_as_script(source)


def test_a_quoted_carriage_return_ends_no_line() -> None:
    table = read_delimited("t.csv", b'a,b\n"x\ry",1\n"z",2\n')
    assert table.frame.rows() == [("x\ry", 1), ("z", 2)]


@pytest.mark.parametrize(
    ("first", "later", "dtype"),
    [
        ("1", "2.5", pl.Float64), ("1", "inf", pl.Float64), ("1", "x", pl.String), ("1.5", "1 kg", pl.String),
        ("NA", "5", pl.Int64), ("NA", "5.5", pl.Float64), ("NA", "x", pl.String), ("NA", "true", pl.Boolean),
        ("1", "99999999999999999999", pl.Int128), ("true", "maybe", pl.String), ("true", "false", pl.Boolean),
        ("1", "true", pl.String), ("x", "5", pl.String), ("1", "1e5", pl.Float64), ("1.5", "NA", pl.Float64),
        ("NA", "NA", pl.String),
    ],
)  # fmt: skip
def test_what_comes_late_in_a_file_decides_as_well(
    folder: Path, first: str, later: str, dtype: pl.DataType
) -> None:
    """Types are proposed by the first rows; whole inference by polars is the oracle."""
    content = csv(b=[str(i % 7) for i in range(ROWS)], a=[first] * (ROWS - 1) + [later])
    table = read_delimited("t.csv", content)
    assert table.frame["a"].dtype == dtype
    whole = pl.read_csv(io.BytesIO(content), infer_schema_length=None, null_values=list(MISSING))
    assert table.frame.equals(whole)
    (folder / "t.csv").write_bytes(content)
    defined: dict[str, pl.DataFrame] = {}
    exec("\n".join(["import polars as pl", *table.lines]), defined)
    assert defined["frame"].equals(table.frame)
    assert defined["frame"].schema == table.frame.schema


def test_decimal_commas_may_come_late() -> None:
    content = csv(b=[str(i % 7) for i in range(ROWS)], a=["1"] * (ROWS - 1) + ["2;5"])
    frame = read_delimited("t.csv", content.replace(b",", b"|").replace(b";", b",").replace(b"|", b";")).frame
    assert frame.schema == {"b": pl.Int64, "a": pl.Float64}
    assert frame["a"][-1] == 2.5
