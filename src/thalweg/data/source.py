"""What every source of data has in common: what is known before it is split, and what a split makes of it."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from thalweg.data.examples import Examples
from thalweg.data.held import blocks
from thalweg.objectives import Task

__all__ = ["Indices", "Prepared", "Reading", "Source", "duplicate_notes", "fingerprint_of"]

Indices = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How data is to be read; :func:`thalweg.data.load` says what each is for."""

    target: str | None = None
    task: str | None = None
    missing: str | None = None
    types: Mapping[str, str] | None = None
    collate: Callable[[list[Any]], Any] | None = None


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """Data of one split, ready for training.

    Attributes:
        train, validation, test: the examples of each part.
        input_shape: shape of one example's inputs; empty where a collate function makes the batches.
        outputs: numbers that a model gives for an example: as many as classes, or one; 0 where a custom
            task leaves it to the model.
        task: with ``center`` and ``scale`` of this split where a regression target was standardised.
        indices: of the rows in each part, by its name: into the source's rows, and for a test part that
            the source brought along, into that.
        notes: what is worth saying about this split.
    """

    train: Examples
    validation: Examples
    test: Examples
    input_shape: tuple[int, ...]
    outputs: int
    task: Task
    indices: Mapping[str, Indices]
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True, eq=False)
class Source(ABC):
    """Data as it was read, before any split.

    Attributes:
        spec: what was asked for; for Python objects a description.
        name: short, fit for a file name.
        task: what is to be predicted.
        rows: number of examples, without those of a test part that the source brings along.
        test_rows: number of examples in such a test part, or 0.
        inputs: what an example's inputs are, in words.
        columns: of a table, name to ``number``, ``category`` or why it is left out.
        class_counts: rows of each class (test part left out).
        notes: everything worth saying about the data.
        warnings: what has to be known before a result on this data is relied on.
        fingerprint: 32 hexadecimal digits of BLAKE2 over the content.
    """

    spec: str
    name: str
    task: Task
    rows: int
    test_rows: int = 0
    inputs: str
    columns: Mapping[str, str] = field(default_factory=dict)
    class_counts: list[int] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    fingerprint: str

    @property
    def fixed_test(self) -> bool:
        """Whether the source brings its own test part, which every split keeps."""
        return self.test_rows > 0

    @property
    @abstractmethod
    def labels(self) -> npt.NDArray[np.int64] | None:
        """The class of each row, by which splits are stratified, or ``None``."""

    @abstractmethod
    def fit(self, indices: Mapping[str, Indices], device: torch.device) -> Prepared:
        """Prepare one split, with statistics of its training part alone."""

    @abstractmethod
    def script(self, seed: int, replicate: int) -> str | None:
        """Return plain Python (NumPy, polars, scikit-learn, torch) that makes the tensors of a split.

        It defines ``x_train``, ``y_train``, ``x_validation``, ``y_validation``, ``x_test`` and ``y_test``
        to the bit as :func:`thalweg.data.prepare` does, and for regression ``y_center`` and ``y_scale``,
        which turn the prepared targets into the target's own units.

        Returns:
            ``None`` where the data were Python objects, or batches come from a collate function.
        """

    def summary(self) -> str:
        """Say in a line or two what the data is.

        >>> from thalweg import data
        >>> print(data.load("wine").summary())
        wine: 178 rows, 13 columns; classification into 3 classes: class_0 (59), class_1 (71), class_2 (48)
        """
        test = f" and {self.test_rows} for the test" if self.fixed_test else ""
        target = f" of {self.task.target}" if self.task.target else ""
        if self.task.kind == "classification":
            shown = [f"{c} ({n})" for c, n in zip(self.task.classes[:10], self.class_counts, strict=False)]
            more = len(self.task.classes) - len(shown)
            listed = ", ".join(shown) + (f" and {more} more" if more else "")
            what = f"classification{target} into {len(self.task.classes)} classes: {listed}"
        elif self.task.kind == "regression":
            what = f"regression{target}, standard deviation {self.task.spread:.4g}"
        else:
            what = "a task of its own"
        return f"{self.name}: {self.rows} rows{test}, {self.inputs}; {what}"


def fingerprint_of(parts: Iterable[bytes | str | npt.NDArray[np.generic] | Tensor]) -> str:
    """Hash content: bytes, text, and arrays with their type and shape."""
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        if isinstance(part, Tensor):
            part = part.detach().cpu().contiguous()
            part = (part.float() if part.dtype in (torch.bfloat16, torch.float16) else part).numpy()
        if isinstance(part, np.ndarray):
            digest.update(f"{part.dtype.str}{part.shape}".encode())
            if part.dtype.kind == "O":
                digest.update(str(part.tolist()).encode())
            else:
                # block by block, since a copy of the whole may not fit into memory
                for _, block in blocks(part.reshape(1) if part.ndim == 0 else part, native=False):
                    digest.update(np.ascontiguousarray(block).reshape(-1).view(np.uint8).data)
        else:
            digest.update(part.encode() if isinstance(part, str) else part)
        digest.update(b"\0")
    return digest.hexdigest()


def duplicate_notes(count: int) -> list[str]:
    """The note on ``count`` rows that repeat another, if any."""
    if not count:
        return []
    rows = "1 row repeats" if count == 1 else f"{count} rows repeat"
    return [f"{rows} another one exactly; copies may fall on both sides of a split and flatter the scores"]
