"""Tables: CSV, TSV, Parquet and JSON lines, read by polars and prepared by scikit-learn."""

from __future__ import annotations

import io
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import torch
from sklearn.compose import make_column_transformer
from sklearn.impute import MissingIndicator, SimpleImputer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from thalweg.data.checks import level_notes, name_notes, repeated_rows, table_warnings
from thalweg.data.columns import Columns, check_values, read_columns
from thalweg.data.delimited import Table, Unreadable, is_pattern, read_delimited, read_times
from thalweg.data.examples import TensorExamples
from thalweg.data.files import looks_like, read_whole
from thalweg.data.script import assemble, split_lines, target_lines
from thalweg.data.source import Indices, Prepared, Source, duplicate_notes, fingerprint_of
from thalweg.data.target import LEAST_ROWS, Target, fit_target, outputs_of, power_of, read_target
from thalweg.errors import DataError, nearest, option, shortened

__all__ = ["FILLED", "TableSource", "from_frame", "parse_table", "read_table"]

# as the script spells it
_INDICATOR: dict[str, Any] = {"features": "missing-only", "error_on_new": False}
FILLED = "(missing)"
"""The category that stands for missing text."""


@dataclass(frozen=True, kw_only=True, eq=False)
class TableSource(Source):
    """A table: numbers as float64 and categories as text in ``frame``, and the target beside it.

    Attributes:
        dtypes: what columns were when they were read, as polars calls it.
        patterns: columns of dates that were read by a pattern of their own.
        powers: numbers near an end of float64's range, to the power of two that they are divided by.
    """

    frame: pl.DataFrame
    powers: Mapping[str, int]
    dtypes: Mapping[str, str]
    patterns: Mapping[str, str]
    y: npt.NDArray[Any]
    numbers: tuple[str, ...]
    categories: tuple[str, ...]
    impute: bool
    imports: tuple[str, ...]
    reading: tuple[str, ...] | None

    @property
    def labels(self) -> npt.NDArray[np.int64] | None:
        return self.y if self.task.kind == "classification" else None

    def fit(self, indices: Mapping[str, Indices], device: torch.device) -> Prepared:
        train, validation, test = (indices[part] for part in ("train", "validation", "test"))
        scaler = StandardScaler()
        if self.impute:
            scaler = make_pipeline(SimpleImputer(strategy="median", keep_empty_features=True), scaler)
        encoder = OneHotEncoder(handle_unknown="ignore", sparse_output=False)
        steps = [(scaler, list(self.numbers)), (encoder, list(self.categories))]
        if self.impute:
            # beside a median, whether there was one: of columns with gaps in the training part
            steps.insert(1, (MissingIndicator(**_INDICATOR), list(self.numbers)))
        table = make_column_transformer(*(step for step in steps if step[1]))
        table.fit(self.frame[train])
        rows = (train, validation, test)
        inputs = [torch.tensor(table.transform(self.frame[r]), dtype=torch.float32) for r in rows]
        task, targets = fit_target(self.task, [self.y[r] for r in rows], scaled=True)
        examples = [TensorExamples(a.to(device), b.to(device)) for a, b in zip(inputs, targets, strict=True)]
        return Prepared(
            train=examples[0],
            validation=examples[1],
            test=examples[2],
            input_shape=(inputs[0].shape[1],),
            outputs=outputs_of(self.task, self.y),
            task=task,
            indices=indices,
        )

    def script(self, seed: int, replicate: int) -> str | None:
        if self.reading is None:
            return None
        imports = {
            "import numpy as np",
            "import polars as pl",
            "from sklearn.compose import make_column_transformer",
            *self.imports,
        }
        steps = []
        if self.numbers:
            imports.add("from sklearn.preprocessing import StandardScaler")
            scaler = "StandardScaler()"
            if self.impute:
                imports |= {
                    "from sklearn.impute import MissingIndicator, SimpleImputer",
                    "from sklearn.pipeline import make_pipeline",
                }
                imputer = "SimpleImputer(strategy='median', keep_empty_features=True)"
                scaler = f"make_pipeline({imputer}, {scaler})"
            steps.append(f"    ({scaler}, numbers),")
            if self.impute:
                steps.append("    (MissingIndicator(features='missing-only', error_on_new=False), numbers),")
        if self.categories:
            imports.add("from sklearn.preprocessing import OneHotEncoder")
            steps.append("    (OneHotEncoder(handle_unknown='ignore', sparse_output=False), categories),")
        preparing = [
            "table = make_column_transformer(",
            *steps,
            ").fit(x[train])",
            "x_train, x_validation, x_test = (",
            "    torch.tensor(table.transform(x[part]), dtype=torch.float32)",
            "    for part in (train, validation, test)",
            ")",
        ]
        return assemble(
            imports,
            self.reading,
            split_lines(self, seed=seed, replicate=replicate),
            preparing,
            target_lines(self, self.y, scaled=True, fraction=True),
        )


def read_table(
    path: Path,
    *,
    target: str | None,
    task: str | None = None,
    missing: str | None = None,
    types: Mapping[str, str] | None = None,
) -> TableSource:
    """Read a table from a file; its ending says the format.

    In CSV and TSV, ``NA``, ``N/A``, ``NaN``, ``null``, ``?`` and nothing at all stand for a missing value,
    blank lines are no rows, dates are recognised (in JSON lines too), and semicolons or tabs divide columns
    where the first line has more of them than commas.

    Raises:
        DataError: the file can't be read as what its name says, or its columns can't be used.
    """
    content = read_whole(path)
    table = parse_table(path, content)
    return from_frame(
        table, spec=str(path), name=path.name.partition(".")[0], target=target, task=task, missing=missing,
        types=types, reading=table.lines, imports=table.imports, fingerprint=fingerprint_of([content]),
    )  # fmt: skip


def from_frame(
    table: pl.DataFrame | Table,
    *,
    spec: str,
    name: str,
    target: str | None,
    task: str | None = None,
    missing: str | None = None,
    types: Mapping[str, str] | None = None,
    reading: tuple[str, ...] | None = None,
    imports: tuple[str, ...] = (),
    fingerprint: str | None = None,
) -> TableSource:
    """Make a source of a table.

    Args:
        table: a frame, or what a file was read as.
        spec, name: as in :class:`Source`.
        target, task, missing, types: what the user asked for.
        reading, imports: lines that define ``frame``.
        fingerprint: of the file; default: of the table.

    Raises:
        DataError: no target, or columns that can't be used.
    """
    if isinstance(table, pl.DataFrame):
        table = Table(frame=table, lines=())
    frame = table.frame
    _refuse_patterns(frame.columns, spec)
    if not len(frame):
        raise DataError(f"{spec} has columns but no rows; there is nothing to learn from")
    if target is None:
        raise DataError(
            f"{spec} needs {option('target')}, the column to predict; its columns are "
            f"{shortened(list(map(repr, frame.columns)), 20)}"
        )
    if target not in frame.columns:
        raise DataError(f"{spec} has no column {target!r}; {nearest(target, frame.columns)}")
    for each in table.twice:
        if each == target or each in (types or {}):
            raise DataError(
                f"{spec} has several columns called {each!r}, so it isn't clear which one is meant; give "
                "them names that differ"
            )
    notes = [*table.notes, *name_notes(frame.columns, table.twice)]
    print_id = fingerprint or fingerprint_of([frame.write_csv(), str(frame.schema)])
    lines = list(reading or ())
    if any(frame[c].dtype.is_float() and frame[c].is_nan().any() for c in frame.columns):
        frame = frame.fill_nan(None)
        lines.append("frame = frame.fill_nan(None)")
    columns = read_columns(frame, target=target, types=types, spec=spec, padded=table.padded)
    columns.warnings += [_open_order(name, table) for name in columns.used if name in table.unsure]
    check_values(frame, columns, target=target, missing=missing, spec=spec)
    frame, dropped = _drop(frame, columns, target, missing, spec)
    lines += dropped[0]
    notes += [*columns.notes, *dropped[1]]
    impute = missing == "median" and any(frame[c].null_count() for c in columns.numbers)
    fill = missing == "median" and any(frame[c].null_count() for c in columns.categories)
    if impute:
        notes.append(
            "missing numbers are replaced by the median of their column in the training part, and an input "
            "for each such column says where"
        )
    if fill:
        notes.append("missing texts are a category of their own")
    goal, target_line = _goal(frame[target], task, target)
    x = frame.select(_typed(columns, fill=fill))
    lines += _typed_lines(columns, fill=fill)
    powers = {name: power for name in columns.numbers if (power := power_of(x[name].to_numpy()))}
    if powers:
        x = x.with_columns(pl.col(name) * 2.0**-power for name, power in powers.items())
        factors = ", ".join(f"pl.col({name!r}) * 2.0**{-power}" for name, power in powers.items())
        lines.append(f"x = x.with_columns({factors})")
    lines += _goal_lines(goal, target_line)
    notes += [*goal.notes, *level_notes(x, columns.categories)]
    warnings = [
        *columns.warnings,
        *goal.warnings,
        *table_warnings(frame, x, target, columns, filled=missing == "median"),
        *duplicate_notes(repeated_rows(frame, columns.row_numbers)),
    ]
    return TableSource(
        spec=spec,
        name=name,
        task=goal.task,
        rows=len(frame),
        inputs=_describe(columns, x),
        columns=columns.kinds,
        class_counts=goal.counts,
        notes=notes,
        warnings=warnings,
        fingerprint=print_id,
        frame=x,
        powers=powers,
        dtypes={name: str(frame.schema[name]) for name in columns.used},
        patterns={name: table.patterns[name] for name in columns.used if name in table.patterns},
        y=goal.values,
        numbers=tuple(columns.numbers),
        categories=tuple(columns.categories),
        impute=impute,
        imports=imports,
        reading=None if reading is None else tuple(lines),
    )


def parse_table(path: Path, content: bytes, *, text: Collection[str] = ()) -> Table:
    """Return a table, and the lines that read it.

    Args:
        path: of the file.
        content: what stands in it.
        text: columns that are text whatever they look like.

    Raises:
        DataError: the content isn't what the file's name says.
    """
    endings = [ending for ending in path.suffixes if ending != ".gz"]
    ending = endings[-1].lower()
    seems = looks_like(content)
    expected = "a Parquet file" if ending == ".parquet" else None
    if seems != expected:
        like = f"it looks like {seems}" if seems else "it doesn't look like one"
        raise DataError(
            f"{path} isn't the {ending[1:]} file that its name says ({like}); rename or convert it"
        )
    if ending != ".parquet" and b"\0" in content[:4096]:
        raise DataError(f"{path} isn't the text that its name says: it holds zero bytes; convert it to UTF-8")
    try:
        if ending == ".parquet":
            frame = pl.read_parquet(io.BytesIO(content))
            return Table(frame=frame, lines=(f"frame = pl.read_parquet({str(path)!r})",))
        if ending in (".jsonl", ".ndjson"):
            frame = pl.read_ndjson(io.BytesIO(content), infer_schema_length=None)
            line = f"frame = pl.read_ndjson({str(path)!r}, infer_schema_length=None)"
            table = read_times(frame, leave=text)
            return replace(table, lines=(line, *table.lines))
        return read_delimited(str(path), content, text=text)
    except Unreadable as problem:
        raise DataError(f"{path} can't be read as {ending[1:]}: {problem}") from problem
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError, ValueError) as problem:
        # what polars advises is to change calls of its own
        said = re.split(r" (?:Consider|You might) ", " ".join(str(problem).split()))[0]
        raise DataError(
            f"{path} can't be read as {ending[1:]} ({said[:200]}); mend or convert it"
        ) from problem


def _open_order(name: str, table: Table) -> str:
    pattern = table.patterns[name]
    first = next(day for day in table.frame[name] if day is not None)
    return (
        f"the column {name!r} doesn't tell days from months: {first.strftime(pattern)!r} is read as "
        f"{first.day} {first.strftime('%B %Y')}; if the month stands first, write the dates as "
        f"{first.year:04d}-{first.day:02d}-{first.month:02d}"
    )


def _refuse_patterns(names: list[str], spec: str) -> None:
    """Names that polars takes for patterns of names would select other columns, or none."""
    for name in names:
        if is_pattern(name):
            raise DataError(f"{spec} has a column called {name!r}, which stands for other columns; rename it")


def _drop(
    frame: pl.DataFrame, columns: Columns, target: str, missing: str | None, spec: str
) -> tuple[pl.DataFrame, tuple[list[str], list[str]]]:
    """The rows that stay, and the script lines and notes about those that don't."""
    names = [*columns.used, target] if missing == "drop" else [target]
    kept = frame.drop_nulls(names)
    gone = len(frame) - len(kept)
    if not gone:
        return frame, ([], [])
    if not len(kept):
        emptiest = max(columns.used, key=lambda name: frame[name].null_count())
        raise DataError(
            f"every row of {spec} has a missing value, most of them in column {emptiest!r} "
            f"({frame[emptiest].null_count()} of {len(frame)}); fill in medians by "
            f"{option('missing', 'median')}, or leave the column out by "
            f"{option('types', {emptiest: 'ignore'})}"
        )
    what = "a missing value" if missing == "drop" else "no target"
    note = f"{gone} of {len(frame)} rows have {what} and are left out"
    return kept, ([f"frame = frame.drop_nulls({names!r})"], [note])


def _typed(columns: Columns, *, fill: bool) -> list[pl.Expr]:
    typed = []
    if columns.numbers:
        typed.append(pl.col(columns.numbers).cast(pl.Float64))
    if columns.categories:
        text = pl.col(columns.categories).cast(pl.String)
        typed.append(text.fill_null(FILLED) if fill else text)
    return typed


def _typed_lines(columns: Columns, *, fill: bool) -> list[str]:
    lines, typed = [], []
    if columns.numbers:
        lines += _list_lines("numbers", columns.numbers)
        typed.append("pl.col(numbers).cast(pl.Float64)")
    if columns.categories:
        lines += _list_lines("categories", columns.categories)
        text = "pl.col(categories).cast(pl.String)"
        typed.append(text + (f".fill_null({FILLED!r})" if fill else ""))
    return [*lines, f"x = frame.select({', '.join(typed)})"]


def _list_lines(name: str, values: list[str]) -> list[str]:
    """``name = [...]`` in lines of at most a hundred characters or so."""
    lines, line = [], f"{name} = ["
    for value in values:
        if len(line) > 90:
            lines.append(line.rstrip())
            line = "    "
        line += f"{value!r}, "
    return [*lines, line.removesuffix(", ") + "]"]


def _goal(column: pl.Series, task: str | None, name: str) -> tuple[Target, str]:
    """The target, and the expression that gives its raw values."""
    dtype, source = column.dtype, f"frame[{name!r}]"
    word = str(dtype).partition("(")[0].lower()
    if dtype.is_nested() or dtype.is_temporal() or dtype in (pl.Binary, pl.Object):
        raise DataError(
            f"the target {name!r} holds {word} values, neither numbers nor labels; "
            "choose another column, or make it a number"
        )
    if dtype in (pl.Categorical, pl.Enum) or _are_labels(column, task):
        column, source = column.cast(pl.String), f"{source}.cast(pl.String)"
    elif dtype.is_decimal() or dtype == pl.Int128 or (dtype == pl.String and _amounts(column, task)):
        column, source = column.cast(pl.Float64), f"{source}.cast(pl.Float64)"
    goal = read_target(column.to_numpy(), name=name, asked=task)
    if goal.task.kind == "regression" and column.dtype != pl.Float64:
        source = f"{source}.cast(pl.Float64)"
    return goal, f"{source}.to_numpy()"


def _are_labels(column: pl.Series, task: str | None) -> bool:
    """Whether whole numbers, some beyond 64 bits, are labels: few, and more than a float64 can tell apart."""
    if column.dtype != pl.Int128 or task == "regression":
        return False
    distinct = column.n_unique()
    return distinct > column.cast(pl.Float64).n_unique() and (
        task == "classification" or distinct * LEAST_ROWS <= len(column)
    )


def _amounts(column: pl.Series, task: str | None) -> bool:
    """Whether text, as that of numbers with zeros in front, is to be regressed and can be."""
    return task == "regression" and column.cast(pl.Float64, strict=False).null_count() == 0


def _goal_lines(goal: Target, raw: str) -> list[str]:
    if goal.task.kind == "classification" and not goal.plain:
        return [f"classes, y = np.unique({raw}, return_inverse=True)"]
    return [f"y = {raw}"]


def _describe(columns: Columns, x: pl.DataFrame) -> str:
    parts = []
    if columns.numbers:
        parts.append(f"{len(columns.numbers)} number" + "s" * (len(columns.numbers) > 1))
    if columns.categories:
        width = sum(x[name].n_unique() for name in columns.categories)
        several = "ies" if len(columns.categories) > 1 else "y"
        parts.append(f"{len(columns.categories)} categor{several} with {width} values")
    left = len(columns.kinds) - len(columns.used)
    total = len(columns.kinds)
    return f"{total} column{'s' * (total > 1)}: " + ", ".join(parts) + (f", {left} left out" if left else "")
