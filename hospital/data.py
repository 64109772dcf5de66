"""Small data with real structure: tables, images and sequences, split by a seed, with a clean test set.

Everything here is made by a script or comes with scikit-learn. Inputs are as a careful person would prepare
them unless a name says ``raw``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from sklearn import datasets
from torch import Tensor

__all__ = ["FASHION", "Data"]

FASHION = Path("/usr/share/dataset/fashion-mnist")


@dataclass(frozen=True)
class Data:
    """Examples for training, for validation, and for judging.

    Attributes:
        x: inputs of training, one example a row.
        y: their targets: class numbers ``[n]``, or floats.
        validation: inputs and targets.
        test: inputs and targets that only the judge sees.
    """

    x: Tensor
    y: Tensor
    validation: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]

    def inputs(self, change: Callable[[Tensor], Tensor]) -> Data:
        """Return the same with all inputs changed."""
        parts = [(change(x), y) for x, y in (self.validation, self.test)]
        return replace(self, x=change(self.x), validation=parts[0], test=parts[1])

    def targets(self, change: Callable[[Tensor], Tensor]) -> Data:
        """Return the same with all targets changed."""
        parts = [(x, change(y)) for x, y in (self.validation, self.test)]
        return replace(self, y=change(self.y), validation=parts[0], test=parts[1])

    def few(self, number: int) -> Data:
        """Return the same with fewer examples to train on."""
        return replace(self, x=self.x[:number], y=self.y[:number])


def _split(x: object, y: object, seed: int, test: float = 0.35, *, standardize: bool = False) -> Data:
    inputs, targets = torch.as_tensor(np.asarray(x)), torch.as_tensor(np.asarray(y))
    if inputs.dtype == torch.float64:
        inputs = inputs.float()
    targets = targets.float() if targets.is_floating_point() else targets.long()
    order = torch.randperm(len(inputs), generator=_draws(seed + 1000))
    inputs, targets = inputs[order], targets[order]
    held = int(len(inputs) * test)
    seen = len(inputs) - held - held // 2
    if standardize:
        mean, std = inputs[:seen].mean(0), inputs[:seen].std(0).clamp_min(1e-6)
        inputs = (inputs - mean) / std
    return Data(
        inputs[:seen],
        targets[:seen],
        (inputs[seen : seen + held // 2], targets[seen : seen + held // 2]),
        (inputs[seen + held // 2 :], targets[seen + held // 2 :]),
    )


def _draws(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@lru_cache
def _sklearn(name: str) -> tuple[np.ndarray, np.ndarray]:
    return getattr(datasets, f"load_{name}")(return_X_y=True)


def digits(seed: int) -> Data:
    """Handwritten digits as 64 columns from 0 to 1."""
    x, y = _sklearn("digits")
    return _split(x / 16, y, seed)


def digit_images(seed: int) -> Data:
    """Handwritten digits ``[n, 1, 8, 8]`` from 0 to 1."""
    return digits(seed).inputs(lambda x: x.reshape(-1, 1, 8, 8))


def iris(seed: int) -> Data:
    """Four columns in centimetres, three classes."""
    return _split(*_sklearn("iris"), seed)


def wine_raw(seed: int) -> Data:
    """Thirteen columns as measured, from 0.1 to 1,700; three classes."""
    return _split(*_sklearn("wine"), seed)


def wine(seed: int) -> Data:
    """The same, standardized."""
    return _split(*_sklearn("wine"), seed, standardize=True)


def cancer_raw(seed: int) -> Data:
    """Thirty columns as measured, from 0.001 to 4,000; two classes as floats ``[n, 1]``."""
    return _split(*_sklearn("breast_cancer"), seed).targets(lambda y: y.float()[:, None])


def cancer(seed: int) -> Data:
    """The same, standardized."""
    x, y = _sklearn("breast_cancer")
    return _split(x, y, seed, standardize=True).targets(lambda y: y.float()[:, None])


def diabetes(seed: int) -> Data:
    """Ten standardized columns; progress of the disease ``[n, 1]``, standardized. R2 of 0.5 is good."""
    x, y = _sklearn("diabetes")
    return _split(x, (y - 152.0) / 77.0, seed, standardize=True).targets(lambda y: y[:, None])


def moons(seed: int) -> Data:
    """Two interleaved half circles; classes 0 and 1."""
    x, y = datasets.make_moons(1200, noise=0.15, random_state=seed)
    return _split(x, y, seed, standardize=True)


def rings(seed: int) -> Data:
    """A disk in a ring in a ring: three classes that no line tells apart."""
    draws = _draws(seed)
    kind = torch.randint(3, (1200,), generator=draws)
    radius = kind + 0.5 + 0.2 * torch.randn(1200, generator=draws)
    angle = 2 * math.pi * torch.rand(1200, generator=draws)
    x = torch.stack([radius * angle.cos(), radius * angle.sin()], 1) / 1.6
    return _split(x, kind, seed)


def spirals(seed: int) -> Data:
    """Two spirals; classes 0 and 1."""
    draws = _draws(seed)
    kind = torch.randint(2, (1200,), generator=draws)
    along = 0.5 + 2.5 * torch.rand(1200, generator=draws)
    angle = 2.2 * along + math.pi * kind
    x = torch.stack([along * angle.cos(), along * angle.sin()], 1) / 1.5
    return _split(x + 0.05 * torch.randn(1200, 2, generator=draws), kind, seed)


def blobs(seed: int, *, classes: int = 6, columns: int = 12, number: int = 1500, spread: float = 1.0) -> Data:
    """Clouds, two for each class, so that lines don't do."""
    draws = _draws(seed)
    centres = 1.6 * torch.randn(2 * classes, columns, generator=draws)
    which = torch.randint(2 * classes, (number,), generator=draws)
    x = centres[which] + spread * torch.randn(number, columns, generator=draws)
    return _split(x / x.std(), which % classes, seed)


def friedman(seed: int, number: int = 1000) -> Data:
    """Ten columns; a sum of sines, squares and lines ``[n, 1]``, standardized, with a little noise."""
    x, y = datasets.make_friedman1(number, n_features=10, noise=0.5, random_state=seed)
    return _split(2 * x - 1, (y - 14.4) / 5.0, seed).targets(lambda y: y[:, None])


def machine(seed: int) -> Data:
    """Eight settings of a machine, three results ``[n, 3]`` that depend on them in different ways."""
    draws = _draws(seed)
    x = torch.randn(1000, 8, generator=draws)
    y = torch.stack(
        [
            x[:, 0] * x[:, 1] + x[:, 2],
            torch.sin(1.5 * x[:, 3]) + 0.5 * x[:, 4] - x[:, 0],
            x[:, 5].abs() - x[:, 6],
        ],
        1,
    )
    y = (y - y.mean(0)) / y.std(0)
    return _split(x, y + 0.1 * torch.randn(1000, 3, generator=draws), seed)


def houses_raw(seed: int) -> Data:
    """Area, rooms, age, year sold, distance in metres, income; prices in the 100,000s ``[n, 1]``."""
    draws = _draws(seed)
    n = 1000
    area = 60 + 140 * torch.rand(n, generator=draws)
    rooms = (area / 30 + torch.randn(n, generator=draws)).clamp(1).round()
    age = 80 * torch.rand(n, generator=draws)
    sold = 2005 + torch.randint(18, (n,), generator=draws).float()
    distance = 200 + 20000 * torch.rand(n, generator=draws) ** 2
    income = 20000 + 60000 * torch.rand(n, generator=draws)
    price = 1800 * area + 9000 * rooms - 900 * age + 6000 * (sold - 2005) + 2.2 * income
    price = price * (1 + 0.6 * torch.exp(-distance / 4000)) + 12000 * torch.randn(n, generator=draws)
    return _split(torch.stack([area, rooms, age, sold, distance, income], 1), price[:, None], seed)


def houses(seed: int) -> Data:
    """The same with standardized columns and prices."""
    raw = houses_raw(seed)
    mean, std, middle, width = raw.x.mean(0), raw.x.std(0), raw.y.mean(), raw.y.std()
    return raw.inputs(lambda x: (x - mean) / std).targets(lambda y: (y - middle) / width)


def tags(seed: int) -> Data:
    """Twenty columns, five labels of which any may hold, each for a fifth: ``[n, 5]`` of 0, 1."""
    draws = _draws(seed)
    x = torch.randn(1400, 20, generator=draws)
    first, second = (torch.randn(20, 5, generator=draws) / math.sqrt(20) for _ in range(2))
    value = (x @ first) * 1.5 + (x @ second).abs()
    return _split(x, (value > value.quantile(0.8, dim=0)).float(), seed)


def shapes(seed: int, number: int = 900) -> Data:
    """Images ``[n, 1, 12, 12]`` with a bar, a cross, a square or a diagonal somewhere, under noise."""
    draws = _draws(seed)
    kind = torch.randint(4, (number,), generator=draws)
    x = 0.25 * torch.rand(number, 1, 12, 12, generator=draws)
    places = torch.randint(0, 7, (number, 2), generator=draws)
    stamps = torch.zeros(4, 5, 5)
    stamps[0, 2] = 1
    stamps[1, 2], stamps[1, :, 2] = 1, 1
    stamps[2, 0], stamps[2, 4], stamps[2, :, 0], stamps[2, :, 4] = 1, 1, 1, 1
    stamps[3] = torch.eye(5)
    for each in range(number):
        down, right = (int(place) for place in places[each])
        x[each, 0, down : down + 5, right : right + 5] += 0.75 * stamps[kind[each]]
    return _split(x, kind, seed)


def colours(seed: int) -> Data:
    """Images ``[n, 3, 8, 8]`` whose class is the colour of the brighter half."""
    draws = _draws(seed)
    kind = torch.randint(3, (800,), generator=draws)
    side = torch.randint(2, (800,), generator=draws)
    x = 0.4 * torch.rand(800, 3, 8, 8, generator=draws)
    for each in range(800):
        half = slice(0, 4) if side[each] else slice(4, 8)
        x[each, kind[each], half] += 0.15
        x[each, (kind[each] + 1) % 3, slice(4, 8) if side[each] else slice(0, 4)] += 0.1
    return _split(x, kind, seed)


def waves(seed: int, length: int = 24) -> Data:
    """Sequences ``[n, length, 1]``: a sine, a square wave or a saw tooth with noise; three classes."""
    draws = _draws(seed)
    kind = torch.randint(3, (900,), generator=draws)
    phase = torch.rand(900, 1, generator=draws)
    pace = 0.08 + 0.08 * torch.rand(900, 1, generator=draws)
    turn = (phase + pace * torch.arange(length)) % 1
    forms = torch.stack([(2 * math.pi * turn).sin(), (turn < 0.5) * 2.0 - 1, 2 * turn - 1])
    x = forms[kind, torch.arange(900)] + 0.2 * torch.randn(900, length, generator=draws)
    return _split(x[:, :, None], kind, seed)


def forecast(seed: int, length: int = 20) -> Data:
    """Windows ``[n, length, 1]`` of a noisy sum of two sines; the next value but two ``[n, 1]``."""
    draws = _draws(seed)
    time = torch.arange(1400.0)
    series = (0.31 * time).sin() + 0.6 * (0.083 * time + 1).sin() + 0.1 * torch.randn(1400, generator=draws)
    windows = series.unfold(0, length + 3, 1)
    return _split(windows[:, :length, None], windows[:, -1:], seed)


def adding(seed: int, length: int = 16) -> Data:
    """Sequences ``[n, length, 2]`` of values and two marks; the sum of the marked values ``[n, 1]``."""
    draws = _draws(seed)
    values = torch.rand(1500, length, generator=draws) * 2 - 1
    marks = torch.zeros(1500, length)
    first = torch.randint(0, length // 2, (1500,), generator=draws)
    second = torch.randint(length // 2, length, (1500,), generator=draws)
    every = torch.arange(1500)
    marks[every, first] = marks[every, second] = 1
    return _split(torch.stack([values, marks], 2), (values * marks).sum(1, keepdim=True), seed)


def recall(seed: int, length: int = 12) -> Data:
    """Sequences ``[n, length, 4]``: one of four symbols first, then noise; which symbol it was."""
    draws = _draws(seed)
    kind = torch.randint(4, (900,), generator=draws)
    x = 0.5 * torch.randn(900, length, 4, generator=draws)
    x[:, 0] = 2 * torch.nn.functional.one_hot(kind, 4)
    return _split(x, kind, seed)


def words(seed: int, length: int = 16, vocabulary: int = 30) -> Data:
    """Sentences ``[n, length]`` of word numbers; class 1 where praise outweighs blame, as 0 or 1."""
    draws = _draws(seed)
    x = torch.randint(vocabulary, (1400, length), generator=draws)
    worth = torch.zeros(vocabulary)
    worth[:6], worth[6:12] = 1.0, -1.0
    value = worth[x].sum(1)
    # two words that count only together
    value = value - 2.0 * ((x == 12).any(1) & (x == 13).any(1)) + 0.3 * torch.randn(1400, generator=draws)
    return _split(x, (value > 0).long(), seed)


def fashion(seed: int, number: int = 1500) -> Data:
    """Clothes ``[n, 1, 28, 28]`` from 0 to 1, where the files are there."""
    raw = (FASHION / "train-images-idx3-ubyte").read_bytes()[16:]
    kinds = (FASHION / "train-labels-idx1-ubyte").read_bytes()[8:]
    chosen = np.random.default_rng(seed).permutation(60000)[:number]
    x = np.frombuffer(raw, np.uint8).reshape(-1, 1, 28, 28)[chosen].astype(np.float32) / 255
    return _split(x, np.frombuffer(kinds, np.uint8)[chosen].astype(np.int64), seed)
