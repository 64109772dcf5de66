"""Products by differences, chosen where needed; graphs of several batches; blocks; Fisher matrices."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from thalweg.curvature import EmpiricalFisher, GaussNewtonMatrix, Hessian, lanczos, trace
from thalweg.errors import DataError, OptionError


@pytest.fixture(autouse=True)
def _float64() -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    yield
    torch.set_default_dtype(before)


class Once(torch.autograd.Function):
    """The cube, whose gradient can't be differentiated."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, g: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return 3 * x**2 * g  # type: ignore[no-any-return]


class Cube(nn.Module):
    def __init__(self, once: bool) -> None:
        super().__init__()
        self.once = once

    def forward(self, x: Tensor) -> Tensor:
        return Once.apply(x) if self.once else x**3  # type: ignore[no-any-return, no-untyped-call]


def net(*middle: nn.Module, once: bool = False) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), *(middle or (Cube(once),)), nn.Linear(4, 3))


def data(n: int = 11) -> tuple[Tensor, Tensor]:
    return torch.randn(n, 3), torch.randint(3, (n,))


def parts(x: Tensor, y: Tensor, *sizes: int) -> list[tuple[Tensor, Tensor]]:
    return list(zip(torch.split(x, list(sizes)), torch.split(y, list(sizes)), strict=True))


MATRICES = [Hessian, GaussNewtonMatrix, EmpiricalFisher]


@pytest.mark.parametrize("made", MATRICES)
def test_what_has_no_second_derivative_goes_by_differences_and_says_so(made: type[Hessian]) -> None:
    batches = parts(*data(), 7, 4)
    right = made(net(), "cross-entropy", batches)
    matrix = right.to_dense()
    assert (right.way, right.caveat) == ("products", None)
    model = net(once=True)
    before = [p.detach().clone() for p in model.parameters()]
    once = made(model, "cross-entropy", batches)
    assert once.way == "products"
    for held in (False, True):
        operator = made(model, "cross-entropy", batches)
        if held:
            with operator.held():
                found = operator.to_dense()
        else:
            found = operator.to_dense()
        assert operator.way == "differences"
        assert operator.caveat == "products are differences of gradients"
        torch.testing.assert_close(found, matrix, rtol=1e-6, atol=1e-8)
    assert all(torch.equal(p, old) for p, old in zip(model.parameters(), before, strict=True))
    with pytest.raises(
        OptionError, match=f"{made.__name__}: an operation of the model has no second derivative"
    ):
        made(model, "cross-entropy", batches, way="products") @ torch.ones(31)
    # residuals are those of products taken anew
    top = lanczos(operator, tolerance=1e-6).largest
    v = torch.cat([t.flatten() for t in top.vector])
    assert top.residual == pytest.approx(float((matrix @ v - top.value * v).norm()), abs=1e-7)


@pytest.mark.parametrize("made", MATRICES)
@pytest.mark.parametrize(
    "middle",
    [
        lambda: (nn.Tanh(), nn.Dropout(0.5)),
        lambda: (nn.BatchNorm1d(4), nn.Tanh()),
    ],
    ids=["dropout", "batch norm"],
)
def test_differences_are_products_where_both_are_possible(
    made: type[Hessian], middle: Callable[[], tuple[nn.Module, ...]]
) -> None:
    model, batches = net(*middle()), parts(*data(), 7, 4)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    generator = torch.get_rng_state()
    exact = made(model, "cross-entropy", batches, way="products")
    near = made(model, "cross-entropy", batches, way="differences")
    torch.testing.assert_close(near.to_dense(), exact.to_dense(), rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(near.gradient(), exact.gradient())
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), generator)
    assert near @ torch.zeros(exact.shape[0]) is not None


def test_recurrent_layers_go_by_differences_and_kinks_are_named() -> None:
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.act = nn.LSTM(1, 3, batch_first=True), nn.ReLU()

        def forward(self, x: Tensor) -> Tensor:
            return self.act(self.inner(x[:, :, None])[0][:, -1])  # type: ignore[no-any-return]

    operator = Hessian(Recurrent(), "cross-entropy", data())
    assert operator.way == "differences"
    assert "at kinks (ReLU)" in str(operator.caveat)
    exact = Hessian(operator.model, "cross-entropy", data(), way="products")
    assert (exact.way, exact.caveat) == ("products", None)


def test_a_float32_recurrent_net_has_differences_as_good_as_its_type_allows() -> None:
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.last = nn.LSTM(3, 16, batch_first=True), nn.Linear(16, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(self.inner(x)[0][:, -1])  # type: ignore[no-any-return]

    model, x, y = Recurrent(), torch.randn(20, 5, 3), torch.randint(3, (20,))
    exact = Hessian(model, "cross-entropy", (x, y), way="products")
    v = torch.randn(exact.shape[0])
    right = exact @ v
    found = (Hessian(model.float(), "cross-entropy", (x.float(), y)) @ v.float()).double()
    assert float((found - right).norm() / right.norm()) < 2e-3


def count_calls(model: nn.Module) -> list[int]:
    calls: list[int] = []
    model.register_forward_hook(lambda *_: calls.append(1))
    return calls


def test_graphs_of_several_batches_are_kept_within_a_bound() -> None:
    model, (x, y) = net(nn.Tanh(), nn.Dropout(0.3)), data(12)
    loader = DataLoader(TensorDataset(x, y), 5, shuffle=True, generator=torch.Generator().manual_seed(3))
    for batches in (parts(x, y, 5, 5, 2), loader):
        operator = Hessian(model, "cross-entropy", batches)
        right = operator.to_dense()
        calls = count_calls(model)
        with operator.held():
            begun = len(calls)
            assert begun <= 4
            for _ in range(3):
                assert torch.equal(operator.to_dense(), right)
            assert len(calls) == begun
        with operator.held(memory=100):
            assert torch.equal(operator.to_dense(), right)
        assert torch.equal(operator.to_dense(), right)
    v = torch.ones(operator.shape[0])
    with torch.no_grad():
        model[0].weight.mul_(2)
    assert not torch.allclose(operator @ v, right @ v)


@pytest.mark.parametrize("made", MATRICES)
def test_a_block_is_that_of_the_matrix(made: type[Hessian]) -> None:
    model, batches = net(nn.Tanh(), nn.Dropout(0.3)), parts(*data(), 7, 4)
    whole = made(model, "cross-entropy", batches)
    dense = whole.to_dense()
    torch.rand(3)
    torch.testing.assert_close(whole.block("3").to_dense(), dense[16:, 16:])
    torch.testing.assert_close(whole.block("0.bias", "3.weight").to_dense(), dense[12:28, 12:28])
    alone = made(model.eval(), "cross-entropy", batches, parameters=["0"])
    assert list(alone.vectors.parameters) == ["0.weight", "0.bias"]
    torch.testing.assert_close(alone.to_dense(), made(model, "cross-entropy", batches).to_dense()[:16, :16])
    assert trace(whole.block("0.weight"), samples=2).samples == 2
    with pytest.raises(OptionError, match="and no module with one, is called '0wait'"):
        whole.block("0wait")
    with pytest.raises(OptionError, match="no parameter is chosen"):
        whole.block()


def test_a_tied_parameter_is_found_by_either_name() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 3))
    model[2].weight = model[0].weight
    operator = Hessian(model, "cross-entropy", data())
    assert list(operator.block("2").vectors.parameters) == ["0.weight", "2.bias"]


WEIGHED = nn.CrossEntropyLoss(weight=torch.tensor([1.0, 3.0, 0.5], dtype=torch.float64), ignore_index=2)


def quartic(outputs: Tensor, targets: Tensor) -> Tensor:
    return ((outputs - F.one_hot(targets, 3)) ** 4).sum(1).mean()


@pytest.mark.parametrize("sizes", [(11,), (4, 4, 3), (10, 1)], ids=str)
@pytest.mark.parametrize("name", ["plain", "weighed", "sum", "own", "mse", "looking"])
def test_the_empirical_fisher_is_the_mean_of_outer_products(name: str, sizes: tuple[int, ...]) -> None:
    model, (x, y) = net(nn.Tanh()), data()

    def looking(outputs: Tensor, targets: Tensor) -> Tensor:
        # a number is looked at, which can't be done for all examples at once
        return F.cross_entropy(outputs, targets) * (1.0 if float(outputs.detach().sum()) < 1e9 else 2.0)

    losses: dict[str, Any] = {
        "plain": F.cross_entropy,
        "weighed": WEIGHED,
        "sum": nn.CrossEntropyLoss(reduction="sum"),
        "own": quartic,
        "mse": F.mse_loss,
        "looking": looking,
    }
    loss, goal = losses[name], torch.randn(11, 3) if name == "mse" else y
    rows, weights = [], []
    for i in range(11):
        if name == "weighed" and int(y[i]) == 2:
            continue
        g = torch.autograd.grad(loss(model(x[i : i + 1]), goal[i : i + 1]), list(model.parameters()))
        rows.append(torch.cat([t.flatten() for t in g]))
        weights.append(float(WEIGHED.weight[y[i]]) if name == "weighed" else 1.0)
    j, w = torch.stack(rows), torch.tensor(weights)
    right = (j.T * w) @ j / (1.0 if name == "sum" else w.sum())
    found = EmpiricalFisher(model, loss, parts(x, goal, *sizes))
    torch.testing.assert_close(found.to_dense(), right)
    torch.testing.assert_close(
        torch.cat([t.flatten() for t in found.gradient()]),
        torch.cat([t.flatten() for t in Hessian(model, loss, parts(x, goal, *sizes)).gradient()]),
    )


def test_sequences_count_as_examples_and_all_ignored_is_said() -> None:
    model = nn.Linear(3, 4)
    x, y = torch.randn(5, 6, 3), torch.randint(4, (5, 6))
    y[1, 2:] = -100

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(outputs.transpose(1, 2), targets)

    rows, weights = [], []
    for i in range(5):
        g = torch.autograd.grad(loss(model(x[i : i + 1]), y[i : i + 1]), list(model.parameters()))
        rows.append(torch.cat([t.flatten() for t in g]))
        weights.append(float((y[i] != -100).sum()))
    j, w = torch.stack(rows), torch.tensor(weights)
    found = EmpiricalFisher(model, loss, [(x[:3], y[:3]), (x[3:], y[3:])]).to_dense()
    torch.testing.assert_close(found, (j.T * w) @ j / w.sum())
    with pytest.raises(DataError, match="ignores every target"):
        EmpiricalFisher(model, loss, (x, torch.full_like(y, -100))) @ torch.ones(16)


def test_what_is_wrong_is_said() -> None:
    with pytest.raises(OptionError, match="Hessian: way is 'fast'"):
        Hessian(net(), "cross-entropy", data(), way="fast")  # type: ignore[arg-type]
