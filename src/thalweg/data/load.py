"""From what a person wrote, or gave, to a source."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from thalweg.data import builtin
from thalweg.data.files import check_file
from thalweg.data.npz import read_npz
from thalweg.data.source import Reading, Source
from thalweg.data.target import check_options
from thalweg.errors import DataError, nearest, option

__all__ = ["announcement", "describe", "load"]


def describe() -> dict[str, str]:
    """Return the forms data can be given in, with a line about each."""
    return {
        **builtin.BUILTIN,
        "table.csv": f"a table, with {option('target', 'COLUMN')}; also .csv.gz, .tsv, .parquet, .jsonl and "
        ".ndjson",
        "arrays.npz": "NumPy arrays x and y, or x_train, y_train, x_test and y_test",
        "idx:DIR": "a folder of MNIST-format files, plain or gzipped; keeps its test part",
        "images:DIR": "a folder with a folder of PNG or JPEG images for each class, or train and test "
        "folders of such; images:DIR@32x32 brings them to one height and width",
        "file.py:function": "your own: tensors, arrays, a Dataset or a table; also package.module:function",
    }


def load(
    data: Any,
    *,
    target: str | None = None,
    task: str | None = None,
    missing: str | None = None,
    types: Mapping[str, str] | None = None,
    collate: Callable[[list[Any]], Any] | None = None,
) -> Source:
    """Read data, find out what it is, and refuse what can't be learnt from.

    Args:
        data: one of :func:`describe`, or a Python object: tensors or arrays ``(x, y)`` or ``(x_train,
            y_train, x_test, y_test)``, a map-style Dataset, a pair of such for training and test, or a
            polars or pandas frame; or a function that gives one of these.
        target: the column of a table (or array of an archive) to predict.
        task: ``classification``, ``regression`` or ``custom``; default: what the target looks like.
        missing: ``drop`` rows with missing values, or replace them by the ``median`` (of text: by a category
            of its own); default: refuse them.
        types: column to ``number``, ``category`` or ``ignore``, over what was inferred.
        collate: for a Dataset: a list of items to ``(inputs, targets)``; its items are then read batch by
            batch instead of once.

    Raises:
        DataError: one sentence on what is wrong with the data.
        OptionError: an unknown word for ``task`` or ``missing``.

    >>> load("iris").task.classes
    ('setosa', 'versicolor', 'virginica')
    >>> load("iriss")
    Traceback (most recent call last):
    thalweg.errors.DataError: there is no data 'iriss'; did you mean 'iris'?
    """
    check_options(task=task, missing=missing)
    try:
        return _load(data, Reading(target=target, task=task, missing=missing, types=types, collate=collate))
    except MemoryError as problem:
        called = repr(str(data)) if isinstance(data, (str, Path)) else f"of type {type(data).__name__}"
        raise DataError(
            f"the data {called} don't fit into memory; give less, or read them batch by batch with a Dataset "
            "of your own and a collate function"
        ) from problem


_LARGE = 1_000_000


def announcement(data: Any) -> str | None:
    """Say what is about to be read, where that may take a while: of files and folders of a megabyte or more.

    >>> announcement("iris") is None, announcement("nowhere.csv") is None
    (True, True)
    """
    if not isinstance(data, str | Path):
        return None
    spec = str(data)
    folder = spec.partition(":")[2].partition("@")[0] if spec.startswith(("idx:", "images:")) else None
    try:
        size = os.stat(spec).st_size if folder is None else _size_of(Path(folder))
    except (OSError, ValueError):
        # what is wrong is said by whoever reads it
        return None
    if size < _LARGE:
        return None
    return f"reading {spec}" + (f", {size / 1e6:,.1f} MB" if folder is None else "")


def _size_of(folder: Path) -> int:
    """The size of a folder's files, as far as it takes to know that they are large."""
    size = 0
    for place, _, files in os.walk(folder):
        for name in files:
            size += os.stat(os.path.join(place, name)).st_size
            if size >= _LARGE:
                return size
    return size


def _load(data: Any, asked: Reading) -> Source:
    if isinstance(data, Path):
        data = str(data)
    target, task, types = asked.target, asked.task, asked.types
    if not isinstance(data, str):
        from thalweg.data.own import read_object

        return read_object(data, asked)
    if "\0" in data:
        raise DataError(f"the data {data!r} holds a NUL character, which is in no path; take it out")
    kind, place = _kind(data)
    if asked.collate is not None and kind != "own":
        raise DataError(f"a collate function is for a Dataset of your own, not for {data!r}; leave it out")
    if kind == "own":
        from thalweg.data.own import read_own

        return read_own(data, asked)
    if kind == "table":
        from thalweg.data.tabular import read_table

        return read_table(Path(data), target=target, task=task, missing=asked.missing, types=types)
    if types:
        raise DataError(f"column types are for tables, not for {data!r}; leave {option('types')} out")
    if kind == "npz":
        return read_npz(Path(data), spec=data, target=target, task=task, missing=asked.missing)
    if target is not None:
        raise DataError(
            f"the data {data!r} brings its own target, so {option('target', target)} doesn't apply; leave it "
            "out"
        )
    if kind == "idx":
        from thalweg.data.idx import read_idx

        return read_idx(Path(place), spec=data, task=task)
    if kind == "images":
        from thalweg.data.images import read_images

        return read_images(place, spec=data, task=task)
    return builtin.read_builtin(data, task=task)


_TABLES = (".csv", ".csv.gz", ".tsv", ".tsv.gz", ".parquet", ".jsonl", ".ndjson", ".jsonl.gz", ".ndjson.gz")


def _kind(spec: str) -> tuple[str, str]:
    before, colon, after = spec.partition(":")
    if colon and before in ("idx", "images"):
        if not after:
            raise DataError(f"{spec!r} names no folder; write {before}:DIR")
        return before, after
    lower = spec.lower()
    if lower.endswith(_TABLES):
        return "table", spec
    if lower.endswith(".npz"):
        return "npz", spec
    if spec in builtin.BUILTIN:
        return "builtin", spec
    if colon and before and after:
        return "own", spec
    if os.path.exists(spec) or "." in spec or "/" in spec:
        check_file(Path(spec))
        if lower.endswith(".py"):
            raise DataError(f"{spec!r} names no function; write '{spec}:function'")
        raise DataError(
            f"{spec!r} has an ending that says no known format; known: {', '.join((*_TABLES, '.npz'))}, "
            "or load it in a function of your own, as file.py:function"
        )
    raise DataError(
        f"there is no data {spec!r}; {nearest(spec, [*builtin.BUILTIN, 'idx:DIR', 'images:DIR'])}"
    )
