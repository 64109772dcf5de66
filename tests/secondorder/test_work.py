"""Work in forward passes: what is counted is what matrix products were computed."""

from __future__ import annotations

import copy
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from thalweg.secondorder import GaussNewtonDirection, least_squares, minimize
from thalweg.secondorder import curvature_optimizers as matrix_faces
from thalweg.secondorder import optimizers as faces
from thalweg.secondorder.closures import ClosureOptimizer
from thalweg.secondorder.composite import CompositeObjective
from thalweg.secondorder.objective_function import (
    AutogradObjective,
    EvaluatedPoint,
    TensorStructure,
    forward_of,
)
from thalweg.secondorder.solution import Tally

LAYERS = 12
PRODUCTS = {torch.ops.aten.mm.default, torch.ops.aten.addmm.default, torch.ops.aten.bmm.default}


class Counted(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts products of matrices."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func in PRODUCTS
        return func(*args, **(kwargs or {}))


def weights(layers: int = LAYERS, width: int = 3) -> list[Tensor]:
    torch.manual_seed(0)
    return [torch.randn(width, width, dtype=torch.float64) / 2 for _ in range(layers)]


def outputs(w: list[Tensor], inputs: Tensor | None = None) -> Tensor:
    a = torch.linspace(-1, 1, 12, dtype=torch.float64).reshape(4, 3) if inputs is None else inputs
    for layer in w:
        a = torch.tanh(a @ layer)
    return a


def loss(w: list[Tensor]) -> Tensor:
    return (outputs(w) ** 2).mean()


def per_layer(work: Callable[[], Any], tally: Tally) -> tuple[float, float]:
    """Return what was counted, and what was computed in products a layer."""
    before = tally.passes
    with Counted() as counted:
        work()
    return tally.passes - before, counted.count / LAYERS


def test_the_count_is_that_of_matrix_products() -> None:
    structure, tally = TensorStructure(weights(), "test"), Tally()
    problem = AutogradObjective(forward_of(loss, structure, "test"), structure.space, tally)
    x, v = structure.x, weights()
    works: list[tuple[Callable[[], Any], float]] = [
        (lambda: problem.evaluate(x), 3),
        (lambda: problem.product(x, v), 9),
        (lambda: problem.product(x, v), 6),
    ]
    for work, expected in works:
        passes, products = per_layer(work, tally)
        assert passes == expected
        # the lowest layer needs no gradient of its input
        assert expected - 5 / LAYERS <= products <= expected


@pytest.mark.parametrize("squared", [True, False])
def test_the_count_of_a_composite_is_that_of_matrix_products(
    squared: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    # many at once are fewer products of larger matrices
    monkeypatch.setattr("thalweg.curvature.differentiation._AT_ONCE", 1)
    structure, tally = TensorStructure(weights(), "test"), Tally()

    def few(w: list[Tensor]) -> Tensor:
        return outputs(w)[:2]

    forward = forward_of(few, structure, "test", scalar=False)
    problem = CompositeObjective(forward, None if squared else (lambda z: (z**4).sum()), tally)
    x, v, points = structure.x, weights(), list[EvaluatedPoint]()
    works: list[tuple[Callable[[], Any], float]] = [
        (lambda: points.append(problem.evaluate(x)), 3),
        (lambda: problem.model(points[0], GaussNewtonDirection()), 2 * 6),
        (lambda: problem.evaluate(structure.space.scale(2.0, x)), 3),
        # another point's graph is gone
        (lambda: problem.model(points[0], GaussNewtonDirection()), 1 + 2 * 6),
        (lambda: problem.push(x, v), 2 + 2),
        (lambda: problem.push(x, v), 2),
        (lambda: problem.pull(x, problem.slope(x)), 2),
        (lambda: problem.model(points[0], GaussNewtonDirection(solver="cg")), 0),
    ]
    for work, expected in works:
        passes, products = per_layer(work, tally)
        assert passes == expected
        assert expected - 7 / LAYERS <= products <= expected


def test_a_jacobian_by_columns_is_counted() -> None:
    a = torch.ones(9, 2, dtype=torch.float64)
    structure, tally = TensorStructure(torch.ones(2, dtype=torch.float64), "test"), Tally()
    problem = CompositeObjective(forward_of(lambda x: a @ x, structure, "test", scalar=False), None, tally)
    point = problem.evaluate(structure.x)
    before = tally.passes
    problem.model(point, GaussNewtonDirection())
    # the graph of u -> J'u, and what differentiates it for each of two columns
    assert tally.passes - before == 2 + 2 * 2


def test_solutions_say_what_they_cost() -> None:
    x0 = weights(2)
    for method in ("lbfgs", "cg-pr+", "steepest-descent"):
        counts = minimize(loss, x0, method=method, max_iterations=4).counts
        assert counts.passes == 3 * counts.evaluations
    counts = minimize(loss, x0, method="newton-cg", max_iterations=4).counts
    iterations = counts.gradients - counts.evaluations
    assert counts.products > 0
    assert counts.passes == 3 * counts.evaluations + 2 * iterations + 6 * counts.products
    counts = minimize(loss, x0, method="newton", max_iterations=2).counts
    assert counts.passes == 3 * counts.evaluations + counts.hessians * (2 + 6 * 18)
    counts = least_squares(outputs, x0, max_iterations=3).counts
    assert counts.passes == 3 * counts.evaluations + counts.hessians * 2 * 12


def faces_of(net: nn.Module) -> list[tuple[ClosureOptimizer, bool]]:
    parameters = list(net.parameters())
    return [
        (faces.LBFGS(parameters, max_iter=3), True),
        (faces.NonlinearCG(parameters, max_iter=3, sgd_steps=1), True),
        (matrix_faces.Newton(parameters, damping=1.0), False),
        (matrix_faces.LevenbergMarquardt(parameters), False),
    ]


@pytest.mark.parametrize("number", range(4))
def test_a_face_counts_over_steps_and_states(number: int) -> None:
    torch.manual_seed(0)
    net = nn.Linear(3, 2).double()
    inputs = torch.randn(5, 3, dtype=torch.float64)
    optimizer, backward = faces_of(net)[number]
    composite = isinstance(optimizer, matrix_faces.LevenbergMarquardt)

    def closure() -> Any:
        if composite:
            return net(inputs)
        net.zero_grad()
        value = (net(inputs) ** 2).mean()
        if backward:
            value.backward()
        return value

    assert (optimizer.evaluations, optimizer.passes) == (0, 0.0)
    seen = []
    for _ in range(3):
        optimizer.step(closure)
        seen.append((optimizer.evaluations, optimizer.passes))
    assert all(a[0] < b[0] and a[1] < b[1] for a, b in pairwise(seen))
    if backward:
        assert seen[-1][1] == 3 * seen[-1][0]
    other = faces_of(copy.deepcopy(net))[number][0]
    other.load_state_dict(optimizer.state_dict())
    assert (other.evaluations, other.passes) == seen[-1]
    # the counts outlive what was learned of the parameters
    net.weight.requires_grad_(False)
    optimizer.step(closure)
    assert optimizer.passes > seen[-1][1]
    assert len(optimizer.state) == 1
