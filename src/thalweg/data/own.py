"""A person's own data: tensors, arrays, Datasets and frames, given in Python or by a function of theirs."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeGuard

import numpy as np
import numpy.typing as npt
import polars as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from thalweg.data.arrays import from_arrays
from thalweg.data.examples import DatasetExamples, Items, collated
from thalweg.data.finite import as_float32
from thalweg.data.frames import PANDAS_LINES, frame_of
from thalweg.data.labelled import as_given, is_nest, separated, several_targets
from thalweg.data.nested import has_several, of_several, stacked
from thalweg.data.source import Indices, Prepared, Reading, Source, fingerprint_of
from thalweg.data.tabular import from_frame
from thalweg.data.target import encode, outputs_of, read_target
from thalweg.errors import DataError, UserError
from thalweg.objectives.nests import entries_of
from thalweg.settings.plugins import is_file_spec, load_object

__all__ = ["DatasetSource", "read_object", "read_own"]

Collate = Callable[[list[Any]], Any]

_FORMS = (
    "tensors or arrays (x, y) or (x_train, y_train, x_test, y_test), or as two pairs, a Dataset, a pair of "
    "Datasets for training and test, or a polars or pandas frame"
)


@dataclass(frozen=True, kw_only=True, eq=False)
class DatasetSource(Source):
    """A Dataset whose batches go through a collate function, and perhaps another for the test."""

    dataset: Items
    test_dataset: Items | None
    collate: Collate
    y: npt.NDArray[Any] | None
    y_test: npt.NDArray[Any] | None
    target: str | None = None

    @property
    def labels(self) -> npt.NDArray[np.int64] | None:
        return self.y if self.task.kind == "classification" else None

    def fit(self, indices: Mapping[str, Indices], device: torch.device) -> Prepared:
        parts = {}
        for part in ("train", "validation", "test"):
            dataset, y = self.dataset, self.y
            if part == "test" and self.test_dataset is not None:
                dataset, y = self.test_dataset, self.y_test
            targets = None if y is None else as_given(y[indices[part]]).to(device)
            parts[part] = DatasetExamples(dataset, indices[part], self.collate, targets, device, self.target)
        inputs, targets = parts["train"].batch(torch.arange(min(8, len(parts["train"]))))
        known = parts["train"].targets
        if known is not None and not torch.equal(targets.to(known.dtype), known[: len(targets)]):
            raise DataError(
                "the targets that collate gives aren't those of the items"
                + (f", as class numbers from 0 to {len(self.task.classes) - 1}" if self.task.classes else "")
                + "; let it return them, or say task='custom' and give your own loss and metric"
            )
        shape = tuple(inputs.shape[1:]) if isinstance(inputs, Tensor) else ()
        return Prepared(
            train=parts["train"],
            validation=parts["validation"],
            test=parts["test"],
            input_shape=shape,
            outputs=outputs_of(self.task, np.empty((0,)) if self.y is None else self.y),
            task=self.task,
            indices=indices,
        )

    def script(self, seed: int, replicate: int) -> str | None:
        return None


def read_own(spec: str, asked: Reading) -> Source:
    """Load ``file.py:name`` or ``package.module:name``, and call it where it is a function or a class.

    Raises:
        DataError: it can't be loaded, raises, or gives something else than data.
    """
    thing = load_object(spec, "data", DataError)
    place, _, name = spec.rpartition(":")
    first, *attributes = name.split(".")
    made = (
        ".".join([f"runpy.run_path({place!r})[{first!r}]", *attributes])
        if is_file_spec(spec)
        else f"importlib.import_module({place!r}).{name}"
    )
    if _is_function(thing):
        made += "()"
        thing = _called(thing, spec)
    imports = ("import runpy",) if is_file_spec(spec) else ("import importlib",)
    return _understand(thing, asked, spec=spec, name=name.split(".")[-1], made=made, imports=imports)


def read_object(data: Any, asked: Reading) -> Source:
    """Understand data that was given as a Python object, or a function that gives it.

    Raises:
        DataError: it is something else than data.
    """
    spec = f"python:{getattr(data, '__name__', type(data).__name__)}"
    if _is_function(data):
        data = _called(data, spec)
    return _understand(data, asked, spec=spec, name=spec.partition(":")[2], made=None, imports=())


def _understand(
    value: Any, asked: Reading, *, spec: str, name: str, made: str | None, imports: tuple[str, ...]
) -> Source:
    frame, frame_lines = _frame(value, made)
    if asked.collate is not None:
        if not _is_dataset(value) and not _is_pair(value):
            raise DataError(
                f"a collate function is for a Dataset, but {spec!r} gives {_kind(value)}; leave it out"
            )
        return _lazy(value, asked.collate, spec=spec, name=name, task=asked.task, target=asked.target)
    if frame is not None:
        return from_frame(
            frame, spec=spec, name=name, target=asked.target, task=asked.task, missing=asked.missing,
            types=asked.types, reading=frame_lines, imports=imports,
        )  # fmt: skip
    if (parts := _several(value)) is not None:
        return of_several(
            parts, spec=spec, name=name, target=asked.target, task=asked.task,
            stack=lambda part: stacked(part, spec, _said) if _is_dataset(part) else part,
        )  # fmt: skip
    if asked.target is not None or asked.types:
        word = "a target" if asked.target is not None else "column types"
        raise DataError(f"{word} can be named for a table, but {spec!r} gives {_kind(value)}; leave it out")
    arrays, lines, notes = _arrays(value, spec, made)
    for x in arrays[::2]:
        as_float32(x, f"inputs of {spec!r}")
    return from_arrays(
        *arrays, spec=spec, name=name, task=asked.task, missing=asked.missing, own=True, reading=lines,
        imports=imports, notes=notes,
    )  # fmt: skip


def _several(value: Any) -> list[Any] | None:
    """Data with inputs by name or in order, and those of a test part; ``None``: they are of another form."""
    parts = list(value) if _is_pair(value) else [value]
    if isinstance(value, tuple) and len(value) == 2 and all(map(has_several, value)):
        parts = list(value)
    first = parts[0]
    if not _is_dataset(first):
        return parts if has_several(first) else None
    if not len(first):
        raise DataError("the Dataset is empty; there is nothing to learn from")
    try:
        return parts if has_several(first[0]) else None
    except Exception:
        # said where all items are read
        return None


def _arrays(
    value: Any, spec: str, made: str | None
) -> tuple[list[npt.NDArray[Any]], tuple[str, ...] | None, tuple[str, ...]]:
    """Arrays of anything that isn't a frame, and the lines that give the same."""
    names = ("x, y", "x_fixed, y_fixed")
    if isinstance(value, TensorDataset) and len(value.tensors) == 2:
        made = f"{made}.tensors" if made else None
        value = value.tensors
    if _is_dataset(value) or _is_pair(value):
        datasets = list(value) if _is_pair(value) else [value]
        arrays = [array for dataset in datasets for array in _stacked(dataset, spec)]
        lines = [
            "",
            "def stack(dataset):",
            "    items = [dataset[i] for i in range(len(dataset))]",
            "    return (np.stack([np.asarray(item[part]) for item in items]) for part in (0, 1))",
            "",
            "",
        ]
        if len(datasets) == 1:
            lines.append(f"x, y = stack({made})")
        else:
            lines.append(f"dataset, dataset_fixed = {made}")
            lines += [f"{n} = stack({d})" for n, d in zip(names, ("dataset", "dataset_fixed"), strict=True)]
        note = "the Dataset was read once into memory; give a collate function to read it batch by batch"
        return arrays, tuple(lines) if made else None, (note,)
    if _is_two_pairs(value):
        arrays = [_array(part, spec) for pair in value for part in pair]
        line = f"(x, y), (x_fixed, y_fixed) = (map(np.asarray, part) for part in {made})"
        return arrays, (line,) if made else None, ()
    if isinstance(value, tuple | list) and len(value) == 2 and is_nest(value[1]):
        raise several_targets(value[1], repr(spec))
    if isinstance(value, tuple | list) and len(value) in (2, 4):
        arrays = [_array(part, spec) for part in value]
        targets = ", ".join(names[: len(value) // 2])
        reading = (f"{targets} = (np.asarray(part) for part in {made})",) if made else None
        return arrays, reading, ()
    raise DataError(f"{spec!r} gives {_kind(value)}; data can be {_FORMS}")


def _stacked(dataset: Items, spec: str) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    if not len(dataset):
        raise DataError(f"the Dataset {spec!r} is empty; there is nothing to learn from")
    items = [_item(dataset, position, spec) for position in range(len(dataset))]
    columns = []
    for part, what in ((0, "inputs"), (1, "targets")):
        arrays = [_array(item[part], spec) for item in items]
        shapes = list(dict.fromkeys(array.shape for array in arrays))
        if len(shapes) > 1:
            raise DataError(
                f"{what} in the Dataset {spec!r} differ in shape, {list(shapes[0])} and {list(shapes[1])}; "
                "give a collate function that makes batches of them"
            )
        columns.append(np.stack(arrays))
    return columns[0], columns[1]


def _item(dataset: Items, position: int, spec: str) -> Any:
    try:
        item = dataset[position]
    except Exception as problem:
        raise DataError(f"the Dataset {spec!r} raises at item {position}: {_said(problem)}") from problem
    if not isinstance(item, Mapping) and (not isinstance(item, tuple | list) or len(item) != 2):
        raise DataError(
            f"item {position} of the Dataset {spec!r} is {_kind(item)}, not a pair of inputs and target; "
            "give pairs, or a collate function and task='custom'"
        )
    return item


def _lazy(
    value: Any, collate: Collate, *, spec: str, name: str, task: str | None, target: str | None
) -> DatasetSource:
    dataset, test = value if _is_pair(value) else (value, None)
    for part in (dataset, test):
        if part is not None and not len(part):
            raise DataError(f"the Dataset {spec!r} is empty; there is nothing to learn from")
    raw = None if task == "custom" else _labels(dataset, spec, target)
    raw_test = None if test is None or raw is None else _labels(test, spec, target)
    for part in (raw, raw_test):
        if part is not None and part.dtype.kind == "f" and not np.isfinite(part).all():
            raise DataError(
                f"the Dataset {spec!r} has {(~np.isfinite(part)).sum()} targets that are missing or "
                "infinite; leave these items out"
            )
    read = None if raw is None else read_target(raw, asked=task, labelled=True)
    if read is None and len(dataset) < 10:
        raise DataError(f"the Dataset {spec!r} has {len(dataset)} items, but three parts need 10 or more")
    if read is None:
        collated(dataset, range(min(8, len(dataset))), collate, torch.device("cpu"), target)
    known = read_target(np.empty(0), asked="custom").task if read is None else read.task
    parts = [part for part in (raw, raw_test) if part is not None]
    return DatasetSource(
        spec=spec,
        name=name,
        task=known,
        rows=len(dataset),
        test_rows=0 if test is None else len(test),
        inputs="batches from a collate function",
        class_counts=[] if read is None else read.counts,
        notes=[] if read is None else read.notes,
        fingerprint=fingerprint_of([type(dataset).__name__, str(len(dataset)), *parts]),
        dataset=dataset,
        test_dataset=test,
        collate=collate,
        y=None if read is None else read.values,
        y_test=None if read is None or raw_test is None else encode(raw_test, read),
        target=target,
    )


def _labels(dataset: Items, spec: str, target: str | None = None) -> npt.NDArray[Any] | None:
    """The targets of all items where each is one label or number; ``None`` for anything else."""
    for name in ("targets", "labels"):
        found = getattr(dataset, name, None)
        if found is not None and hasattr(found, "__len__") and len(found) == len(dataset):
            array = _array(found, spec)
            return array if array.ndim == 1 else None
    first = dataset[0]
    if isinstance(first, Mapping):
        goals = [separated(_item(dataset, place, spec), target)[1] for place in range(len(dataset))]
        arrays = [_array(goal, spec) for goal in goals]
        return np.stack(arrays) if all(array.ndim == 0 for array in arrays) else None
    if not isinstance(first, tuple | list) or len(first) != 2 or entries_of(first[1]) is not None:
        return None
    if _array(first[1], spec).ndim > 0:
        return None
    return np.stack([_array(_item(dataset, position, spec)[1], spec) for position in range(len(dataset))])


def _array(part: Any, spec: str) -> npt.NDArray[Any]:
    if isinstance(part, Tensor):
        part = part.detach() if part.is_meta else part.detach().cpu()
        if part.is_sparse:
            raise DataError(f"a tensor of {spec!r} is sparse; make it dense with to_dense()")
        if part.is_quantized or part.is_meta:
            word = "quantized; give it as numbers, with dequantize()" if part.is_quantized else "empty (meta)"
            raise DataError(f"a tensor of {spec!r} is {word}")
        if part.is_floating_point() and part.dtype not in (torch.float16, torch.float32, torch.float64):
            # bfloat16 and the types of eight bits, which NumPy hasn't
            part = part.float()
        return np.asarray(part.numpy())
    try:
        return np.asarray(part)
    except (ValueError, TypeError) as problem:
        raise DataError(
            f"a part of {spec!r} ({_kind(part)}) can't be made an array: {' '.join(str(problem).split())}"
        ) from problem


def _frame(value: Any, made: str | None) -> tuple[pl.DataFrame | None, tuple[str, ...] | None]:
    frame = frame_of(value)
    if frame is None or made is None:
        return frame, None
    if isinstance(value, pl.LazyFrame):
        return frame, (f"frame = {made}.collect()",)
    if isinstance(value, pl.DataFrame):
        return frame, (f"frame = {made}",)
    return frame, (f"table = {made}", *PANDAS_LINES)


def _is_dataset(value: Any) -> bool:
    if isinstance(value, list):
        return not (len(value) in (2, 4) and all(isinstance(part, Tensor | np.ndarray) for part in value))
    if isinstance(
        value, type | Tensor | np.ndarray | str | bytes | tuple | dict | DataLoader | IterableDataset
    ):
        return False
    return hasattr(value, "__len__") and hasattr(value, "__getitem__") and not hasattr(value, "columns")


def _is_pair(value: Any) -> bool:
    return isinstance(value, tuple) and len(value) == 2 and all(_is_dataset(p) for p in value) and not any(
        isinstance(part, list) and part and np.ndim(part[0]) == 0 for part in value
    )  # fmt: skip


def _is_two_pairs(value: Any) -> bool:
    """Whether it is ``(x_train, y_train), (x_test, y_test)``, as of Keras; lists would be arrays."""
    return isinstance(value, tuple) and len(value) == 2 and all(
        isinstance(pair, tuple) and len(pair) == 2 and all(np.ndim(part) > 0 for part in pair)
        for pair in value
    )  # fmt: skip


def _is_function(thing: object) -> TypeGuard[Callable[[], Any]]:
    return callable(thing) and not _is_dataset(thing) and not isinstance(thing, DataLoader | IterableDataset)


def _called(function: Callable[[], Any], spec: str) -> Any:
    try:
        return function()
    except UserError:
        raise
    except Exception as problem:
        raise DataError(f"the data function {spec!r} raises {_said(problem)}") from problem


def _said(problem: Exception) -> str:
    """The error, and the line that raised it where that isn't this file's own."""
    last = traceback.extract_tb(problem.__traceback__)[-1]
    where = (
        "" if last.filename == __file__ else f" in line {last.lineno} of {last.filename.rpartition('/')[2]}"
    )
    message = " ".join(str(problem).split())
    return f"{type(problem).__name__}{where}" + (f": {message}" if message else "")


def _kind(value: Any) -> str:
    if isinstance(value, DataLoader):
        return "a DataLoader (give its Dataset)"
    if isinstance(value, IterableDataset):
        return "a Dataset without length or positions (give a map-style one)"
    if isinstance(value, tuple | list):
        return f"a {type(value).__name__} of {len(value)}"
    return f"a {type(value).__name__}"
