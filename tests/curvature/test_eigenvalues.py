"""Eigenvalues, trace and diagonal against dense matrices, closed forms and their own standard errors."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from thalweg.curvature import GaussNewtonMatrix, Hessian, diagonal, lanczos, power_iteration, trace
from thalweg.errors import DataError, OptionError


@pytest.fixture(autouse=True)
def _float64() -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    yield
    torch.set_default_dtype(before)


def batch(n: int = 30) -> tuple[Tensor, Tensor]:
    return torch.randn(n, 4), torch.randint(3, (n,))


def net() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))


class Quadratic(nn.Module):
    """``x'Ax / 2`` of a parameter x, as outputs that are the loss."""

    def __init__(self, matrix: Tensor, dtype: torch.dtype = torch.float64) -> None:
        super().__init__()
        self.register_buffer("matrix", matrix.to(dtype))
        self.x = nn.Parameter(torch.ones(len(matrix), dtype=dtype))

    def forward(self, inputs: Tensor) -> Tensor:
        return self.x @ self.get_buffer("matrix") @ self.x / 2


def quadratic(values: list[float], dtype: torch.dtype = torch.float64) -> tuple[Hessian, Tensor]:
    """Return a Hessian with these eigenvalues, and the directions in which they lie."""
    q = torch.linalg.qr(torch.randn(len(values), len(values)))[0]
    model = Quadratic(q @ torch.diag(torch.tensor(values)) @ q.T, dtype)
    return Hessian(model, lambda outputs, _: outputs, (torch.zeros(1), torch.zeros(1))), q


@pytest.mark.parametrize("made", [Hessian, GaussNewtonMatrix])
def test_lanczos_finds_both_ends_of_a_nets_spectrum(made: type[Hessian]) -> None:
    operator = made(net(), "cross-entropy", batch())
    dense = operator.to_dense()
    values = np.linalg.eigvalsh(dense.numpy())
    found = lanczos(operator, tolerance=1e-6)
    for pair, value in ((found.largest, values[-1]), (found.smallest, values[0])):
        assert pair.converged
        assert pair.value == pytest.approx(value, abs=pair.residual + 1e-9)
        v = torch.cat([t.flatten() for t in pair.vector])
        assert float(v.norm()) == pytest.approx(1)
        assert float((dense @ v - pair.value * v).norm()) == pytest.approx(pair.residual, abs=1e-9)
    assert found.rate_limit == pytest.approx(2 / values[-1])
    assert found.products <= len(values)


def test_an_error_is_within_the_residual_and_ends_are_bounds() -> None:
    operator = Hessian(net(), "cross-entropy", batch())
    values = np.linalg.eigvalsh(operator.to_dense().numpy())
    took = []
    ends: tuple[Literal["largest", "smallest", "both"], ...] = ("largest", "smallest", "both")
    for end in ends:
        for most in (1, 2, 4, 8):
            found = lanczos(operator, ends=end, most_products=most, tolerance=1e-12)
            assert found.products == most
            assert not found.largest.converged
            for pair in (found.largest, found.smallest):
                assert values[0] <= pair.value <= values[-1]
                assert np.abs(values - pair.value).min() <= pair.residual + 1e-12
        took.append(lanczos(operator, ends=end).products)
    assert max(took[:2]) <= took[2]
    assert lanczos(operator, ends="largest").largest.value == pytest.approx(values[-1], rel=0.01)


@pytest.mark.parametrize(
    "values",
    [[1.0, 2.0, 10.0], [-3.0, 0.5, 2.0], [0.0, 0.0, 0.0], [4.0], [2.0, 2.0, 2.0], [-1e-9, 1.0]],
    ids=str,
)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_quadratics_have_their_eigenvalues(values: list[float], dtype: torch.dtype) -> None:
    operator, _ = quadratic(values, dtype)
    found = lanczos(operator, tolerance=1e-9 if dtype is torch.float64 else 1e-5)
    near = 1e-10 if dtype is torch.float64 else 1e-5
    assert found.largest.value == pytest.approx(max(values), abs=near * max(map(abs, values)))
    assert found.smallest.value == pytest.approx(min(values), abs=near * max(map(abs, values)))
    assert found.largest.converged
    assert found.smallest.converged
    if dtype is torch.float64:
        condition = max(values) / min(values) if min(values) > 0 else math.inf
        assert found.condition_number == pytest.approx(condition)
        assert found.rate_limit == pytest.approx(2 / max(values) if max(values) > 0 else math.inf)


def test_gradient_descent_diverges_beyond_the_rates_limit_and_not_below() -> None:
    operator, _ = quadratic([0.5, 3.0, 8.0])
    limit = lanczos(operator, tolerance=1e-6).rate_limit
    matrix = operator.to_dense()
    for share, diverges in ((0.99, False), (1.01, True)):
        x = torch.ones(3)
        for _ in range(2000):
            x = x - share * limit * matrix @ x
        assert (float(x.norm()) > 1e3) == diverges


def test_an_eigenvector_from_before_saves_products_and_hides_nothing() -> None:
    model, data = net(), batch()
    operator = Hessian(model, "cross-entropy", data)
    cold = lanczos(operator, ends="largest", tolerance=1e-3)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn_like(p), alpha=0.003)
    warm = lanczos(operator, ends="largest", tolerance=1e-4, start=cold.largest.vector)
    again = lanczos(operator, ends="largest", tolerance=1e-4, start=torch.randn(operator.shape[0]))
    assert warm.products < again.products
    assert warm.largest.value == pytest.approx(again.largest.value, rel=0.01)
    # from another eigenvector, nothing but itself would be seen
    values = [1.0, 2.0, 3.0, 9.0, *np.linspace(0, 1, 16)]
    operator, q = quadratic(values)
    for i in range(4):
        found = lanczos(operator, start=q[:, i], tolerance=1e-3)
        assert found.largest.value == pytest.approx(9.0, rel=1e-2)
        assert found.smallest.value == pytest.approx(0.0, abs=0.1)
        # nor where so little is asked for that it would do as a start
        assert lanczos(operator, start=q[:, i], tolerance=0.2).largest.value == pytest.approx(9.0, rel=0.2)


def test_power_iteration_goes_to_the_largest_magnitude() -> None:
    operator, q = quadratic([-5.0, 1.0, 3.0, 4.0])
    found = power_iteration(operator, tolerance=1e-8)
    assert found.converged
    assert found.value == pytest.approx(-5.0)
    assert abs(float(found.vector[0] @ q[:, 0])) == pytest.approx(1.0)
    by_hand, v = operator.to_dense(), q.sum(1) / 2
    for steps in (1, 2, 5):
        w = v
        for _ in range(steps - 1):
            w = by_hand @ w / (by_hand @ w).norm()
        short = power_iteration(operator, start=v, most_products=steps, tolerance=1e-12)
        assert short.value == pytest.approx(float(w @ by_hand @ w))
        assert not short.converged
    torch.testing.assert_close(quadratic([0.0, 0.0])[0] @ torch.ones(2), torch.zeros(2))
    assert power_iteration(quadratic([0.0, 0.0])[0]).value == 0


def test_the_model_is_called_once_for_all_products_of_one_batch() -> None:
    model, data = net(), batch()
    operator = Hessian(model, "cross-entropy", data)
    calls: list[int] = []
    model.register_forward_hook(lambda *_: calls.append(1))
    found = [lanczos(operator), power_iteration(operator), trace(operator), diagonal(operator)]
    assert len(calls) == len(found)


def test_trace_and_diagonal_are_within_their_errors_and_the_errors_right() -> None:
    operator = Hessian(net(), "cross-entropy", batch())
    dense = operator.to_dense()
    off = dense - torch.diag(dense.diagonal())
    samples = 400
    found, each = trace(operator, samples=samples), diagonal(operator, samples=samples)
    assert abs(found.value - float(dense.trace())) < 4 * found.standard_error
    assert found.standard_error == pytest.approx(math.sqrt(2 * float((off**2).sum()) / samples), rel=0.15)
    values, errors = (torch.cat([t.flatten() for t in ts]) for ts in (each.values, each.standard_errors))
    assert [t.shape for t in each.values] == [p.shape for p in operator.vectors.leaves]
    assert float(((values - dense.diagonal()).abs() / errors).max()) < 5
    torch.testing.assert_close(errors, ((off**2).sum(1) / samples).sqrt(), rtol=0.2, atol=0)
    assert found == trace(operator, samples=samples)
    assert found != trace(operator, samples=samples, seed=1)


def test_a_diagonal_matrix_is_met_at_once() -> None:
    model = Quadratic(torch.diag(torch.tensor([1.0, -2.0, 5.0])))
    operator = Hessian(model, lambda outputs, _: outputs, (torch.zeros(1), torch.zeros(1)))
    found = trace(operator, samples=2)
    assert (found.value, found.standard_error, found.samples) == (4.0, 0.0, 2)
    torch.testing.assert_close(diagonal(operator, samples=2).values[0], torch.tensor([1.0, -2.0, 5.0]))


def test_what_is_wrong_is_said() -> None:
    operator, _ = quadratic([1.0, 2.0])
    cases: list[tuple[type[Exception], str, Any]] = [
        (OptionError, "tolerance is 0", lambda: lanczos(operator, tolerance=0)),
        (OptionError, "most_products is 0", lambda: power_iteration(operator, most_products=0)),
        (OptionError, "ends is 'top'", lambda: lanczos(operator, ends="top")),  # type: ignore[arg-type]
        (OptionError, "start: its length is 0", lambda: lanczos(operator, start=torch.zeros(2))),
        (OptionError, "flat vector has shape", lambda: lanczos(operator, start=torch.zeros(3))),
        (OptionError, "samples is 1", lambda: trace(operator, samples=1)),
        (DataError, "isn't finite", lambda: lanczos(quadratic([math.nan, 1.0])[0])),
        (DataError, "isn't finite", lambda: trace(quadratic([math.inf, 1.0])[0])),
    ]
    for error, words, call in cases:
        with pytest.raises(error, match=words):
            call()


def dense(matrix: Tensor) -> Hessian:
    return Hessian(Quadratic(matrix), lambda outputs, _: outputs, (torch.zeros(1), torch.zeros(1)))


def with_spectrum(values: Any) -> Tensor:
    spectrum = torch.as_tensor(np.asarray(values, dtype=np.float64))
    q = torch.linalg.qr(torch.randn(len(spectrum), len(spectrum)))[0]
    return q @ torch.diag(spectrum) @ q.T


def wishart() -> Tensor:
    x = torch.randn(80, 60)
    return x @ x.T / 60


SPECTRA = {
    "wishart": wishart,
    "clustered": lambda: with_spectrum([*np.linspace(5.0, 5.05, 6), *np.linspace(-0.1, 0.1, 60), -2, -2.01]),
    "repeated": lambda: with_spectrum([7.0] * 5 + [6.0] * 2 + [0.0] * 60 + [-1.0] * 3),
    "indefinite": lambda: with_spectrum(np.linspace(-3, 3, 60) ** 3),
    "low rank": lambda: with_spectrum([3.0, 3.0, 1.0] + [0.0] * 50),
    "identity": lambda: torch.eye(20),
    "zero": lambda: torch.zeros(9, 9),
}


@pytest.mark.parametrize("name", SPECTRA)
@pytest.mark.parametrize("vectors", [None, 18], ids=["all", "restarted"])
def test_several_eigenvalues_at_each_end_repeated_ones_too(name: str, vectors: int | None) -> None:
    matrix = SPECTRA[name]()
    values, n = np.linalg.eigvalsh(matrix.numpy()), len(matrix)
    memory = None if vectors is None else vectors * 16 * n
    found = lanczos(dense(matrix), count=4, tolerance=1e-7, memory=memory, most_products=3000)
    assert found.complete
    scale = max(1.0, float(np.abs(values).max()))
    np.testing.assert_allclose([p.value for p in found.largest_pairs], values[::-1][:4], atol=1e-6 * scale)
    np.testing.assert_allclose([p.value for p in found.smallest_pairs], values[:4], atol=1e-6 * scale)
    for pairs in (found.largest_pairs, found.smallest_pairs):
        rows = torch.stack([pair.vector[0] for pair in pairs])
        torch.testing.assert_close(rows @ rows.T, torch.eye(4), atol=1e-6, rtol=0)
        for pair in pairs:
            residual = float((matrix @ pair.vector[0] - pair.value * pair.vector[0]).norm())
            assert residual == pytest.approx(pair.residual, abs=1e-8 * scale)
            assert pair.converged


def test_one_end_takes_as_many_as_there_are() -> None:
    matrix = with_spectrum([3.0, 2.0, 2.0])
    for end, expected in (("largest", [3, 2, 2]), ("smallest", [2, 2, 3])):
        found = lanczos(dense(matrix), ends=end, count=8, tolerance=1e-9)  # type: ignore[arg-type]
        pairs = found.largest_pairs if end == "largest" else found.smallest_pairs
        np.testing.assert_allclose([pair.value for pair in pairs], expected)
        assert found.complete


def test_a_restart_keeps_to_its_memory_and_takes_more_products() -> None:
    matrix = with_spectrum(np.linspace(0, 1, 200))
    free = lanczos(dense(matrix), ends="largest", tolerance=1e-6, most_products=500)
    tight = lanczos(dense(matrix), ends="largest", tolerance=1e-6, most_products=500, memory=8 * 16 * 200)
    assert tight.complete
    assert free.products < tight.products < 500
    assert tight.largest.value == pytest.approx(1.0, abs=1e-5)
    with pytest.raises(OptionError, match="memory is 1000, but 5 vectors of 3200 bytes are needed"):
        lanczos(dense(matrix), ends="largest", memory=1000)


def test_what_has_not_converged_is_not_called_so_and_an_error_is_an_error() -> None:
    matrix = with_spectrum([*np.linspace(0, 1, 100), 1.02])
    for most in range(2, 30, 3):
        found = lanczos(dense(matrix), ends="largest", most_products=most, tolerance=1e-4)
        v = found.largest.vector[0]
        residual = float((matrix @ v - found.largest.value * v).norm())
        assert found.largest.residual == pytest.approx(residual, rel=1e-6)
        assert found.largest.error <= found.largest.residual
        assert found.largest.converged == (found.largest.error <= 1e-4 * found.largest.value)
        if found.largest.converged:
            assert found.largest.value == pytest.approx(1.02, rel=2e-4)
        assert found.complete == found.largest.converged


def test_scipy_finds_the_same_ends() -> None:
    from scipy.sparse.linalg import eigsh

    operator = Hessian(net(), "cross-entropy", batch())
    theirs = np.sort(eigsh(operator.to_scipy(), k=6, which="LA", return_eigenvectors=False, tol=1e-9))
    ours = lanczos(operator, ends="largest", count=6, tolerance=1e-8)
    np.testing.assert_allclose([p.value for p in ours.largest_pairs], theirs[::-1], rtol=1e-6)
