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
    size = sum(n * n for n in _sides(p, largest, options["precondition_1d"]).values())
    states = {"exp_avg": torch.zeros_like(p), "exp_avg_sq": torch.zeros_like(p)}
    return states | {name: p.new_zeros(len(p), size) for name in ("covariances", "bases")}


def _sides(p: Tensor, largest: Any, precondition_1d: bool) -> dict[int, int]:
    """Return the axes of ``[K, ...]`` that have a basis, and their lengths; of length 1 there is but one."""
    if not p.numel() or (p.ndim < 3 and not precondition_1d):
        return {}
    return {axis: n for axis, n in enumerate(p.shape[1:], 1) if 1 < n <= largest[0]}


@matrix_rule(begin=_begin)
def soap(
    p: Any,
    g: Any,
    exp_avg: Any,
    exp_avg_sq: Any,
    covariances: Any,
    bases: Any,
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

    For each axis i, with ``G_i`` the gradient as a matrix whose rows go along it: ``C_i' = w*C_i +
    (1-w)*G_i*G_i^T`` and its eigenvectors ``Q_i`` as columns. With ``T(x)`` the tensor ``x`` after
    ``x_i -> Q_i^T * x_i`` along every axis: ``m' = beta1*m + (1-beta1)*G``, ``s' = beta2*s +
    (1-beta2)*T(G)^2``, ``N = T^-1(T(m') / (sqrt(s') + eps))``, ``x' = (x - h*N) * (1 - lr*weight_decay)``,
    ``h = lr * sqrt(1 - beta2**k) / (1 - beta1**k)``, ``k = t - 1``.

    The first step only begins ``C`` and ``Q``. Every ``precondition_frequency`` steps the bases follow by
    one power iteration, ``Q_i' = qr(C_i' * Q_i)`` in order of the eigenvalues' estimates, in which ``s`` is
    sorted too. An axis longer than ``max_precondition_dim`` stays as it is; vectors and numbers are Adam's.

    Args:
        p, g, exp_avg, exp_avg_sq: tensor ``[K, ...]`` of any number of axes, gradient, the averages.
        covariances, bases: ``C`` and ``Q`` of all axes that have a basis, flat and side by side.
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

    Source: Vyas et al. 2024, a descendant of O13's Hessians local to a set of variables. Deviations:
    directions in which there was no gradient yet have bases of their own making, for which the power
    iteration takes ``C'`` with the square root of the type's precision of its mean eigenvalue added on the
    diagonal: rounding would choose them otherwise; a gradient whose squares overflow is left out of ``C``,
    so that its step is Adam's, whose ``s`` is infinite, rather than NaN.
    """
    memory = np.where(np.equal(shampoo_beta, 0), beta2, shampoo_beta)
    sides = _sides(p, max_precondition_dim, precondition_1d)
    known = _apart(covariances, sides)
    seen = {axis: _covariance(g, axis) for axis in sides}
    for axis, new in seen.items():
        followed = rows(memory, new) * known[axis] + rows(1 - memory, new) * new
        known[axis] = torch.where(_finite(followed), followed, known[axis])
    covariances = _together(known, covariances)
    if t == 1:
        begun = {axis: _eigenvectors(side) for axis, side in known.items()}
        return p, exp_avg, exp_avg_sq, covariances, _together(begun, bases)
    turns = _apart(bases, sides)
    exp_avg = rows(beta1, p) * exp_avg + rows(1 - beta1, p) * g
    turned = _turned(g, turns)
    square = rows(beta2, p) * exp_avg_sq + rows(1 - beta2, p) * turned * turned
    step = _turned(exp_avg, turns) / (square.sqrt() + rows(eps, p))
    step = _turned(step, {axis: basis.mT for axis, basis in turns.items()})
    if normalize_gradient:
        size = step.square().reshape(len(p), -1).mean(dim=1).sqrt()
        step = step / (size.reshape(-1, *(1,) * (p.ndim - 1)) + rows(eps, p))
    rate = lr * np.sqrt(1 - beta2 ** (t - 1)) / (1 - beta1 ** (t - 1)) if correct_bias else lr
    p = (p - rows(rate, p) * step) * rows(1 - lr * weight_decay, p)
    due = np.mod(t - 1, precondition_frequency) == 0
    if due.any():
        chosen = rows(due.astype(np.float64), p) > 0
        for axis, side in known.items():
            followed, ordered = _followed(side, turns[axis], square, axis)
            turns[axis] = torch.where(chosen.reshape(-1, 1, 1), followed, turns[axis])
            square = torch.where(chosen, ordered, square)
    return p, exp_avg, square, covariances, _together(turns, bases)


def _apart(flat: Tensor, sides: Mapping[int, int]) -> dict[int, Tensor]:
    """``[K, sum of n*n]`` to one ``[K, n, n]`` for each axis."""
    parts = torch.split(flat, [n * n for n in sides.values()], dim=1) if sides else ()
    return {axis: part.reshape(len(flat), n, n) for (axis, n), part in zip(sides.items(), parts, strict=True)}


def _together(matrices: Mapping[int, Tensor], empty: Tensor) -> Tensor:
    return torch.cat([matrix.flatten(1) for matrix in matrices.values()], dim=1) if matrices else empty


def _covariance(g: Tensor, axis: int) -> Tensor:
    """Products of the slices along an axis, ``[K, n, n]``."""
    along = g.movedim(axis, 1).reshape(len(g), g.shape[axis], -1)
    return along @ along.mT


def _turned(x: Tensor, bases: Mapping[int, Tensor]) -> Tensor:
    """Every axis seen in its basis."""
    for axis, basis in bases.items():
        along = x.movedim(axis, -1)
        x = (along.reshape(len(x), -1, x.shape[axis]) @ basis).reshape(along.shape).movedim(-1, axis)
    return x


def _finite(side: Tensor) -> Tensor:
    """Whether a matrix of each lane is finite, ``[K, 1, 1]``."""
    return side.isfinite().all(dim=2).all(dim=1).reshape(-1, 1, 1)


def _eigenvectors(side: Tensor) -> Tensor:
    """Eigenvectors ``[K, m, m]`` as columns, those of large eigenvalues first."""
    size = side.shape[1]
    values, vectors = torch.linalg.eigh(side.double())
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


def _scaled(side: Tensor) -> Tensor:
    """A matrix times a power of two that brings it near 1: the same directions, and no product overflows."""
    exponent = torch.frexp(side.abs().amax(dim=(1, 2), keepdim=True)).exponent
    return torch.ldexp(side, -exponent.clamp(-100, 100))


def _followed(side: Tensor, basis: Tensor, square: Tensor, axis: int) -> tuple[Tensor, Tensor]:
    """One power iteration from the basis, and the average of squares in the new order of that axis."""
    side = _scaled(side)
    product = side @ basis + _little(side) * basis
    order = (basis * product).sum(dim=1).argsort(dim=1, descending=True)
    columns = product.gather(2, order.unsqueeze(1).expand_as(product))
    places = [-1 if i == axis else 1 for i in range(1, square.ndim)]
    index = order.reshape(len(order), *places).expand_as(square)
    return torch.linalg.qr(columns).Q, square.gather(axis, index)
