"""Rows that repeat another one, counted without a copy of the data."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from thalweg.data.held import CACHED, blocks

__all__ = ["repeats"]

Array = npt.NDArray[Any]


def repeats(x: Array, y: Array) -> int:
    """Count the rows that repeat another one, told by 64 bits of each.

    Two different rows share these in 1 of 2^64 cases.

    >>> repeats(np.array([[1.0], [2.0], [1.0], [1.0]]), np.array([0, 0, 0, 1]))
    1
    """
    if y.dtype.kind in "OUS":
        y = np.unique(y, return_inverse=True)[1].astype(np.int64)
    codes = np.random.default_rng()
    mixed = _mixed(x, codes) + _mixed(y, codes)
    return len(mixed) - len(np.unique(mixed))


def _mixed(values: Array, codes: np.random.Generator) -> npt.NDArray[np.uint64]:
    """A number for each row, ``sum_j mix(word_j) * code_j`` modulo 2^64 with odd random codes."""
    width = math.prod(values.shape[1:]) * values.itemsize
    words = -(-width // 8)
    keys = codes.integers(0, 2**63, words, dtype=np.uint64) * np.uint64(2) + np.uint64(1)
    made = np.empty(len(values), np.uint64)
    for begin, part in blocks(values, size=CACHED):
        content = np.zeros((len(part), 8 * words), np.uint8)
        content[:, :width] = np.ascontiguousarray(part).reshape(len(part), -1).view(np.uint8)
        word = content.view(np.uint64)
        # without this, differences that are multiples of large powers of two would be lost
        word ^= word >> np.uint64(32)
        word *= np.uint64(0xD6E8FEB86659FD93)
        word ^= word >> np.uint64(32)
        made[begin : begin + len(part)] = word @ keys
    return made
