"""Data of the recipes beside this file: parts of Fashion-MNIST, small enough that a training takes seconds.

Each function gives images and labels to train on, of which the split takes a fifth for validation, and images
and labels of Fashion-MNIST's own test set. Debian's package dataset-fashion-mnist installs the four files
where they are read; the environment variable FASHION_MNIST names another folder.
"""

from __future__ import annotations

import functools
import gzip
import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Parts = tuple[Array, Array, Array, Array]

TRAINING, TEST = 5_000, 5_000


@functools.cache
def read(name: str) -> Array:
    """Return what a file holds: images as uint8 ``[N, 28, 28]``, labels as int64 ``[N]``."""
    folder = Path(os.environ.get("FASHION_MNIST", "/usr/share/datasets/fashion-mnist"))
    content = gzip.decompress((folder / f"{name}.gz").read_bytes())
    sizes = np.frombuffer(content, ">u4", content[3], offset=4)
    values = np.frombuffer(content, np.uint8, offset=4 + 4 * content[3]).reshape(sizes)
    return values.astype(np.int64) if values.ndim == 1 else values


def everything() -> Parts:
    """Return all images and labels."""
    names = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte")
    x, y = map(read, names)
    x_test, y_test = (read(name.replace("train", "t10k")) for name in names)
    return x, y, x_test, y_test


def clothes() -> Parts:
    """Return 5,000 images of all ten classes, and 5,000 to test on."""
    x, y, x_test, y_test = everything()
    return x[:TRAINING], y[:TRAINING], x_test[:TEST], y_test[:TEST]


def noisy() -> Parts:
    """Return the same images where 30 % of the labels to train on are wrong; those to test on are right."""
    x, y, x_test, y_test = clothes()
    draws = np.random.default_rng(0)
    wrong = draws.random(len(y)) < 0.3
    return x, np.where(wrong, (y + draws.integers(1, 10, len(y))) % 10, y), x_test, y_test


def some_classes(classes: list[int]) -> Parts:
    """Return 5,000 images of these classes alone, numbered from 0, and those of the test set."""
    x, y, x_test, y_test = everything()
    here, there = np.isin(y, classes).nonzero()[0][:TRAINING], np.isin(y_test, classes)
    return (
        x[here],
        np.searchsorted(classes, y[here]),
        x_test[there],
        np.searchsorted(classes, y_test[there]),
    )


def first_half() -> Parts:
    """Return T-shirts, trousers, pullovers, dresses and coats."""
    return some_classes([0, 1, 2, 3, 4])


def second_half() -> Parts:
    """Return sandals, shirts, sneakers, bags and boots."""
    return some_classes([5, 6, 7, 8, 9])
