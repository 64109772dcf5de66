"""Bounds of the learning rate, by experiment: optimizers diverge just above and don't just below."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from thalweg import optim
from thalweg.curvature import GaussNewtonMatrix, Hessian, Preconditioned, lanczos, seen_by, stability
from thalweg.curvature.update_rules import Recursion
from thalweg.errors import OptionError


@pytest.fixture(autouse=True)
def _float64() -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    yield
    torch.set_default_dtype(before)


class Bowl(nn.Module):
    """``x'Ax / 2`` of two parameters together."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Parameter(torch.randn(4)), nn.Parameter(torch.randn(2))
        q = torch.linalg.qr(torch.randn(6, 6))[0]
        spectrum = torch.tensor([9.0, 7.0, 4.0, 2.0, 1.0, 0.5])
        self.register_buffer("matrix", q @ torch.diag(spectrum) @ q.T)

    def forward(self, inputs: Tensor) -> Tensor:
        x = torch.cat([self.a, self.b])
        return x @ self.get_buffer("matrix") @ x / 2


def value(outputs: Tensor, targets: Tensor) -> Tensor:
    return outputs


ONE = torch.zeros(1), torch.zeros(1)
# squares so large that no gradient changes them, and averages with so long a memory
LATE = {"step": torch.tensor(1e15)}
SLOW = 1 - 1e-15


def frozen(model: nn.Module, *names: str, **more: float) -> dict[nn.Parameter, dict[str, Tensor]]:
    torch.manual_seed(1)
    found = {}
    for p in model.parameters():
        state = {name: 1e20 * (0.2 + torch.rand_like(p) + name.startswith("max")) for name in names}
        zeros = {name: torch.zeros_like(p) for name in ("exp_avg", "momentum_buffer", "grad_avg")}
        given = {name: torch.full_like(p, number) for name, number in more.items()}
        found[p] = {**zeros, **LATE, **state, **given}
    return found


T, O = torch.optim, optim
ADAM = {"betas": (0.8, SLOW), "eps": 1.0}
CASES: dict[str, tuple[Callable[..., Any], dict[str, Any], tuple[str, ...]]] = {
    "sgd": (T.SGD, {}, ()),
    "asgd": (T.ASGD, {"lambd": 0.0}, ()),
    "sgd with decay": (T.SGD, {"weight_decay": 3.0}, ()),
    "heavy ball": (T.SGD, {"momentum": 0.9}, ()),
    "dampened": (T.SGD, {"momentum": 0.9, "dampening": 0.5}, ()),
    "torch's nesterov": (T.SGD, {"momentum": 0.9, "nesterov": True}, ()),
    "our sgd": (O.SGD, {"momentum": 0.6}, ()),
    "look-ahead": (O.SGD, {"momentum": 0.6, "nesterov": "lookahead"}, ()),
    "inside": (O.Momentum, {"momentum": 0.7, "spelling": "inside"}, ()),
    "outside": (O.Momentum, {"momentum": 0.7, "spelling": "outside"}, ()),
    "average": (O.Momentum, {"momentum": 0.7, "spelling": "average"}, ()),
    "our nesterov": (O.Nesterov, {"momentum": 0.8}, ()),
    "rmsprop": (T.RMSprop, {"alpha": SLOW, "momentum": 0.5}, ("square_avg",)),
    "centered": (T.RMSprop, {"alpha": SLOW, "centered": True}, ("square_avg",)),
    "our rmsprop": (O.RMSprop, {"alpha": SLOW, "eps": 1e20, "eps_inside": True}, ("square_avg",)),
    "adagrad": (T.Adagrad, {"eps": 1e10}, ("sum",)),
    "adadelta": (T.Adadelta, {"rho": SLOW}, ("square_avg", "acc_delta")),
    "adam": (T.Adam, ADAM, ("exp_avg_sq",)),
    "adam with decay": (T.Adam, {**ADAM, "weight_decay": 2.0}, ("exp_avg_sq",)),
    "amsgrad": (T.Adam, {**ADAM, "amsgrad": True}, ("exp_avg_sq", "max_exp_avg_sq")),
    "adamw": (T.AdamW, {**ADAM, "weight_decay": 1e-11}, ("exp_avg_sq",)),
    "our adam": (O.Adam, {**ADAM, "bias_correction": False}, ("exp_avg_sq",)),
    "our adamw": (O.AdamW, {**ADAM, "weight_decay": 1e-11}, ("exp_avg_sq",)),
    "nadam": (T.NAdam, {**ADAM, "momentum_decay": 1.0}, ("exp_avg_sq",)),
    "radam": (T.RAdam, {"betas": (0.8, 0.9), "eps": 1.0}, ("exp_avg_sq",)),
    "adamax": (T.Adamax, {"betas": (0.8, SLOW), "eps": 1.0}, ("exp_inf",)),
    "schedule-free": (O.ScheduleFreeAdamW, {**ADAM, "weight_decay": 1e-11}, ("exp_avg_sq",)),
}


def grown(make: Callable[..., Any], options: dict[str, Any], names: tuple[str, ...], rate: float) -> float:
    """How much longer the parameters are after many steps, or once they are much longer."""
    torch.manual_seed(0)
    model = Bowl()
    optimizer = make(model.parameters(), lr=rate, **options)
    begin(optimizer, model, names)
    lengths = []
    for _ in range(300):
        if names == ("exp_avg_sq",) and options["betas"][1] == 0.9:
            begin(optimizer, model, names, anew=False)

        def closure() -> Tensor:
            optimizer.zero_grad()
            loss = model(ONE[0])
            loss.backward()
            return loss

        optimizer.step(closure)
        lengths.append(sum(float(p.detach().square().sum()) for p in model.parameters()))
        if lengths[-1] > 1e4 * lengths[0]:
            return math.inf
    return max(lengths[-20:]) / max(lengths[100:120])


def begin(optimizer: Any, model: nn.Module, names: tuple[str, ...], anew: bool = True) -> None:
    if not names:
        return
    for p, state in frozen(model, *names).items():
        if not anew:
            optimizer.state[p]["exp_avg_sq"].copy_(state["exp_avg_sq"] / 0.9)
            continue
        kept = dict(state)
        if isinstance(optimizer, torch.optim.NAdam):
            kept["mu_product"] = torch.tensor(0.0)
        if isinstance(optimizer, optim.ScheduleFreeAdamW):
            kept["z"] = p.detach().clone()
            kept["weight_sum"], kept["lr_max"] = torch.tensor(1e60), torch.tensor(1.0)
        if "centered" not in optimizer.param_groups[0] and "sum" in names:
            kept = {"sum": state["sum"], "step": state["step"]}
        optimizer.state[p] = kept


@pytest.mark.parametrize("name", CASES)
def test_an_optimizer_diverges_just_above_its_bound_and_not_just_below(name: str) -> None:
    make, options, names = CASES[name]
    torch.manual_seed(0)
    model = Bowl()
    optimizer = make(model.parameters(), lr=0.1, **options)
    begin(optimizer, model, names)
    bound = stability(optimizer, Hessian(model, value, ONE), tolerance=1e-10)
    if options.get("weight_decay") and "adamw" in name:
        # decay's share of a step depends on the rate
        for _ in range(30):
            optimizer.param_groups[0]["lr"] = bound.limit
            bound = stability(optimizer, Hessian(model, value, ONE), tolerance=1e-10)
        assert bound.ratio == pytest.approx(1.0, abs=1e-6)
    assert bound.converged
    assert bound.limit == pytest.approx(bound.constant / bound.sharpness)
    assert grown(make, options, names, 1.02 * bound.limit) > 1.1
    assert grown(make, options, names, 0.98 * bound.limit) < 1.001
    optimizer.param_groups[0]["lr"] = 2.0
    assert stability(optimizer, Hessian(model, value, ONE)).rate == 2.0


def trained(make: Callable[..., Any], steps: int, **options: Any) -> tuple[nn.Module, Any]:
    model = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 2))
    with torch.no_grad():
        # a unit that never wakes, as an input that is always zero
        model[0].bias[3] = -100.0
    optimizer = make(model.parameters(), **options)
    for _ in range(steps):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(X), Y).backward()
        optimizer.step()
    return model, optimizer


torch.manual_seed(3)
X, Y = torch.randn(40, 5, dtype=torch.float64), torch.randint(2, (40,))


@pytest.mark.parametrize(
    "make", [torch.optim.Adam, optim.Adam, optim.AdamW, torch.optim.RMSprop, torch.optim.Adagrad]
)
def test_the_bound_is_that_of_the_dense_preconditioned_matrix(make: Callable[..., Any]) -> None:
    model, optimizer = trained(make, 7, lr=1e-3)
    operator = Hessian(model, "cross-entropy", (X, Y))
    bound = stability(optimizer, operator, tolerance=1e-9)
    states = [optimizer.state[p] for p in model.parameters()]
    (name,) = {"exp_avg_sq", "square_avg", "sum"} & set(states[0])
    squares = torch.cat([state[name].flatten() for state in states])
    beta = optimizer.param_groups[0].get("betas", (0, 0))[1]
    eps = optimizer.param_groups[0]["eps"]
    divisor = (squares / (1 - beta**7 if beta else 1)).sqrt() + eps
    dead = squares == 0
    root = torch.where(dead, 0.0, divisor**-0.5)
    dense = root[:, None] * operator.to_dense() * root
    top = float(np.linalg.eigvalsh(dense.numpy())[-1])
    # the unit's weights, its bias, and what reads it
    assert bound.left_out == int(dead.sum()) == 5 + 1 + 2
    # decoupled decay shrinks the parameter within a step
    decay = 1e-3 * 1e-2 if make is optim.AdamW else 0.0
    constant = (2 - decay) * 1.9 / 0.1 if beta else 2.0
    assert bound.sharpness == pytest.approx(top, rel=1e-6)
    assert bound.limit == pytest.approx(constant / top, rel=1e-6)
    assert bound.ratio == pytest.approx(1e-3 * top / constant, rel=1e-6)
    assert bound.second_moment == "state"
    # its eigenvalue is that of the matrix that it is said to be
    found = lanczos(seen_by(optimizer, operator), tolerance=1e-9)
    assert 1 / found.largest.value == pytest.approx(bound.limit)
    # with eps alone as the divisor of what never moved, a curvature of rounding would be the sharpest
    assert float((divisor[dead] ** -0.5).max()) > 1e3


def test_before_a_step_the_second_moment_is_that_of_the_batches() -> None:
    model, optimizer = trained(torch.optim.Adam, 0, lr=1e-3)
    batches = [(X[:10], Y[:10]), (X[10:], Y[10:])]
    operator = Hessian(model, "cross-entropy", batches)
    bound = stability(optimizer, operator, tolerance=1e-9)
    each = [Hessian(model, "cross-entropy", batch).gradient() for batch in batches]
    squares = torch.cat([((a**2 + b**2) / 2).flatten() for a, b in zip(*each, strict=True)])
    root = torch.where(squares == 0, 0.0, (squares.sqrt() + 1e-8) ** -0.5)
    top = float(np.linalg.eigvalsh((root[:, None] * operator.to_dense() * root).numpy())[-1])
    assert bound.limit == pytest.approx(2 * 1.9 / 0.1 / top, rel=1e-6)
    assert bound.second_moment == "batches"
    assert not optimizer.state
    with pytest.raises(OptionError, match="Adadelta has taken no step"):
        stability(torch.optim.Adadelta(model.parameters()), operator)


def test_groups_keep_their_own_rates_and_what_nobody_trains_stands_still() -> None:
    model = Bowl()
    dense = Hessian(model, value, ONE).to_dense()
    whole = torch.optim.SGD([{"params": [model.a], "lr": 0.2}, {"params": [model.b], "lr": 0.4}])
    root = torch.tensor([1.0] * 4 + [2.0] * 2) ** 0.5
    top = float(np.linalg.eigvalsh((root[:, None] * dense * root).numpy())[-1])
    bound = stability(whole, Hessian(model, value, ONE), tolerance=1e-9)
    assert (bound.rate, bound.left_out) == (0.2, 0)
    assert bound.limit == pytest.approx(2 / top)
    part = torch.optim.SGD([model.b], lr=0.2)
    bound = stability(part, Hessian(model, value, ONE), tolerance=1e-9)
    assert bound.left_out == 4
    assert bound.limit == pytest.approx(2 / float(np.linalg.eigvalsh(dense[4:, 4:].numpy())[-1]))
    # at the start of a warm-up
    part.param_groups[0]["lr"] = 0.0
    still = stability(part, Hessian(model, value, ONE), tolerance=1e-9)
    assert (still.limit, still.ratio) == (pytest.approx(bound.limit), 0.0)


def test_who_climbs_is_bounded_by_the_most_negative_curvature() -> None:
    model = Bowl()
    operator = Hessian(model, lambda outputs, _: -outputs, ONE)
    up = torch.optim.SGD(model.parameters(), lr=0.1, maximize=True)
    assert stability(up, operator, tolerance=1e-9).limit == pytest.approx(2 / 9)
    down = torch.optim.SGD(model.parameters(), lr=0.1)
    assert stability(down, operator, tolerance=1e-9).limit == math.inf
    assert stability(down, operator, tolerance=1e-9).ratio == 0.0


def test_recursions_are_stable_up_to_their_limit() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        b, t, p, q, c = rng.uniform(0, 0.99), *rng.uniform(0.05, 1.0, 3), rng.uniform(0.9, 1.0)
        limit = Recursion(memory=b, taken=t, averaged=p, fresh=q, kept=c).limit
        for share, stable in ((0.999, True), (1.001, False)):
            a = share * limit
            step = np.array([[c - (p * t + q) * a, -p * b], [t * a, b]])
            assert (np.abs(np.linalg.eigvals(step)).max() < 1) == stable


def test_what_is_wrong_is_said() -> None:
    model = Bowl()
    operator = Hessian(model, value, ONE)
    with pytest.raises(OptionError, match="no bound is known for Rprop, whose step isn't a fixed multiple"):
        stability(torch.optim.Rprop(model.parameters()), operator)
    with pytest.raises(OptionError, match="SGD holds none of the 2 parameters"):
        stability(torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=0.1), operator)


def test_a_preconditioned_matrix_is_that_of_its_factors() -> None:
    model = Bowl()
    operator = GaussNewtonMatrix(model, lambda z, _: z**2, ONE)
    scale, shift = torch.rand(6), torch.rand(6)
    found = Preconditioned(operator, scale, shift=shift, sign=-1.0).to_dense()
    right = scale[:, None] * (torch.diag(shift) - operator.to_dense()) * scale
    torch.testing.assert_close(found, right)
