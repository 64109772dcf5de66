"""What has to be known about a table beside what its columns are: mistakes that no reader would refuse."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import polars as pl

from thalweg.data.columns import Columns
from thalweg.data.target import alike, reads_as_number
from thalweg.errors import option, shortened

__all__ = ["level_notes", "name_notes", "repeated_rows", "table_warnings"]

_OFTEN = 0.2
_FLAT = 1e-4
_MANY = 1000


def name_notes(names: Sequence[str], twice: Iterable[str]) -> list[str]:
    """What is worth saying about the names of columns.

    Args:
        names: of all columns.
        twice: those that stand above several.

    >>> name_notes(["t", " t", "b"], [])
    ["the columns 't' and ' t' have names that differ by spaces alone; they are two columns"]
    """
    notes = []
    if all(reads_as_number(name) for name in names):
        notes.append(f"the first line, {_listed(names)}, is taken for the names of the columns")
    for name in twice:
        copies = [other for other in names if other.startswith(f"{name}_duplicated_")]
        notes.append(f"the name {name!r} stands above {len(copies) + 1} columns; here {_listed(copies)} too")
    by_name: dict[str, list[str]] = {}
    for name in names:
        by_name.setdefault(" ".join(name.split()), []).append(name)
    notes += [
        f"the columns {' and '.join(map(repr, same))} have names that differ by spaces alone; they are "
        f"{'two' if len(same) == 2 else len(same)} columns"
        for same in by_name.values()
        if len(same) > 1
    ]
    return notes


def level_notes(x: pl.DataFrame, categories: Sequence[str]) -> list[str]:
    """Say which texts of a column differ by spaces, case or the spelling of a number alone."""
    notes = []
    for name in categories:
        levels = x[name].unique().drop_nulls().sort()
        if len(levels) <= _MANY and (same := alike(levels.to_list())):
            notes.append(
                f"the column {name!r} has texts that differ by spaces, case or the spelling of a number "
                f"alone, such as {' and '.join(map(repr, same[0]))}; they are categories of their own"
            )
    return notes


def table_warnings(
    frame: pl.DataFrame, x: pl.DataFrame, target: str, columns: Columns, *, filled: bool
) -> list[str]:
    """Return what has to be known before a result is relied on.

    Args:
        frame: as it was read, the rows that are used.
        x: what is learnt from, numbers as float64 in whatever unit.
        target: name of its column.
        columns: what the others are.
        filled: whether medians stand for missing numbers.
    """
    warnings = [
        f"the column {name!r} has the target's value in every row; leave it out unless new data will have "
        f"it: {option('types', {name: 'ignore'})}"
        for name in columns.used
        if _same(frame[name], frame[target])
    ]
    gaps = {name: x[name].null_count() for name in columns.numbers}
    often = {name: count for name, count in gaps.items() if filled and count > _OFTEN * len(x)}
    if often:
        listed = [f"{count:,} of {len(x):,} values of column {name!r}" for name, count in often.items()]
        most = max(often, key=lambda name: often[name])
        warnings.append(
            f"{shortened(listed)} are missing, and the median of the column stands in their place, "
            "with an input that says where; if that is too little to learn from, leave such a column out: "
            f"{option('types', {most: 'ignore'})}"
        )
    numbers: Mapping[str, pl.Series] = {name: x[name] for name in columns.numbers}
    if frame[target].dtype.is_float():
        numbers = {**numbers, target: frame[target]}
    for name, column in numbers.items():
        row = _outlier(column.drop_nulls().to_numpy())
        if row is not None:
            value = frame[name].drop_nulls()[row]
            what = "the target" if name == target else "the column"
            warnings.append(
                f"{what} {name!r} has values so far out, such as {value}, that nearly all others become one "
                "and the same beside them once standardised; mend them, or leave these rows out"
            )
    return warnings


def repeated_rows(frame: pl.DataFrame, left_out: Sequence[str]) -> int:
    """How many rows repeat another, by all columns but those that are left out."""
    names = [name for name, dtype in frame.schema.items() if name not in left_out and dtype != pl.Object]
    return len(frame) - frame.select(names).n_unique() if names else 0


def _same(column: pl.Series, target: pl.Series) -> bool:
    numbers = [each.dtype.is_numeric() or each.dtype == pl.Boolean for each in (column, target)]
    if (
        numbers[0] != numbers[1]
        or column.null_count()
        or (column.dtype.is_temporal() != target.dtype.is_temporal())
    ):
        return False
    dtype = pl.Float64 if numbers[0] else pl.String
    # nearly always the first rows tell them apart
    return all(
        bool((column[:rows].cast(dtype) == target[:rows].cast(dtype)).all()) for rows in (10, len(column))
    )


def _outlier(values: np.ndarray[tuple[int], np.dtype[np.float64]]) -> int | None:
    """Where the value lies that leaves nothing of the others' differences, if there is one."""
    if len(values) < 2:
        return None
    largest = float(np.abs(values).max())
    if not largest > 0:
        return None
    small = values / largest
    low, high = np.quantile(small, (0.1, 0.9))
    # of what is mostly one value, as counts that are mostly 0 are, that is no news
    if high == low and (np.diff(np.quantile(values, (0.1, 0.9))) == 0).all():
        return None
    if high - low >= _FLAT * small.std():
        return None
    return int(np.abs(small - np.median(small)).argmax())


def _listed(names: Sequence[str]) -> str:
    return shortened(list(map(repr, names)), 20)
