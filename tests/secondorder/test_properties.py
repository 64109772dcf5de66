"""What holds of every solution, whatever the surface, the method and the search."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from thalweg.secondorder import (
    METHODS,
    Solution,
    Status,
    minimize,
)
from thalweg.secondorder.minimizing import SEARCHES
from thalweg.test_problems import surfaces
from thalweg.test_problems.surfaces import Surface

# By how much a step may raise a value that rounding no longer tells from the one before.
NOISE = {torch.float64: 4e-11, torch.float32: 3e-5}
# Hager and Zhang let it rise by one part in a million.
SLACK = {"hager-zhang": 1.1e-6}


def holds(solution: Solution, f: Any, slack: float, tolerance: float) -> None:
    """Value, gradient and status belong to the point; nothing is worse than where it began."""
    assert isinstance(solution.value, float)
    x = solution.x.clone().requires_grad_()
    value = f(x)
    (gradient,) = torch.autograd.grad(value, x)
    assert torch.isfinite(solution.x).all()
    assert value.item() == pytest.approx(solution.value, rel=max(slack, 1e-9), abs=1e-300)
    norm = float(gradient.abs().max())
    assert solution.gradient_norm == pytest.approx(norm, rel=max(1e-3, slack), abs=1e-6 * (1 + norm))
    values = [record.value for record in solution.trace]
    lowest = min(values)
    assert solution.value <= values[0] + slack * abs(values[0])
    assert solution.value <= lowest + slack * abs(lowest)
    if solution.converged:
        assert solution.gradient_norm <= tolerance
    else:
        # only where a tolerance was met may the last point be above an earlier one, by rounding
        assert solution.value == lowest
        assert solution.gradient_norm > tolerance
    assert len(values) == solution.counts.iterations + 1
    if solution.status is Status.EVALUATION_LIMIT:
        assert solution.counts.evaluations == 60


# the collection of More, Garbow and Hillstrom has tests of its own
OTHERS = sorted(set(surfaces.names()) - set(surfaces.names("more-garbow-hillstrom")))


@pytest.mark.parametrize("name", OTHERS)
def test_over_surfaces_and_methods(name: str) -> None:
    surface = surfaces.get(name)
    for method in METHODS:
        found = minimize(surface, surface.initial(), method=method, max_evaluations=60)
        holds(found, surface, NOISE[torch.float64], 1e-6)


@pytest.mark.parametrize("search", [name for name in SEARCHES if name != "fixed"])
@pytest.mark.parametrize(
    "name",
    ["cliff", "jennrich-sampson", "powell-badly-scaled", "monkey-saddle"],
)
def test_over_surfaces_and_searches(name: str, search: str) -> None:
    surface = surfaces.get(name)
    slack = max(NOISE[torch.float64], SLACK.get(search, 0.0))
    for method in METHODS:
        found = minimize(surface, surface.initial(), method=method, search=search, max_evaluations=60)
        holds(found, surface, slack, 1e-6)


@pytest.mark.parametrize("name", ["wood", "quadratic", "rastrigin"])
def test_in_single_precision_and_in_lanes(name: str) -> None:
    surface: Surface = surfaces.get(name)
    starts = surface.initial() * torch.linspace(0.8, 1.2, 3, dtype=torch.float64)[:, None]
    for method in METHODS:
        single = minimize(surface, surface.initial(dtype=torch.float32), method=method, max_evaluations=60)
        holds(single, surface, NOISE[torch.float32], 1e-6)
        together = minimize(surface, starts, method=method, max_evaluations=60, lanes=True)
        assert together.counts.evaluations <= 60
        for lane in together.lanes:
            if lane.status is not Status.EVALUATION_LIMIT:
                holds(lane, surface, NOISE[torch.float64], 1e-6)
            assert lane.value == min(record.value for record in lane.trace) or lane.converged
