"""Files of new data, to predict for: read as a training's own were."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from thalweg.data.files import read_whole
from thalweg.data.images import is_images, read_new_images
from thalweg.data.npz import Archive
from thalweg.data.stored import ArrayPreparation, Preparation, TablePreparation
from thalweg.data.stored_nested import NestedPreparation
from thalweg.data.tabular import parse_table
from thalweg.errors import DataError

__all__ = ["New", "new_inputs", "read_new"]

_TABLES = (".csv", ".csv.gz", ".tsv", ".tsv.gz", ".parquet", ".jsonl", ".ndjson", ".jsonl.gz", ".ndjson.gz")


@dataclass(frozen=True, kw_only=True)
class New:
    """New data as inputs.

    Attributes:
        inputs: ``[N, *shape]``, or several such, nested as in training.
        notes: what is worth saying.
        files: of images, the name of each.
    """

    inputs: Any
    notes: list[str]
    files: list[str] | None = None


def new_inputs(data: Any, preparation: Preparation) -> New:
    """Prepare new data as training prepared its own.

    Args:
        data: a file, a folder of images, or what ``preparation.apply`` takes.
        preparation: training's.

    Raises:
        DataError: they can't be read, or don't fit.
    """
    if not isinstance(data, str | Path):
        inputs, notes = preparation.apply(data, "the data")
        return New(inputs=inputs, notes=notes)
    if not is_images(data):
        inputs, notes = preparation.apply(*read_new(Path(data), preparation))
        return New(inputs=inputs, notes=notes)
    if not isinstance(preparation, ArrayPreparation) or preparation.images is None:
        raise DataError(
            f"{data} would be read as images, but this model wasn't trained on a folder of images; give "
            f"{_fitting(preparation)}"
        )
    pixels, files, said = read_new_images(data, preparation.shape, resized=preparation.images == "resized")
    inputs, notes = preparation.apply(pixels, str(data), said)
    return New(inputs=inputs, notes=notes, files=files)


def _fitting(preparation: Preparation) -> str:
    if isinstance(preparation, NestedPreparation):
        return preparation.fitting
    fitting = "a table (CSV, TSV, Parquet or JSON lines)"
    if isinstance(preparation, ArrayPreparation):
        fitting += f", {int(np.prod(preparation.shape))} numbers a row, or an NPZ archive "
        fitting += f"with an array x of shape [N, {', '.join(map(str, preparation.shape))}]"
        if preparation.images is not None:
            fitting = f"an image or a folder of images, {fitting}"
    return fitting


def read_new(path: Path, preparation: Preparation) -> tuple[Any, str, list[str]]:
    """Read a file of new data as what a preparation takes, what it is called, and what is worth saying of it.

    Raises:
        DataError: it can't be read, or isn't of a kind that fits.
    """
    called, lower = path.name, path.name.lower()
    if lower.endswith(".npz") and not isinstance(preparation, TablePreparation):
        archive = Archive(path)
        if isinstance(preparation, NestedPreparation):
            arrays, notes = preparation.arranged(archive.names, archive.read, called)
            return arrays, called, notes
        if not archive.names:
            raise DataError(f"{path} holds no arrays; save the inputs with np.savez, as x")
        name = next((name for name in archive.names if name.lower() == "x"), archive.names[0])
        return archive.read(name), f"{called}:{name}", []
    if not lower.endswith(_TABLES):
        raise DataError(f"{path} is no file of new data for this model; give {_fitting(preparation)}")
    text = []
    if isinstance(preparation, TablePreparation):
        # codes such as 02134 stay what they were in training, whatever this file's others look like
        text = [name for name in preparation.categories if preparation.dtypes[name] == "String"]
        text += preparation.patterns
    table = parse_table(path, read_whole(path), text=text)
    frame = table.frame
    if isinstance(preparation, TablePreparation):
        used = {*preparation.numbers, *preparation.categories}
        for name in table.twice:
            # where training had several as well, they are told apart as they were there: by their order
            if name in used and not any(each.startswith(f"{name}_duplicated_") for each in used):
                raise DataError(
                    f"{path} has several columns called {name!r}, which training used; give them names that "
                    "differ"
                )
        for name in table.unsure:
            if name in used:
                raise DataError(
                    f"the column {name!r} of {path} doesn't tell days from months, and training had dates in "
                    f"another form; write them as 2020-01-31"
                )
        return frame, called, list(table.notes)
    if isinstance(preparation, NestedPreparation):
        return frame, called, list(table.notes)
    try:
        return frame.cast(pl.Float64).to_numpy(), called, list(table.notes)
    except pl.exceptions.PolarsError as problem:
        raise DataError(
            f"{path} holds other things than numbers; give one number for each input"
        ) from problem
