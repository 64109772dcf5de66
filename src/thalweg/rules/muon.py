"""Muon: momentum whose matrices are made orthogonal, with AdamW for what is no matrix."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from thalweg.rules.adaptive import adamw
from thalweg.rules.matrix import matrix_rule, rows
from thalweg.rules.program import Floats
from thalweg.rules.trace import trace

__all__ = ["ADJUSTMENTS", "PRECISIONS", "muon", "muon_adamw"]

ADJUSTMENTS = ("original", "match_rms_adamw")
"""How the rate follows the shape of a matrix."""

PRECISIONS = ("bfloat16", "parameter")
"""What the orthogonalization is computed in."""


def _begin(p: Tensor, hyper: Mapping[str, Floats], options: Mapping[str, Any]) -> dict[str, Tensor]:
    return {"momentum_buffer": torch.zeros_like(p)}


@matrix_rule(begin=_begin)
def muon(
    p: Any,
    g: Any,
    momentum_buffer: Any,
    *,
    lr: float = 1e-3,
    weight_decay: float = 0.1,
    momentum: float = 0.95,
    ns_a: float = 3.4445,
    ns_b: float = -4.7750,
    ns_c: float = 2.0315,
    eps: float = 1e-7,
    ns_steps: float = 5.0,
    nesterov: bool = True,
    adjust_lr_fn: str = "original",
    precision: str = "bfloat16",
) -> Any:
    """Muon: the momentum of a matrix, brought to singular values near one.

    ``b' = momentum * b + (1 - momentum) * g``, ``u = momentum * b' + (1 - momentum) * g`` with ``nesterov``,
    else ``b'``. ``O``: ``ns_steps`` times ``X' = a*X + (b*A + c*A*A) * X``, ``A = X * X^T``, from
    ``u / max(|u|, eps)``, transposed where it is taller than wide. ``x' = x * (1 - lr * weight_decay) -
    lr * s * O``, with ``s = sqrt(max(1, rows/columns))``, or ``0.2 * sqrt(max(rows, columns))``, which has
    the size of AdamW's steps, so that its rates and decay serve here.

    Args:
        p, g, momentum_buffer: matrix ``[K, m, n]``, gradient, velocity; more axes count as columns.
        lr: learning rate, at least 0.
        weight_decay: at least 0, decoupled from the gradient.
        momentum: in [0, 1).
        ns_a, ns_b, ns_c: coefficients of the iteration.
        eps: over 0.
        ns_steps: a whole number of at least 1.
        nesterov: whether the momentum looks ahead.
        adjust_lr_fn: ``"original"`` or ``"match_rms_adamw"``.
        precision: of the iteration: ``"bfloat16"``, or ``"parameter"``'s own.

    Source: Jordan et al. 2024; the second rate Liu et al. 2025; spelled as ``torch.optim.Muon``, a descendant
    of O13's Hessians local to a set of variables. Deviation: a gradient whose squares overflow makes a step
    like any other, where torch makes none.

    >>> p, g = torch.zeros(1, 2, 2), torch.tensor([[[3.0, 0.0], [0.0, 4.0]]])
    >>> one = {name: np.array([value]) for name, value in muon.hyperparameters.items()}
    >>> new, _ = muon(p, g, torch.zeros(1, 2, 2), **one | {"lr": np.array([1.0])})
    >>> -new[0].diagonal().round(decimals=1)
    tensor([0.7000, 1.1000])
    """
    return _muon(
        p, g, momentum_buffer, lr, weight_decay, momentum, (ns_a, ns_b, ns_c), eps, ns_steps, nesterov,
        adjust_lr_fn, precision,
    )  # fmt: skip


def _begin_both(p: Tensor, hyper: Mapping[str, Floats], options: Mapping[str, Any]) -> dict[str, Tensor]:
    none = p.new_zeros(len(p), 0)
    if _is_matrix(p):
        return {"momentum_buffer": torch.zeros_like(p), "exp_avg": none, "exp_avg_sq": none.clone()}
    averages = {"exp_avg": torch.zeros_like(p), "exp_avg_sq": torch.zeros_like(p)}
    return {"momentum_buffer": none} | averages


@matrix_rule(begin=_begin_both)
def muon_adamw(
    p: Any,
    g: Any,
    momentum_buffer: Any,
    exp_avg: Any,
    exp_avg_sq: Any,
    *,
    lr: float = 1e-3,
    weight_decay: float = 0.1,
    momentum: float = 0.95,
    ns_a: float = 3.4445,
    ns_b: float = -4.7750,
    ns_c: float = 2.0315,
    eps: float = 1e-7,
    ns_steps: float = 5.0,
    beta1: float = 0.9,
    beta2: float = 0.999,
    adamw_eps: float = 1e-8,
    adamw_ratio: float = 1.0,
    nesterov: bool = True,
    adjust_lr_fn: str = "original",
    precision: str = "bfloat16",
    t: int,
) -> Any:
    """Muon for tensors of two axes or more, AdamW for vectors and numbers.

    Args:
        p, g, momentum_buffer, exp_avg, exp_avg_sq: tensor ``[K, ...]``, gradient, the states of both.
        lr, weight_decay, momentum, ns_a, ns_b, ns_c, eps, ns_steps: of :data:`muon`; the first two of AdamW
            too.
        beta1, beta2, adamw_eps: of :data:`adamw`.
        adamw_ratio: at least 0, AdamW's rate over ``lr``.
        nesterov, adjust_lr_fn, precision: of :data:`muon`.
        t: step, from 1.

    Source: as :data:`muon`, whose authors recommend it so.
    """
    if _is_matrix(p):
        p, momentum_buffer = _muon(
            p, g, momentum_buffer, lr, weight_decay, momentum, (ns_a, ns_b, ns_c), eps, ns_steps, nesterov,
            adjust_lr_fn, precision,
        )  # fmt: skip
        return p, momentum_buffer, exp_avg, exp_avg_sq
    hyper = {"lr": lr * adamw_ratio, "beta1": beta1, "beta2": beta2, "eps": adamw_eps}
    program = trace(adamw, {}, frozenset())
    scalars = program.scalars(hyper | {"weight_decay": weight_decay}, t)
    p, states = program.evaluate(p, g, {"exp_avg": exp_avg, "exp_avg_sq": exp_avg_sq}, scalars)
    return p, momentum_buffer, states["exp_avg"], states["exp_avg_sq"]


def _is_matrix(p: Tensor) -> bool:
    return p.ndim > 2


def _muon(
    p: Tensor,
    g: Tensor,
    momentum_buffer: Tensor,
    lr: Any,
    weight_decay: Any,
    momentum: Any,
    coefficients: tuple[Any, Any, Any],
    eps: Any,
    ns_steps: Any,
    nesterov: bool,
    adjust_lr_fn: str,
    precision: str,
) -> tuple[Tensor, Tensor]:
    mass, rest = rows(momentum, g), rows(1 - momentum, g)
    momentum_buffer = mass * momentum_buffer + rest * g
    update = mass * momentum_buffer + rest * g if nesterov else momentum_buffer
    if not p.numel():
        return p, momentum_buffer
    flat = update.flatten(2)
    held = flat.bfloat16() if precision == "bfloat16" else flat
    step = _orthogonalized(held, coefficients, eps, ns_steps).to(p.dtype).reshape(p.shape)
    height, width = flat.shape[1:]
    matching = adjust_lr_fn == "match_rms_adamw"
    scale = 0.2 * math.sqrt(max(height, width)) if matching else math.sqrt(max(1.0, height / width))
    return p * rows(1 - lr * weight_decay, p) - rows(lr * scale, p) * step, momentum_buffer


def _orthogonalized(x: Tensor, coefficients: tuple[Any, Any, Any], eps: Floats, steps: Floats) -> Tensor:
    """Newton and Schulz's iteration of a quintic, for matrices ``[K, m, n]``."""
    tall = x.shape[1] > x.shape[2]
    if tall:
        x = x.mT
    # Brought near 1 by a power of two, which rounds nothing: squares of large numbers would overflow.
    wide = torch.promote_types(x.dtype, torch.float32)
    exponent = torch.frexp(x.abs().amax(dim=(1, 2), keepdim=True).to(wide)).exponent
    most = 900 if wide == torch.float64 else 100
    unit = torch.ldexp(torch.ones_like(exponent, dtype=wide), -exponent.clamp(-most, most)).to(x.dtype)
    x = x * unit
    size = torch.linalg.vector_norm(x, dim=(1, 2), keepdim=True)
    x = x / torch.maximum(size, rows(eps, x) * unit)
    # The coefficients have more digits than bfloat16.
    a, b, c = (rows(number, x, wide) for number in coefficients)
    for step in range(int(steps.max())):
        gram = x @ x.mT
        polynomial = (b * gram + c * (gram @ gram)).to(x.dtype)
        new = (a * x + polynomial @ x).to(x.dtype)
        x = new if step < steps.min() else torch.where(rows((step < steps).astype(np.float64), x) > 0, new, x)
    return x.mT if tall else x
