"""Arrays: what built-ins, NPZ, IDX and image folders, and a person's own tensors come down to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from sklearn.impute import SimpleImputer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from thalweg.data.examples import TensorExamples, as_given
from thalweg.data.script import assemble, parts, split_lines, target_lines
from thalweg.data.source import Indices, Prepared, Source, duplicate_notes, fingerprint_of
from thalweg.data.target import Target, encode, fit_target, outputs_of, read_target
from thalweg.errors import DataError, option

__all__ = ["ArraySource", "from_arrays"]

Array = npt.NDArray[Any]
Scaling = Literal["columns", "channels", "whole", "as given"]


@dataclass(frozen=True, kw_only=True, eq=False)
class ArraySource(Source):
    """Inputs and targets as arrays; see :func:`from_arrays`."""

    x: Array
    y: Array
    x_test: Array | None
    y_test: Array | None
    scaling: Scaling
    impute: bool
    imports: tuple[str, ...]
    reading: tuple[str, ...] | None

    @property
    def labels(self) -> npt.NDArray[np.int64] | None:
        return self.y if self.task.kind == "classification" else None

    def fit(self, indices: Mapping[str, Indices], device: torch.device) -> Prepared:
        train, validation, test = (indices[part] for part in ("train", "validation", "test"))
        x = [self.x[train], self.x[validation], self.x[test] if self.x_test is None else self.x_test]
        y = [self.y[train], self.y[validation], self.y[test] if self.y_test is None else self.y_test]
        inputs = [part.to(device) for part in self._inputs(x)]
        task, targets = fit_target(self.task, y, scaled=self.scaling != "as given")
        examples = [TensorExamples(a, b.to(device)) for a, b in zip(inputs, targets, strict=True)]
        return Prepared(
            train=examples[0],
            validation=examples[1],
            test=examples[2],
            input_shape=tuple(self.x.shape[1:]),
            outputs=outputs_of(self.task, self.y),
            task=task,
            indices=indices,
        )

    def _inputs(self, x: list[Array]) -> list[Tensor]:
        if self.scaling == "as given":
            return [as_given(part) for part in x]
        if self.scaling == "columns":
            scaler = StandardScaler()
            if self.impute:
                scaler = make_pipeline(SimpleImputer(strategy="median"), scaler)
            scaler.fit(x[0])
            return [torch.tensor(scaler.transform(part), dtype=torch.float32) for part in x]
        axes = _axes(self.scaling)
        mean = x[0].mean(axes, keepdims=True).astype("float32")
        std = x[0].std(axes, keepdims=True).astype("float32")
        std[std == 0] = 1
        return [torch.tensor((part - mean) / std, dtype=torch.float32) for part in x]

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
            target_lines(self, scaled=self.scaling != "as given", fraction=_is_number(self.y)),
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
            axes = _axes(self.scaling)
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
        whole, _ = _refuse(x_test, y_test, called, "median" if missing == "median" else None, own)
        if not whole.all():
            raise DataError(
                f"{called} has {(~whole).sum()} rows without a target; leave them out of the file"
            )
    kept, kept_lines = _refuse(x, y, what, missing, own)
    said = list(notes)
    if not kept.all():
        said.append(f"{(~kept).sum()} of {len(kept)} rows have missing values and are left out")
        x, y = x[kept], y[kept]
        lines += kept_lines
    impute = any(part is not None and _is_number(part) and np.isnan(part).any() for part in (x, x_test))
    if impute:
        said.append("missing values are replaced by the median of their column in the training part")
    target = read_target(y, asked=task, labelled=True)
    lines += _class_lines(target, y, fixed)
    y_fixed = None if y_test is None else encode(y_test, target)
    said += [*target.notes, *_duplicates(x, y), *_scale_notes(x, target, own)]
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


def _axes(scaling: Scaling) -> tuple[int, ...] | None:
    return (0, 2, 3) if scaling == "channels" else None


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
    if x.ndim == 1:
        return x[:, None], "[:, None]"
    if x.dtype.kind == "b":
        return x.astype("float32"), ".astype('float32')"
    if own and x.dtype != np.uint8:
        return x, ""
    if x.ndim == 3 and x.dtype == np.uint8:
        return x[:, None], "[:, None]"
    if x.ndim == 4 and x.shape[3] in (1, 3, 4) and x.shape[1] not in (1, 3, 4):
        return x.transpose(0, 3, 1, 2), ".transpose(0, 3, 1, 2)"
    return x, ""


def _targets_of(x: Array, y: Array, what: str) -> tuple[Array, str]:
    if y.ndim == 0 or len(x) != len(y):
        have = "one" if y.ndim == 0 else len(y)
        raise DataError(f"{what} has {len(x)} inputs but {have} targets; there must be one for each")
    if y.dtype.kind not in "biufOUS":
        raise DataError(f"the targets of {what} are of type {y.dtype}, neither numbers nor labels")
    return (y[:, 0], "[:, 0]") if y.ndim == 2 and y.shape[1] == 1 else (y, "")


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
    if y.dtype.kind == "O" and any(value is None or value != value for value in y.ravel().tolist()):
        raise DataError(f"the targets of {what} hold missing values; leave these examples out")
    empty: dict[str, npt.NDArray[np.bool_]] = {}
    for part, values in (("x", x), ("y", y)):
        if values.dtype.kind != "f":
            continue
        called = f"{'inputs' if part == 'x' else 'targets'} of {what}"
        endless = np.isinf(values)
        if endless.any():
            raise DataError(
                f"the {called} hold {endless.sum()} infinite values{_where(endless)}; "
                "replace them or leave these rows out"
            )
        gone = np.isnan(values)
        if not gone.any():
            continue
        if missing is None:
            raise DataError(
                f"the {called} hold {gone.sum()} missing values{_where(gone)}; "
                f"say {option('missing', 'drop')} (leave these rows out) or {option('missing', 'median')}"
            )
        if missing == "median" and part == "x":
            if own or x.ndim != 2:
                raise DataError(
                    f"the {called} hold {gone.sum()} missing values, and {option('missing', 'median')} is "
                    f"for columns of a table or an array in a file; use {option('missing', 'drop')}, or fill "
                    "them yourself"
                )
            if gone.all(0).any():
                raise DataError(
                    f"column {int(gone.all(0).argmax())} of the {called} has no values at all; leave it out"
                )
            continue
        empty[part] = np.asarray(gone.reshape(len(values), -1).any(1))
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


def _where(found: npt.NDArray[np.bool_]) -> str:
    if found.ndim != 2:
        return ""
    counts = [(column, int(count)) for column, count in enumerate(found.sum(0)) if count]
    listed = ", ".join(f"{column} ({count})" for column, count in counts[:8])
    return f" in column {listed}" + (f" and {len(counts) - 8} more" if len(counts) > 8 else "")


def _duplicates(x: Array, y: Array) -> list[str]:
    seen = {a.tobytes() + str(b).encode() for a, b in zip(x, y.tolist(), strict=True)}
    return duplicate_notes(len(x) - len(seen))


def _scale_notes(x: Array, target: Target, own: bool) -> list[str]:
    notes = []
    if not own and x.ndim == 2 and x.dtype.kind in "iuf":
        # ptp is NaN where a column has missing values; those are no constants.
        still = np.flatnonzero(np.ptp(x, axis=0) == 0)
        if len(still):
            listed = ", ".join(map(str, still[:8])) + (" and more" if len(still) > 8 else "")
            notes.append(f"{len(still)} columns hold one value only (number {listed}) and become zeros")
    if own and x.dtype.kind == "f" and not 0.1 <= float(x.std()) <= 10:
        notes.append(
            f"inputs are taken as given, and their standard deviation is {float(x.std()):.3g}; "
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


def _describe(x: Array) -> str:
    shape = " x ".join(map(str, x.shape[1:]))
    if x.ndim == 2:
        return f"{shape} columns"
    return f"images of {shape} (channels, height, width)" if x.ndim == 4 else f"arrays of {shape}"
