"""Dates written as text: the pattern that a whole column follows, and what only looks like dates."""

from __future__ import annotations

import re
from dataclasses import dataclass

import polars as pl

__all__ = ["PATTERN", "Dates", "example", "read", "read_dates", "whole_dates"]

# day and month as numbers, in whichever order; the names of months; then perhaps a time
_NUMBERS = re.compile(r"(\d{1,2})([/.-])(\d{1,2})\2\d{4}")
_NAMED = re.compile(r"(\d{1,2})([ -])[A-Za-z]{3,9}\2\d{4}")
_MONTH_FIRST = re.compile(r"[A-Za-z]{3,9} \d{1,2}(,?) \d{4}")
_TIME = re.compile(r"([ T])\d{1,2}:\d{2}(:\d{2}(\.\d+)?)?(?:( ?)[AaPp][Mm])?")

PATTERN = re.compile(r"(%[dmYbBHIMSp]|%\.f|[ /.,:T-])+")
"""What a pattern may consist of."""

_MONTH = r"(?:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]*\.?"
_LOOKS = re.compile(
    r"\s*(?:(?:mon|tue|wed|thu|fri|sat|sun)[a-z]*,? )?(?:"
    r"\d{4}([/.-])\d{1,2}\1\d{1,2}|\d{1,2}([/.-])\d{1,2}\2\d{4}|\d{1,2}/\d{1,2}/\d{2}|(?:19|20)\d\d[-/](?:0[1-9]|1[0-2])"
    rf"|\d{{1,2}}[ -]?{_MONTH}[ -](?:\d{{4}}|\d\d)|{_MONTH} \d{{1,2}},? (?:\d{{4}}|\d\d)"
    r")(?![\d/.-]).*",
    re.IGNORECASE,
)


@dataclass(frozen=True, kw_only=True)
class Dates:
    """A column of texts read as dates or times.

    Attributes:
        column: dates or datetimes.
        method, pattern: of polars' ``str``, that read them.
        other: the pattern by which they can be read as well, with day and month the other way round.
    """

    column: pl.Series
    method: str
    pattern: str
    other: str | None = None


def read(column: pl.Series, method: str, pattern: str | None = None) -> pl.Series | None:
    """The whole column by a method of polars' ``str``; ``None`` if a cell isn't so."""
    try:
        found: pl.Series = getattr(column.str, method)(*(() if pattern is None else (pattern,)))
    except pl.exceptions.PolarsError:
        return None
    return found if found.null_count() == column.null_count() else None


def read_dates(column: pl.Series) -> Dates | None:
    """Read dates with four digits for the year behind day and month, such as ``1/31/2020 5:00 PM``.

    Which of two numbers is the day, all cells decide. Where they leave it open, days come first behind a dot
    (31.12.2020) by everybody's custom, and elsewhere for want of a better one: ``other`` says so.

    Args:
        column: of texts.

    >>> found = read_dates(pl.Series(["1/5/2020", "1/31/2020"]))
    >>> found.pattern, found.other, [str(day) for day in found.column]
    ('%m/%d/%Y', None, ['2020-01-05', '2020-01-31'])
    >>> found = read_dates(pl.Series(["1/5/2020", "2/5/2020"]))
    >>> found.pattern, found.other
    ('%d/%m/%Y', '%m/%d/%Y')
    """
    first = next((str(text) for text in column.head(1000).drop_nulls()), "")
    fitting = []
    for pattern in _patterns(first):
        method = "to_datetime" if ":" in pattern else "to_date"
        found = read(column, method, pattern)
        if found is not None:
            fitting.append(Dates(column=found, method=method, pattern=pattern))
    if not fitting:
        return None
    one, *others = fitting
    # dates that are the same either way, and the two spellings of months, leave nothing open
    alike = not others or others[0].column.equals(one.column)
    if alike or "%d.%m" in one.pattern:
        return one
    return Dates(column=one.column, method=one.method, pattern=one.pattern, other=others[0].pattern)


def _patterns(text: str) -> list[str]:
    """The patterns that a text may follow."""
    numbers, named, month_first = (kind.match(text) for kind in (_NUMBERS, _NAMED, _MONTH_FIRST))
    if numbers:
        sign = numbers[2]
        days = [f"%d{sign}%m{sign}%Y", f"%m{sign}%d{sign}%Y"]
    elif named:
        days = [f"%d{named[2]}{month}{named[2]}%Y" for month in ("%b", "%B")]
    elif month_first:
        days = [f"{month} %d{month_first[1]} %Y" for month in ("%b", "%B")]
    else:
        return []
    rest = text[(numbers or named or month_first).end() :]  # type: ignore[union-attr]
    time = _TIME.fullmatch(rest)
    if time is None:
        return [] if rest else days
    half = time[4] is not None
    hours = f"{time[1]}{'%I' if half else '%H'}:%M{':%S' if time[2] else ''}{'%.f' if time[3] else ''}"
    return [day + hours + (f"{time[4]}%p" if half else "") for day in days]


def example(column: pl.Series) -> str | None:
    """A cell of a text column that seems to hold dates in a form that isn't read; ``None`` if it doesn't.

    >>> example(pl.Series(["01/31/20", "02/28/20"])), example(pl.Series(["1.2.3", "10.0.1"]))
    ('01/31/20', None)
    """
    texts = [str(text) for text in column]
    like = [text for text in texts if _LOOKS.fullmatch(text)]
    return like[0] if like and 2 * len(like) > len(texts) else None


def whole_dates(column: pl.Series) -> bool:
    """Whether whole numbers are all dates from 1900 to 2100 without signs, such as 20200131."""
    if not column.dtype.is_integer() or not len(column):
        return False
    low, high = column.min(), column.max()
    assert isinstance(low, int)
    assert isinstance(high, int)
    if not 19000101 <= low < high <= 21001231:
        return False
    return read(column.cast(pl.String), "to_date", "%Y%m%d") is not None
