"""What the columns of a table are: numbers, categories, or better left out."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

import polars as pl

from thalweg.errors import DataError, nearest, option

__all__ = ["Columns", "check_values", "read_columns"]

_KINDS = ("number", "category", "ignore")
_IDENTIFIER = re.compile(
    r"(?:^|[_\s.-])(?:id|uuid|guid|key|index|nr|no)$|^(?:unnamed.*|row.*|)$", re.IGNORECASE
)
_SURE = 20
_WIDE = 100


@dataclass(kw_only=True)
class Columns:
    """The columns that are used, by kind, what became of the others, and what is worth saying."""

    numbers: list[str] = field(default_factory=list)
    categories: list[str] = field(default_factory=list)
    kinds: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

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


def read_columns(frame: pl.DataFrame, *, target: str, types: Mapping[str, str] | None, spec: str) -> Columns:
    """Decide what each column but the target is.

    Numbers, booleans and dates (as days or microseconds, which standardising makes alike) are numbers;
    text is a category. Left out, and said: columns without values or with a single one, and text that
    differs in more than nine of ten rows.

    Args:
        frame: the table.
        target: its target column.
        types: column to ``number``, ``category`` or ``ignore``.
        spec: of the table, for messages.

    Raises:
        DataError: an unknown column or type, a column that is neither, nothing left.
    """
    given = dict(types or {})
    for name, kind in given.items():
        if name not in frame.columns:
            raise DataError(f"{spec} has no column {name!r} to be a {kind}; {nearest(name, frame.columns)}")
        if kind not in _KINDS:
            raise DataError(f"the type {kind!r} of column {name!r} isn't known; {nearest(kind, _KINDS)}")
        if name == target:
            raise DataError(f"the column {name!r} is the target; choose what it is with {option('task')}")
    columns = Columns()
    for name in frame.columns:
        if name == target:
            continue
        columns.put(
            name, _given(frame[name], given[name]) if name in given else _inferred(frame[name], columns)
        )
    if not columns.used:
        raise DataError(
            f"{spec} has no usable column besides the target {target!r}: "
            + "; ".join(f"{name!r} {kind}" for name, kind in columns.kinds.items())
        )
    return columns


def check_values(
    frame: pl.DataFrame, columns: Columns, *, target: str, missing: str | None, spec: str
) -> None:
    """Refuse infinite values, and missing ones unless told what to do, by column.

    Raises:
        DataError: naming the columns, with counts.
    """
    names = [*columns.used, target]
    endless = {name: int(frame[name].is_infinite().sum()) for name in names if frame[name].dtype.is_float()}
    if any(endless.values()):
        raise DataError(
            f"{spec} has infinite values in {_counted(endless)}; replace them, or leave these rows "
            "or columns out"
        )
    gone = {name: frame[name].null_count() for name in names}
    if missing is None and any(gone.values()):
        raise DataError(
            f"{spec} has missing values in {_counted(gone)}, of {len(frame)} rows; "
            f"say {option('missing', 'drop')} (leave these rows out) or {option('missing', 'median')}"
        )


def _counted(counts: Mapping[str, int]) -> str:
    there = [f"column {name!r} ({count})" for name, count in counts.items() if count]
    return ", ".join(there[:8]) + (f" and {len(there) - 8} more" if len(there) > 8 else "")


def _given(column: pl.Series, kind: str) -> str:
    if kind != "number":
        return "left out, as asked" if kind == "ignore" else kind
    try:
        column.cast(pl.Float64)
    except pl.exceptions.PolarsError:
        bad = column.filter(column.cast(pl.Float64, strict=False).is_null() & column.is_not_null())
        raise DataError(
            f"the column {column.name!r} is to be a number, but holds {str(bad[0])!r}; "
            "mend it, or make it a category"
        ) from None
    return kind


def _inferred(column: pl.Series, columns: Columns) -> str:
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
    if dtype.is_numeric() or dtype == pl.Boolean:
        if dtype.is_integer() and distinct == len(column) >= _SURE and _IDENTIFIER.search(name):
            columns.notes.append(
                f"the column {name!r} looks like an identifier (every row another whole number); "
                f"consider {option('types', {name: 'ignore'})}"
            )
        return "number"
    text = there.cast(pl.String)
    _refuse_nearly_numbers(text)
    if distinct > 0.9 * len(there) and len(there) >= _SURE:
        columns.notes.append(
            f"the column {name!r} looks like an identifier ({distinct} different texts in {len(there)} "
            "rows) and is left out"
        )
        return "left out: like an identifier"
    if distinct > _WIDE:
        columns.notes.append(f"the column {name!r} has {distinct} categories, each an input of its own")
    return "category"


def _word(dtype: pl.DataType) -> str:
    return str(dtype).partition("(")[0].lower()


def _refuse_nearly_numbers(text: pl.Series) -> None:
    """One stray word among numbers makes a table's reader take the column for text: say so."""
    failed = text.filter(text.str.strip_chars().cast(pl.Float64, strict=False).is_null())
    if 0 < len(failed) < 0.2 * len(text):
        raise DataError(
            f"the column {text.name!r} holds numbers, but {failed[0]!r} too ({len(failed)} of "
            f"{len(text)} rows are no numbers); mend it, or say "
            f"{option('types', {str(text.name): 'category'})}"
        )
