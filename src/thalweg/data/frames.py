"""Data frames of Python: polars' own and those of pandas, for training and for predicting alike."""

from __future__ import annotations

from typing import Any

import polars as pl

from thalweg.errors import DataError

__all__ = ["PANDAS_LINES", "frame_of"]

PANDAS_LINES = (
    "columns = {str(c): table[c].astype(object).where(table[c].notna(), None).tolist() for c in table}",
    "frame = pl.DataFrame(columns, infer_schema_length=None)",
)
"""What a script does with a pandas frame called ``table``."""


def frame_of(value: Any) -> pl.DataFrame | None:
    """Return a data frame as one of polars; ``None`` for what isn't a data frame.

    Raises:
        DataError: a pandas frame has a name twice, or values that polars has no type for.
    """
    if isinstance(value, pl.LazyFrame):
        return value.collect()
    if isinstance(value, pl.DataFrame):
        return value
    if type(value).__module__.partition(".")[0] != "pandas" or not hasattr(value, "columns"):
        return None
    # as text, 1 and "1" are one name
    names = [str(name) for name in value.columns]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise DataError(
            f"the pandas frame has several columns called {twice[0]!r}; give them names that differ as text"
        )
    # Through plain lists: polars' own way needs a package more for text and dates.
    try:
        columns = {
            str(c): value[c].astype(object).where(value[c].notna(), None).tolist() for c in value.columns
        }
        return pl.DataFrame(columns, infer_schema_length=None)
    except (pl.exceptions.PolarsError, TypeError, ValueError, AttributeError, OverflowError) as problem:
        raise DataError(
            f"the pandas frame can't be understood: {' '.join(str(problem).split())}"
        ) from problem
