"""What ``minimize`` promises: structures, statuses, counts, recovery, lanes."""

from __future__ import annotations

import dataclasses
import math
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import scipy.optimize
import torch
from torch import Tensor

from thalweg.curvature.vectors import Space
from thalweg.errors import OptionError
from thalweg.secondorder import (
    METHODS,
    Backtracking,
    BFGSDirection,
    ConjugateGradientDirection,
    Fixed,
    IterationRecord,
    LBFGSDirection,
    NewtonDirection,
    Status,
    SteepestDescentDirection,
    StrongWolfe,
    least_squares,
    minimize,
)
from thalweg.secondorder.directions import AcceptedStep
from thalweg.secondorder.objective_function import AutogradObjective, EvaluatedPoint
from thalweg.secondorder.solution import Tally

from .functions import logistic, quadratic, rosenbrock, saddle, spread, start

HARD = torch.tensor([-1.2, 1.0], dtype=torch.float64)
QUICK = sorted(set(METHODS) - {"steepest-descent"})


@pytest.mark.parametrize("method", QUICK)
@pytest.mark.parametrize("n", [2, 6])
def test_every_method_finds_the_minimum_of_rosenbrocks_valley(method: str, n: int) -> None:
    x0 = torch.tensor([-1.2, 1.0] * (n // 2), dtype=torch.float64)
    solution = minimize(rosenbrock, x0, method=method, tolerance=1e-7, max_iterations=2000)
    assert solution.status is Status.CONVERGED
    found = scipy.optimize.minimize(
        scipy.optimize.rosen, x0.numpy(), jac=scipy.optimize.rosen_der, method="BFGS", options={"gtol": 1e-9}
    )
    theirs = float(found.fun)
    assert solution.value <= theirs + 1e-9 or solution.value == pytest.approx(3.97394, abs=1e-4)
    assert solution.gradient_norm <= 1e-7
    assert rosenbrock(solution.x) == pytest.approx(solution.value, abs=1e-15)
    values = [record.value for record in solution.trace]
    assert all(b <= a + 1e-6 * abs(a) for a, b in pairwise(values))


def test_steepest_descent_is_slow_in_a_valley_and_says_so() -> None:
    solution = minimize(rosenbrock, HARD, method="steepest-descent", max_iterations=100)
    assert solution.status is Status.ITERATION_LIMIT
    assert not solution.converged
    assert str(solution.status).startswith("The limit of iterations")


@pytest.mark.parametrize("method", QUICK)
def test_logistic_regression_as_scipy_has_it(method: str) -> None:
    inputs, labels = logistic(3)
    x, y = torch.from_numpy(inputs), torch.from_numpy(labels)

    def loss(w: Tensor) -> Tensor:
        return torch.nn.functional.softplus(-y * (x @ w)).mean() + 0.005 * (w @ w)

    def theirs(w: np.ndarray) -> float:
        return float(np.logaddexp(0, -labels * (inputs @ w)).mean() + 0.005 * (w @ w))

    solution = minimize(loss, torch.zeros(5, dtype=torch.float64), method=method, tolerance=1e-9)
    assert solution.converged
    found = scipy.optimize.minimize(theirs, np.zeros(5), method="BFGS", options={"gtol": 1e-7})
    torch.testing.assert_close(solution.x, torch.from_numpy(found.x), rtol=0, atol=1e-5)


@pytest.mark.parametrize("history", [10, 40])
def test_lbfgs_is_bfgs_as_long_as_its_history_covers_all(history: int) -> None:
    for search in (StrongWolfe(), Backtracking(), StrongWolfe(c2=0.1)):
        for k in range(1, 11):
            ours, dense = (
                minimize(rosenbrock, HARD, method=method, search=search, max_iterations=k)
                for method in (
                    LBFGSDirection(history=history, initial="identity"),
                    BFGSDirection(initial="identity"),
                )
            )
            torch.testing.assert_close(ours.x, dense.x, rtol=1e-8, atol=1e-10)
            assert ours.counts.evaluations == dense.counts.evaluations


def test_a_short_history_is_another_method() -> None:
    a = minimize(rosenbrock, HARD, method=LBFGSDirection(history=2, initial="identity"), max_iterations=10)
    b = minimize(rosenbrock, HARD, method=BFGSDirection(initial="identity"), max_iterations=10)
    assert float((a.x - b.x).abs().max()) > 1e-4


# ---- structures


def test_tensors_lists_and_dictionaries_are_one_problem() -> None:
    _, _, f = quadratic(spread(5, 20.0))
    x = start(5)
    flat = minimize(f, x)
    listed = minimize(lambda p: f(torch.cat([p[0].reshape(-1), p[1]])), [x[:4].reshape(2, 2), x[4:]])
    named = minimize(
        lambda p: f(torch.cat([p["a"].reshape(-1), p["b"], p["none"]])),
        {"a": x[:4].reshape(2, 2), "b": x[4:], "none": x[:0]},
    )
    assert isinstance(listed.x, list)
    assert set(named.x) == {"a", "b", "none"}
    assert named.x["a"].shape == (2, 2)
    torch.testing.assert_close(torch.cat([listed.x[0].reshape(-1), listed.x[1]]), flat.x)
    torch.testing.assert_close(torch.cat([named.x["a"].reshape(-1), named.x["b"]]), flat.x)
    assert flat.counts == listed.counts == named.counts
    assert not flat.x.requires_grad


@pytest.mark.parametrize("method", sorted(METHODS))
def test_scalars_unused_and_mixed_types(method: str) -> None:
    x0 = [torch.tensor(3.0, dtype=torch.float64), torch.ones(2), torch.ones(3)]
    solution = minimize(lambda p: (p[0] - 1) ** 2 + ((p[1] - 2) ** 2).sum().double(), x0, method=method)
    assert solution.converged
    assert [t.dtype for t in solution.x] == [torch.float64, torch.float32, torch.float32]
    assert float(solution.x[0]) == pytest.approx(1)
    assert solution.x[1].tolist() == pytest.approx([2, 2])
    assert solution.x[2].tolist() == [1, 1, 1]
    assert float(x0[0]) == 3


def test_x0_is_left_alone_and_grad_mode_does_not_matter() -> None:
    x0 = HARD.clone().requires_grad_()
    with torch.no_grad():
        solution = minimize(rosenbrock, x0)
    assert solution.converged
    assert x0.tolist() == HARD.tolist()
    assert x0.grad is None


# ---- statuses


def test_converged_at_the_start_costs_one_evaluation() -> None:
    solution = minimize(rosenbrock, torch.ones(4, dtype=torch.float64))
    assert solution.status is Status.CONVERGED
    assert dataclasses.astuple(solution.counts) == (0, 1, 1, 0, 0, 1, 3.0)
    assert [record.iteration for record in solution.trace] == [0]


@pytest.mark.parametrize("method", sorted(METHODS))
def test_unbounded_below_is_a_status(method: str) -> None:
    for f in (lambda x: x.sum(), lambda x: -(x**2).sum() + x.sum()):
        solution = minimize(f, torch.zeros(3, dtype=torch.float64), method=method)
        assert solution.status is Status.UNBOUNDED
        assert torch.isfinite(solution.x).all()


def test_a_start_that_is_not_finite_is_a_status() -> None:
    for x in (torch.tensor([-1.0]), torch.tensor([math.nan])):
        solution = minimize(lambda x: x.log().sum(), x)
        assert solution.status is Status.NOT_FINITE
        assert solution.counts.evaluations == 1


@pytest.mark.parametrize("method", sorted(METHODS))
def test_a_failed_search_restores_the_point_and_says_so(method: str) -> None:
    class Lie(torch.autograd.Function):
        """A function whose gradient has the wrong sign."""

        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            ctx.save_for_backward(x)
            return x**2

        @staticmethod
        def backward(ctx: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
            (x,) = ctx.saved_tensors
            return -2 * x * gradient

    x0 = torch.tensor([1.0, 2.0], dtype=torch.float64)
    solution = minimize(lambda x: Lie.apply(x).sum(), x0, method=method)  # type: ignore[no-untyped-call]
    assert solution.status in (Status.SEARCH_FAILED, Status.NOT_DESCENT)
    assert torch.equal(solution.x, x0)
    assert solution.value == 5
    assert "restored" in str(Status.SEARCH_FAILED)


def test_limits_hold() -> None:
    for limit in (1, 2, 5, 17):
        solution = minimize(rosenbrock, HARD, max_evaluations=limit)
        assert solution.status is Status.EVALUATION_LIMIT
        assert solution.counts.evaluations == limit
        assert solution.value <= rosenbrock(HARD)
    for limit in (0, 1, 5):
        solution = minimize(rosenbrock, HARD, max_iterations=limit)
        assert solution.status is Status.ITERATION_LIMIT
        assert solution.counts.iterations == limit


def test_a_callback_sees_every_step_and_can_stop() -> None:
    seen: list[IterationRecord] = []

    def watch(record: IterationRecord) -> bool:
        seen.append(record)
        return len(seen) == 4

    solution = minimize(rosenbrock, HARD, callback=watch)
    assert solution.status is Status.STOPPED
    assert solution.trace[1:] == tuple(seen)
    assert [record.iteration for record in seen] == [1, 2, 3, 4]


def test_a_small_change_ends_it_only_where_asked_for() -> None:
    solution = minimize(rosenbrock, HARD, tolerance=0.0, tolerance_change=1e-3)
    assert solution.status is Status.SMALL_CHANGE
    assert solution.converged
    assert abs(solution.trace[-1].value - solution.trace[-2].value) <= 1e-3


# ---- counts and conditions, seen from outside


@pytest.mark.parametrize("method", sorted(METHODS))
def test_counts_are_what_was_called(method: str) -> None:
    calls = []

    def counted(x: Tensor) -> Tensor:
        calls.append(x)
        return rosenbrock(x)

    counts = minimize(counted, HARD, method=method, max_iterations=30).counts
    # a Hessian or the first product at a point computes the gradient once more, with its graph, but no call
    assert len(calls) == counts.evaluations
    assert counts.gradients - counts.evaluations == (
        counts.hessians or min(counts.iterations, counts.products)
    )
    assert counts.round_trips == counts.evaluations + (counts.products if method == "newton-cg" else 0)
    lanes = minimize(counted, lane_starts(), method=method, max_iterations=10, lanes=True).counts
    assert lanes.round_trips <= lanes.evaluations + (lanes.products if method == "newton-cg" else 0)


@pytest.mark.parametrize(
    "method", ["bfgs", "lbfgs", "cg-fr", "cg-pr+", "cg-dy", "newton", "steepest-descent"]
)
def test_every_accepted_step_meets_the_strong_wolfe_conditions(method: str) -> None:
    c2 = {"bfgs": 0.9, "lbfgs": 0.9, "newton": 0.9, "steepest-descent": 0.4}.get(method, 0.1)
    points = [minimize(rosenbrock, HARD, method=method, max_iterations=k).x for k in range(15)]
    for before, after in pairwise(points):
        slopes, values = [], []
        for point in (before, after):
            x = point.clone().requires_grad_()
            value = rosenbrock(x)
            (gradient,) = torch.autograd.grad(value, x)
            slopes.append(float(gradient @ (after - before)))
            values.append(value.item())
        assert slopes[0] < 0
        assert abs(slopes[1]) <= c2 * abs(slopes[0]) * (1 + 1e-9)
        assert values[1] <= values[0] + 1e-4 * slopes[0] + 1e-14


@pytest.mark.parametrize("method", QUICK)
def test_single_precision_arrives_as_far_as_it_goes(method: str) -> None:
    solution = minimize(rosenbrock, HARD.float(), method=method, tolerance=1e-3)
    assert solution.converged
    torch.testing.assert_close(solution.x, torch.ones(2), rtol=0, atol=5e-3)
    further = minimize(rosenbrock, HARD.float(), method=method, tolerance=0.0, max_iterations=200)
    assert further.value <= 1e-6
    assert further.status in (Status.SEARCH_FAILED, Status.CONVERGED, Status.ITERATION_LIMIT)


# ---- robustness


@pytest.mark.parametrize("method", sorted(METHODS))
def test_a_wall_of_nan_is_recovered_from(method: str) -> None:
    def barrier(x: Tensor) -> Tensor:
        # defined for x > 0 alone; the minimum is at 1/3 of each
        return (3 * x - x.log()).sum() + 5 * ((x[0] - x[1]) ** 2)

    x0 = torch.tensor([4.0, 0.01], dtype=torch.float64)
    solution = minimize(barrier, x0, method=method, tolerance=1e-7, max_iterations=3000)
    assert solution.converged
    torch.testing.assert_close(solution.x, torch.full((2,), 1 / 3, dtype=torch.float64), rtol=0, atol=1e-6)


def test_infinity_beyond_a_cliff_shortens_the_step() -> None:
    def cliff(x: Tensor) -> Tensor:
        return torch.where(x > 2, torch.inf, (x - 1.9) ** 2).sum()

    for method in sorted(METHODS):
        solution = minimize(cliff, torch.zeros(1, dtype=torch.float64), method=method, tolerance=1e-6)
        assert solution.converged, method
        assert float(solution.x) == pytest.approx(1.9, abs=1e-5)


def test_a_direction_that_turns_uphill_is_replaced() -> None:
    """Fixed steps make Polak-Ribiere's direction point uphill at once; a search then goes back to -g."""
    rng = np.random.default_rng(0)
    for seed in range(20):
        _, _, f = quadratic([-0.2, 1.0, 30.0], seed)
        x0 = torch.from_numpy(rng.standard_normal(3))
        solution = minimize(
            lambda x, f=f: f(x) + (x**4).sum(),
            x0,
            method=ConjugateGradientDirection(formula="polak-ribiere"),
            search=StrongWolfe(c2=0.9),
            tolerance=1e-6,
        )
        assert solution.converged


def test_plain_newton_goes_to_a_saddle_point_and_modified_eigenvalues_leave_it() -> None:
    x0 = torch.tensor([0.5, 0.1], dtype=torch.float64)
    plain = minimize(saddle, x0, method=NewtonDirection(), tolerance=1e-12)
    assert plain.converged
    torch.testing.assert_close(plain.x, torch.zeros(2, dtype=torch.float64))
    assert plain.value > saddle(torch.tensor([0.0, 1.0]))
    for method in ("newton", "newton-cg", "bfgs", "lbfgs"):
        better = minimize(saddle, x0, method=method, tolerance=1e-10)
        assert better.converged
        assert better.value == pytest.approx(-0.25)


def test_newton_cg_uses_negative_curvature() -> None:
    """Along an axis where the function bends down, its first step is longer than the gradient's."""
    x0 = torch.tensor([1e-3, 1e-3], dtype=torch.float64)
    solution = minimize(saddle, x0, method="newton-cg", tolerance=1e-8)
    assert solution.value == pytest.approx(-0.25)
    assert solution.counts.iterations <= 10


def test_modified_eigenvalues_always_lead_downhill() -> None:
    rng = np.random.default_rng(5)
    for _ in range(300):
        n = int(rng.integers(1, 7))
        values = rng.standard_normal(n) * 10 ** rng.uniform(-8, 8, n) * rng.integers(0, 2, n)
        a = quadratic(list(values), int(rng.integers(1000)))[0]
        g = torch.from_numpy(rng.standard_normal(n))
        d = NewtonDirection(modified=True).solve(a, g)
        assert torch.isfinite(d).all()
        assert float(d @ g) < 0


def test_a_singular_hessian_is_a_status() -> None:
    solution = minimize(
        lambda x: x[0] ** 2 + x[1], torch.ones(2, dtype=torch.float64), method=NewtonDirection()
    )
    assert solution.status is Status.NO_DIRECTION


# ---- lanes


def lane_starts() -> Tensor:
    return torch.from_numpy(np.random.default_rng(2).uniform(-2, 2, (7, 4)))


@pytest.mark.parametrize("method", QUICK)
def test_lanes_are_what_each_is_alone(method: str) -> None:
    x0 = lane_starts()
    together = minimize(rosenbrock, x0, method=method, lanes=True, max_iterations=80)
    assert together.x.shape == (7, 4)
    rounds = 0
    for k in range(7):
        alone = minimize(rosenbrock, x0[k], method=method, max_iterations=80)
        lane = together.lanes[k]
        # a course that is chaotic in the last bit may take a step more or less to its end
        if lane.converged and alone.converged:
            torch.testing.assert_close(lane.x, alone.x, rtol=0, atol=1e-4)
        # rounding may differ between [n] and [K, n], so late steps may; early ones may not
        for mine, theirs in zip(lane.trace[:8], alone.trace[:8], strict=True):
            assert mine.value == pytest.approx(theirs.value, rel=1e-7)
            assert mine.evaluations == theirs.evaluations
        assert together.value[k] == lane.value  # type: ignore[index]
        assert {record.lane for record in lane.trace} == {k}
        rounds = max(rounds, lane.counts.evaluations)
    # a lane that has ended keeps the others from nothing: as many calls as the longest lane needs
    assert together.counts.evaluations == rounds
    assert together.counts.round_trips <= together.counts.evaluations + together.counts.products


def test_lanes_end_each_for_its_own_reason() -> None:
    kinds = torch.arange(4)

    def f(x: Tensor) -> Tensor:
        each = torch.stack([(x[0] ** 2).sum(), x[1].sum(), (x[2] - 1).pow(2).sum(), x[3].log().sum()])
        assert kinds.shape == each.shape
        return each

    x0 = torch.tensor([[0.0, 0.0], [1.0, 1.0], [5.0, 7.0], [-1.0, 1.0]], dtype=torch.float64)
    solution = minimize(f, x0, lanes=True)
    assert [lane.status for lane in solution.lanes] == [
        Status.CONVERGED,
        Status.UNBOUNDED,
        Status.CONVERGED,
        Status.NOT_FINITE,
    ]
    assert solution.status is Status.UNBOUNDED
    assert not solution.converged
    assert torch.equal(solution.x[0], x0[0])
    assert torch.equal(solution.x[3], x0[3])
    torch.testing.assert_close(solution.x[2], torch.ones(2, dtype=torch.float64))


def test_lanes_of_dictionaries_and_values_kept() -> None:
    from thalweg.secondorder import Values

    x0 = {"a": lane_starts()[:, :1], "b": lane_starts()[:, 1:].reshape(7, 3, 1)}

    def f(p: dict[str, Tensor]) -> Tensor:
        return rosenbrock(torch.cat([p["a"], p["b"].reshape(7, 3)], dim=1))

    together = minimize(f, x0, method="bfgs", search=Values(), lanes=True, max_iterations=300)
    for k in range(7):
        flat = torch.cat([x0["a"][k], x0["b"][k].reshape(3)])
        alone = minimize(rosenbrock, flat, method="bfgs", search=Values(), max_iterations=300)
        assert together.lanes[k].status is alone.status
        for mine, theirs in zip(together.lanes[k].trace[:6], alone.trace[:6], strict=True):
            assert mine.value == pytest.approx(theirs.value, rel=1e-8)


def test_one_lane_per_history_place() -> None:
    """Lanes that skipped pairs write at places of their own."""
    x0 = torch.cat([torch.full((1, 4), 0.999), lane_starts()]).double()
    together = minimize(
        rosenbrock, x0, method=LBFGSDirection(history=2), search=Backtracking(), lanes=True, max_iterations=60
    )
    for k in range(8):
        alone = minimize(
            rosenbrock, x0[k], method=LBFGSDirection(history=2), search=Backtracking(), max_iterations=60
        )
        for mine, theirs in zip(together.lanes[k].trace[:12], alone.trace[:12], strict=False):
            assert mine.value == pytest.approx(theirs.value, rel=1e-6)


def test_pairs_of_lanes_make_the_direction_that_each_makes_alone() -> None:
    """Unequal numbers of pairs, places written over, memories lost, two tensors a lane."""
    rng = np.random.default_rng(3)
    k, shapes = 4, [(2,), (3, 1)]

    def draw() -> list[Tensor]:
        return [torch.from_numpy(rng.standard_normal((k, *shape))) for shape in shapes]

    def problem(space: Space) -> AutogradObjective:
        return AutogradObjective(lambda x: (x, x[0].sum()), space, Tally())

    for initial in ("scaled", "identity"):
        direction = LBFGSDirection(history=3, initial=initial)  # type: ignore[arg-type]
        lanes, alone = Space(lanes=k), Space()
        values = torch.zeros(k, dtype=torch.float64)
        old = EvaluatedPoint(draw(), values, draw())
        state = direction.begin(lanes, old)
        states = [direction.begin(alone, old) for _ in range(k)]
        for number in range(9):
            s, g = draw(), draw()
            # a gradient that rises along the step
            new = EvaluatedPoint(
                lanes.add(old.x, 1.0, s),
                values,
                [p + 2 * q + 0.1 * r for p, q, r in zip(old.gradient, s, g, strict=True)],
            )
            curved = [bool(lane == 0 or rng.random() < 0.6) for lane in range(k)]
            ones = torch.ones(k, dtype=torch.float64)
            state = direction.update(state, AcceptedStep(lanes, [True] * k, curved, ones, s, old, new))
            for lane in range(k):
                points = [
                    EvaluatedPoint([t[lane] for t in p.x], values[0], [t[lane] for t in p.gradient])
                    for p in (old, new)
                ]
                step = AcceptedStep(alone, [True], [curved[lane]], ones[0], [t[lane] for t in s], *points)
                states[lane] = direction.update(states[lane], step)
            if number == 5:
                state = direction.forget(state, [False, True, False, True], lanes)
                for lane in (1, 3):
                    states[lane] = direction.forget(states[lane], [True], alone)
            old = new
            together = direction.propose(state, old, problem(lanes))
            for lane in range(k):
                here = EvaluatedPoint([t[lane] for t in old.x], values[0], [t[lane] for t in old.gradient])
                mine = direction.propose(states[lane], here, problem(alone))
                for a, b in zip(together, mine, strict=True):
                    torch.testing.assert_close(a[lane], b, rtol=1e-9, atol=1e-10)


# ---- refusals


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"method": "lbgfs"}, "did you mean 'lbfgs'"),
        ({"search": "strong-wolf"}, "did you mean 'strong-wolfe'"),
        ({"method": 3}, "method is a int"),
        ({"tolerance": -1.0}, "tolerance is -1.0"),
        ({"max_iterations": -1}, "max_iterations is -1"),
        ({"max_evaluations": 0}, "max_evaluations is 0"),
        ({"x0": torch.ones(2, dtype=torch.int64)}, "a tensor is int64"),
        ({"x0": torch.ones(2, dtype=torch.bfloat16)}, "a tensor is bfloat16"),
        ({"x0": torch.ones(2, dtype=torch.complex64)}, "a tensor is complex64"),
        ({"x0": torch.ones(0)}, "nothing to minimize over"),
        ({"x0": []}, "nothing to minimize over"),
        ({"x0": [1.0]}, "x0 holds a float"),
        ({"x0": 1.0}, "x0 is a float"),
        ({"x0": [torch.ones(2, 1), torch.ones(3, 1)], "lanes": True}, "same K"),
        ({"x0": torch.ones(2, 3)}, r"has to return a tensor of shape \(\)"),
    ],
)
def test_what_cannot_be_used_is_refused(arguments: dict[str, Any], words: str) -> None:
    given: dict[str, Any] = {"x0": HARD, **arguments}
    with pytest.raises(OptionError, match=words):
        minimize(lambda x: (x if isinstance(x, Tensor) else x[0]).pow(2).sum(-1), **given)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: LBFGSDirection(history=0), "history is 0"),
        (lambda: LBFGSDirection(initial="unit"), "initial is 'unit'"),  # type: ignore[arg-type]
        (lambda: ConjugateGradientDirection(formula="polak"), "no formula 'polak'"),  # type: ignore[arg-type]
        (lambda: ConjugateGradientDirection(reset=0), "reset is 0"),
        (lambda: NewtonDirection(damping=-1.0), "damping is -1.0"),
        (lambda: NewtonDirection(hessian="full"), "hessian is 'full'"),  # type: ignore[arg-type]
    ],
)
def test_settings_out_of_range_are_refused(make: Any, words: str) -> None:
    with pytest.raises(OptionError, match=words):
        make()


def test_fixed_steps_that_diverge_do_not_pass_for_anything_else() -> None:
    _, _, f = quadratic([1.0, 100.0])
    solution = minimize(
        f, start(2), method=SteepestDescentDirection(), search=Fixed(step=0.03), max_iterations=100
    )
    assert solution.status is Status.ITERATION_LIMIT
    assert solution.gradient_norm > 1e10


@pytest.mark.parametrize("around", [torch.no_grad, torch.inference_mode])
def test_where_gradients_are_off_they_are_on_within(around: Any) -> None:
    """A zero gradient would pass for convergence."""
    for method in QUICK:
        with around():
            inside = minimize(rosenbrock, HARD.clone(), method=method)
        outside = minimize(rosenbrock, HARD.clone(), method=method)
        assert inside.counts == outside.counts
        assert torch.equal(inside.x, outside.x)
    for solver in ("dense", "cg"):
        for method in ("gauss-newton", "levenberg-marquardt"):
            with around():
                found = least_squares(lambda x: x**2 - 2, HARD.clone(), method=method, solver=solver)
            torch.testing.assert_close(found.x.abs(), torch.full_like(HARD, 2**0.5))
