"""Functions of the tests: quadratics of given eigenvalues, and a few curved ones."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

Function = Callable[[Tensor], Tensor]


def quadratic(eigenvalues: list[float], seed: int = 0) -> tuple[Tensor, Tensor, Function]:
    """Return A with these eigenvalues in random axes, b, and ``x'Ax/2 - b'x``; x may be [n] or [K, n]."""
    rng = np.random.default_rng(seed)
    n = len(eigenvalues)
    q = np.linalg.qr(rng.standard_normal((n, n)))[0]
    a = torch.from_numpy(q @ np.diag(eigenvalues) @ q.T)
    a = (a + a.T) / 2
    b = torch.from_numpy(rng.standard_normal(n))
    return a, b, lambda x: ((x @ a) * x).sum(-1) / 2 - (x * b).sum(-1)


def spread(n: int, condition: float) -> list[float]:
    """Return n eigenvalues between 1 and ``condition``, evenly on a log scale."""
    return list(np.geomspace(1.0, condition, n))


def start(n: int, seed: int = 1) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(n))


def rosenbrock(x: Tensor) -> Tensor:
    return ((1 - x[..., :-1]) ** 2 + 100 * (x[..., 1:] - x[..., :-1] ** 2) ** 2).sum(-1)


def saddle(x: Tensor) -> Tensor:
    """A saddle point at 0, minima with value -1/4 at (0, 1) and (0, -1)."""
    return x[..., 0] ** 2 - x[..., 1] ** 2 / 2 + x[..., 1] ** 4 / 4


def logistic(seed: int, rows: int = 40, n: int = 5) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    inputs = rng.standard_normal((rows, n)) * np.geomspace(0.3, 3, n)
    return inputs, np.where(inputs @ rng.standard_normal(n) + rng.logistic(size=rows) > 0, 1.0, -1.0)
