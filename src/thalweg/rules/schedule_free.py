"""Averaging in the place of a schedule: Schedule-Free AdamW (A1 as it is used now)."""

from __future__ import annotations

from typing import Any

from thalweg.rules.rule import rule
from thalweg.rules.vocabulary import maximum, minimum, sqrt

__all__ = ["schedule_free_adamw"]


@rule
def _average(p: Any, g: Any, z: Any, *, beta1: float = 0.9) -> Any:
    """The mean ``x`` of the iterates, from the parameter ``y = beta1 * x + (1 - beta1) * z``."""
    return p + (1 - 1 / beta1) * (z - p), z


@rule(initial={"z": "p"}, scalars=("weight_sum", "lr_max"), shown=_average)
def schedule_free_adamw(
    p: Any,
    g: Any,
    z: Any,
    exp_avg_sq: Any,
    weight_sum: Any,
    lr_max: Any,
    *,
    lr: float = 2.5e-3,
    beta1: float = 0.9,
    beta2: float = 0.999,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    warmup_steps: float = 0.0,
    r: float = 0.0,
    weight_lr_power: float = 2.0,
    t: int,
) -> Any:
    """Schedule-Free AdamW: the gradient between an iterate and the mean of all, which is what counts.

    ``h = lr * min(1, t / warmup_steps)``, ``s' = beta2 * s + (1 - beta2) * g*g``,
    ``d = g / (sqrt(s' / (1 - beta2**t)) + eps) + weight_decay * y``, ``z' = z - h * d``; the mean is
    ``x' = (1 - c) * x + c * z'``, with ``c`` the share of this step's weight ``t**r * H**weight_lr_power`` in
    the sum of all, ``H`` the largest ``h`` so far; ``y' = beta1 * x' + (1 - beta1) * z'``. The parameter is
    ``y``; ``x`` isn't stored, but follows from ``y`` and ``z``, and is what the rule shows.

    Args:
        p, g, z, exp_avg_sq: ``y``, the gradient there, the iterate, the average of squares.
        weight_sum, lr_max: sum of the weights and largest rate so far, one number each.
        lr: learning rate, at least 0.
        beta1: in (0, 1), how near the mean the gradient is taken.
        beta2: in [0, 1), the memory of the squares.
        eps: over 0.
        weight_decay: at least 0, decoupled from the gradient, at ``y``.
        warmup_steps: at least 0, of a linear warm-up.
        r: power of the step in its weight.
        weight_lr_power: power of the largest rate in a step's weight.
        t: step, from 1.

    Source: Defazio et al. 2024, a descendant of A1's uniform averages (N 8.39).

    >>> new = schedule_free_adamw(1.0, 2.0, 1.0, 0.0, 0.0, 0.0, lr=0.5, beta1=0.75, beta2=0.75, eps=0.0, t=1)
    >>> [round(x, 6) for x in new]
    [0.5, 0.5, 1.0, 0.25, 0.5]
    """
    rate = lr * minimum(t / maximum(warmup_steps, 1.0), 1.0)
    lr_max = maximum(lr_max, rate)
    weight = t**r * lr_max**weight_lr_power
    weight_sum = weight_sum + weight
    # A sum of zero has a weight of zero above it: a warm-up from nothing.
    share = weight / maximum(weight_sum, 1e-300)
    exp_avg_sq = beta2 * exp_avg_sq + (1 - beta2) * g * g
    step = g / (sqrt(exp_avg_sq) / sqrt(1 - beta2**t) + eps)
    if weight_decay:
        step = step + weight_decay * p
    p = p + share * (z - p) + rate * (beta1 * (1 - share) - 1) * step
    return p, z - rate * step, exp_avg_sq, weight_sum, lr_max
