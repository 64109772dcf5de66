"""SOAP: Adam in the eigenbasis of Shampoo's preconditioner."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from thalweg.errors import OptionError
from thalweg.rules.matrix import matrix_rule, rows
from thalweg.rules.program import Floats

__all__ = ["soap"]


def _begin(p: Tensor, hyper: Mapping[str, Floats], options: Mapping[str, Any]) -> dict[str, Tensor]:
    largest = hyper["max_precondition_dim"]
    if largest.min() != largest.max():
        raise OptionError(
            f"soap: max_precondition_dim is {largest.min():g} in one lane and {largest.max():g} in another, "
            f"but it decides what is kept; give all lanes the same"
        )
    sizes = _as_matrix(p).shape[1:]
    sides = p.ndim > 2 or options["precondition_1d"], p.ndim > 2
    states = {"exp_avg": torch.zeros_like(p), "exp_avg_sq": torch.zeros_like(p)}
    for name, size, wanted in zip(("left", "right"), sizes, sides, strict=True):
        side = size if wanted and 0 < size <= largest[0] else 0
        shape = (len(p), side, side) if side else (len(p), 0)
        states |= {name: p.new_zeros(shape), f"{name}_basis": p.new_zeros(shape)}
    return states


@matrix_rule(begin=_begin)
def soap(
    p: Any,
    g: Any,
    exp_avg: Any,
    exp_avg_sq: Any,
    left: Any,
    right: Any,
    left_basis: Any,
    right_basis: Any,
    *,
    lr: float = 3e-3,
    beta1: float = 0.95,
    beta2: float = 0.95,
    shampoo_beta: float = 0.0,
    eps: float = 1e-8,
    weight_decay: float = 1e-2,
    precondition_frequency: float = 10.0,
    max_precondition_dim: float = 10000.0,
    precondition_1d: bool = False,
    correct_bias: bool = True,
    normalize_gradient: bool = False,
    t: int,
) -> Any:
    """SOAP: Adam in slowly turning coordinates, in which the gradient's rows and columns are uncorrelated.

    With ``L' = w*L + (1-w)*G*G^T``, ``R' = w*R + (1-w)*G^T*G`` and their eigenvectors ``U``, ``V`` as
    columns: ``m' = beta1*m + (1-beta1)*G``, ``s' = beta2*s + (1-beta2)*(U^T*G*V)^2``,
    ``N = U * (U^T*m'*V / (sqrt(s') + eps)) * V^T``, ``x' = (x - h*N) * (1 - lr*weight_decay)``,
    ``h = lr * sqrt(1 - beta2**k) / (1 - beta1**k)``, ``k = t - 1``.

    The first step only begins ``L``, ``R``, ``U`` and ``V``. Every ``precondition_frequency`` steps the bases
    follow by one power iteration, ``U' = qr(L' * U)`` in order of the eigenvalues' estimates, in which ``s``
    is sorted too. A side longer than ``max_precondition_dim`` stays as it is; vectors and numbers are Adam's.

    Args:
        p, g, exp_avg, exp_avg_sq: tensor ``[K, m, n]``, gradient, the averages; more axes count as columns.
        left, right, left_basis, right_basis: ``L``, ``R``, ``U``, ``V``.
        lr: learning rate, at least 0.
        beta1, beta2: in [0, 1), the memories.
        shampoo_beta: in [0, 1), the memory ``w``; 0 is ``beta2``.
        eps: over 0.
        weight_decay: at least 0, decoupled from the gradient.
        precondition_frequency: a whole number of at least 1.
        max_precondition_dim: at least 1, the same for all lanes.
        precondition_1d: whether vectors have a basis too.
        correct_bias: off: ``h = lr``.
        normalize_gradient: whether ``N`` is divided by its root mean square.
        t: step, from 1.

    Source: Vyas et al. 2024, a descendant of O13's Hessians local to a set of variables. Deviations: tensors
    of more than two axes are flattened to matrices; directions in which there was no gradient yet have bases
    of their own making, for which the power iteration takes ``L'`` with the square root of the type's
    precision of its mean eigenvalue added on the diagonal: rounding would choose them otherwise.
    """
    memory = np.where(np.equal(shampoo_beta, 0), beta2, shampoo_beta)
    shape, slope = p.shape, _as_matrix(g)
    if left.shape[1]:
        left = rows(memory, left) * left + rows(1 - memory, left) * (slope @ slope.mT)
    if right.shape[1]:
        right = rows(memory, right) * right + rows(1 - memory, right) * (slope.mT @ slope)
    sides = left, right
    if t == 1:
        return p, exp_avg, exp_avg_sq, *sides, *(_eigenvectors(side) for side in sides)
    bases = [left_basis, right_basis]
    exp_avg = rows(beta1, p) * exp_avg + rows(1 - beta1, p) * g
    turned = _turned(slope, bases)
    square = _as_matrix(exp_avg_sq)
    square = rows(beta2, square) * square + rows(1 - beta2, square) * turned * turned
    step = _turned(_as_matrix(exp_avg), bases) / (square.sqrt() + rows(eps, square))
    step = _turned(step, [basis.mT if basis.shape[1] else basis for basis in bases])
    if normalize_gradient:
        step = step / (step.square().mean(dim=(1, 2), keepdim=True).sqrt() + rows(eps, step))
    rate = lr * np.sqrt(1 - beta2 ** (t - 1)) / (1 - beta1 ** (t - 1)) if correct_bias else lr
    p = (p - rows(rate, p) * step.reshape(shape)) * rows(1 - lr * weight_decay, p)
    due = np.mod(t - 1, precondition_frequency) == 0
    if due.any():
        for i, (side, basis) in enumerate(zip(sides, bases, strict=True)):
            if side.shape[1]:
                chosen = rows(due.astype(np.float64), side) > 0
                followed, ordered = _followed(side, basis, square, axis=i + 1)
                bases[i] = torch.where(chosen, followed, basis)
                square = torch.where(chosen, ordered, square)
    return p, exp_avg, square.reshape(shape), *sides, *bases


def _as_matrix(x: Tensor) -> Tensor:
    """``[K, m, n]``: vectors are columns, numbers have one element, and further axes are columns."""
    return x.flatten(2) if x.ndim > 2 else x.reshape(len(x), x[0].numel(), 1)


def _turned(x: Tensor, bases: list[Tensor]) -> Tensor:
    left, right = bases
    if left.shape[1]:
        x = left.mT @ x
    return x @ right if right.shape[1] else x


def _eigenvectors(side: Tensor) -> Tensor:
    """Eigenvectors ``[K, m, m]`` as columns, those of large eigenvalues first."""
    size = side.shape[1]
    if not size:
        return side
    # One diverged lane must not stop the others.
    finite = side.isfinite().all(dim=2).all(dim=1).reshape(-1, 1, 1)
    unit = torch.eye(size, dtype=torch.float64, device=side.device)
    values, vectors = torch.linalg.eigh(torch.where(finite, side.double(), unit))
    values, vectors = values.flip(1), vectors.flip(2)
    # A first gradient has few directions. The basis of all others is that of a falling diagonal seen from
    # there; rounding would choose it otherwise, and where there is gradient later the path depends on it.
    null = values <= 10 * size * torch.finfo(side.dtype).eps * values[:, :1]
    falling = torch.linspace(2, 1, size, dtype=torch.float64, device=side.device)
    seen = vectors.mT @ (falling.reshape(-1, 1) * vectors)
    others = torch.arange(size + 2, 2, -1, device=side.device).double().diag()
    both = null.unsqueeze(1) & null.unsqueeze(2)
    _, within = torch.linalg.eigh(torch.where(both, seen, others))
    chosen: Tensor = vectors @ within.flip(2)
    return chosen.to(side.dtype)


def _little(side: Tensor) -> Tensor:
    """What is little beside the mean eigenvalue and much beside its rounding, ``[K, 1, 1]``."""
    mean: Tensor = side.diagonal(dim1=1, dim2=2).mean(dim=1)
    return float(torch.finfo(side.dtype).eps ** 0.5) * mean.reshape(-1, 1, 1)


def _followed(side: Tensor, basis: Tensor, square: Tensor, axis: int) -> tuple[Tensor, Tensor]:
    """One power iteration from the basis, and the average of squares in the new order of that axis."""
    product = side @ basis + _little(side) * basis
    order = (basis * product).sum(dim=1).argsort(dim=1, descending=True)
    columns = product.gather(2, order.unsqueeze(1).expand_as(product))
    index = order.unsqueeze(2 if axis == 1 else 1).expand_as(square)
    return torch.linalg.qr(columns).Q, square.gather(axis, index)
