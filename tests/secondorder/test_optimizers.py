"""Second-order methods as torch optimizers: the same steps, groups, state, refusals."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from thalweg.errors import OptionError
from thalweg.secondorder import Status, least_squares, minimize
from thalweg.secondorder import curvature_optimizers as matrix_faces
from thalweg.secondorder import optimizers as faces
from thalweg.secondorder.closures import ClosureOptimizer

from .functions import quadratic, spread, start

GRADIENT: list[tuple[str, dict[str, Any]]] = [
    ("LBFGS", {"max_iter": 4, "lr": 0.5}),
    ("LBFGS", {"max_iter": 4, "line_search_fn": "strong_wolfe", "history_size": 3}),
    ("LBFGS", {"max_iter": 3, "line_search_fn": "hager_zhang"}),
    ("BFGS", {"max_iter": 3}),
    ("NonlinearCG", {"max_iter": 3}),
    ("NonlinearCG", {"max_iter": 3, "formula": "hestenes-stiefel", "reset": 5, "sgd_steps": 2}),
    ("NonlinearCG", {"max_iter": 1, "formula": "fletcher-reeves"}),
    ("SteepestDescent", {"max_iter": 3}),
    ("Newton", {"hessian": "finite-difference", "damping": 0.1}),
]
GRAPH: list[tuple[str, dict[str, Any]]] = [
    ("Newton", {"damping": 0.1}),
    ("Newton", {"hessian": "block", "modified": True, "line_search_fn": "backtracking"}),
    ("NewtonCG", {"max_products": 5}),
    ("NewtonCG", {"max_iter": 3, "line_search_fn": "backtracking"}),
    ("GaussNewton", {"lr": 0.5}),
    ("GaussNewton", {"solver": "cg", "max_products": 5}),
    ("LevenbergMarquardt", {"scale": "diagonal"}),
    ("LevenbergMarquardt", {"solver": "cg", "max_products": 4, "max_eval": 3}),
]


def make(name: str, params: Any, **options: Any) -> ClosureOptimizer:
    made: ClosureOptimizer = getattr(faces if hasattr(faces, name) else matrix_faces, name)(params, **options)
    return made


def data() -> tuple[Tensor, Tensor]:
    rng = np.random.default_rng(0)
    return torch.from_numpy(rng.standard_normal((12, 3))), torch.from_numpy(rng.standard_normal((12, 2)))


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 2)).double()


def closure_for(name: str, options: dict[str, Any], net: nn.Module) -> Callable[[], Any]:
    x, y = data()

    def with_backward() -> Tensor:
        net.zero_grad()
        loss = ((net(x) - y) ** 2).mean()
        loss.backward()
        return loss

    if name in ("GaussNewton", "LevenbergMarquardt"):
        return lambda: net(x) - y
    if name in ("Newton", "NewtonCG") and options.get("hessian") != "finite-difference":
        return lambda: ((net(x) - y) ** 2).mean()
    return with_backward


def flat(net: nn.Module) -> Tensor:
    return torch.cat([p.detach().reshape(-1) for p in net.parameters()])


@pytest.mark.parametrize(("name", "options"), GRADIENT + GRAPH, ids=lambda v: v if isinstance(v, str) else "")
def test_it_lowers_the_loss_and_returns_it(name: str, options: dict[str, Any]) -> None:
    net = model()
    optimizer = make(name, net.parameters(), **options)
    closure = closure_for(name, options, net)
    x, y = data()
    scale = 12.0 if name in ("GaussNewton", "LevenbergMarquardt") else 1.0
    losses = []
    for _ in range(6):
        before = scale * float(((net(x) - y) ** 2).mean().detach())
        assert float(optimizer.step(closure).detach()) == pytest.approx(before)
        losses.append(before)
    # undamped, Gauss-Newton hardly moves where the Jacobian nearly lacks rank
    assert losses[-1] < (0.998 if name == "GaussNewton" else 0.9) * losses[0]


@pytest.mark.parametrize(("name", "options"), GRADIENT + GRAPH, ids=lambda v: v if isinstance(v, str) else "")
def test_frozen_unused_scalar_and_empty_parameters(name: str, options: dict[str, Any]) -> None:
    tensors = {
        "frozen": nn.Parameter(torch.ones(2).double(), requires_grad=False),
        "unused": nn.Parameter(torch.ones(2).double()),
        "scalar": nn.Parameter(torch.tensor(3.0).double()),
        "empty": nn.Parameter(torch.ones(0, 4).double()),
        "used": nn.Parameter(torch.ones(2, 2).double()),
    }
    optimizer = make(name, list(tensors.values()), **options)
    if name == "Newton":
        # without damping the Hessian is singular: nothing depends on "unused"
        assert options.get("damping") or options.get("modified")

    def residuals() -> Tensor:
        return torch.cat(
            [(tensors["scalar"] - 1).reshape(1), (tensors["used"] - 2 * tensors["frozen"]).reshape(-1)]
        )

    def closure() -> Tensor:
        if name in ("GaussNewton", "LevenbergMarquardt"):
            return residuals()
        optimizer.zero_grad()
        loss = (residuals() ** 2).sum()
        if closure_calls_backward:
            loss.backward()
        return loss

    closure_calls_backward = (name, options) in GRADIENT
    for _ in range(12):
        optimizer.step(closure)
    assert tensors["frozen"].tolist() == tensors["unused"].tolist() == [1, 1]
    assert tensors["scalar"].item() == pytest.approx(1, abs=0.1)
    torch.testing.assert_close(tensors["used"].detach(), torch.full((2, 2), 2.0).double(), rtol=0, atol=0.1)


def test_lbfgs_has_torchs_arguments() -> None:
    ours, theirs = (inspect.signature(c.__init__).parameters for c in (faces.LBFGS, torch.optim.LBFGS))
    assert list(ours) == [*theirs, "maximize"]
    assert {k: ours[k].default for k in theirs} == {k: p.default for k, p in theirs.items()}
    assert ours["maximize"].kind is inspect.Parameter.KEYWORD_ONLY
    assert ours["maximize"].default is False


@pytest.mark.parametrize("history", [2, 100])
def test_lbfgs_with_fixed_steps_takes_torchs(history: int) -> None:
    nets = model(), model()
    options: dict[str, Any] = {"lr": 0.3, "max_iter": 7, "history_size": history, "tolerance_change": 0.0}
    ours = faces.LBFGS(nets[0].parameters(), **options)
    theirs = torch.optim.LBFGS(nets[1].parameters(), **options)
    for _ in range(4):
        first = ours.step(closure_for("LBFGS", {}, nets[0]))
        second = theirs.step(closure_for("LBFGS", {}, nets[1]))  # type: ignore[no-untyped-call]
        torch.testing.assert_close(first, second)
        torch.testing.assert_close(flat(nets[0]), flat(nets[1]), rtol=1e-8, atol=1e-10)


def test_newton_is_the_slides_update() -> None:
    a, b, f = quadratic(spread(3, 20.0))
    w = nn.Parameter(start(3))
    x, eye = w.detach().clone(), torch.eye(3, dtype=torch.float64)
    optimizer = matrix_faces.Newton([w], lr=0.7, damping=0.3)
    for _ in range(4):
        optimizer.step(lambda: f(w))
        x = x - 0.7 * torch.linalg.solve(a + 0.3 * eye, a @ x - b)
        torch.testing.assert_close(w.detach(), x)
    whole = nn.Parameter(start(3))
    matrix_faces.Newton([whole]).step(lambda: f(whole))
    torch.testing.assert_close(whole.detach(), torch.linalg.solve(a, b))


def test_cross_entropy_by_generalized_gauss_newton() -> None:
    rng = np.random.default_rng(1)
    x, labels = torch.from_numpy(rng.standard_normal((30, 3))), torch.from_numpy(rng.integers(0, 2, 30))
    for name in ("GaussNewton", "LevenbergMarquardt"):
        net = model()
        optimizer = make(name, net.parameters())

        def closure(net: nn.Module = net) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
            return net(x), lambda z: nn.functional.cross_entropy(z, labels) + 1e-3 * (z**2).sum()

        losses = [float(optimizer.step(closure)) for _ in range(8)]
        assert all(b <= a for a, b in pairwise(losses))
        assert losses[-1] < (0.7 if name == "LevenbergMarquardt" else 0.95) * losses[0]


def test_sgd_steps_come_first() -> None:
    _, b, f = quadratic(spread(3, 20.0))
    a = quadratic(spread(3, 20.0))[0]
    w = nn.Parameter(start(3))
    optimizer = faces.NonlinearCG([w], sgd_steps=2, sgd_lr=0.01, max_iter=5)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = f(w)
        loss.backward()
        return loss

    x = w.detach().clone()
    for _ in range(2):
        optimizer.step(closure)
        x = x - 0.01 * (a @ x - b)
        torch.testing.assert_close(w.detach(), x)
    optimizer.step(closure)
    w = w.detach()
    assert float((a @ w - b).norm()) < 0.3 * float((a @ x - b).norm())


def test_a_failed_search_restores_the_parameters_and_warns() -> None:
    w = nn.Parameter(torch.tensor([1.0, 2.0]))
    optimizer = faces.LBFGS([w], line_search_fn="strong_wolfe", max_eval=200)

    def lie() -> Tensor:
        w.grad = -2 * w.detach()
        return (w.detach() ** 2).sum()

    with pytest.warns(UserWarning, match="the point was restored"):
        optimizer.step(lie)
    assert w.tolist() == [1.0, 2.0]
    assert optimizer.status is Status.SEARCH_FAILED


def test_nan_on_the_way_shortens_the_step() -> None:
    for name, options in (
        ("LBFGS", {"max_iter": 60}),
        ("NonlinearCG", {"max_iter": 60}),
        ("BFGS", {"max_iter": 60}),
    ):
        w = nn.Parameter(torch.tensor([4.0, 0.01]).double())
        optimizer = make(name, [w], **options)

        def closure(w: nn.Parameter = w) -> Tensor:
            w.grad = None
            loss = (3 * w - w.log()).sum()
            loss.backward()
            return loss

        for _ in range(3):
            optimizer.step(closure)
        torch.testing.assert_close(w.detach(), torch.full((2,), 1 / 3).double(), rtol=0, atol=1e-5)


def test_groups_have_to_agree() -> None:
    a, b = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(3))
    optimizer = faces.LBFGS([{"params": [a]}, {"params": [b]}], line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = ((a - 3) ** 2).sum() + ((b - 4) ** 2).sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    torch.testing.assert_close(torch.cat([a, b]).detach(), torch.tensor([3.0, 3, 4, 4, 4]))
    with pytest.raises(OptionError, match=r"groups differ in lr \(0.1 and 1\)"):
        faces.LBFGS([{"params": [a], "lr": 0.1}, {"params": [b]}])
    with pytest.raises(OptionError, match="groups differ in lr"):
        optimizer.add_param_group({"params": [nn.Parameter(torch.ones(1))], "lr": 0.5})


def test_a_scheduler_moves_the_rate() -> None:
    a, b, f = quadratic(spread(3, 20.0))
    w = nn.Parameter(start(3))
    optimizer = matrix_faces.Newton([w])
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)
    best, x = torch.linalg.solve(a, b), w.detach().clone()
    optimizer.param_groups[0]["lr"] = 0.8
    for eta in (0.8, 0.4, 0.2):
        optimizer.step(lambda: f(w))
        scheduler.step()
        x = x - eta * (x - best)
        torch.testing.assert_close(w.detach(), x)


@pytest.mark.parametrize(
    ("make_it", "words"),
    [
        (lambda p: faces.LBFGS(p, lr=0), "lr is 0"),
        (lambda p: faces.LBFGS(p, history_size=0), "history_size is 0"),
        (lambda p: faces.LBFGS(p, line_search_fn="strong_wolf"), "did you mean 'strong_wolfe'"),
        (lambda p: faces.NonlinearCG(p, line_search_fn=None), "need a search"),
        (lambda p: faces.NonlinearCG(p, formula="pr"), "no formula 'pr'"),
        (lambda p: faces.SteepestDescent(p, line_search_fn=None), "use SGD"),
        (lambda p: matrix_faces.NewtonCG(p, max_products=0), "max_products is 0"),
        (lambda p: matrix_faces.Newton(p, damping=-1), "damping is -1"),
        (lambda p: matrix_faces.LevenbergMarquardt(p, damping=0), "damping is 0"),
        (
            lambda p: matrix_faces.LevenbergMarquardt(p, scale="diagonal", solver="cg"),
            "no matrix that has one",
        ),
        (lambda p: matrix_faces.GaussNewton(p, solver="cgs"), "did you mean 'cg'"),
        (lambda p: matrix_faces.GaussNewton(p, solver="cg", max_products=0), "max_products is 0"),
        (lambda p: faces.BFGS([nn.Parameter(torch.ones(2, dtype=torch.float16))]), "float16"),
        (lambda p: faces.BFGS([nn.Parameter(torch.ones(2, dtype=torch.complex64))]), "complex64"),
    ],
)
def test_options_out_of_range_are_refused(make_it: Callable[[Any], Any], words: str) -> None:
    with pytest.raises(OptionError, match=words):
        make_it([nn.Parameter(torch.ones(2))])


def test_closures_that_return_the_wrong_thing_are_refused() -> None:
    w = nn.Parameter(torch.ones(2))

    def backward() -> Tensor:
        loss = (w**2).sum().exp()
        loss.backward()
        return loss

    cases: list[tuple[ClosureOptimizer, Callable[[], Any], str]] = [
        (faces.LBFGS([w]), lambda: (w**2).sum(), "left no gradients"),
        (faces.LBFGS([w]), lambda: None, "returned NoneType"),
        (faces.BFGS([w]), lambda: w**2, r"returned \(2,\)"),
        (matrix_faces.Newton([w]), backward, "has called backward"),
        (matrix_faces.Newton([w]), lambda: 3.0, "returned float"),
        (matrix_faces.NewtonCG([w]), backward, "has called backward"),
        (matrix_faces.GaussNewton([w]), lambda: 3.0, "returned float"),
        (matrix_faces.Newton([w]), lambda: torch.tensor(1.0), "depends on no parameter"),
    ]
    for optimizer, closure, words in cases:
        w.grad = None
        with pytest.raises(OptionError, match=words):
            optimizer.step(closure)
        assert w.tolist() == [1, 1]


@pytest.mark.parametrize("solve", [minimize, least_squares], ids=["minimize", "least_squares"])
def test_a_function_without_a_graph_is_refused_and_a_wall_is_not(solve: Any) -> None:
    """Its gradient of zero would be taken for the end."""
    x = torch.ones(2, dtype=torch.float64)

    def returned(values: Tensor) -> Tensor:
        return values.square().sum() if solve is minimize else values

    for wrong in (
        lambda x: returned(x.detach() - 3),
        lambda x: returned(torch.from_numpy(x.detach().numpy()) - 3),
        lambda x: returned(torch.tensor([3.0, 3.0])),
    ):
        with pytest.raises(OptionError, match=f"^{solve.__name__}: .* can't be differentiated by x"):
            solve(wrong, x)

    def walled(x: Tensor) -> Tensor:
        beyond = float(x.detach().max()) > 2.5
        return torch.full((2,), 50.0).double().sum() if beyond else (x - 3).square().sum()

    if solve is minimize:
        assert 1 < float(minimize(walled, x).x.max()) <= 2.5


@pytest.mark.parametrize("name", ["Newton", "NewtonCG", "GaussNewton", "LevenbergMarquardt"])
def test_fused_attention_is_differentiated_twice(name: str) -> None:
    torch.manual_seed(0)
    inner, last = nn.Linear(3, 12).double(), nn.Linear(4, 1).double()
    x, y = torch.randn(6, 5, 3, dtype=torch.float64), torch.randn(6, 5, 1, dtype=torch.float64)

    def closure() -> Tensor:
        q, k, v = inner(x)[:, None].chunk(3, -1)
        off = last(nn.functional.scaled_dot_product_attention(q, k, v)[:, 0]) - y
        return off.square().mean() if name.startswith("Newton") else off

    params = [*inner.parameters(), *last.parameters()]
    options = {"modified": True, "line_search_fn": "strong_wolfe"} if name == "Newton" else {}
    optimizer = getattr(matrix_faces, name)(params, **options)
    values = [float(optimizer.step(closure)) for _ in range(4)]
    assert values == sorted(values, reverse=True)
    assert values[-1] < values[0]
