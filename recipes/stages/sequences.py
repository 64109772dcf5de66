"""Sequences whose difficulty is their length, and a small LSTM that reads them.

Each function gives sequences to train on, of which the split takes a fifth for validation, and others to test
on. A sequence is ``[T, symbols]``, a one-hot row for each symbol; shorter ones have rows of zeros in front.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor, nn

Array = npt.NDArray[Any]
Draws = np.random.Generator

TRAINING, TEST = 5_000, 2_000


def drawn(one: Callable[[Draws], tuple[Array, int]], longest: int) -> tuple[Array, Array, Array, Array]:
    """Return examples made by a function of draws, each a sequence and its class."""
    draws = np.random.default_rng(0)
    sequences, targets = zip(*(one(draws) for _ in range(TRAINING + TEST)), strict=True)
    x = np.zeros((len(sequences), longest, sequences[0].shape[1]), np.float32)
    for place, sequence in enumerate(sequences):
        x[place, longest - len(sequence) :] = sequence
    y = np.array(targets)
    return x[:TRAINING], y[:TRAINING], x[TRAINING:], y[TRAINING:]


def adding() -> tuple[Array, Array, Array, Array]:
    """Return 2 to 30 digits from 0 to 4, two of them marked; the class is the sum of the marked ones."""

    def one(draws: Draws) -> tuple[Array, int]:
        length = int(draws.integers(2, 31))
        digits, marked = draws.integers(0, 5, length), draws.choice(length, 2, replace=False)
        sequence = np.zeros((length, 6), np.float32)
        sequence[np.arange(length), digits] = 1
        sequence[marked, 5] = 1
        return sequence, int(digits[marked].sum())

    return drawn(one, 30)


def recall() -> tuple[Array, Array, Array, Array]:
    """Return 2 to 40 symbols of eight; the class is the first of them."""

    def one(draws: Draws) -> tuple[Array, int]:
        symbols = draws.integers(0, 8, int(draws.integers(2, 41)))
        return np.eye(8, dtype=np.float32)[symbols], int(symbols[0])

    return drawn(one, 40)


def nested() -> tuple[Array, Array, Array, Array]:
    """Return sums and differences of 1 to 6 digits below 5 in brackets; the class is the value modulo 5."""

    def term(draws: Draws, digits: int) -> tuple[list[int], int]:
        if digits == 1:
            digit = int(draws.integers(0, 5))
            return [digit], digit
        left = int(draws.integers(1, digits))
        (a, x), (b, y) = term(draws, left), term(draws, digits - left)
        minus = int(draws.integers(0, 2))
        return [5, *a, 7 + minus, *b, 6], (x - y if minus else x + y) % 5

    def one(draws: Draws) -> tuple[Array, int]:
        symbols, value = term(draws, int(draws.integers(1, 7)))
        return np.eye(9, dtype=np.float32)[symbols], value

    return drawn(one, 21)


def length(inputs: Tensor, targets: Tensor) -> Tensor:
    """Return the length of each sequence."""
    return inputs.flatten(2).any(2).sum(1)


class Reader(nn.Module):
    """An LSTM whose last state a linear layer reads; its forget gates begin open.

    Args:
        symbols: numbers at each place of a sequence.
        units: of the LSTM.
        outputs: classes.
    """

    def __init__(self, symbols: int, units: int, outputs: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(symbols, units, batch_first=True)
        self.head = nn.Linear(units, outputs)
        nn.init.constant_(self.lstm.bias_ih_l0[units : 2 * units], 1.0)

    def forward(self, x: Tensor) -> Tensor:
        """Return the outputs after the last symbol."""
        return self.head(self.lstm(x.flatten(2))[0][:, -1])


def reader(input_shape: tuple[int, ...], outputs: int) -> nn.Module:
    """Return an LSTM of 48 units."""
    return Reader(math.prod(input_shape[1:]), 48, outputs)
