"""Optimizers that get another batch in each step: what they carry over is right for it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

from thalweg.secondorder import Status
from thalweg.secondorder import curvature_optimizers as matrix_faces
from thalweg.secondorder import optimizers as faces
from thalweg.secondorder.closures import ClosureOptimizer
from thalweg.secondorder.directions import Formula

from .functions import quadratic, spread, start

FORMULAS = ("fletcher-reeves", "polak-ribiere", "hestenes-stiefel", "dai-yuan")
FACES: list[tuple[str, dict[str, Any]]] = [
    ("SteepestDescent", {}),
    ("NonlinearCG", {}),
    ("NonlinearCG", {"formula": "fletcher-reeves", "reset": 5}),
    ("NonlinearCG", {"formula": "hager-zhang", "line_search_fn": "hager_zhang"}),
    ("LBFGS", {"line_search_fn": "strong_wolfe", "history_size": 5}),
    ("LBFGS", {"lr": 0.3, "history_size": 5}),
    ("BFGS", {}),
    ("NewtonCG", {"max_products": 8}),
    ("Newton", {"modified": True, "damping": 0.01, "line_search_fn": "backtracking"}),
    ("GaussNewton", {"solver": "cg", "max_products": 8}),
    ("LevenbergMarquardt", {}),
    ("LevenbergMarquardt", {"solver": "cg", "max_products": 8}),
]


def make(name: str, params: Any, **options: Any) -> ClosureOptimizer:
    made: ClosureOptimizer = getattr(faces if hasattr(faces, name) else matrix_faces, name)(params, **options)
    return made


@pytest.mark.parametrize("max_iter", [1, 4])
@pytest.mark.parametrize(("name", "options"), FACES, ids=lambda v: v if isinstance(v, str) else "")
def test_every_face_learns_from_batches(name: str, options: dict[str, Any], max_iter: int) -> None:
    torch.manual_seed(0)
    inputs = torch.randn(256, 5, dtype=torch.float64)
    labels = (inputs @ torch.randn(5, 3, dtype=torch.float64)).argmax(1)
    net = nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 3)).double()
    optimizer = make(name, net.parameters(), max_iter=max_iter, **options)
    criterion = nn.functional.cross_entropy

    def loss() -> float:
        return float(criterion(net(inputs), labels).detach())

    def closure_of(x: Tensor, y: Tensor) -> Callable[[], Any]:
        def closure() -> Any:
            if name in ("GaussNewton", "LevenbergMarquardt"):
                return net(x), lambda z: criterion(z, y) + 1e-3 * (z**2).mean()
            value = criterion(net(x), y)
            if optimizer.calls_backward:
                optimizer.zero_grad()
                value.backward()
            return value

        return closure

    before = loss()
    for number in range(24):
        rows = torch.arange(64) + 64 * (number % 4)
        optimizer.step(closure_of(inputs[rows], labels[rows]))
    assert loss() < (0.6 if name in ("SteepestDescent", "Newton") else 0.4) * before
    assert optimizer.status is not Status.EVALUATION_LIMIT


def batches(count: int = 6) -> tuple[Tensor, list[Tensor]]:
    """Return one matrix and several vectors: quadratics of one curvature, as batches of a linear model."""
    a, b, _ = quadratic(spread(4, 30.0))
    return a, [b + start(4, seed=10 + k) for k in range(count)]


def closure_for(
    w: nn.Parameter, a: Tensor, b: Tensor, calls: list[Tensor] | None = None
) -> Callable[[], Any]:
    def closure() -> Tensor:
        w.grad = None
        if calls is not None:
            calls.append(w.detach().clone())
        loss = w @ a @ w / 2 - b @ w
        loss.backward()
        return loss

    return closure


def test_pairs_of_lbfgs_come_from_one_batch() -> None:
    a, vectors = batches()
    w = nn.Parameter(start(4))
    optimizer = faces.LBFGS([w], max_iter=2, line_search_fn="strong_wolfe")
    for b in vectors:
        optimizer.step(closure_for(w, a, b))
    pairs = optimizer.state[w]["memory"]["direction"]["pairs"]
    assert len(pairs) == 12
    for (s,), (y,), _ in pairs:
        torch.testing.assert_close(y, a @ s, rtol=1e-8, atol=1e-12)


def test_the_matrix_of_bfgs_meets_the_secant_equation_of_one_batch() -> None:
    a, vectors = batches()
    w = nn.Parameter(start(4))
    optimizer = faces.BFGS([w], max_iter=1)
    for b in vectors:
        before = w.detach().clone()
        optimizer.step(closure_for(w, a, b))
        s = w.detach() - before
        matrix = optimizer.state[w]["memory"]["direction"]["matrix"]
        torch.testing.assert_close(matrix @ (a @ s), s, rtol=1e-7, atol=1e-10)


def beta(formula: str, g: Tensor, before: Tensor, d: Tensor) -> Tensor:
    y = g - before
    above = g @ g if formula in ("fletcher-reeves", "dai-yuan") else g @ y
    return above / (before @ before if formula in ("fletcher-reeves", "polak-ribiere") else d @ y)


@pytest.mark.parametrize("formula", FORMULAS)
def test_conjugate_gradients_compare_gradients_of_one_batch(formula: str) -> None:
    """With max_iter=1 each direction is -g + beta * d of the batch at hand, both gradients of it."""
    a, vectors = batches()
    w = nn.Parameter(start(4))
    optimizer = faces.NonlinearCG([w], max_iter=1, formula=cast(Formula, formula))
    past: tuple[Tensor, Tensor] | None = None
    taken = 0
    for b in vectors:
        x, calls = w.detach().clone(), list[Tensor]()
        optimizer.step(closure_for(w, a, b, calls))
        g = a @ x - b
        torch.testing.assert_close(calls[0], x, rtol=0, atol=0)
        d = -g
        if past is not None:
            torch.testing.assert_close(calls[1], past[0])
            old = a @ past[0] - b
            onwards = -g + beta(formula, g, old, past[1]) * past[1]
            # Powell's restart, and the one where it leads uphill
            if abs(float(g @ old)) < 0.2 * float(g @ g) and float(onwards @ g) < 0:
                d = onwards
                taken += 1
        moved = w.detach() - x
        torch.testing.assert_close(moved / moved.norm(), d / d.norm(), rtol=0, atol=1e-7)
        past = x, d
    assert taken


def test_conjugate_gradients_on_one_batch_pay_nothing_for_it() -> None:
    """Six steps of one iteration are one step of six, call for call."""
    a, b, _ = quadratic(spread(6, 50.0))
    trails = []
    for sizes in ([6], [1] * 6):
        w, calls = nn.Parameter(start(6)), list[Tensor]()
        optimizer = faces.NonlinearCG([w], formula="polak-ribiere", tolerance_change=0.0)
        for size in sizes:
            optimizer.param_groups[0]["max_iter"] = size
            optimizer.step(closure_for(w, a, b, calls))
        trails.append((w.detach(), len(calls)))
    torch.testing.assert_close(trails[0][0], trails[1][0], rtol=0, atol=0)
    # but for the first call of each step, at the point that the last one ended at
    assert trails[1][1] == trails[0][1] + 5


def test_damping_carries_over_and_the_rest_is_the_batchs() -> None:
    torch.manual_seed(1)
    xs = [torch.randn(8, 3, dtype=torch.float64) for _ in range(5)]
    ys = [torch.randn(8, dtype=torch.float64) for _ in range(5)]
    w = nn.Parameter(torch.zeros(3, dtype=torch.float64))
    optimizer = matrix_faces.LevenbergMarquardt([w], damping=0.5)
    mu = None
    for x, y in zip(xs, ys, strict=True):
        before = w.detach().clone()
        optimizer.step(lambda x=x, y=y: x @ w - y)
        if mu is None:
            mu = 0.5 * float((x * x).sum(0).max())
        step = -torch.linalg.solve(x.T @ x + mu * torch.eye(3, dtype=torch.float64), x.T @ (x @ before - y))
        torch.testing.assert_close(w.detach(), before + step)
        # the model is exact, so the gain is one
        mu /= 3
        assert optimizer.state[w]["memory"]["direction"]["mu"] == pytest.approx([mu])


def test_the_scale_of_damping_is_the_largest_diagonal_of_all_batches() -> None:
    torch.manual_seed(2)
    xs = [torch.randn(8, 3, dtype=torch.float64) * 3 * torch.rand(3) for _ in range(6)]
    ys = [torch.randn(8, dtype=torch.float64) for _ in range(6)]
    w = nn.Parameter(torch.zeros(3, dtype=torch.float64))
    optimizer = matrix_faces.LevenbergMarquardt([w], damping=0.5, scale="diagonal")
    mu, largest, kept = 0.5, torch.zeros(3, dtype=torch.float64), 0
    for x, y in zip(xs, ys, strict=True):
        before, own = w.detach().clone(), (x * x).sum(0)
        kept += int((own < largest).sum())
        largest = torch.maximum(largest, own)
        optimizer.step(lambda x=x, y=y: x @ w - y)
        step = -torch.linalg.solve(x.T @ x + mu * torch.diag(largest), x.T @ (x @ before - y))
        torch.testing.assert_close(w.detach(), before + step)
        mu /= 3
    assert kept > 5


def test_conjugate_gradients_begin_from_the_direction_of_the_batch_before() -> None:
    """Two products: two iterations from zero, then one from the best multiple of the direction before."""
    torch.manual_seed(3)
    w = nn.Parameter(torch.zeros(4, dtype=torch.float64))
    optimizer = matrix_faces.LevenbergMarquardt([w], damping=0.5, solver="cg", max_products=2, accuracy=1e-12)
    mu, near = None, None
    for _ in range(5):
        x, y = torch.randn(9, 4, dtype=torch.float64), torch.randn(9, dtype=torch.float64)
        before, a = w.detach().clone(), x.T @ x
        optimizer.step(lambda x=x, y=y: x @ w - y)
        g = x.T @ (x @ before - y)
        mu = 0.5 * float(g @ a @ g / (g @ g)) if mu is None else mu
        a = a + mu * torch.eye(4, dtype=torch.float64)
        d = torch.zeros_like(g) if near is None else -(g @ near) / (near @ a @ near) * near
        r = g + a @ d
        p = -r
        for _ in range(2 if near is None else 1):
            along = (r @ r) / (p @ a @ p)
            d, new = d + along * p, r + along * (a @ p)
            p, r = -new + (new @ new) / (r @ r) * p, new
        torch.testing.assert_close(w.detach(), before + d)
        mu, near = mu / 3, d


def test_a_batch_where_nothing_helps_leaves_the_damping() -> None:
    w = nn.Parameter(torch.tensor([2.0, 1.0], dtype=torch.float64))
    optimizer = matrix_faces.LevenbergMarquardt([w])
    optimizer.step(lambda: w - 1)
    mu = optimizer.state[w]["memory"]["direction"]["mu"]
    before = w.detach().clone()
    seen: list[int] = []

    def cliff() -> Tensor:
        seen.append(1)
        return (w - 1) * (1.0 if len(seen) == 1 else float("nan"))

    with pytest.warns(UserWarning, match="the point was restored"):
        optimizer.step(cliff)
    assert torch.equal(w.detach(), before)
    assert optimizer.state[w]["memory"]["direction"]["mu"] == mu
    optimizer.step(lambda: w - 1)
    assert float((w.detach() - 1).abs().max()) < float((before - 1).abs().max())


@pytest.mark.parametrize("name", ["LBFGS", "NewtonCG", "LevenbergMarquardt"])
def test_statistics_of_batch_norm_move_once_a_step(name: str) -> None:
    """Untracked they are those of trial points, some of them far away."""
    torch.manual_seed(0)
    x, y = torch.randn(40, 4, dtype=torch.float64), torch.randn(40, 2, dtype=torch.float64)
    first = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, 2)).double()
    found: dict[bool, list[Tensor]] = {}
    reached: dict[bool, list[Tensor]] = {}
    for tracked in (True, False):
        net = copy.deepcopy(first)
        optimizer = make(name, net.parameters(), max_iter=3)
        if tracked:
            optimizer.track(net)
            # what is copied is tracked too
            net, optimizer = copy.deepcopy((net, optimizer))

        def closure(net: nn.Module = net, optimizer: ClosureOptimizer = optimizer) -> Any:
            if name == "LevenbergMarquardt":
                return net(x) - y
            loss = ((net(x) - y) ** 2).mean()
            if optimizer.calls_backward:
                optimizer.zero_grad()
                loss.backward()
            return loss

        optimizer.step(closure)
        found[tracked] = [b.clone() for b in net.buffers()]
        reached[tracked] = [p.detach() for p in net.parameters()]
    once = copy.deepcopy(first)
    once(x)
    assert all(torch.equal(a, b) for a, b in zip(found[True], once.buffers(), strict=True))
    assert int(found[False][-1]) > 1
    assert all(torch.equal(a, b) for a, b in zip(reached[True], reached[False], strict=True))


def test_statistics_are_settled_where_a_closure_fails() -> None:
    net = nn.BatchNorm1d(2).double()
    x = torch.randn(6, 2, dtype=torch.float64)
    optimizer = faces.LBFGS(net.parameters(), line_search_fn="strong_wolfe")
    optimizer.track(net)
    calls: list[int] = []

    def closure() -> Tensor:
        calls.append(1)
        if len(calls) == 3:
            raise KeyError("a batch is gone")
        optimizer.zero_grad()
        loss = ((net(x) - 2) ** 4).mean()
        loss.backward()
        return loss

    with pytest.raises(KeyError, match="a batch is gone"):
        optimizer.step(closure)
    assert int(net.num_batches_tracked) == 1
