"""Strictly convex quadratics with exact steps: one sequence for all, which ends."""

from __future__ import annotations

from itertools import pairwise
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor

from thalweg.curvature.vectors import Space
from thalweg.secondorder import (
    METHODS,
    BFGSDirection,
    ConjugateGradientDirection,
    Exact,
    Fixed,
    LBFGSDirection,
    NewtonCGDirection,
    NewtonDirection,
    NormalizedDirection,
    Solution,
    SteepestDescentDirection,
    minimize,
)
from thalweg.secondorder.directions import FORMULAS, AcceptedStep, Direction, Formula
from thalweg.secondorder.objective_function import AutogradObjective, EvaluatedPoint
from thalweg.secondorder.solution import Tally

from .functions import Function, quadratic, spread, start

CASES = [(n, condition, seed) for n in (1, 2, 5, 8) for condition in (1.0, 10.0, 100.0) for seed in (0, 1)]


def linear_cg(a: Tensor, b: Tensor, x: Tensor, steps: int) -> list[Tensor]:
    """Hestenes and Stiefel's method for A x = b: the points after each step."""
    r = b - a @ x
    p, points = r.clone(), [x.clone()]
    for _ in range(steps):
        ap = a @ p
        alpha = (r @ r) / (p @ ap)
        x = x + alpha * p
        after = r - alpha * ap
        p = after + (after @ after) / (r @ r) * p
        r = after
        points.append(x.clone())
    return points


def path(f: Function, x: Tensor, direction: Direction, steps: int, **more: object) -> list[Tensor]:
    """Return the point after each of so many steps."""
    points = [x]
    for k in range(1, steps + 1):
        options = {"search": Exact(), "tolerance": 1e-13, "max_iterations": k, **more}
        points.append(minimize(f, x, method=direction, **options).x)  # type: ignore[arg-type]
    return points


def close_paths(mine: list[Tensor], theirs: list[Tensor]) -> None:
    size = max(float((theirs[-1] - theirs[0]).norm()), 1.0)
    for a, b in zip(mine, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=2e-9 * size)


METHODS_OF_CONJUGATE_DIRECTIONS: dict[str, Direction] = {
    **{formula: ConjugateGradientDirection(formula=formula) for formula in FORMULAS},
    **{f"lbfgs-{m}": LBFGSDirection(history=m) for m in (1, 2, 5, 20)},
    "lbfgs-identity": LBFGSDirection(history=3, initial="identity"),
    "bfgs": BFGSDirection(),
    "bfgs-identity": BFGSDirection(initial="identity"),
}


@pytest.mark.parametrize("name", METHODS_OF_CONJUGATE_DIRECTIONS)
def test_each_is_linear_cg_step_by_step_and_ends(name: str) -> None:
    direction = METHODS_OF_CONJUGATE_DIRECTIONS[name]
    for n, condition, seed in CASES:
        a, b, f = quadratic(spread(n, condition), seed)
        x = start(n, seed + 10)
        steps = min(n, 1 if condition == 1.0 else n)
        close_paths(path(f, x, direction, steps), linear_cg(a, b, x, steps))
        tolerance = 1e-8 * float((a @ x - b).norm())
        solution = minimize(f, x, method=direction, search=Exact(), tolerance=tolerance)
        assert solution.converged
        assert solution.counts.iterations <= steps
        assert solution.counts.evaluations == solution.counts.iterations + 1 == solution.counts.round_trips
        assert solution.counts.products == solution.counts.iterations


@pytest.mark.parametrize("name", METHODS_OF_CONJUGATE_DIRECTIONS)
def test_as_many_steps_as_distinct_eigenvalues(name: str) -> None:
    for seed in range(3):
        _, _, f = quadratic([1.0] * 4 + [7.0] * 5 + [40.0] * 3, seed)
        solution = minimize(
            f, start(12, seed), method=METHODS_OF_CONJUGATE_DIRECTIONS[name], search=Exact(), tolerance=1e-8
        )
        assert solution.converged
        assert solution.counts.iterations == 3


@pytest.mark.parametrize("history", [1, 3, 10])
def test_directions_of_lbfgs_are_conjugate(history: int) -> None:
    a, _, f = quadratic(spread(6, 50.0), 3)
    points = path(f, start(6), LBFGSDirection(history=history), 6)
    steps = [after - before for before, after in pairwise(points)]
    for i, p in enumerate(steps):
        for q in steps[:i]:
            assert abs(p @ a @ q) <= 1e-7 * float((p @ a @ p).sqrt() * (q @ a @ q).sqrt())


@pytest.mark.parametrize("seed", range(4))
def test_bfgs_has_the_exact_inverse_after_n_steps(seed: int) -> None:
    from thalweg.secondorder.objective_function import AutogradObjective, TensorStructure, forward_of
    from thalweg.secondorder.solution import Tally
    from thalweg.secondorder.solver import descend
    from thalweg.secondorder.termination import DescentLimits

    n = 6
    a, _, f = quadratic(spread(n, 60.0), seed)
    structure = TensorStructure(start(n, seed), "test")
    problem = AutogradObjective(forward_of(f, structure, "test"), structure.space, Tally())
    limits = DescentLimits(tolerance=0.0, max_iterations=n)
    found = descend(problem, structure.x, BFGSDirection(), Exact(), limits=limits)
    assert len(found.traces[0]) == n + 1
    torch.testing.assert_close(found.memory.state["matrix"], torch.linalg.inv(a), rtol=1e-6, atol=1e-7)


def test_reset_goes_back_to_the_gradient() -> None:
    a, b, f = quadratic(spread(6, 50.0), 2)
    x = start(6)
    mine = path(f, x, ConjugateGradientDirection(formula="polak-ribiere", reset=2), 6)
    theirs = [x]
    for _ in range(3):
        theirs += linear_cg(a, b, theirs[-1], 2)[1:]
    close_paths(mine, theirs)
    every = path(f, x, ConjugateGradientDirection(reset=1), 5)
    close_paths(every, path(f, x, SteepestDescentDirection(), 5))


def test_steepest_descent_turns_by_right_angles() -> None:
    a, b, f = quadratic([1.0, 30.0], 0)
    points = path(f, start(2), SteepestDescentDirection(), 8)
    steps = [after - before for before, after in pairwise(points)]
    for p, q in pairwise(steps):
        assert abs(p @ q) <= 1e-8 * float(p.norm() * q.norm())
    r = a @ points[0] - b
    torch.testing.assert_close(points[1], points[0] - (r @ r) / (r @ a @ r) * r)
    # it contracts the distance at least as fast as Kantorovich says, and no method is that slow by accident
    solution = minimize(f, start(2), method="steepest-descent", search="exact", tolerance=1e-8)
    assert 8 < solution.counts.iterations < 300


# ---- Newton


def iterate(f: Function, x: Tensor, direction: Direction, eta: float, steps: int) -> Solution:
    return minimize(f, x, method=direction, search=Fixed(step=eta), tolerance=1e-10, max_iterations=steps)


@pytest.mark.parametrize("kind", ["exact", "finite-difference"])
def test_newton_ends_in_one_step(kind: str) -> None:
    for n, condition, seed in CASES:
        a, b, f = quadratic(spread(n, condition), seed)
        for modified in (False, True):
            direction = NewtonDirection(hessian=kind, modified=modified)  # type: ignore[arg-type]
            solution = minimize(f, start(n), method=direction, tolerance=1e-7)
            assert solution.converged
            assert solution.counts.iterations == 1
            torch.testing.assert_close(solution.x, torch.linalg.solve(a, b), rtol=1e-7, atol=1e-7)


def test_newton_with_a_step_size_contracts_by_one_minus_eta() -> None:
    a, b, f = quadratic(spread(4, 80.0), 1)
    best = torch.linalg.solve(a, b)
    for eta in (0.3, 1.7, 1.99, 2.01, 2.5):
        x = start(4)
        for k, point in enumerate(path(f, x, NewtonDirection(), 6, search=Fixed(step=eta))):
            torch.testing.assert_close(point - best, (1 - eta) ** k * (x - best), rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("direction", ["newton", "normalized"])
def test_step_sizes_below_two_converge_and_no_others(direction: str) -> None:
    a, _, f = quadratic(spread(4, 80.0), 1)
    made = NewtonDirection() if direction == "newton" else NormalizedDirection(a)
    assert iterate(f, start(4), made, 1.97, 1500).converged
    assert not iterate(f, start(4), made, 2.0, 300).converged
    above = iterate(f, start(4), made, 2.03, 300)
    assert not above.converged
    assert above.gradient_norm > 1e2


@pytest.mark.parametrize("alpha", [0.5, 5.0, 200.0])
def test_damped_newton_converges_below_its_own_bound(alpha: float) -> None:
    values = spread(4, 80.0)
    a, b, f = quadratic(values, 1)
    bound = 2 * (values[-1] + alpha) / values[-1]
    below = iterate(f, start(4), NewtonDirection(damping=alpha), 0.995 * bound, 900)
    first, last = below.trace[0].gradient_norm, below.gradient_norm
    assert last < 1e-3 * first
    above = iterate(f, start(4), NewtonDirection(damping=alpha), 1.005 * bound, 700)
    assert above.gradient_norm > 10 * first
    # the update itself, from the slide
    x = start(4)
    eye = torch.eye(4, dtype=torch.float64)
    expected = x - torch.linalg.inv(a + alpha * eye) @ (a @ x - b)
    torch.testing.assert_close(path(f, x, NewtonDirection(damping=alpha), 1, search=Fixed())[1], expected)


def test_the_normalized_rule_is_gradient_descent_in_scaled_axes() -> None:
    a, b, f = quadratic(spread(3, 50.0), 4)
    values, vectors = torch.linalg.eigh(a)
    root = vectors @ torch.diag(values.sqrt()) @ vectors.T
    back = torch.linalg.inv(root)
    x = start(3)
    mine = path(f, x, NormalizedDirection(a), 5, search=Fixed(step=0.3))
    scaled = root @ x
    for point in mine:
        torch.testing.assert_close(point, back @ scaled)
        # the gradient with respect to the scaled coordinates is A^-1/2 times that of x
        scaled = scaled - 0.3 * (back @ (a @ (back @ scaled) - b))


def test_newton_cg_is_newton_where_the_residual_has_to_vanish() -> None:
    for n, condition, seed in CASES:
        a, b, f = quadratic(spread(n, condition), seed)
        solution = minimize(f, start(n), method=NewtonCGDirection(), tolerance=1e-9)
        assert solution.converged
        torch.testing.assert_close(solution.x, torch.linalg.solve(a, b), rtol=1e-6, atol=1e-7)


def test_blocks_are_newton_for_each_tensor_alone() -> None:
    a, b, f = quadratic(spread(5, 20.0), 3)
    x = start(5)

    def split(parts: list[Tensor]) -> Tensor:
        return f(torch.cat([parts[0], parts[1]]))

    parts = minimize(
        split,
        [x[:2], x[2:]],
        method=NewtonDirection(hessian="block"),
        max_iterations=1,
        search=Fixed(step=0.5),
    ).x
    g = a @ x - b
    torch.testing.assert_close(parts[0], x[:2] - 0.5 * torch.linalg.solve(a[:2, :2], g[:2]))
    torch.testing.assert_close(parts[1], x[2:] - 0.5 * torch.linalg.solve(a[2:, 2:], g[2:]))


@pytest.mark.parametrize("method", sorted(METHODS))
def test_every_method_with_its_own_search_finds_the_minimum(method: str) -> None:
    for n, condition, seed in CASES:
        a, b, f = quadratic(spread(n, condition), seed)
        solution = minimize(f, start(n), method=method, tolerance=1e-7, max_iterations=3000)
        assert solution.converged, (method, n, condition, solution)
        torch.testing.assert_close(solution.x, torch.linalg.solve(a, b), rtol=0, atol=1e-6)
        assert solution.counts.round_trips <= solution.counts.evaluations + solution.counts.products


def test_hager_and_zhangs_beta_is_bounded_below() -> None:
    """beta >= -1 / (|d_| min(0.01, |g_|)), by hand; it is active in some draws and not in others."""
    rng = np.random.default_rng(5)
    method, space = ConjugateGradientDirection(formula="hager-zhang"), Space()
    active = {(bound, small): 0 for bound in (False, True) for small in (False, True)}
    for _ in range(400):
        size = 10 ** rng.uniform(-4, 1)
        before, d = size * rng.standard_normal(4), 10 ** rng.uniform(-2, 4) * rng.standard_normal(4)
        g = before + size * 10 ** rng.uniform(-3, 1) * rng.standard_normal(4)
        y = g - before
        # the nearer d is to right angles with y, the larger is beta
        d -= (1 - 10 ** rng.uniform(-9, 0)) * (d @ y) / (y @ y) * y
        free = (y - 2 * d * (y @ y) / (d @ y)) @ g / (d @ y)
        least = -1 / (np.linalg.norm(d) * min(0.01, np.linalg.norm(before)))
        state = {"direction": [torch.from_numpy(d)], "gradient": [torch.from_numpy(before)], "count": [1]}
        point = EvaluatedPoint([torch.zeros(4, dtype=torch.float64)], torch.zeros(()), [torch.from_numpy(g)])
        problem = AutogradObjective(lambda x: (x, x[0].sum()), space, Tally())
        (found,) = method.propose(state, point, problem)
        np.testing.assert_allclose(found.numpy(), -g + max(free, least) * d, rtol=1e-4)
        active[bool(free < least), bool(np.linalg.norm(before) < 0.01)] += 1
    assert min(active.values()) > 5


@pytest.mark.parametrize("formula", FORMULAS)
def test_directions_have_the_beta_of_their_formula(formula: str) -> None:
    """By hand, wherever gradients and directions lie: that of Polak and Ribiere is below zero in some."""
    rng = np.random.default_rng(6)
    method, negative = ConjugateGradientDirection(formula=cast(Formula, formula)), 0
    for _ in range(60):
        g, before, d = rng.standard_normal((3, 4)) * [[1.0], [3.0], [1.0]]
        y = g - before
        beta = {
            "fletcher-reeves": (g @ g) / (before @ before),
            "polak-ribiere": (g @ y) / (before @ before),
            "polak-ribiere+": max(0.0, (g @ y) / (before @ before)),
            "hestenes-stiefel": (g @ y) / (d @ y),
            "dai-yuan": (g @ g) / (d @ y),
            "hager-zhang": max(
                (y - 2 * d * (y @ y) / (d @ y)) @ g / (d @ y),
                -1 / (np.linalg.norm(d) * min(0.01, np.linalg.norm(before))),
            ),
        }
        state = {"direction": [torch.from_numpy(d)], "gradient": [torch.from_numpy(before)], "count": [1]}
        point = EvaluatedPoint([torch.zeros(4, dtype=torch.float64)], torch.zeros(()), [torch.from_numpy(g)])
        problem = AutogradObjective(lambda x: (x, x[0].sum()), Space(), Tally())
        (found,) = method.propose(state, point, problem)
        np.testing.assert_allclose(found.numpy(), -g + beta[formula] * d, rtol=1e-9)
        negative += beta["polak-ribiere"] < 0
    assert 5 < negative < 55


@pytest.mark.parametrize("initial", ["scaled", "identity"])
def test_the_matrix_of_bfgs_is_its_formula(initial: Any) -> None:
    """(I - r s y') M (I - r y s') + r s s', pair by pair; a pair that isn't curved leaves it as it is."""
    rng = np.random.default_rng(7)
    method, space = BFGSDirection(initial=initial), Space()

    def at(x: np.ndarray, g: np.ndarray) -> EvaluatedPoint:
        return EvaluatedPoint(
            [torch.from_numpy(x)], torch.zeros((), dtype=torch.float64), [torch.from_numpy(g)]
        )

    x, g = rng.standard_normal((2, 4))
    state, matrix, first = method.begin(space, at(x, g)), np.eye(4), True
    for curved in (False, True, True, False, True):
        d, y = rng.standard_normal((2, 4))
        y *= np.sign(y @ d) * (1 if curved else -1)
        s = 0.3 * d
        old, new = at(x, g), at(x + s, g + y)
        length = torch.tensor(0.3, dtype=torch.float64)
        state = method.update(
            state, AcceptedStep(space, [True], [curved], length, [torch.from_numpy(d)], old, new)
        )
        if curved:
            if first and initial == "scaled":
                matrix = matrix * (s @ y) / (y @ y)
            first, left = False, np.eye(4) - np.outer(s, y) / (s @ y)
            matrix = left @ matrix @ left.T + np.outer(s, s) / (s @ y)
        x, g = x + s, g + y
        np.testing.assert_allclose(state["matrix"].numpy(), matrix, rtol=1e-9, atol=1e-9)
