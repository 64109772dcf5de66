"""A trajectory of any rule, on any runtime, from gradients given beforehand or computed on the way."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pytest
import torch

from thalweg import runtimes
from thalweg.rules import Rule

STEPS = 100


@pytest.fixture
def gradients() -> list[np.ndarray]:
    """One hundred float64 gradients [7]: sign changes, steps of zeros, an element that is always zero."""
    draws = np.random.default_rng(5).normal(size=(STEPS, 7))
    draws[:, 1] = 0.0
    draws[10:13] = 0.0
    draws[0, 2] = 0.0
    draws[:, 3] = np.abs(draws[:, 3])
    draws[:, 4] *= (-1.0) ** np.arange(STEPS)
    draws[:, 5] *= 1e-6
    draws[:, 6] *= 1e4
    return list(draws)


@pytest.fixture
def start() -> np.ndarray:
    return np.array([1.0, -2.0, 0.5, 3.0, 0.0, -1e-3, 10.0])


@pytest.fixture(params=["eager", "cpu"])
def drive(request: pytest.FixtureRequest) -> Callable[..., np.ndarray]:
    """A function that runs a rule and returns the parameter after each step, float64 [steps, n]."""
    runtime = request.param
    if runtime == "cpu" and "cpu" not in runtimes.available():
        pytest.skip("Numba isn't installed")

    def run(
        rule: Rule,
        start: np.ndarray,
        gradients: Sequence[np.ndarray] | Callable[[np.ndarray], np.ndarray],
        hyper: Mapping[str, float] | Callable[[int], Mapping[str, float]],
        options: Mapping[str, Any] | None = None,
        steps: int = STEPS,
        **more: Any,
    ) -> np.ndarray:
        at = hyper if callable(hyper) else lambda t: hyper
        chosen = options or {}
        p = torch.tensor(start, dtype=torch.float64)
        states = runtimes.initial_states(rule, [p], at(1), chosen)
        cache: dict[Any, Any] = {}
        path = []
        for t in range(1, steps + 1):
            g = gradients(p.numpy().copy()) if callable(gradients) else gradients[t - 1]
            g = torch.tensor(g, dtype=torch.float64)
            runtimes.apply(rule, [p], [g], states, at(t), chosen, t, runtime=runtime, cache=cache, **more)
            path.append(p.numpy().copy())
        return np.array(path)

    return run
