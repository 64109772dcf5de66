"""What the columns of a table are: numbers, categories, or better left out."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import polars as pl

from thalweg.data import dates
from thalweg.data.target import AMOUNT
from thalweg.errors import DataError, nearest, option, shortened
from thalweg.settings.choices import ColumnType, words_of

__all__ = ["Columns", "check_values", "read_columns"]

_KINDS = words_of(ColumnType)
_IDENTIFIER = re.compile(
    r"(?i:(?:^|[_\s.-])(?:id|uuid|guid|key|index|nr|no)$|^(?:unnamed.*|row.*|)$)|[a-z]I[dD]$"
)
# what programs and people call a column of row numbers, in lower case and without signs
_ROW_NUMBERS = re.compile(
    "|index|idx|level0|c0|(row|record|obs|observation|serial|s|sl|sr)?(id|key|nr|no|num|number|names?)"
    "|rows?|obs|record|serial"
)
_SURE = 20
_WIDE = 100
_SAMPLE = 1000
# A float64 keeps 15 digits of any number, and up to 17 tell two of them apart.
_DIGITS = 17
_EXACT = 2**53


@dataclass(kw_only=True)
class Columns:
    """The columns that are used, by kind, and what became of the others.

    Attributes:
        numbers, categories: names of those that are used.
        kinds: name to ``number``, ``category`` or why it is left out.
        notes: what is worth saying.
        warnings: what has to be known before a result is relied on.
        row_numbers: names of those that are left out because they only number the rows.
    """

    numbers: list[str] = field(default_factory=list)
    categories: list[str] = field(default_factory=list)
    kinds: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    row_numbers: list[str] = field(default_factory=list)

    def put(self, name: str, kind: str) -> None:
        """Take a column in as ``number`` or ``category``, or leave it out for a reason."""
        self.kinds[name] = kind
        if kind == "number":
            self.numbers.append(name)
        elif kind == "category":
            self.categories.append(name)

    @property
    def used(self) -> list[str]:
        """Names of the columns that are used, numbers first."""
        return [*self.numbers, *self.categories]


def read_columns(
    frame: pl.DataFrame,
    *,
    target: str,
    types: Mapping[str, str] | None,
    spec: str,
    padded: Mapping[str, str] | None = None,
) -> Columns:
    """Decide what each column but the target is.

    Numbers, booleans and dates (as days or microseconds, which standardising makes alike) are numbers;
    text is a category, and so are whole numbers with more digits than a float64 can tell apart. Left out, and
    said: columns without values or with a single one, text that differs in more than nine of ten rows, and
    columns without a name, or with that of an index, that count the rows from 0 or 1. Other columns that
    number or order the rows are used, with a warning.

    Args:
        frame: the table, in the order of the file.
        target: its target column.
        types: column to ``number``, ``category`` or ``ignore``.
        spec: of the table, for messages.
        padded: text columns of whole numbers with zeros in front, and an example of each.

    Raises:
        DataError: an unknown column or type, a column that is neither, nothing left.
    """
    given = dict(types or {})
    for name, kind in given.items():
        if name not in frame.columns:
            raise DataError(
                f"{spec} has no column {name!r} to say the type of; {nearest(name, frame.columns)}"
            )
        if kind not in _KINDS:
            raise DataError(f"the type {kind!r} of column {name!r} isn't known; {nearest(kind, _KINDS)}")
        if name == target:
            raise DataError(f"the column {name!r} is the target; choose what it is with {option('task')}")
    columns = Columns()
    counting = []
    for name in frame.columns:
        if name == target:
            continue
        if name in given:
            columns.put(name, _given(frame[name], given[name]))
        elif _like_row_numbers(name) and _counts(frame[name], first=(0, 1)):
            counting.append(name)
        else:
            columns.put(name, _inferred(frame[name], columns, padded or {}))
    for name in counting:
        # where there is nothing else, as in a table of x and f(x), it is what one learns from
        columns.put(name, "left out: row numbers" if columns.used else "number")
        if name not in columns.used:
            columns.row_numbers.append(name)
            called = repr(name) if name else "without a name"
            columns.warnings.append(
                f"the column {called} only numbers the rows and is left out; to learn from it all the same, "
                f"say {option('types', {name: 'number'})}"
            )
    # in the order of the table, whatever was decided last
    columns.numbers.sort(key=frame.columns.index)
    columns.kinds = {name: columns.kinds[name] for name in frame.columns if name != target}
    if not columns.used:
        raise DataError(
            f"{spec} has no usable column besides the target {target!r}: "
            + "; ".join(f"{name!r} {kind}" for name, kind in columns.kinds.items())
        )
    columns.warnings += [text for name in columns.numbers if (text := _order(frame[name], given))]
    return columns


def check_values(
    frame: pl.DataFrame, columns: Columns, *, target: str, missing: str | None, spec: str
) -> None:
    """Refuse infinite values, and missing ones unless told what to do, by column.

    Raises:
        DataError: naming the columns, with counts.
    """
    names = [*columns.used, target]
    if frame[target].null_count() == len(frame):
        raise DataError(
            f"the target {target!r} has no values in any of the {len(frame)} rows of {spec}; choose a target "
            "that has, or fill it in"
        )
    endless = {name: int(frame[name].is_infinite().sum()) for name in names if frame[name].dtype.is_float()}
    if any(endless.values()):
        where = next(name for name, count in endless.items() if count)
        row = int(frame[where].is_infinite().arg_true()[0]) + 1
        leave = [name for name, count in endless.items() if count and name != target]
        raise DataError(
            f"{spec} has infinite values in {_counted(endless)}, the first in row {row}; replace them, or "
            "leave these rows out"
            + (f", or the column by {option('types', {leave[0]: 'ignore'})}" if leave else "")
        )
    gone = {name: frame[name].null_count() for name in names}
    if missing is None and any(gone.values()):
        fill = any(gone[name] for name in columns.used)
        median = f" or {option('missing', 'median')} (fill in medians)" if fill else ""
        raise DataError(
            f"{spec} has missing values in {_counted(gone)}, of {len(frame)} rows; "
            f"say {option('missing', 'drop')} (leave these rows out){median}"
        )


def _counted(counts: Mapping[str, int]) -> str:
    there = [f"column {name!r} ({count})" for name, count in counts.items() if count]
    return shortened(there)


def _given(column: pl.Series, kind: str) -> str:
    if kind == "ignore":
        return "left out, as asked"
    word, dtype = _word(column.dtype), column.dtype
    if dtype.is_nested() or dtype in (pl.Binary, pl.Object):
        raise DataError(
            f"the column {column.name!r} holds {word} values, which can't be a {kind}; take it apart in a "
            f"function of your own, or say {option('types', {column.name: 'ignore'})}"
        )
    if kind == "category":
        if dtype == pl.Duration:
            raise DataError(
                f"the column {column.name!r} holds {word}s, which can't be a category; say "
                f"{option('types', {column.name: 'number'})}"
            )
        return kind
    if dtype in (pl.Categorical, pl.Enum):
        column = column.cast(pl.String)
    try:
        column.cast(pl.Float64)
    except pl.exceptions.PolarsError:
        bad = column.cast(pl.Float64, strict=False).is_null() & column.is_not_null()
        row = int(bad.arg_true()[0])
        raise DataError(
            f"the column {column.name!r} is to be a number, but holds {str(column[row])!r} (row {row + 1}); "
            "mend it, or make it a category"
        ) from None
    return kind


def _inferred(column: pl.Series, columns: Columns, padded: Mapping[str, str]) -> str:
    name, dtype, there = column.name, column.dtype, column.drop_nulls()
    if not len(there):
        columns.notes.append(f"the column {name!r} has no values and is left out")
        return "left out: no values"
    if dtype.is_nested() or dtype in (pl.Binary, pl.Object):
        raise DataError(
            f"the column {name!r} holds {_word(dtype)} values, neither numbers nor text; "
            f"take it apart in a function of your own, or say {option('types', {name: 'ignore'})}"
        )
    distinct = there.n_unique()
    if distinct == 1 and len(there) == len(column):
        columns.notes.append(f"the column {name!r} is {str(there[0])!r} in every row and is left out")
        return "left out: one value"
    if dtype.is_temporal():
        columns.notes.append(f"the column {name!r} holds {_word(dtype)}s, used as numbers")
        return "number"
    why = None
    if name in padded:
        why = f"has zeros in front, such as {padded[name]!r}"
    if dtype.is_integer() and (digits := _digits(there, distinct)):
        why = f"holds whole numbers of {digits} digits, more than a number keeps"
    if why is None and (dtype.is_numeric() or dtype == pl.Boolean):
        if dtype.is_integer() and distinct == len(column) >= _SURE and _IDENTIFIER.search(name):
            if _order(column, {}) is not None:
                # which says more about it
                return "number"
            columns.warnings.append(
                f"the column {name!r} looks like an identifier (every row another whole number); unless it "
                f"says something about a row, leave it out: {option('types', {name: 'ignore'})}"
            )
        elif dates.whole_dates(there):
            columns.notes.append(
                f"the column {name!r} holds whole numbers that look like dates, such as {there[0]}, used as "
                "amounts; to have dates, write them as 2020-01-31"
            )
        return "number"
    return _text(column, there, distinct, columns, why)


def _text(column: pl.Series, there: pl.Series, distinct: int, columns: Columns, why: str | None) -> str:
    name = column.name
    start, amounts = f"the column {name!r}", ""
    if why is not None:
        start += f" {why}: it is text, not an amount, and"
        amounts = f"; if it is an amount, say {option('types', {name: 'number'})}"
    share = None if why is not None else _refuse_nearly_numbers(column)
    like = dates.example(there.cast(pl.String).gather_every(max(1, len(there) // _SAMPLE)))
    if why is None and share is None and like is not None:
        why = like
        start += f" is text that looks like dates, such as {like!r}, and"
        amounts = "; to have dates, write all as 2020-01-31 (in a data frame, give dates)"
    sample = there.cast(pl.String).gather_every(max(1, len(there) // _SAMPLE))
    # a few values may well be sizes or grades
    unit = why is None and share is None and distinct >= _SURE and all(AMOUNT.match(text) for text in sample)
    if unit:
        amounts = f"; if these are amounts, such as {sample[0]!r}, write them as numbers alone"
    if distinct > 0.9 * len(there) and len(there) >= _SURE:
        as_it_was = "" if share is None else f"; {share}"
        seems = f"looks like an identifier ({distinct} different texts in {len(there)} rows{as_it_was})"
        (columns.notes if share is None and not unit else columns.warnings).append(
            f"{start} {seems} and is left out{amounts}"
        )
        return "left out: like an identifier"
    if distinct > _WIDE or unit:
        (columns.warnings if unit else columns.notes).append(
            f"{start} has {distinct} categories, each an input of its own{amounts}"
        )
    elif why is not None:
        columns.notes.append(f"{start} has {distinct} categories{amounts}")
    return "category"


def _word(dtype: pl.DataType) -> str:
    return str(dtype).partition("(")[0].lower()


def _refuse_nearly_numbers(column: pl.Series) -> str | None:
    """One stray word among numbers makes a table's reader take the column for text: say so.

    Returns:
        How many are numbers, where at least half are but too many others aren't to be a mistake.
    """
    text = column.cast(pl.String)
    known = text.drop_nulls()
    # most columns of text hold no numbers at all, which a sample shows
    sample = known.gather_every(max(1, len(known) // _SAMPLE))
    if 4 * int(_numbers(sample).sum()) < len(sample):
        return None
    right, total = int(_numbers(known).sum()), len(known)
    if right == total or 2 * right < total:
        return None
    row = int((text.is_not_null() & ~_numbers(text)).arg_true()[0])
    share = f"{right} of {total} are numbers; not {text[row]!r} (row {row + 1})"
    if total - right < 0.2 * total:
        raise DataError(
            f"the column {column.name!r} holds numbers, but not in every row: {share}; mend it, or say "
            f"{option('types', {column.name: 'category'})} or {option('types', {column.name: 'ignore'})}"
        )
    return share


def _numbers(text: pl.Series) -> pl.Series:
    return text.str.strip_chars().cast(pl.Float64, strict=False).is_not_null()


def _digits(there: pl.Series, distinct: int) -> int:
    """Digits of whole numbers that a float64 would take for one another; 0 for amounts."""
    if there.dtype not in (pl.Int64, pl.UInt64, pl.Int128) or int(there.abs().max() or 0) <= _EXACT:  # type: ignore[arg-type]
        return 0
    # zeros at the end only say how large the unit is, as in nanoseconds that were seconds
    digits = there.cast(pl.String).str.strip_chars_start("-").str.strip_chars_end("0").str.len_chars()
    most = int(digits.max() or 0)  # type: ignore[arg-type]
    like = distinct > 0.9 * len(there) and _IDENTIFIER.search(there.name) is not None
    return most if most > _DIGITS or (like and most > 15) else 0


# Columns that number or order the rows ------------------------------------------------------------------


def _like_row_numbers(name: str) -> bool:
    """Whether a column without a name, or with this one, may be there to number the rows.

    >>> [_like_row_numbers(name) for name in ("", "Unnamed: 0", "S.No.", "PassengerId", "X", "x", "week")]
    [True, True, True, True, True, False, False]
    """
    plain = re.sub(r"[^a-z0-9]", "", name.lower())
    # R calls a column without a name X, polars a second one _duplicated_0
    if plain.startswith(("unnamed", "duplicated")) or re.fullmatch(r"X(\.\d+)?", name.strip()):
        return True
    return _ROW_NUMBERS.fullmatch(plain) is not None or _IDENTIFIER.search(name.strip()) is not None


def _counts(column: pl.Series, first: tuple[int, ...] | None) -> bool:
    """Whether a column holds n whole numbers in a row, each once, in whatever order the rows are.

    Args:
        column: of n rows.
        first: where it may begin; ``None``: anywhere.
    """
    if not column.dtype.is_numeric() or column.null_count() or not len(column):
        return False
    low, high = column.min(), column.max()
    if low is None or high is None or not np.isfinite(float(low)) or not np.isfinite(float(high)):  # type: ignore[arg-type]
        return False
    if (first is not None and low not in first) or float(high) - float(low) != len(column) - 1:  # type: ignore[arg-type]
        return False
    return column.n_unique() == len(column) and bool((column == column.round(0)).all())


def _is_number(dtype: pl.DataType) -> bool:
    return dtype.is_numeric() or dtype.is_temporal()


def _order(column: pl.Series, given: Mapping[str, str]) -> str | None:
    """The warning about a column that numbers or strictly orders the rows."""
    if column.null_count() or len(column) < _SURE or not _is_number(column.dtype):
        return None
    if column.name in given:
        # who says what it is has looked at it
        return None
    ordered = column.is_sorted() or column.is_sorted(descending=True)
    if ordered and column.n_unique() == len(column):
        what = f"{'rises' if column.is_sorted() else 'falls'} from each row to the next"
    elif _counts(column, first=None):
        what = f"numbers the rows, from {column.min()!s} to {column.max()!s}"
    else:
        return None
    return (
        f"the column {column.name!r} {what}, so a model can learn from it where a row stands in the file, "
        f"which new data don't have; unless it means something by itself, as a time does, leave it out: "
        f"{option('types', {column.name: 'ignore'})}"
    )
