"""Products with a model's Hessian, Gauss-Newton matrix and Jacobian against dense matrices of torch.func."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from scipy.sparse.linalg import eigsh
from torch import Tensor, nn
from torch.func import functional_call, jacrev
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from thalweg.curvature import GaussNewtonMatrix, Hessian, Jacobian
from thalweg.errors import DataError, ModelError, OptionError

Loss = Callable[[Any, Any], Tensor]


@pytest.fixture(autouse=True)
def _float64() -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    yield
    torch.set_default_dtype(before)


def net(*middle: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 4), *(middle or (nn.Tanh(),)), nn.Linear(4, 3))


def data(n: int = 11) -> tuple[Tensor, Tensor]:
    return torch.randn(n, 3), torch.randint(3, (n,))


def flat_loss(
    model: nn.Module, loss: Loss, x: Tensor, y: Tensor
) -> tuple[Callable[[Tensor], Tensor], Tensor]:
    """Return the loss as a function of one flat vector of the trained parameters, and that vector."""
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}

    def of(flat: Tensor) -> Tensor:
        parts = torch.split(flat, [p.numel() for p in trained.values()])
        given = {name: part.reshape(p.shape) for part, (name, p) in zip(parts, trained.items(), strict=True)}
        return loss(functional_call(model, given, (x,), tie_weights=True), y)

    return of, torch.cat([p.detach().flatten() for p in trained.values()])


def dense_hessian(model: nn.Module, loss: Loss, x: Tensor, y: Tensor) -> Tensor:
    of, flat = flat_loss(model, loss, x, y)
    found: Tensor = jacrev(jacrev(of))(flat)
    return found


def dense_jacobian(model: nn.Module, x: Tensor) -> Tensor:
    of, flat = flat_loss(model, lambda z, _: z, x, x)
    found: Tensor = jacrev(of)(flat)
    return found.reshape(-1, len(flat))


def dense_gauss_newton(model: nn.Module, loss: Loss, x: Tensor, y: Tensor) -> Tensor:
    j, z = dense_jacobian(model, x), model(x).detach()
    h = jacrev(jacrev(lambda flat: loss(flat.reshape(z.shape), y)))(z.flatten())
    found: Tensor = j.T @ h @ j
    return found


def parts(x: Tensor, y: Tensor, *sizes: int) -> list[tuple[Tensor, Tensor]]:
    return list(zip(torch.split(x, list(sizes)), torch.split(y, list(sizes)), strict=True))


WEIGHED = nn.CrossEntropyLoss(weight=torch.tensor([1.0, 3.0, 0.5], dtype=torch.float64), ignore_index=2)
SMOOTHED = nn.CrossEntropyLoss(label_smoothing=0.1)
SUMMED = nn.CrossEntropyLoss(reduction="sum")


def squared(outputs: Tensor, targets: Tensor) -> Tensor:
    """A person's own mean over examples, which doesn't say what it divides by."""
    return ((outputs - F.one_hot(targets, 3)) ** 4).sum(1).mean()


@pytest.mark.parametrize("sizes", [(11,), (4, 4, 3), (10, 1)], ids=str)
@pytest.mark.parametrize(
    "loss",
    [F.cross_entropy, WEIGHED, SMOOTHED, SUMMED, squared],
    ids=["plain", "weighed", "smooth", "sum", "own"],
)
def test_matrices_are_those_of_the_whole_however_it_is_divided(loss: Loss, sizes: tuple[int, ...]) -> None:
    model, (x, y) = net(), data()
    batches = parts(x, y, *sizes)
    torch.testing.assert_close(Hessian(model, loss, batches).to_dense(), dense_hessian(model, loss, x, y))
    torch.testing.assert_close(
        GaussNewtonMatrix(model, loss, batches).to_dense(), dense_gauss_newton(model, loss, x, y)
    )
    (grad,) = torch.autograd.grad(loss(model(x), y), [model[0].weight])
    for made in (Hessian, GaussNewtonMatrix):
        torch.testing.assert_close(made(model, loss, batches).gradient()[0], grad)


@pytest.mark.parametrize("name", ["mse", "huber", "cross-entropy", "bce"])
def test_losses_have_names(name: str) -> None:
    model = nn.Sequential(nn.Linear(3, 2), nn.Tanh(), nn.Linear(2, 2 if name == "cross-entropy" else 1))
    x, y = torch.randn(7, 3), torch.randint(2, (7,))
    goal = y if name == "cross-entropy" else y[:, None].double()
    known: dict[str, Loss] = {
        "mse": F.mse_loss,
        "huber": F.huber_loss,
        "cross-entropy": F.cross_entropy,
        "bce": F.binary_cross_entropy_with_logits,
    }
    # targets [N] beside outputs [N, 1] mean the same, as in training
    given = goal if name == "cross-entropy" else y.double()
    found = Hessian(model, name, (x, given)).to_dense()
    torch.testing.assert_close(found, dense_hessian(model, known[name], x, goal))


def test_a_quadratic_has_its_own_matrix() -> None:
    a = torch.randn(5, 4)
    model = nn.Linear(4, 1, bias=False)
    for made in (Hessian, GaussNewtonMatrix):
        torch.testing.assert_close(made(model, "mse", (a, torch.randn(5))).to_dense(), 2 / 5 * a.T @ a)


def test_vectors_come_back_in_the_form_in_which_they_were_given() -> None:
    model, batch = net(), data()
    operator, whole = Hessian(model, "cross-entropy", batch), dense_hessian(model, F.cross_entropy, *batch)
    flat = torch.randn(operator.shape[0])
    right = whole @ flat
    pieces = torch.split(flat, [p.numel() for p in model.parameters()])
    each = [piece.reshape(p.shape) for piece, p in zip(pieces, model.parameters(), strict=True)]
    named = dict(zip(dict(model.named_parameters()), each, strict=True))
    torch.testing.assert_close(operator @ flat, right)
    listed = operator @ each
    assert isinstance(listed, list)
    torch.testing.assert_close(torch.cat([t.flatten() for t in listed]), right)
    # a dictionary's order is its own
    by_name = operator @ dict(reversed(named.items()))
    assert list(by_name) == list(named)
    torch.testing.assert_close(torch.cat([t.flatten() for t in by_name.values()]), right)
    both = torch.stack([flat, 2 * flat], 1)
    torch.testing.assert_close(operator @ both, whole @ both)


def test_frozen_parameters_are_left_out_and_tied_ones_count_once() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second, self.last = nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 3)
            self.second.weight = self.first.weight
            self.last.bias.requires_grad_(False)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(torch.tanh(self.second(torch.tanh(self.first(x)))))  # type: ignore[no-any-return]

    model, (x, y) = Tied(), data()
    operator = Hessian(model, "cross-entropy", (x, y))
    assert operator.shape == (9 + 3 + 3 + 9,) * 2
    torch.testing.assert_close(operator.to_dense(), dense_hessian(model, F.cross_entropy, x, y))
    torch.testing.assert_close(
        GaussNewtonMatrix(model, "cross-entropy", (x, y)).to_dense(),
        dense_gauss_newton(model, F.cross_entropy, x, y),
    )
    assert not model.last.bias.requires_grad


@pytest.mark.parametrize("training", [True, False])
def test_batch_norm_is_differentiated_as_its_mode_says_and_left_as_it_is(training: bool) -> None:
    model, (x, y) = net(nn.BatchNorm1d(4), nn.Tanh()), data()
    model(torch.randn(20, 3))
    model.train(training)
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    generator = torch.get_rng_state()
    operator = Hessian(model, "cross-entropy", (x, y))
    with operator.held():
        kept = operator @ torch.ones(operator.shape[0])
    found = operator.to_dense()
    torch.testing.assert_close(kept, found.sum(1))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(bool((p.grad == 1).all()) for p in model.parameters() if p.grad is not None)
    assert all(part.training == training for part in model.modules())
    assert torch.equal(torch.get_rng_state(), generator)
    # the oracle writes to the running statistics, which vmap refuses: it gets copies that nobody tracks
    mean, var = before["1.running_mean"], before["1.running_var"]

    def by_hand(outputs: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(outputs, targets)

    class Twin(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            for i in (0, 1, 3):
                self.add_module(str(i), model[i])

        def forward(self, x: Tensor) -> Tensor:
            h = self.get_submodule("0")(x)
            m, v = (h.mean(0), h.var(0, unbiased=False)) if training else (mean, var)
            norm = self.get_submodule("1")
            h = (h - m) / (v + 1e-5).sqrt() * norm.weight + norm.bias
            return self.get_submodule("3")(torch.tanh(h))  # type: ignore[no-any-return]

    torch.testing.assert_close(found, dense_hessian(Twin(), by_hand, x, y))


def test_dropout_draws_the_same_masks_in_every_product() -> None:
    model, (x, y) = net(nn.Tanh(), nn.Dropout(0.5)), data()
    loader = DataLoader(TensorDataset(x, y), 4, shuffle=True, generator=torch.Generator().manual_seed(3))
    for batches in ((x, y), loader):
        operator = Hessian(model, "cross-entropy", batches)
        matrix = operator.to_dense()
        torch.testing.assert_close(matrix, matrix.T)
        # whatever is drawn in between
        torch.rand(5)
        assert torch.equal(matrix, operator.to_dense())
    torch.rand(5)
    assert not torch.allclose(matrix, Hessian(model, "cross-entropy", (x, y)).to_dense())
    model.eval()
    torch.testing.assert_close(
        Hessian(model, "cross-entropy", loader).to_dense(), dense_hessian(model, F.cross_entropy, x, y)
    )


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner, self.last = nn.Linear(3, 6), nn.Linear(2, 3)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.inner(x).unflatten(1, (1, 1, 6)).expand(-1, 1, 2, 6).chunk(3, -1)
        steps = torch.arange(2.0)[:, None]
        return self.last(F.scaled_dot_product_attention(q * steps, k + steps, v * (1 + steps))[:, 0, 1])  # type: ignore[no-any-return]


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.LSTM(1, 3, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x[:, :, None])[0][:, -1]  # type: ignore[no-any-return]


@pytest.mark.parametrize("made", [Attention, Recurrent])
def test_fused_layers_are_differentiated_twice(made: type[nn.Module]) -> None:
    model, (x, y) = made(), data()
    params = list(model.parameters())
    v = [torch.randn_like(p) for p in params]

    def gradient(h: float) -> list[Tensor]:
        with torch.no_grad():
            for p, t in zip(params, v, strict=True):
                p.add_(t, alpha=h)
        found = torch.autograd.grad(F.cross_entropy(model(x), y), params)
        with torch.no_grad():
            for p, t in zip(params, v, strict=True):
                p.sub_(t, alpha=h)
        return list(found)

    h = 1e-5
    right = [(a - b) / (2 * h) for a, b in zip(gradient(h), gradient(-h), strict=True)]
    for found, expected in zip(Hessian(model, "cross-entropy", (x, y)) @ v, right, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-8)


def test_a_jacobian_is_that_of_torch_func() -> None:
    model, (x, _) = net(), data(5)
    jacobian, right = Jacobian(model, x), dense_jacobian(model, x)
    assert jacobian.shape == (15, 31)
    torch.testing.assert_close(jacobian.to_dense(), right)
    v, u = torch.randn(31), torch.randn(5, 3)
    torch.testing.assert_close(jacobian @ v, (right @ v).reshape(5, 3))
    back = torch.cat([t.flatten() for t in jacobian.T @ u])
    torch.testing.assert_close(back, right.T @ u.flatten())
    torch.testing.assert_close(torch.cat([t.flatten() for t in jacobian.T @ u.flatten()]), back)
    assert jacobian.T.T is jacobian
    with jacobian.held():
        torch.testing.assert_close(jacobian @ v, (right @ v).reshape(5, 3))


def test_parameters_are_read_at_each_product_but_kept_within_held() -> None:
    model, (x, y) = net(), data()
    operator = Hessian(model, "cross-entropy", parts(x, y, 6, 5))
    before = operator.to_dense()
    with torch.no_grad():
        model[0].weight.mul_(2)
    after = operator.to_dense()
    assert not torch.allclose(before, after)
    torch.testing.assert_close(after, dense_hessian(model, F.cross_entropy, x, y))
    calls = []
    model.register_forward_hook(lambda *_: calls.append(1))
    one = Hessian(model, "cross-entropy", (x, y))
    v = torch.randn(one.shape[0])
    with one.held():
        found = [one @ v, one @ v, one @ v]
    assert len(calls) == 1
    assert all(torch.equal(each, one @ v) for each in found)
    assert len(calls) == 4
    torch.testing.assert_close(one @ v, after @ v)


def test_an_iterator_is_kept_and_a_loader_read_again() -> None:
    model, (x, y) = net(), data()
    right = dense_hessian(model, F.cross_entropy, x, y)
    torch.testing.assert_close(Hessian(model, "cross-entropy", iter(parts(x, y, 8, 3))).to_dense(), right)
    loader = DataLoader(TensorDataset(x, y), batch_size=4)
    torch.testing.assert_close(Hessian(model, "cross-entropy", loader).to_dense(), right)


@pytest.mark.parametrize("around", [torch.no_grad, torch.inference_mode])
def test_it_works_whatever_surrounds_the_call(around: Callable[[], Any]) -> None:
    model, (x, y) = net(), data()
    right = dense_hessian(model, F.cross_entropy, x, y)
    with around():
        operator = Hessian(model, "cross-entropy", (x.clone(), y.clone()))
        found = operator @ torch.ones(operator.shape[0])
        jacobian = Jacobian(model, x) @ torch.ones(operator.shape[0])
    torch.testing.assert_close(found, right.sum(1))
    torch.testing.assert_close(jacobian, dense_jacobian(model, x).sum(1).reshape(11, 3))
    assert not found.requires_grad


def test_single_precision_is_computed_as_such() -> None:
    model, (x, y) = net(), data()
    right = dense_hessian(model, F.cross_entropy, x, y)
    model.float()
    found = Hessian(model, "cross-entropy", (x.float(), y)).to_dense()
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), right, rtol=1e-4, atol=1e-6)


def test_scipy_takes_it() -> None:
    model, (x, y) = net(), data()
    operator = Hessian(model, "cross-entropy", (x, y)).to_scipy()
    right = np.linalg.eigvalsh(dense_hessian(model, F.cross_entropy, x, y).numpy())
    np.testing.assert_allclose(eigsh(operator, 1, which="LA")[0], right[-1:])
    assert operator.shape == (31, 31)
    assert operator.dtype == np.float64


def test_targets_that_are_ignored_weigh_nothing() -> None:
    model, (x, y) = net(), data()
    y[7:] = -100
    found = Hessian(model, F.cross_entropy, parts(x, y, 4, 3, 4)).to_dense()
    torch.testing.assert_close(found, dense_hessian(model, F.cross_entropy, x[:7], y[:7]))


def geometric(outputs: Tensor, targets: Tensor) -> Tensor:
    return F.mse_loss(outputs, F.one_hot(targets, 3).double()).sqrt()


def test_what_is_wrong_is_said() -> None:
    model, (x, y) = net(), data()
    operator, jacobian = Hessian(model, "cross-entropy", (x, y)), Jacobian(model, x)
    one = list(operator.vectors.leaves)
    named = dict(operator.vectors.parameters)
    frozen, pair, halves, none = net().requires_grad_(False), nn.LSTM(3, 3), parts(x, y, 6, 5), y * 0 - 100

    def first(outputs: tuple[Tensor, Any], _: Tensor) -> Tensor:
        return outputs[0].mean()

    cases: list[tuple[type[Exception], str, Callable[[], Any]]] = [
        (OptionError, "flat vector has shape (3,), but there are 31", lambda: operator @ torch.ones(3)),
        (OptionError, "has 1 tensors, but 4 parameters", lambda: operator @ one[:1]),
        (OptionError, "'0.bias' has shape (4,)", lambda: operator @ [one[0], *one[2:], one[1]]),
        (OptionError, "lacks '2.bias'", lambda: operator @ {k: v for k, v in named.items() if k != "2.bias"}),
        (OptionError, "called '0.wait'", lambda: operator @ {**named, "0.wait": one[0]}),
        (OptionError, "no loss 'cross-entopy'", lambda: Hessian(model, "cross-entopy", (x, y))),
        (OptionError, "isn't the mean over its parts", lambda: Hessian(model, geometric, halves) @ one),
        (OptionError, "needs a scalar", lambda: Hessian(model, lambda z, t: z[:, 0], (x, y)) @ one),
        (DataError, "there is no batch", lambda: Hessian(model, "cross-entropy", []) @ one),
        (DataError, "a batch is 3 things", lambda: Hessian(model, "cross-entropy", [(x, y, y)]) @ one),
        (DataError, "a batch is Tensor", lambda: Hessian(model, "cross-entropy", [x, y, y]) @ one),
        (DataError, "ignores every target", lambda: Hessian(model, "cross-entropy", (x, none)) @ one),
        (ModelError, "no parameter with requires_grad", lambda: Hessian(frozen, "mse", (x, y))),
        (ModelError, "gives tuple", lambda: GaussNewtonMatrix(pair, first, (x, y)).gradient()),
        (OptionError, "outputs have shape (11, 3), but u is (3,)", lambda: jacobian.T @ torch.ones(3)),
    ]  # fmt: skip
    for error, words, call in cases:
        with pytest.raises(error, match=re.escape(words)):
            call()
    # one batch is a whole, whatever its loss divides by
    Hessian(model, geometric, (x, y)) @ one
