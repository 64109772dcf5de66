"""CSV and TSV: read by polars, types proposed on a sample and verified on the whole column."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import polars as pl

from thalweg.data.dates import Dates, read, read_dates

__all__ = ["MISSING", "Table", "Unreadable", "is_pattern", "read_delimited", "read_times"]

MISSING = ("", "NA", "N/A", "NaN", "nan", "NULL", "null", "?")
"""What stands for a missing value in a text file."""

_NULLS: dict[str, Any] = {"null_values": list(MISSING)}
# whole numbers, and those of more than 17 digits, zeros at both ends left aside
_WHOLE = r"^\s*[+-]?\d+\s*$"
_LONG = r"^\s*[+-]?0*[1-9]\d{16,}[1-9]0*\s*$"
# rows from which polars infers what columns are, and cells by which a text is tried as something else
_ROWS = 1000
_SAMPLE = 200
# the readings of a text that polars can infer a pattern for, in the order in which they are tried
_TEMPORAL = ("to_date", "to_datetime", "to_time")
# two digits are as often an hour or a month
_PADDED = r"^[+-]?0\d{2,}$"
# zeros before a few numbers among many of other lengths are an accident of writing
_OFTEN = 0.01


class Unreadable(ValueError):
    """What is wrong with a text, in words for the person who has it."""


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table as it was read.

    Attributes:
        frame: its columns.
        lines: that read it, for a script.
        twice: names that stand above several columns; polars calls the others ``NAME_duplicated_N``.
        padded: text columns that hold whole numbers with zeros in front, and an example of each.
        patterns: columns of dates in which day and month stand before the year, and how they were read.
        unsure: those of them whose cells don't tell days from months, and the pattern that would do as well.
        notes: what is worth saying of how it was read.
        imports: what ``lines`` need beside polars.
    """

    frame: pl.DataFrame
    lines: tuple[str, ...]
    twice: tuple[str, ...] = ()
    padded: Mapping[str, str] = field(default_factory=dict)
    patterns: Mapping[str, str] = field(default_factory=dict)
    unsure: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    imports: tuple[str, ...] = ()


def read_delimited(path: str, content: bytes, *, text: Collection[str] = ()) -> Table:
    """Read a table in which commas, semicolons or tabs divide columns, whichever the first line has most of.

    Lines may end as on any system, those with carriage returns alone included. Columns become numbers or text
    as polars infers them from the first 1000 rows, if all other cells bear that out; otherwise what all are.
    Beyond that:

    - blank lines are no rows, as for pandas and Python's csv module: those before the header and at the end
      aren't mentioned, others are counted in a note. A row of dividers alone has missing values;
    - text that polars can read as dates or times becomes these, as do those of :mod:`thalweg.data.dates`, and
      numbers among spaces become numbers. All are proposed on a sample of at most 200 cells, and verified on
      the whole column;
    - whole numbers of three or more digits with zeros in front, such as ``02134``, are text, since a number
      would lose the zeros: where all have one length, or 1 % of them have such zeros;
    - with semicolons or tabs, commas may stand before decimals.

    Args:
        path: of the file, for the lines.
        content: what stands in it.
        text: columns that are text whatever they look like.

    Raises:
        Unreadable: it isn't such a table, and where.
        polars.exceptions.PolarsError: it isn't such a table.
    """
    end = b"\r" if b"\r" in content and b"\n" not in content else b"\n"
    first = content.lstrip(b" \t\r\n").partition(end)[0].decode(errors="replace")
    divider = max((",", ";", "\t"), key=first.count)
    opened, given = repr(path), content
    imports: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    blank = _blank_lines(content, end, divider)
    if blank is not None:
        pattern, between = blank
        opened = _without_blank_lines(path, pattern)
        imports = ("import re", "from pathlib import Path", *(["import gzip"] if "gzip." in opened else []))
        if between:
            notes = ("1 blank line is skipped" if between == 1 else f"{between} blank lines are skipped",)
        content = re.sub(pattern, rb"\1", content)
    options: dict[str, Any] = {} if divider == "," else {"separator": divider}
    if end == b"\r":
        options["eol_char"] = "\r"
    try:
        frame, types = _typed(content, options)
    except pl.exceptions.PolarsError:
        _say_where(given, divider)
        raise
    if divider != "," and _has_decimal_commas(frame):
        options["decimal_comma"] = True
        frame, types = _typed(content, options)
    names = _read(content, options, has_header=False, n_rows=1, infer_schema=False, null_values=None).row(0)
    # polars leaves doubled quotes in names, and tells names that occur twice apart
    renamed = {
        column: name
        for column, name in zip(frame.columns, names, strict=True)
        if '""' in column and column.replace('""', '"') == name and name not in frame.columns
    }
    text = {*text, *(column for column, name in renamed.items() if name in text)}
    as_text, padded = _as_text(content, frame, options, text)
    if as_text:
        frame = frame.with_columns(as_text)
        types |= {column.name: pl.String() for column in as_text}
    if types:
        options["schema_overrides"] = types
    frame, kept, dates = _read_otherwise(frame, leave={*padded, *text})
    lines = [
        "frame = pl.read_csv(",
        f"    {opened}, {_options(options)}infer_schema_length={_ROWS},",
        f"    null_values={list(MISSING)!r},",
        ")",
        *kept,
    ]
    if renamed:
        frame = frame.rename(renamed)
        lines.append(f"frame = frame.rename({renamed!r})")
    seen = list(names)
    twice = tuple(dict.fromkeys(name or "" for name in seen if seen.count(name) > 1))
    return Table(
        frame=frame,
        lines=tuple(lines),
        twice=twice,
        padded={renamed.get(name, name): text for name, text in padded.items()},
        patterns={renamed.get(name, name): found.pattern for name, found in dates.items()},
        unsure={renamed.get(name, name): found.other for name, found in dates.items() if found.other},
        notes=notes,
        imports=imports,
    )


def read_times(frame: pl.DataFrame, *, leave: Collection[str] = ()) -> Table:
    """Read texts of a table without types of its own for dates and times, such as JSON, as a CSV file's are.

    Args:
        frame: the table.
        leave: columns that are text whatever they look like.

    Returns:
        The table, and in ``lines`` what did it.
    """
    numbers = [name for name in frame.columns if frame[name].dtype != pl.String]
    frame, lines, dates = _read_otherwise(frame, leave={*numbers, *leave}, numbers=False)
    return Table(
        frame=frame,
        lines=tuple(lines),
        patterns={name: found.pattern for name, found in dates.items()},
        unsure={name: found.other for name, found in dates.items() if found.other},
    )


def _blank_lines(content: bytes, end: bytes, divider: str) -> tuple[bytes, int] | None:
    """What finds blank lines, and how many lie between others; ``None`` where there are none.

    The pattern's only group is what stands in quotes, where a blank line is a part of a text.
    """
    # dividers alone are a row of missing values
    spaces = b"[ ]*" if divider == "\t" else b"[ \\t]*"
    line = rb"\r" if end == b"\r" else rb"\n"
    # quick, and true of most files
    if re.search(rb"(?:\A|" + line + rb")" + spaces + rb"\r?" + line, content) is None:
        return None
    optional = b"" if end == b"\r" else rb"\r?"
    pattern = rb'("[^"]*")|(?<![^' + line + rb"])" + spaces + optional + rb"(?:" + line + rb"|\Z)"
    found = [each for each in re.finditer(pattern, content) if each[1] is None and each[0]]
    if not found:
        return None
    last = len(content.rstrip(b" \t\r\n"))
    first = len(content) - len(content.lstrip(b" \t\r\n"))
    return pattern, sum(first < each.start() < last for each in found)


def is_pattern(name: str) -> bool:
    """Whether polars takes a column's name for a pattern of names.

    >>> [is_pattern(name) for name in ("*", "^a.*$", "a*", "^a")]
    [True, True, False, False]
    """
    return name == "*" or (name.startswith("^") and name.endswith("$"))


def _say_where(content: bytes, divider: str) -> None:
    """Name the line that is in another encoding, or has more fields than the first, if that is what is wrong.

    Raises:
        Unreadable: it is.
    """
    try:
        lines = csv.reader(io.StringIO(content.decode(), newline=""), delimiter=divider)
        # lines without anything are no rows
        width = len(next(filter(None, lines), []))
        for fields in lines:
            if len(fields) > width:
                raise Unreadable(
                    f"line {lines.line_num} has {len(fields)} fields, but the first line names {width}; "
                    f"mend it, or put fields that hold {divider!r} into quotes"
                )
    except UnicodeDecodeError as problem:
        line = content.count(b"\n", 0, problem.start) + 1
        raise Unreadable(
            f"line {line} isn't UTF-8 (the byte {content[problem.start]:#04x}); save it as UTF-8"
        ) from None
    except csv.Error:
        return


def _read_otherwise(
    frame: pl.DataFrame, *, leave: Collection[str], numbers: bool = True
) -> tuple[pl.DataFrame, list[str], dict[str, Dates]]:
    """Text columns as what else all their cells are, the lines that do it, and dates that have a pattern."""
    kept: dict[str, str] = {}
    dates: dict[str, Dates] = {}
    for name, dtype in frame.schema.items():
        if dtype != pl.String or name in leave:
            continue
        method = _proposed(frame[name], numbers=numbers)
        if method == "dates":
            found = read_dates(frame[name])
            if found is not None:
                dates[name] = found
                kept[name] = f"    {_spelled(name, found.method, found.pattern)},"
        elif method is not None:
            column = _verified(frame[name], method)
            if column is not None:
                frame = frame.with_columns(column)
                kept[name] = f"    {_spelled(name, method)},"
    orders = {_month_first(found.pattern) for found in dates.values() if found.other is None}
    for name, found in dates.items():
        if found.other is not None and orders == {True}:
            # what other columns of the table tell
            column = read(frame[name], found.method, found.other)
            assert column is not None
            found = Dates(column=column, method=found.method, pattern=found.other)
            kept[name] = f"    {_spelled(name, found.method, found.pattern)},"
        elif found.other is not None and orders == {False}:
            found = Dates(column=found.column, method=found.method, pattern=found.pattern)
        dates[name] = found
        frame = frame.with_columns(found.column)
    if not kept:
        return frame, [], {}
    return frame, ["frame = frame.with_columns(", *kept.values(), ")"], dates


def _month_first(pattern: str) -> bool | None:
    """Whether numbers of months stand before those of days; ``None`` where months have names."""
    return pattern.startswith("%m") if "%m" in pattern else None


def _proposed(column: pl.Series, *, numbers: bool = True) -> str | None:
    """Say by a sample what a text column may be: a method of :data:`_TEMPORAL`, others, or nothing."""
    # the first cell is the one from which polars infers a pattern for the whole column
    there = column.drop_nulls()
    sample = pl.concat([there.head(_SAMPLE // 2), there.gather_every(max(1, 2 * len(there) // _SAMPLE))])
    if not len(sample):
        return None
    if numbers and _numbers(sample).null_count() == 0:
        return "number"
    if read_dates(sample) is not None:
        return "dates"
    return next((method for method in _TEMPORAL if _whole(sample, method) is not None), None)


def _verified(column: pl.Series, method: str) -> pl.Series | None:
    """The whole column in another reading, if all of it can be read so."""
    if method != "number":
        return _whole(column, method)
    numbers = _numbers(column)
    if _are_codes(column):
        return None
    return numbers if numbers.null_count() == column.null_count() else None


def _whole(column: pl.Series, method: str) -> pl.Series | None:
    return read(column, method)


def _numbers(column: pl.Series) -> pl.Series:
    return column.str.strip_chars().cast(pl.Float64, strict=False)


def _spelled(name: str, method: str, pattern: str | None = None) -> str:
    if method == "number":
        return f"pl.col({name!r}).str.strip_chars().cast(pl.Float64)"
    # as a series: an expression reads no time zones
    return f"frame[{name!r}].str.{method}({'' if pattern is None else repr(pattern)})"


def _typed(content: bytes, options: dict[str, Any]) -> tuple[pl.DataFrame, dict[str, pl.DataType]]:
    """Read with types that the first rows propose and all cells bear out, and say which are others."""
    # polars parses beyond the rows it is to give, so that only their text and their types are asked for
    head = _read(content, options, infer_schema=False, n_rows=_ROWS)
    for name in head.columns:
        if is_pattern(name):
            raise Unreadable(f"a column is called {name!r}, which stands for other columns; rename it")
    lazy = pl.scan_csv(io.BytesIO(content), **{**_NULLS, **options}, infer_schema_length=_ROWS)
    proposals = lazy.collect_schema()
    empty = {name for name in head.columns if head[name].null_count() == len(head)}
    try:
        frame = _read(content, options, infer_schema_length=_ROWS)
        wanted = [name for name in frame.columns if name in empty]
        if not wanted or len(frame) <= len(head):
            return frame, {}
    except pl.exceptions.ComputeError:
        # some cell isn't what the first rows are
        wanted = head.columns
    raw = _read(content, options, columns=[head.columns.index(name) for name in wanted], infer_schema=False)
    types = {}
    for name in wanted:
        dtype = _borne_out(
            raw[name], None if name in empty else proposals[name], commas="decimal_comma" in options
        )
        if dtype != proposals[name]:
            types[name] = dtype
    return _read(content, options, infer_schema_length=_ROWS, schema_overrides=types), types


def _borne_out(column: pl.Series, dtype: pl.DataType | None, *, commas: bool) -> pl.DataType:
    """The first of these types, from ``dtype`` on, that every cell is of."""
    if dtype == pl.String or (dtype == pl.Boolean and not _is_bool(column)):
        return pl.String()
    if column.null_count() == len(column):
        return pl.String()
    if dtype in (None, pl.Boolean) and _is_bool(column):
        return pl.Boolean()
    numbers = column.str.strip_chars()
    if commas:
        numbers = numbers.str.replace(",", ".", literal=True)
    for known in (pl.Int64(), pl.Int128()):
        if numbers.cast(known, strict=False).null_count() == column.null_count():
            return known
    if numbers.cast(pl.Float64, strict=False).null_count() > column.null_count() or _are_codes(numbers):
        return pl.String()
    return pl.Float64()


def _are_codes(column: pl.Series) -> bool:
    """Whether all are whole numbers, and some have more digits than a float64 can tell apart."""
    return bool(column.str.contains(_WHOLE).all()) and bool(column.str.contains(_LONG).any())


def _is_bool(column: pl.Series) -> bool:
    return bool(column.is_in(["true", "false"]).all())


def _read(content: bytes, options: dict[str, Any], **more: Any) -> pl.DataFrame:
    return pl.read_csv(io.BytesIO(content), **{**_NULLS, **options, **more})


def _options(options: dict[str, Any]) -> str:
    spelled = []
    for name, value in options.items():
        shown = repr(value)
        if name == "schema_overrides":
            shown = "{" + ", ".join(f"{column!r}: pl.{dtype}" for column, dtype in value.items()) + "}"
        spelled.append(f"{name}={shown}, ")
    return "".join(spelled)


def _as_text(
    content: bytes, frame: pl.DataFrame, options: dict[str, Any], text: Collection[str]
) -> tuple[list[pl.Series], dict[str, str]]:
    """Columns that have to be text, as the file has them, and an example of those with zeros in front."""
    wanted = [
        number
        for number, (name, dtype) in enumerate(frame.schema.items())
        if dtype != pl.String and (dtype.is_integer() or name in text)
    ]
    if not wanted:
        return [], {}
    raw = _read(content, options, columns=wanted, infer_schema=False)
    made, padded = [], {}
    for column in raw.get_columns():
        zeros = column.filter(column.str.contains(_PADDED)) if column.name not in text else column.head(0)
        if len(zeros):
            alike = column.drop_nulls().str.len_chars().n_unique() == 1
            if alike or len(zeros) >= _OFTEN * (len(column) - column.null_count()):
                padded[column.name] = str(zeros[0])
        if column.name in padded or column.name in text:
            made.append(column)
    return made, padded


def _without_blank_lines(path: str, pattern: bytes) -> str:
    """The expression for a file's content without them."""
    read = f"Path({path!r}).read_bytes()"
    if path.lower().endswith(".gz"):
        read = f"gzip.decompress({read})"
    return f"re.sub({pattern!r}, rb'\\1', {read})"


def _has_decimal_commas(frame: pl.DataFrame) -> bool:
    """Whether some text column holds numbers alone, of which some have a comma before their decimals."""
    return any(_is_decimal(frame[name]) for name, dtype in frame.schema.items() if dtype == pl.String)


def _is_decimal(column: pl.Series) -> bool:
    known = column.drop_nulls()
    parts: Sequence[pl.Series] = (known.head(_SAMPLE), known)
    return all(bool(part.str.contains(r"^[+-]?\d+(,\d+)?([eE][+-]?\d+)?$").all()) for part in parts) and bool(
        known.str.contains(",", literal=True).any()
    )
