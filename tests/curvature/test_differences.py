"""Curvature from differences of gradients, against closed forms."""

from __future__ import annotations

import torch
from torch import Tensor

from thalweg.curvature.differences import difference_matrix, difference_product
from thalweg.curvature.vectors import Space, Vector

A = torch.tensor([[4.0, 1.0, -1.0], [1.0, 3.0, 0.5], [-1.0, 0.5, 2.0]], dtype=torch.float64)


def gradient(x: Vector) -> Vector:
    """Of ``x'Ax / 2 + sum x^4 / 4``, x in two tensors."""
    flat = torch.cat(x)
    return list(torch.split(A @ flat + flat**3, [2, 1]))


def hessian(x: Vector) -> Tensor:
    return A + torch.diag(3 * torch.cat(x) ** 2)


X = [torch.tensor([1.0, -2.0], dtype=torch.float64), torch.tensor([0.5], dtype=torch.float64)]


def test_a_product_is_that_of_the_hessian_whatever_the_vectors_length() -> None:
    for size in (1e-8, 1.0, 1e8):
        v = [torch.tensor([1.0, 2.0], dtype=torch.float64) * size, -X[1] * size]
        found = torch.cat(difference_product(gradient, X, v, Space()))
        torch.testing.assert_close(found, hessian(X) @ torch.cat(v), rtol=1e-8, atol=0)


def test_a_matrix_is_the_hessians_block_and_symmetric_to_the_bit() -> None:
    whole = difference_matrix(gradient, X, [0, 1], Space())
    torch.testing.assert_close(whole, hessian(X), rtol=1e-8, atol=1e-8)
    assert torch.equal(whole, whole.T)
    torch.testing.assert_close(
        difference_matrix(gradient, X, [0], Space()), hessian(X)[:2, :2], rtol=1e-8, atol=1e-8
    )


def test_lanes_have_their_own() -> None:
    xs = [torch.stack([x, 2 * x]) for x in X]

    def both(x: Vector) -> Vector:
        rows = [gradient([t[k] for t in x]) for k in range(2)]
        return [torch.stack(pair) for pair in zip(*rows, strict=True)]

    matrices = difference_matrix(both, xs, [0, 1], Space(lanes=2))
    for k in range(2):
        torch.testing.assert_close(matrices[k], hessian([t[k] for t in xs]), rtol=1e-8, atol=1e-7)
