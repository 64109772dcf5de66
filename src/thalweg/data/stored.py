"""What preparing data came to, as plain values: kept beside a model, applied to new data."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import polars as pl
import torch
from pydantic import BaseModel, ConfigDict
from sklearn.impute import SimpleImputer
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from torch import Tensor

from thalweg.data.arrays import ArraySource
from thalweg.data.dates import PATTERN
from thalweg.data.examples import whole
from thalweg.data.frames import frame_of
from thalweg.data.nested import NestedSource
from thalweg.data.scaling import AsGiven, ColumnScaling
from thalweg.data.source import Indices, Source
from thalweg.data.stored_nested import NestedPreparation
from thalweg.data.tabular import FILLED, TableSource
from thalweg.data.target import FARTHEST
from thalweg.errors import DataError, shortened
from thalweg.settings.choices import Missing

__all__ = ["ArrayPreparation", "Preparation", "TablePreparation", "store"]

Array = npt.NDArray[Any]


class _Stored(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class TablePreparation(_Stored):
    """How a table's rows become inputs.

    Attributes:
        target: the column that was predicted.
        dtypes: what the columns were, as polars calls it.
        numbers, mean, scale, median: numeric columns, what is taken off, what is divided by, and what stands
            for a missing value.
        categories, levels: text columns, and the values that each may have, an input for each.
        missing: what was to be done about missing values.
        filled: whether missing text is a value by itself.
        gaps: numeric columns that had missing values in training, for each of which an input says where.
        powers: numeric columns to the power of two that they are divided by before anything else.
        patterns: columns of dates to the pattern by which their text was read.
    """

    kind: Literal["table"] = "table"
    target: str | None
    dtypes: dict[str, str]
    numbers: list[str]
    mean: list[float]
    scale: list[float]
    median: list[float]
    categories: list[str]
    levels: list[list[str]]
    missing: Missing | None
    filled: bool
    gaps: list[str] = []
    powers: dict[str, int] = {}
    patterns: dict[str, str] = {}

    def apply(
        self, given: Any, called: str = "the table", said: Sequence[str] = ()
    ) -> tuple[Tensor, list[str]]:
        """Make inputs of a data frame.

        Args:
            given: a polars frame, or a pandas one.
            called: what it is called in messages.
            said: notes of reading it.

        Returns:
            ``[N, F]`` float32, and what is worth saying.

        Raises:
            DataError: columns that aren't there, values of another type, missing values.
        """
        frame = frame_of(given)
        if frame is None:
            raise DataError(
                f"{called} is a {type(given).__name__}, but training had a table; give a polars or pandas "
                "frame"
            )
        used = [*self.numbers, *self.categories]
        absent = [name for name in used if name not in frame.columns]
        if absent:
            raise DataError(
                f"{called} has no {_columns(absent)}, which training used; its columns are "
                f"{_names(frame.columns)}"
            )
        if not len(frame):
            raise DataError(f"{called} has columns but no rows; there is nothing to predict")
        notes = list(said)
        extra = [name for name in frame.columns if name not in used and name != self.target]
        if extra:
            notes.append(f"{called} has {_columns(extra)}, which training didn't use: left out")
        floats = [c for c in used if frame[c].dtype.is_float()]
        frame = frame.with_columns(pl.col(floats).fill_nan(None)) if floats else frame
        parts = []
        if self.numbers:
            numbers = np.stack([self._number(frame[name], called) for name in self.numbers], axis=1)
            gone = np.isnan(numbers)
            if gone.any():
                if self.missing != "median":
                    self._refuse_missing(gone, self.numbers, called)
                numbers = np.where(gone, np.array(self.median), numbers)
                notes.append(f"{int(gone.sum())} missing numbers are replaced by the medians of training")
            parts.append((numbers - np.array(self.mean)) / np.array(self.scale))
            parts.append(gone[:, [self.numbers.index(name) for name in self.gaps]])
        for name, levels in zip(self.categories, self.levels, strict=True):
            text = self._text(frame[name])
            gone = text.is_null().to_numpy()
            # in training gaps may all have been outside of the training part
            if gone.any() and not self.filled and self.missing != "median":
                self._refuse_missing(gone[:, None], [name], called)
            filled = text.fill_null(FILLED)
            strange = sorted(set(filled.to_list()) - set(levels))
            if strange:
                count = int(filled.is_in(strange).sum())
                rows = "row" if count == 1 else "rows"
                notes.append(
                    f"{count} {rows} of {called} with values in column {name!r} that "
                    f"training never saw ({_names(strange)}): they count as none of the known ones"
                )
            values = np.array(filled.to_list(), dtype=object)[:, None]
            parts.append((values == np.array(levels, dtype=object)[None]).astype(np.float64))
        with np.errstate(over="ignore"):
            inputs = torch.tensor(np.concatenate(parts, axis=1), dtype=torch.float32)
        if not torch.isfinite(inputs).all():
            row, number = (~torch.isfinite(inputs)).nonzero()[0].tolist()
            name = self.numbers[number]
            raise DataError(
                f"the column {name!r} of {called} holds {frame[name][row]} (row {row + 1}), too far from "
                "what training saw for a float32 to hold it; mend it"
            )
        return inputs, notes

    def _number(self, column: pl.Series, called: str) -> Array:
        trained = self.dtypes[column.name]
        dtype = _dtype(trained)
        try:
            if dtype is not None and dtype.is_temporal() and column.dtype != dtype:
                column = _as_time(column, dtype, self.patterns.get(column.name))
            elif column.dtype in (pl.String, pl.Categorical, pl.Enum):
                column = column.cast(pl.String).str.strip_chars()
            values = column.cast(pl.Float64)
        except pl.exceptions.PolarsError:
            row = _first_unlike(column, dtype, self.patterns.get(column.name))
            raise DataError(
                f"the column {column.name!r} of {called} holds {str(column[row])!r} (row {row + 1}), but in "
                f"training it was of type {trained}; mend it"
            ) from None
        if values.is_infinite().any():
            raise DataError(f"the column {column.name!r} of {called} holds infinite values; replace them")
        numbers = values.to_numpy().astype(np.float64)
        return numbers * 2.0 ** -self.powers[column.name] if column.name in self.powers else numbers

    def _text(self, column: pl.Series) -> pl.Series:
        # a column of whole numbers may have become one of fractions, or the other way round
        dtype = _dtype(self.dtypes[column.name])
        if dtype is not None and dtype.is_temporal() and column.dtype == pl.String:
            column = _as_time(column, dtype, self.patterns.get(column.name), strict=False)
        elif dtype is not None and dtype != pl.String and column.dtype != dtype:
            column = column.cast(dtype, strict=False)
        return column.cast(pl.String)

    def check(self) -> None:
        """Refuse numbers and names that can't have come from a training.

        Raises:
            ValueError: in a few words, what is wrong.
        """
        width = (len(self.numbers),)
        _check_numbers("inputs.mean", self.mean, width)
        _check_numbers("inputs.scale", self.scale, width, above_zero=True)
        _check_numbers("inputs.median", self.median, width)
        if len(self.categories) != len(self.levels):
            raise ValueError("inputs.levels aren't as many as inputs.categories")
        used = [*self.numbers, *self.categories]
        if len(set(used)) < len(used):
            raise ValueError("inputs names a column twice")
        strange = [name for name in (*self.gaps, *self.powers) if name not in self.numbers]
        if strange or len(set(self.gaps)) < len(self.gaps):
            raise ValueError("inputs.gaps or inputs.powers name what isn't in inputs.numbers, or one twice")
        if any(abs(power) > FARTHEST for power in self.powers.values()):
            raise ValueError(f"inputs.powers are beyond {FARTHEST}")
        unknown = [name for name in used if name not in self.dtypes]
        if unknown:
            raise ValueError(f"inputs.dtypes has no {unknown[0]!r}")
        for name, pattern in self.patterns.items():
            if name not in used or not PATTERN.fullmatch(pattern):
                raise ValueError(
                    f"inputs.patterns has {pattern!r} for {name!r}, which is no pattern of dates"
                )

    @property
    def features(self) -> tuple[int, ...]:
        """The shape of one example's inputs."""
        return (len(self.numbers) + len(self.gaps) + sum(map(len, self.levels)),)

    def _refuse_missing(self, gone: Array, names: list[str], called: str) -> None:
        rows = np.flatnonzero(gone.any(1))
        which = [name for name, column in zip(names, gone.T, strict=True) if column.any()]
        raise DataError(
            f"{called} has missing values in {_columns(which)} "
            f"({len(rows)} row{'' if len(rows) == 1 else 's'}, the first is row {rows[0] + 1}), "
            "which training had no way to fill; train with missing = 'median' on data that "
            "have such values, or fill them in"
        )


def _check_numbers(name: str, given: Any, shape: tuple[int, ...], *, above_zero: bool = False) -> None:
    try:
        values = np.array(given, dtype=np.float64)
    except (TypeError, ValueError):
        raise ValueError(f"{name} is no array of numbers") from None
    if values.shape != shape:
        raise ValueError(f"{name} has the shape {list(values.shape)}, but the inputs need {list(shape)}")
    if not np.isfinite(values).all() or (above_zero and not (values > 0).all()):
        raise ValueError(f"{name} holds numbers that aren't finite" + (" and above 0" if above_zero else ""))


class ArrayPreparation(_Stored):
    """How an array's examples become inputs.

    Attributes:
        shape: of one example.
        scaling: by which axes the statistics were taken; ``"as given"``: not at all.
        mean, scale: what is taken off, and what is divided by, nested as arrays that broadcast.
        median: of each column, where missing values were to be filled.
        images: of files of images, whether they had one size or were brought to one.
    """

    kind: Literal["array"] = "array"
    shape: list[int]
    scaling: Literal["columns", "channels", "whole", "as given"]
    number: bool
    mean: Any = None
    scale: Any = None
    median: list[float] | None = None
    images: Literal["one size", "resized"] | None = None

    def apply(
        self, given: Any, called: str = "the array", said: Sequence[str] = ()
    ) -> tuple[Tensor, list[str]]:
        """Make inputs of an array ``[N, *shape]``, or of rows of as many numbers.

        Returns:
            ``[N, *shape]``, and what is worth saying.

        Raises:
            DataError: another shape, missing or infinite values.
        """
        x = given.detach().cpu().numpy() if isinstance(given, Tensor) else np.asarray(given)
        if x.dtype.kind not in "biuf":
            raise DataError(f"{called} holds {x.dtype} values, not numbers")
        if x.dtype.kind == "f" and x.dtype.itemsize > 8:
            # as in training
            x = x.astype(np.float64)
        size = int(np.prod(self.shape))
        if x.ndim == 0 or not len(x) or x.size != len(x) * size:
            raise DataError(
                f"{called} has the shape {list(x.shape)}, but training had examples of shape {self.shape}: "
                f"give {size} numbers for each"
            )
        x = x.reshape(len(x), *self.shape)
        filled = 0
        median = None if self.median is None else np.array(self.median)

        def made(part: Array) -> Tensor:
            nonlocal filled
            gone = np.isnan(part) if part.dtype.kind == "f" else None
            if gone is not None and gone.any():
                if median is None:
                    raise DataError(f"{called} holds missing or infinite values; replace them")
                filled += int(gone.sum())
                part = np.where(gone, median, part)
            if part.dtype.kind == "f" and np.isinf(part).any():
                raise DataError(f"{called} holds missing or infinite values; replace them")
            return self._scaled(part)

        with np.errstate(over="ignore"):
            inputs = whole(x, np.arange(len(x)), made, torch.device("cpu"))
        if inputs.is_floating_point() and not torch.isfinite(inputs).all():
            row = int((~torch.isfinite(inputs)).reshape(len(x), -1).any(1).nonzero()[0])
            raise DataError(
                f"{called} holds numbers in example {row + 1} too far from what training saw for a float32 "
                "to hold them; mend it"
            )
        notes = [f"{filled} missing numbers are replaced by the medians of training"] if filled else []
        return inputs, [*said, *notes]

    def _scaled(self, x: Array) -> Tensor:
        if self.scaling == "as given":
            return torch.tensor(x, dtype=torch.float32) if self.number else torch.tensor(x)
        if self.scaling == "columns":
            scaled = (x.astype(np.float64) - np.array(self.mean)) / np.array(self.scale)
        else:
            mean, scale = (np.array(value, dtype=np.float32) for value in (self.mean, self.scale))
            scaled = (x - mean) / scale
        return torch.tensor(scaled, dtype=torch.float32)

    def check(self) -> None:
        """Refuse numbers that can't have come from a training.

        Raises:
            ValueError: in a few words, what is wrong.
        """
        if any(length < 1 for length in self.shape):
            raise ValueError(f"inputs.shape is {self.shape}, but every length is at least 1")
        if self.images is not None and (len(self.shape) != 3 or self.shape[0] not in (1, 3)):
            raise ValueError(f"inputs.shape is {self.shape}, which no images have")
        if self.scaling == "as given":
            return
        expected: tuple[int, ...] = (1,) * (len(self.shape) + 1)
        if self.scaling == "columns":
            expected = tuple(self.shape)
        elif self.scaling == "channels":
            expected = (1, self.shape[0], *expected[2:]) if self.shape else ()
        _check_numbers("inputs.mean", self.mean, expected)
        _check_numbers("inputs.scale", self.scale, expected, above_zero=True)
        if self.median is not None:
            _check_numbers("inputs.median", self.median, expected)

    @property
    def features(self) -> tuple[int, ...]:
        """The shape of one example's inputs."""
        return tuple(self.shape)


Preparation = TablePreparation | ArrayPreparation | NestedPreparation


def store(source: Source, indices: Mapping[str, Indices], missing: str | None) -> Preparation | None:
    """Return how a split's inputs are prepared, by the statistics of its training part.

    Args:
        source: as it was loaded.
        indices: rows of each part.
        missing: what the user asked for.

    Returns:
        ``None`` where a person's own code makes the batches, or inputs of a class of their own.

    >>> from thalweg import data
    >>> iris = data.load("iris")
    >>> prepared = data.prepare(iris, seed=0, replicate=0)
    >>> inputs, _ = store(iris, prepared.indices, None).apply(iris.x[prepared.indices["test"]])
    >>> torch.equal(inputs, prepared.test.inputs)
    True
    """
    rows = indices["train"]
    if isinstance(source, TableSource):
        return _of_table(source, rows, missing)
    if isinstance(source, NestedSource):
        return NestedPreparation.of(source.inputs_of[0])
    return _of_array(source, rows) if isinstance(source, ArraySource) else None


def _of_table(source: TableSource, rows: Indices, missing: str | None) -> TablePreparation:
    part = source.frame[rows]
    median: list[float] = []
    mean: list[float] = []
    scale: list[float] = []
    if source.numbers:
        numbers = part.select(source.numbers).to_numpy()
        imputer = SimpleImputer(strategy="median", keep_empty_features=True).fit(numbers)
        median = imputer.statistics_.tolist()
        scaler = StandardScaler().fit(imputer.transform(numbers))
        mean, scale = scaler.mean_.tolist(), scaler.scale_.tolist()
    levels: list[list[str]] = []
    if source.categories:
        encoder = OneHotEncoder(handle_unknown="ignore", sparse_output=False)
        encoder.fit(part.select(source.categories))
        levels = [list(each) for each in encoder.categories_]
    return TablePreparation(
        target=source.task.target,
        dtypes=dict(source.dtypes),
        numbers=list(source.numbers),
        mean=mean,
        scale=scale,
        median=median,
        categories=list(source.categories),
        levels=levels,
        missing=missing,  # type: ignore[arg-type]
        filled=any(FILLED in each for each in levels),
        gaps=[name for name in source.numbers if source.impute and part[name].null_count()],
        powers=dict(source.powers),
        patterns=dict(source.patterns),
    )


def _of_array(source: ArraySource, rows: Indices) -> ArrayPreparation:
    shape, number, images = list(source.x.shape[1:]), source.x.dtype.kind == "f", source.images
    made = source.standardized(rows)
    if isinstance(made, AsGiven):
        return ArrayPreparation(shape=shape, scaling="as given", number=number)
    if isinstance(made, ColumnScaling):
        return ArrayPreparation(
            shape=shape, scaling="columns", number=number, images=images,
            median=None if made.medians is None else made.medians.statistics_.tolist(),
            mean=made.scaler.mean_.tolist(), scale=made.scaler.scale_.tolist(),
        )  # fmt: skip
    return ArrayPreparation(
        shape=shape, scaling=source.scaling, number=number, images=images,
        mean=made.mean.tolist(), scale=made.std.tolist(),
    )  # fmt: skip


_KNOWN: list[pl.DataType] = [
    pl.Int8(), pl.Int16(), pl.Int32(), pl.Int64(), pl.UInt8(), pl.UInt16(), pl.UInt32(), pl.UInt64(),
    pl.Int128(), pl.Float32(), pl.Float64(), pl.Boolean(), pl.String(), pl.Date(), pl.Time(),
    pl.Datetime("ms"), pl.Datetime("us"), pl.Datetime("ns"), pl.Duration("ms"), pl.Duration("us"),
]  # fmt: skip
_ISO = r"^\d{4}-\d{1,2}-\d{1,2}"
_DTYPES = {str(dtype): dtype for dtype in _KNOWN}
_ZONED = re.compile(r"Datetime\(time_unit='(ms|us|ns)', time_zone='([\w/+-]+)'\)")


def _dtype(called: str) -> pl.DataType | None:
    """The type that polars calls so; ``None`` for others than those of numbers, times and text."""
    zoned = _ZONED.fullmatch(called)
    if zoned is not None:
        return pl.Datetime(zoned[1], zoned[2])  # type: ignore[arg-type]
    return _DTYPES.get(called)


def _as_time(
    column: pl.Series, dtype: pl.DataType, pattern: str | None = None, *, strict: bool = True
) -> pl.Series:
    """Dates and times in the unit that training had: a number of other units would be another number."""
    if isinstance(dtype, pl.Duration):
        return column.cast(dtype, strict=strict)
    if column.dtype == pl.Null:
        return column.cast(dtype)
    if not column.dtype.is_temporal():
        text = column.cast(pl.String).str.strip_chars()
        if dtype == pl.Time:
            return text.str.to_time(strict=strict)
        if isinstance(dtype, pl.Datetime) and dtype.time_zone is not None:
            return text.str.to_datetime(strict=strict, time_zone="UTC").cast(dtype)
        # which number is the day is what it was in training; 2020-01-31 says it by itself
        iso = text.str.contains(_ISO).all()
        column = text.str.to_datetime(None if iso else pattern, strict=strict)
    zoned = isinstance(dtype, pl.Datetime) and dtype.time_zone is not None
    if zoned and isinstance(column.dtype, pl.Datetime) and column.dtype.time_zone is None:
        # a time without a zone is one of UTC, as polars counts it
        column = column.dt.replace_time_zone("UTC")
    return column.cast(dtype, strict=strict)


def _first_unlike(column: pl.Series, dtype: pl.DataType | None, pattern: str | None) -> int:
    """The first row that can't be of this type."""
    try:
        if dtype is not None and dtype.is_temporal():
            read = _as_time(column, dtype, pattern, strict=False)
        else:
            read = column.cast(pl.Float64, strict=False)
        bad = read.is_null() & column.is_not_null()
    except pl.exceptions.PolarsError:
        bad = column.is_not_null()
    rows = bad.arg_true() if bad.any() else column.is_not_null().arg_true()
    return int(rows[0])


def _columns(names: list[str]) -> str:
    return ("column " if len(names) == 1 else "columns ") + _names(names)


def _names(names: list[str]) -> str:
    return shortened(list(map(repr, names)))
