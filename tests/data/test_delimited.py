"""CSV and TSV: what types are proposed on a sample and verified, and how lines end."""

from __future__ import annotations

import csv as stdlib_csv
import datetime
import gzip
import io
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

from thalweg.data import delimited, load
from thalweg.data.delimited import MISSING, Unreadable, read_delimited

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
        "%Y-%m-%d %H:%M:%S", "%Y-%m-%dT%H:%M:%SZ", "%d/%m/%Y %H:%M", "%H:%M", "%Y-%m",
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


# Blank lines ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("name", ["t.csv", "t.tsv", "t.csv.gz"])
def test_blank_lines_are_no_rows(folder: Path, same_as_script: Same, name: str, end: str) -> None:
    """Python's csv module is the oracle, which skips them as pandas does; of spaces alone as pandas does."""
    divider = "\t" if name.endswith("tsv") else ","
    rows = [f"{i % 7}{divider}{divider if i == 30 else ''}{i % 5}" for i in range(60)]
    rows[30] = f"{divider}4"
    lines = ["", "  ", f"a{divider}y", *rows[:20], "", *rows[20:40], "   ", "", *rows[40:], "", ""]
    content = (end.join(lines) + end).encode()
    (folder / name).write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    source = load(name, target="y", task="regression", missing="median")
    assert source.rows == 60
    assert source.notes[0] == "3 blank lines are skipped"
    same_as_script(source)
    frame = read_delimited(name, content).frame
    known = list(stdlib_csv.reader(io.StringIO(content.decode().replace(end, "\n")), delimiter=divider))
    known = [row for row in known if row and row != ["  "] and row != ["   "]][1:]
    assert frame["a"].to_list() == [int(a) if a else None for a, _ in known]


def test_a_blank_line_is_no_row_of_one_column_but_an_empty_text_is() -> None:
    """As for pandas, which writes "" for this reason."""
    table = read_delimited("t.csv", b'a\n1\n\n""\n3\n')
    assert table.frame.rows() == [(1,), (None,), (3,)]
    assert table.notes == ("1 blank line is skipped",)
    assert read_delimited("t.csv", b"a\n1\n\n\n").notes == ()


def test_blank_lines_in_quotes_stay_and_dividers_alone_are_a_row() -> None:
    table = read_delimited("t.csv", b'a,b\n"x\n\ny",1\n\n,\nz,2\n')
    assert table.frame.rows() == [("x\n\ny", 1), (None, None), ("z", 2)]
    assert read_delimited("t.tsv", b"a\tb\n1\t2\n\t\n\n3\t4\n").frame.rows() == [(1, 2), (None, None), (3, 4)]


def test_a_line_with_too_many_fields_is_counted_as_an_editor_counts() -> None:
    with pytest.raises(Unreadable, match="line 5 has 3 fields, but the first line names 2"):
        read_delimited("t.csv", b"\na,b\n1,2\n\n1,2,3\n")


# Names ------------------------------------------------------------------------------------------------


def test_doubled_quotes_in_a_name_are_one(folder: Path, same_as_script: Same) -> None:
    rows = "".join(f"{i % 7},0{i % 9}1,{i % 5}\n" for i in range(60))
    content = '"5"" disk","a""b","the ""y"""\n' + rows
    assert read_delimited("t.csv", content.encode()).frame.columns == next(
        stdlib_csv.reader(io.StringIO(content))
    )
    (folder / "t.csv").write_text(content)
    source = load("t.csv", target='the "y"', task="regression")
    assert dict(source.columns) == {'5" disk': "number", 'a"b': "category"}
    same_as_script(source)
    assert read_delimited("t.csv", content.encode(), text=['5" disk']).frame['5" disk'].dtype == pl.String


# Dates ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "pattern",
    [
        "%m/%d/%Y", "%d/%m/%Y", "%m-%d-%Y", "%m.%d.%Y", "%d.%m.%Y", "%m/%d/%Y %H:%M", "%m/%d/%Y %I:%M:%S %p",
        "%d/%m/%Y %H:%M:%S", "%m/%d/%Y %H:%M:%S.%f", "%d %b %Y", "%d-%b-%Y", "%d %B %Y", "%b %d %Y",
        "%B %d %Y",
    ],
)  # fmt: skip
def test_dates_whose_cells_tell_days_from_months_are_dates(
    folder: Path, same_as_script: Same, pattern: str
) -> None:
    """Python's own datetime is the oracle."""
    moments = [MOMENT + datetime.timedelta(days=i % 40, seconds=97 * i, milliseconds=i) for i in range(60)]
    texts = [moment.strftime(pattern) for moment in moments]
    content = csv(when=texts, y=[str(i % 5) for i in range(60)])
    table = read_delimited("t.csv", content)
    expected = [datetime.datetime.strptime(text, pattern) for text in texts]
    timed = ":" in pattern
    assert table.frame["when"].to_list() == [each if timed else each.date() for each in expected]
    assert not table.unsure
    (folder / "t.csv").write_bytes(content)
    same_as_script(load("t.csv", target="y", task="regression"))


def test_month_first_may_show_late_in_the_column_alone() -> None:
    texts = ["01/02/2020"] * (ROWS - 1) + ["01/31/2020"]
    table = read_delimited("t.csv", csv(when=texts, y=["1"] * ROWS))
    assert table.frame["when"][0] == datetime.date(2020, 1, 2)
    assert table.frame["when"][-1] == datetime.date(2020, 1, 31)


def test_what_is_a_day_is_said_where_cells_leave_it_open(folder: Path) -> None:
    texts = [f"{i % 12 + 1:02d}/{i % 9 + 1:02d}/2020" for i in range(60)]
    (folder / "t.csv").write_bytes(csv(when=texts, y=[str(i % 5) for i in range(60)]))
    source = load("t.csv", target="y", task="regression")
    assert source.warnings[0] == (
        "the column 'when' doesn't tell days from months: '01/01/2020' is read as 1 January 2020; if the "
        "month stands first, write the dates as 2020-01-01"
    )
    # a dot is behind days everywhere, and one column tells of another
    table = read_delimited("t.csv", csv(a=["01.02.2020", "03.04.2020"]))
    assert (table.frame["a"][0], dict(table.unsure)) == (datetime.date(2020, 2, 1), {})
    for late, first in (("01/31/2020", datetime.date(2020, 1, 2)), ("31/01/2020", datetime.date(2020, 2, 1))):
        table = read_delimited("t.csv", csv(a=["01/02/2020", "03/04/2020"], b=["01/01/2020", late]))
        assert (table.frame["a"][0], dict(table.unsure)) == (first, {})


@pytest.mark.parametrize(
    ("texts", "said"),
    [
        (
            ["01/31/20", "02/28/20", "03/01/21"],
            "is text that looks like dates, such as '01/31/20', and has 3 categories",
        ),
        (
            ["2020-01-31", "31 Jan 2020", "2020-03-01"],
            "is text that looks like dates, such as '2020-01-31', and has",
        ),
        (
            ["01/31/2020", "31/01/2020", "01/02/2020"],
            "is text that looks like dates, such as '01/31/2020', and has",
        ),
        (
            ["Fri, 31 Jan 2020", "Sat, 1 Feb 2020", "x"],
            "is text that looks like dates, such as 'Fri, 31 Jan 2020', and",
        ),
        (
            ["20200131", "20200229", "20200301"],
            "whole numbers that look like dates, such as 20200131, used as",
        ),
    ],
)
def test_what_looks_like_dates_and_is_none_is_said(folder: Path, texts: list[str], said: str) -> None:
    for name, content in {
        "t.csv": csv(when=[f'"{texts[i % 3]}"' for i in range(60)], y=[str(i % 5) for i in range(60)]),
        "t.jsonl": "".join(f'{{"when": "{texts[i % 3]}", "y": {i % 5}}}\n' for i in range(60)).encode(),
    }.items():
        if name == "t.jsonl" and texts[0].isdecimal():
            continue
        (folder / name).write_bytes(content)
        notes = [note for note in load(name, target="y", task="regression").notes if said in note]
        assert len(notes) == 1
        assert "write" in notes[0]
        assert "2020-01-31" in notes[0]


@pytest.mark.parametrize("texts", [["1.2.3", "10.0.1"], ["room 12 2020", "room 13 2020"], ["1-2", "3-4"]])
def test_what_only_resembles_dates_is_text_without_a_word(folder: Path, texts: list[str]) -> None:
    (folder / "t.csv").write_bytes(
        csv(a=[texts[i % 2] for i in range(60)], y=[str(i % 5) for i in range(60)])
    )
    source = load("t.csv", target="y", task="regression")
    assert source.columns["a"] == "category"
    assert not [note for note in [*source.notes, *source.warnings] if "date" in note]


def test_dates_in_json_lines_are_dates(folder: Path, same_as_script: Same) -> None:
    rows = [
        f'{{"a": "2020-01-{i % 28 + 1:02d}", "b": "1/{i % 28 + 1}/2020", "y": {i % 5}}}' for i in range(60)
    ]
    (folder / "t.jsonl").write_text("\n".join(rows))
    source = load("t.jsonl", target="y", task="regression")
    assert dict(source.columns) == {"a": "number", "b": "number"}
    same_as_script(source)
