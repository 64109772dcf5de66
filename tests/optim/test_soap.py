"""SOAP against a twin from the paper, step by step in float64, and against another implementation."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from contract.subjects import trees_equal
from thalweg import optim, rules, runtimes
from thalweg.errors import OptionError

from .problems import close, parameters, set_gradients, snapshot, train

SHAPES = ((3, 3), (4, 4), (5,), ())
CASES: list[dict[str, Any]] = [
    {},
    {"lr": 0.02, "betas": (0.8, 0.9), "weight_decay": 0.2, "precondition_frequency": 1},
    {"lr": 0.02, "shampoo_beta": 0.7, "precondition_frequency": 3, "eps": 1e-4, "precondition_1d": True},
    {"lr": 0.02, "correct_bias": False, "normalize_gradient": True, "precondition_frequency": 4},
    {"lr": 0.02, "max_precondition_dim": 3, "precondition_frequency": 2},
]


def little(covariance: Tensor) -> Tensor:
    return 2.0**-26 * covariance.trace() / len(covariance)


def first_basis(covariance: Tensor) -> Tensor:
    """Eigenvectors; of eigenvalue zero, those of a falling diagonal projected to these directions."""
    values, vectors = torch.linalg.eigh(covariance)
    there = vectors[:, values > 1e-12 * values.max()].flip(1)
    size = len(covariance)
    rest = torch.eye(size, dtype=covariance.dtype) - there @ there.T
    seen = rest @ torch.linspace(2, 1, size).double().diag() @ rest
    return torch.cat([there, torch.linalg.eigh(seen)[1].flip(1)[:, : size - there.shape[1]]], dim=1)


class Twin:
    """Algorithms 3 and 4 of the paper, with a basis for each axis as in the authors' code, or none (0).

    What the paper leaves to rounding is ours: bases of directions without gradient.
    """

    def __init__(self, p: Tensor, **options: Any) -> None:
        self.lr, self.decay, self.eps = options["lr"], options["weight_decay"], options["eps"]
        self.beta1, self.beta2 = options["betas"]
        self.memory = self.beta2 if options["shampoo_beta"] is None else options["shampoo_beta"]
        self.every, self.correct = options["precondition_frequency"], options["correct_bias"]
        self.normalize = options["normalize_gradient"]
        self.w = p.detach().clone()
        plain = p.ndim < 2 and not options["precondition_1d"]
        self.sides = [0 if plain or n > options["max_precondition_dim"] else n for n in p.shape]
        self.cov = [torch.zeros(n, n, dtype=p.dtype) for n in self.sides]
        self.basis: list[Tensor] = []
        self.m, self.v, self.t = torch.zeros_like(self.w), torch.zeros_like(self.w), 0

    def turn(self, x: Tensor, back: bool = False) -> Tensor:
        # each product takes the first axis away and puts the new one last: after all they are in order
        for q in self.basis:
            if len(q):
                x = torch.tensordot(x, q.T if back else q, dims=([0], [0]))
            else:
                x = x.permute(*range(1, x.ndim), 0)
        return x

    def step(self, g: Tensor) -> None:
        if self.t:
            k = self.t
            self.m = self.beta1 * self.m + (1 - self.beta1) * g
            self.v = self.beta2 * self.v + (1 - self.beta2) * self.turn(g) ** 2
            n = self.turn(self.turn(self.m) / (self.v.sqrt() + self.eps), back=True)
            if self.normalize:
                n = n / (n.square().mean().sqrt() + self.eps)
            rate = self.lr
            if self.correct:
                rate *= (1 - self.beta2**k) ** 0.5 / (1 - self.beta1**k)
            self.w = (self.w - rate * n) * (1 - self.lr * self.decay)
        for i, size in enumerate(self.sides):
            if size:
                others = [axis for axis in range(g.ndim) if axis != i]
                outer = torch.tensordot(g, g, dims=(others, others))
                self.cov[i] = self.memory * self.cov[i] + (1 - self.memory) * outer
        if not self.t:
            self.basis = [first_basis(c) if n else c for c, n in zip(self.cov, self.sides, strict=True)]
        elif self.t % self.every == 0:
            for i, size in enumerate(self.sides):
                if size:
                    values = torch.diag(self.basis[i].T @ self.cov[i] @ self.basis[i])
                    order = values.argsort(descending=True)
                    self.v = self.v.index_select(i, order)
                    shifted = self.cov[i] + little(self.cov[i]) * torch.eye(size, dtype=g.dtype)
                    self.basis[i] = torch.linalg.qr((shifted @ self.basis[i])[:, order])[0]
        self.t += 1


@pytest.mark.parametrize("options", CASES, ids=str)
def test_against_the_paper_step_by_step(options: dict[str, Any]) -> None:
    params = parameters(shapes=(*SHAPES, (3, 5), (6, 2), (3, 2, 4), (2, 3, 1, 2)))
    optimizer = optim.SOAP(params, **options)
    twins = [Twin(p, **optimizer.defaults) for p in params]
    for step in range(25):
        set_gradients(params, step)
        for twin, p in zip(twins, params, strict=True):
            assert p.grad is not None
            twin.step(p.grad)
        optimizer.step()
        for twin, p in zip(twins, params, strict=True):
            torch.testing.assert_close(p.detach(), twin.w, rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("options", CASES, ids=str)
def test_equal_to_another_implementation(options: dict[str, Any]) -> None:
    package = pytest.importorskip("pytorch_optimizer")
    # Where the first gradient lacks more than one direction the other's basis is rounding's choice: square
    # matrices and short vectors. It takes its power iteration in float32, hence the tolerance.
    shapes = ((3, 3), (4, 4), (2,), (2, 3, 2), (2, 2, 2, 2))
    a, b = parameters(shapes=shapes), parameters(shapes=shapes)
    ours, theirs = optim.SOAP(a, **options), package.SOAP(b, **options)
    for step in range(25):
        for optimizer, params in ((ours, a), (theirs, b)):
            set_gradients(params, step)
            optimizer.step()
        torch.testing.assert_close(list(a), list(b), rtol=1e-4, atol=1e-5)


def test_defaults_are_those_of_the_other_implementation() -> None:
    package = pytest.importorskip("pytorch_optimizer")
    ours, theirs = optim.SOAP(parameters()).defaults, package.SOAP(parameters()).defaults
    shared = set(ours) & set(theirs)
    assert {"lr", "betas", "weight_decay", "eps", "shampoo_beta", "precondition_frequency"} <= shared
    assert {name: ours[name] for name in shared - {"maximize", "foreach"}} == {
        name: theirs[name] for name in shared - {"maximize", "foreach"}
    }


def test_each_axis_has_a_basis_and_empty_tensors_stay() -> None:
    kernel, empty, long, column = parameters(shapes=((4, 2, 3, 3), (0, 3), (5, 2), (4, 1)))
    params = [kernel, empty, long, column]
    optimizer = optim.SOAP(params, lr=0.05, max_precondition_dim=4)
    for step in range(12):
        set_gradients(params, step)
        optimizer.step()
    names = {"step", "exp_avg", "exp_avg_sq", "covariances", "bases"}
    assert all(set(optimizer.state[p]) == names for p in params)
    sizes = [optimizer.state[p]["bases"].numel() for p in params]
    assert sizes == [16 + 4 + 9 + 9, 0, 4, 16]
    first = optimizer.state[kernel]["bases"][:16].reshape(4, 4)
    close(first.T @ first, torch.eye(4, dtype=torch.float64))


def test_turning_any_axis_turns_the_path() -> None:
    """Of a tensor of three axes, as of a matrix: in its eigenbases a problem is what it is along the axes."""
    generator = torch.Generator().manual_seed(0)

    def orthogonal(n: int) -> Tensor:
        return torch.linalg.qr(torch.randn(n, n, generator=generator, dtype=torch.float64))[0]

    (start,) = parameters(shapes=((3, 2, 4),))
    spread = torch.linspace(1, 3, 24, dtype=torch.float64).reshape(3, 2, 4)
    turns = [orthogonal(n) for n in start.shape]

    def path(u: list[Tensor]) -> Tensor:
        def turned(x: Tensor, back: bool = False) -> Tensor:
            a, b, c = (q.T if back else q for q in u)
            return torch.einsum("ai,bj,ck,ijk->abc", a, b, c, x)

        p = torch.nn.Parameter(turned(start.detach()))
        optimizer = optim.SOAP([p], lr=0.05, weight_decay=0)
        for _ in range(20):
            p.grad = turned(spread * turned(p.detach(), back=True))
            optimizer.step()
        return turned(p.detach(), back=True)

    straight = path([torch.eye(n, dtype=torch.float64) for n in start.shape])
    torch.testing.assert_close(path(turns), straight, rtol=1e-6, atol=1e-7)


def test_a_state_of_two_bases_is_refused_and_nothing_lost() -> None:
    p = parameters(shapes=((3, 3),))
    optimizer = optim.SOAP(p)
    train(optimizer, p, range(3))
    before, old = snapshot(optimizer), snapshot(optimizer)
    old["state"][0]["left_basis"] = torch.eye(3)
    with pytest.raises(OptionError, match=r"SOAP: the state is of an earlier version, .* start again"):
        optimizer.load_state_dict(old)
    assert trees_equal(snapshot(optimizer), before)


@pytest.mark.parametrize("size", [1e30, 1e19, 1e18, 1e-18, 1e-25, 1e-40])
def test_no_finite_gradient_makes_a_nan(size: float) -> None:
    """Where squares overflow a step is Adam's, which is none but for the decay; bases stay bases."""
    p = torch.nn.Parameter(torch.ones(4, 3, 2))
    plain = torch.nn.Parameter(p.detach().clone())
    soap, adam = optim.SOAP([p], lr=0.1, precondition_frequency=2), torch.optim.AdamW([plain], lr=0.1)
    generator = torch.Generator().manual_seed(1)
    for step in range(12):
        noise = torch.randn(4, 3, 2, generator=generator)
        p.grad = noise * (size if step % 3 == 1 else 1.0)
        plain.grad = p.grad.clone()
        before = p.detach().clone()
        soap.step()
        adam.step()
        assert bool(plain.isfinite().all())
        assert bool(p.isfinite().all())
        if size == 1e30 and step > 0:
            assert torch.equal(p.detach(), before * (1 - 0.1 * 0.01))
        assert all(bool(soap.state[p][name].isfinite().all()) for name in ("covariances", "bases"))
        basis = soap.state[p]["bases"][:16].reshape(4, 4)
        torch.testing.assert_close(basis.T @ basis, torch.eye(4), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_rounding_does_not_choose_the_basis(dtype: torch.dtype) -> None:
    """Gradients of rank one, then two, then three: what was null before must not be noise's."""
    ends = []
    for noise in (0.0, 1.0):
        generator, other = (torch.Generator().manual_seed(seed) for seed in (3, 4))
        p = torch.nn.Parameter(torch.zeros(6, 5, dtype=dtype))
        optimizer = optim.SOAP([p], lr=0.02, precondition_frequency=2)
        for step in range(24):
            rank = 1 + step // 8
            left = torch.randn(6, rank, generator=generator, dtype=torch.float64)
            right = torch.randn(rank, 5, generator=generator, dtype=torch.float64)
            rounded = 1 + noise * torch.finfo(dtype).eps * torch.randn(6, 5, generator=other).double()
            p.grad = (left @ right * rounded).to(dtype)
            optimizer.step()
        ends.append(p.detach().clone())
    tolerance = 1e-5 if dtype == torch.float64 else 5e-2
    torch.testing.assert_close(ends[0], ends[1], rtol=tolerance, atol=tolerance * 0.2)


def test_in_the_eigenbasis_a_rotated_problem_is_like_one_along_the_axes() -> None:
    """Rotating rows and columns of the problem rotates the path: Adam's isn't so."""
    generator = torch.Generator().manual_seed(0)
    turns = [
        torch.linalg.qr(torch.randn(3, 3, generator=generator, dtype=torch.float64))[0] for _ in range(2)
    ]
    (start,) = parameters(shapes=((3, 3),))
    spread = torch.linspace(1, 3, 9, dtype=torch.float64).reshape(3, 3)

    def path(make: Any, rotate: bool) -> Tensor:
        u, v = turns if rotate else (torch.eye(3, dtype=torch.float64),) * 2
        p = torch.nn.Parameter(u @ start.detach() @ v.T)
        optimizer = make([p], lr=0.05, weight_decay=0)
        for _ in range(20):
            p.grad = u @ (spread * (u.T @ p.detach() @ v)) @ v.T
            optimizer.step()
        return u.T @ p.detach() @ v

    torch.testing.assert_close(path(optim.SOAP, False), path(optim.SOAP, True), rtol=1e-6, atol=1e-7)
    assert (path(optim.AdamW, False) - path(optim.AdamW, True)).abs().max() > 1e-2


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_a_checkpoint_goes_on_to_the_bit(dtype: torch.dtype) -> None:
    a = parameters(dtype)
    first = optim.SOAP(a, lr=0.05, precondition_frequency=3)
    train(first, a, range(5))
    b = [torch.nn.Parameter(p.detach().clone()) for p in a]
    second = optim.SOAP(b)
    second.load_state_dict(snapshot(first))
    train(first, a, range(5, 12))
    train(second, b, range(5, 12))
    assert all(map(torch.equal, a, b))


def test_lanes_equal_alone_and_a_diverged_one_harms_nobody() -> None:
    lanes, shapes = 4, ((4, 4), (3, 5), (6,), (2, 2, 2))
    generator = torch.Generator().manual_seed(2)
    together = [torch.randn(lanes, *s, generator=generator, dtype=torch.float64) for s in shapes]
    alone = [[p[lane].clone() for p in together] for lane in range(lanes)]
    each = {
        "lr": np.array([0.1, 0.02, 0.3, 0.1]),
        "beta2": np.array([0.9, 0.99, 0.5, 0.9]),
        "shampoo_beta": np.array([0.0, 0.5, 0.9, 0.0]),
        "weight_decay": np.array([0.0, 0.1, 0.2, 0.0]),
        "precondition_frequency": np.array([2.0, 3.0, 1.0, 2.0]),
    }
    states = runtimes.initial_states(rules.soap, together, each, {}, lanes=True)
    own = [{name: float(values[lane]) for name, values in each.items()} for lane in range(lanes)]
    own_states = [runtimes.initial_states(rules.soap, alone[i], own[i], {}) for i in range(lanes)]
    for t in range(1, 9):
        grads = [torch.randn(p.shape, generator=generator, dtype=torch.float64) for p in together]
        for g in grads:
            g[3] = torch.nan
        runtimes.apply(rules.soap, together, grads, states, each, {}, t, lanes=True)
        for i in range(lanes - 1):
            runtimes.apply(rules.soap, alone[i], [g[i] for g in grads], own_states[i], own[i], {}, t)
    for i in range(lanes - 1):
        for joint, single in zip(together, alone[i], strict=True):
            torch.testing.assert_close(joint[i], single, rtol=1e-8, atol=1e-9)
    assert all(p[3].isnan().all() for p in together)
    sizes = {"max_precondition_dim": np.array([2.0, 3.0, 3.0, 3.0])}
    with pytest.raises(OptionError, match="max_precondition_dim is 2 in one lane and 3 in another"):
        runtimes.initial_states(rules.soap, together, sizes, {}, lanes=True)
