"""Arrays: what built-ins, NPZ, IDX and image folders, and a person's own tensors come down to."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch

from thalweg.data.examples import ArrayExamples, Examples, TensorExamples, whole
from thalweg.data.finite import as_float32
from thalweg.data.held import CACHED, Held, blocks
from thalweg.data.labelled import several_targets
from thalweg.data.repeats import repeats
from thalweg.data.scaling import Scaling, Standardized, axes_of, fitted
from thalweg.data.script import assemble, parts, split_lines, target_lines
from thalweg.data.source import Indices, Prepared, Source, duplicate_notes, fingerprint_of
from thalweg.data.target import Target, encode, fit_target, outputs_of, read_target
from thalweg.errors import DataError, option, shortened
from thalweg.objectives.comparing import is_one_hot

__all__ = ["ArraySource", "from_arrays"]

Array = npt.NDArray[Any]

_PARTS = ("train", "validation", "test")
# Inputs up to this size are made once, others batch by batch of the array as it was read.
_ONCE = 2**26


@dataclass(frozen=True, kw_only=True, eq=False)
class ArraySource(Source):
    """Inputs and targets as arrays; see :func:`from_arrays`.

    Attributes:
        images: of files of images, whether they had one size or were brought to one.
    """

    x: Array
    y: Array
    x_test: Array | None
    y_test: Array | None
    scaling: Scaling
    impute: bool
    imports: tuple[str, ...]
    reading: tuple[str, ...] | None
    images: Literal["one size", "resized"] | None = None

    @property
    def labels(self) -> npt.NDArray[np.int64] | None:
        return self.y if self.task.kind == "classification" else None

    def fit(self, indices: Mapping[str, Indices], device: torch.device) -> Prepared:
        y = [
            self.y[indices[part]] if part != "test" or self.y_test is None else self.y_test for part in _PARTS
        ]
        task, targets = fit_target(self.task, y, scaled=self.scaling != "as given")
        made, held = self.standardized(indices["train"]), Held(self.x)
        # as inputs they are float32, or what they are given as
        size = math.prod(self.x.shape[1:]) * (4 if self.scaling != "as given" else self.x.itemsize)
        once = device.type != "cpu" or size * self.rows <= _ONCE
        examples: dict[str, Examples] = {}
        for part, goals in zip(_PARTS, targets, strict=True):
            rows, from_test = np.asarray(indices[part]), part == "test" and self.x_test is not None
            source = Held(self.x_test) if from_test and self.x_test is not None else held
            if once:
                inputs = whole(source.array, rows, made, device)
                examples[part] = TensorExamples(inputs, goals.to(device))
            else:
                examples[part] = ArrayExamples(source, rows, made, goals.to(device), device)
        return Prepared(
            train=examples["train"],
            validation=examples["validation"],
            test=examples["test"],
            input_shape=tuple(self.x.shape[1:]),
            outputs=outputs_of(self.task, self.y),
            task=task,
            indices=indices,
        )

    def standardized(self, train: Indices) -> Standardized:
        """What makes inputs of rows, by the statistics of the training part."""
        return fitted(self.x, np.asarray(train), self.scaling, impute=self.impute)

    def script(self, seed: int, replicate: int) -> str | None:
        if self.reading is None:
            return None
        imports = {"import numpy as np", *self.imports}
        if self.scaling == "columns":
            imports.add("from sklearn.preprocessing import StandardScaler")
        if self.impute:
            imports |= {
                "from sklearn.impute import SimpleImputer",
                "from sklearn.pipeline import make_pipeline",
            }
        return assemble(
            imports,
            self.reading,
            split_lines(self, seed=seed, replicate=replicate),
            self._input_lines(),
            target_lines(
                self,
                *(part for part in (self.y, self.y_test) if part is not None),
                scaled=self.scaling != "as given",
                fraction=_is_number(self.y),
            ),
        )

    def _input_lines(self) -> list[str]:
        three = parts(self, "x")
        if self.scaling == "as given":
            dtype = ", dtype=torch.float32" if _is_number(self.x) else ""
            return [f"x_train, x_validation, x_test = (torch.tensor(part{dtype}) for part in {three})"]
        if self.scaling == "columns":
            scaler = "make_pipeline(SimpleImputer(strategy='median'), StandardScaler())"
            lines = [f"scaler = {scaler if self.impute else 'StandardScaler()'}.fit(x[train])"]
            made = "scaler.transform(part)"
        else:
            axes = axes_of(self.scaling)
            lines = [
                f"mean = x[train].mean({axes}, keepdims=True).astype('float32')",
                f"std = x[train].std({axes}, keepdims=True).astype('float32')",
                "std[std == 0] = 1",
            ]
            made = "(part - mean) / std"
        return [
            *lines,
            "x_train, x_validation, x_test = (",
            f"    torch.tensor({made}, dtype=torch.float32) for part in {three}",
            ")",
        ]


def from_arrays(
    x: Array,
    y: Array,
    x_test: Array | None = None,
    y_test: Array | None = None,
    *,
    spec: str,
    name: str,
    task: str | None = None,
    missing: str | None = None,
    own: bool = False,
    reading: tuple[str, ...] | None = None,
    imports: tuple[str, ...] = (),
    classes: tuple[str, ...] = (),
    notes: tuple[str, ...] = (),
) -> ArraySource:
    """Make a source of arrays.

    From files, columns of ``x [N, F]`` are standardised each, images ``[N, C, H, W]`` by channel, and other
    shapes as a whole; a regression target is standardised too. A person's own arrays are taken as given.

    Args:
        x, y: inputs and targets, with as many rows.
        x_test, y_test: a test part that the source brings along.
        spec, name: as in :class:`Source`.
        task, missing: what the user asked for.
        own: taken as given.
        reading, imports: lines that define ``x`` and ``y``, and ``x_fixed`` and ``y_fixed`` with a test part.
        classes: names to show for the classes, in the order of their values.
        notes: known already.

    Raises:
        DataError: shapes, types or values that can't be used.
    """
    what, fixed = repr(spec), x_test is not None
    x, x_suffix = _inputs_of(x, what, own)
    y, y_suffix = _targets_of(x, y, what)
    lines = [*(reading or ()), *_each("x", x_suffix, fixed), *_each("y", y_suffix, fixed)]
    if x_test is not None and y_test is not None:
        called = f"the test part of {what}"
        x_test, _ = _inputs_of(x_test, called, own)
        y_test, _ = _targets_of(x_test, y_test, called)
        if x_test.shape[1:] != x.shape[1:]:
            raise DataError(
                f"in {what} test examples have shape {list(x_test.shape[1:])} and training examples "
                f"{list(x.shape[1:])}; they must be the same"
            )
        if y_test.shape[1:] != y.shape[1:]:
            raise DataError(
                f"in {what} targets of the test part have shape {list(y_test.shape[1:])} and others "
                f"{list(y.shape[1:])}; they must be the same"
            )
        whole, _ = _refuse(x_test, y_test, called, "median" if missing == "median" else None, own)
        if not whole.all():
            raise DataError(
                f"{called} has {(~whole).sum()} rows without a target; leave them out of the file"
            )
    said = list(notes)
    if task in (None, "classification") and all(
        part.dtype.kind in "biuf" and is_one_hot(part) for part in (y, y_test) if part is not None
    ):
        task = "classification"
        y, y_test = y.argmax(1), None if y_test is None else y_test.argmax(1)
        lines += _each("y", ".argmax(1)", fixed)
        said.append("the targets are one-hot: the place of the 1 is the class")
    kept, kept_lines = _refuse(x, y, what, missing, own)
    if not kept.all():
        said.append(f"{(~kept).sum()} of {len(kept)} rows have missing values and are left out")
        x, y = x[kept], y[kept]
        lines += kept_lines
    impute = missing == "median" and any(
        part is not None and _is_number(part) and _gaps(part).missing.any() for part in (x, x_test)
    )
    if impute:
        said.append("missing values are replaced by the median of their column in the training part")
    target = read_target(y, asked=task, labelled=True)
    lines += _class_lines(target, y, fixed)
    y_fixed = None if y_test is None else encode(y_test, target)
    said += [*target.notes, *duplicate_notes(repeats(x, y)), *_scale_notes(x, target, own)]
    shown = target.task
    if classes and shown.kind == "classification":
        shown = replace(shown, classes=classes)
    return ArraySource(
        spec=spec,
        name=name,
        task=shown,
        rows=len(x),
        test_rows=0 if x_test is None else len(x_test),
        inputs=_describe(x),
        class_counts=target.counts,
        notes=said,
        warnings=target.warnings,
        fingerprint=fingerprint_of([part for part in (x, y, x_test, y_test) if part is not None]),
        x=x,
        y=target.values,
        x_test=x_test,
        y_test=y_fixed,
        scaling=_scaling(x, own),
        impute=impute,
        imports=imports,
        reading=None if reading is None else tuple(lines),
    )


# What arrays may be ------------------------------------------------------------------------------------


def _is_number(x: Array) -> bool:
    return bool(x.dtype.kind == "f")


def _scaling(x: Array, own: bool) -> Scaling:
    if own and x.dtype != np.uint8:
        return "as given"
    return "columns" if x.ndim == 2 else "channels" if x.ndim == 4 else "whole"


def _inputs_of(x: Array, what: str, own: bool) -> tuple[Array, str]:
    """Inputs with the channels first, and what a script appends to do the same."""
    if x.dtype.kind not in "biuf":
        raise DataError(f"the inputs of {what} are of type {x.dtype}, not numbers")
    if x.ndim == 0 or x.size == 0:
        raise DataError(f"{what} holds no examples: its inputs have shape {list(x.shape)}")
    x, cast = _plain(x)
    if x.ndim == 1:
        return x[:, None], cast + "[:, None]"
    if own and x.dtype != np.uint8:
        return x, cast
    if x.ndim == 3 and x.dtype == np.uint8:
        return x[:, None], "[:, None]"
    if x.ndim == 4 and x.shape[3] in (1, 3, 4) and x.shape[1] not in (1, 3, 4):
        return x.transpose(0, 3, 1, 2), cast + ".transpose(0, 3, 1, 2)"
    return x, cast


def _plain(x: Array) -> tuple[Array, str]:
    """Numbers of a type that torch has and in which sums don't overflow, in the machine's byte order."""
    name = {"b1": "float32", "f2": "float32", "f16": "float64", "f12": "float64"}.get(x.dtype.str[1:])
    if name is None and not x.dtype.isnative:
        name = x.dtype.name
    return (x, "") if name is None else (x.astype(name), f".astype({name!r})")


def _targets_of(x: Array, y: Array, what: str) -> tuple[Array, str]:
    if y.ndim == 0 and isinstance(y.item(), Mapping):
        raise several_targets(y.item(), what)
    if y.ndim == 0 or len(x) != len(y):
        have = "one" if y.ndim == 0 else len(y)
        raise DataError(f"{what} has {len(x)} inputs but {have} targets; there must be one for each")
    if y.dtype.kind not in "biufOUS":
        raise DataError(f"the targets of {what} are of type {y.dtype}, neither numbers nor labels")
    if not y.size:
        raise DataError(
            f"the targets of {what} have shape {list(y.shape)}, which holds none; give one or more"
        )
    column = ""
    if y.ndim == 2 and y.shape[1] == 1:
        y, column = y[:, 0], "[:, 0]"
    if y.ndim > 1 and y.dtype.kind in "OUS":
        raise DataError(
            f"the targets of {what} have shape {list(y.shape)} and are of type {y.dtype}; give one label for "
            "each example, or numbers"
        )
    if y.dtype.kind == "O":
        y, cast = _of_objects(y, what)
    else:
        # booleans stay, since they are classes
        y, cast = (y, "") if y.dtype.kind == "b" else _plain(y)
    return y, column + cast


def _of_objects(y: Array, what: str) -> tuple[Array, str]:
    """Python objects that are all text, or all numbers."""
    values = [value.item() if isinstance(value, np.generic) else value for value in y.tolist()]
    if any(value is None or value != value for value in values):
        raise DataError(f"the targets of {what} hold missing values; leave these examples out")
    kinds = {type(value) for value in values}
    if len(kinds) > 1 and not kinds <= {bool, int, float}:
        shown = " and ".join(sorted(kind.__name__ for kind in kinds)[:3])
        raise DataError(
            f"the targets of {what} are of several kinds ({shown}); make them all text, or all numbers"
        )
    if not kinds <= {bool, int, float, str, bytes}:
        if kinds <= {dict, tuple, list}:
            raise several_targets(y.flat[0], what)
        raise DataError(
            f"the targets of {what} are of type {next(iter(kinds)).__name__}, neither numbers nor labels"
        )
    name = "float64" if float in kinds else "int64" if int in kinds else "bool" if bool in kinds else None
    if name == "int64" and not all(-(2**63) <= value < 2**63 for value in values):
        return y, ""
    try:
        return (y, "") if name is None else (y.astype(name), f".astype({name!r})")
    except OverflowError:
        raise DataError(f"the targets of {what} hold numbers beyond 1.8e308; scale them") from None


def _each(name: str, suffix: str, fixed: bool) -> list[str]:
    """A line that appends ``suffix`` to an array, and to the test part's where there is one."""
    if not suffix:
        return []
    return [
        f"{name}, {name}_fixed = {name}{suffix}, {name}_fixed{suffix}"
        if fixed
        else f"{name} = {name}{suffix}"
    ]


def _class_lines(target: Target, raw: Array, fixed: bool) -> list[str]:
    if target.task.kind == "classification" and not target.plain:
        lines = ["classes, y = np.unique(y, return_inverse=True)"]
        return [*lines, "y_fixed = np.searchsorted(classes, y_fixed)"] if fixed else lines
    if target.task.kind == "regression" and raw.dtype != np.float64:
        return _each("y", ".astype('float64')", fixed)
    return []


def _refuse(
    x: Array, y: Array, what: str, missing: str | None, own: bool
) -> tuple[npt.NDArray[np.bool_], list[str]]:
    """Refuse infinite and, unless told what to do, missing values: rows to keep, and how a script does."""
    rows = np.ones(len(x), dtype=np.bool_)
    empty: dict[str, npt.NDArray[np.bool_]] = {}
    for part, values in (("x", x), ("y", y)):
        if values.dtype.kind != "f":
            continue
        called = f"{'inputs' if part == 'x' else 'targets'} of {what}"
        gaps = _gaps(values)
        if gaps.infinite.any():
            raise DataError(
                f"the {called} hold {gaps.infinite.sum()} infinite values{_where(gaps.infinite, values)}; "
                "replace them or leave these rows out"
            )
        if own and part == "x":
            _within_float32(values, called)
        if not gaps.missing.any():
            continue
        count = gaps.missing.sum()
        if missing is None:
            raise DataError(
                f"the {called} hold {count} missing values{_where(gaps.missing, values)}; "
                f"say {option('missing', 'drop')} (leave these rows out) or {option('missing', 'median')}"
            )
        if missing == "median" and part == "x":
            if own or x.ndim != 2:
                raise DataError(
                    f"the {called} hold {count} missing values, and {option('missing', 'median')} is "
                    f"for columns of a table or an array in a file; use {option('missing', 'drop')}, or fill "
                    "them yourself"
                )
            if (gaps.missing == len(x)).any():
                column = int((gaps.missing == len(x)).argmax())
                raise DataError(f"column {column} of the {called} has no values at all; leave it out")
            continue
        empty[part] = gaps.rows
    for rowwise in empty.values():
        rows[rowwise] = False
    if not rows.any():
        raise DataError(
            f"every row of {what} has missing values; use {option('missing', 'median')}, or leave columns out"
        )
    if not empty:
        return rows, []
    words = [_gone_line(part, x if part == "x" else y) for part in empty]
    return rows, [f"keep = ~({' | '.join(words)})", "x, y = x[keep], y[keep]"]


def _gone_line(part: str, values: Array) -> str:
    axes = ", ".join(str(axis) for axis in range(1, values.ndim))
    return f"np.isnan({part})" + (f".any(({axes},))" if axes else "")


def _within_float32(values: Array, called: str) -> None:
    """What is taken as given becomes float32: refuse what would be infinite there, or all zeros."""
    as_float32(values, called)
    if values.itemsize <= 4:
        return
    reach = max(float(np.fmax.reduce(np.abs(part), axis=None)) for _, part in blocks(values))
    if 0 < reach < float(np.finfo(np.float32).smallest_subnormal):
        raise DataError(f"the {called} reach {reach:.3g}, but float32 begins at 1.4e-45; scale them")


@dataclass(frozen=True)
class _Gaps:
    """How many values of each column are infinite and missing, and which rows have missing ones."""

    infinite: npt.NDArray[np.int64]
    missing: npt.NDArray[np.int64]
    rows: npt.NDArray[np.bool_]


def _gaps(values: Array) -> _Gaps:
    width = math.prod(values.shape[1:])
    infinite, missing = np.zeros(width, np.int64), np.zeros(width, np.int64)
    rows = np.zeros(len(values), np.bool_)
    for begin, part in blocks(values):
        # a sum is finite where everything is, unless it overflows
        with np.errstate(over="ignore", invalid="ignore"):
            if np.isfinite(part.sum()):
                continue
        flat = part.reshape(len(part), width)
        gone = np.isnan(flat)
        infinite += np.isinf(flat).sum(0)
        missing += gone.sum(0)
        rows[begin : begin + len(part)] = gone.any(1)
    return _Gaps(infinite, missing, rows)


def _where(counts: npt.NDArray[np.int64], values: Array) -> str:
    if values.ndim != 2:
        return ""
    found = [(int(column), int(counts[column])) for column in np.flatnonzero(counts)]
    return f" in column {shortened([f'{column} ({count})' for column, count in found])}"


def _scale_notes(x: Array, target: Target, own: bool) -> list[str]:
    notes = []
    if not own and x.ndim == 2 and x.dtype.kind in "iuf":
        still = np.flatnonzero(_still(x))
        if len(still):
            listed = ", ".join(map(str, still[:8])) + (" and more" if len(still) > 8 else "")
            notes.append(f"{len(still)} columns hold one value only (number {listed}) and become zeros")
    if own and x.dtype.kind == "f" and not 0.1 <= (spread := _spread(x)) <= 10:
        notes.append(
            f"inputs are taken as given, and their standard deviation is {spread:.3g}; "
            "most models train better near 1"
        )
    if own and x.dtype.kind in "iu" and x.dtype != np.uint8:
        notes.append(
            "inputs are whole numbers and are handed to the model as such, as an embedding wants them"
        )
    if own and target.task.kind == "regression" and not 0.1 <= target.task.spread <= 10:
        notes.append(
            f"targets are taken as given, and their standard deviation is {target.task.spread:.3g}; "
            "most optimizers' search spaces expect about 1"
        )
    return notes


def _still(x: Array) -> npt.NDArray[np.bool_]:
    """Columns of one value; where values are missing there is more than one."""
    same = np.ones(x.shape[1], np.bool_)
    for _, part in blocks(x):
        same &= (part == x[0]).all(0)
    return same


def _spread(x: Array) -> float:
    """The standard deviation of everything, in float64."""
    mean = math.fsum(float(part.sum(dtype=np.float64)) for _, part in blocks(x)) / x.size
    squares = math.fsum(
        float(np.square(part.astype(np.float64) - mean).sum()) for _, part in blocks(x, size=CACHED)
    )
    return math.sqrt(squares / x.size)


def _describe(x: Array) -> str:
    shape = " x ".join(map(str, x.shape[1:]))
    if x.ndim == 2:
        return f"{shape} columns"
    return f"images of {shape} (channels, height, width)" if x.ndim == 4 else f"arrays of {shape}"
