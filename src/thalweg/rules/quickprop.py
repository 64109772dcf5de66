"""Quickprop (O8): Newton's step for each parameter alone, its curvature from two gradients."""

from __future__ import annotations

from typing import Any

from thalweg.rules.rule import rule
from thalweg.rules.vocabulary import minimum, sign, where

__all__ = ["quickprop"]


@rule
def quickprop(
    p: Any,
    g: Any,
    prev: Any,
    move: Any,
    *,
    lr: float = 1e-2,
    growth: float = 1.75,
    weight_decay: float = 0.0,
    safe: bool = True,
    t: int,
) -> Any:
    """Quickprop: a jump to the minimum of the parabola through the last two slopes.

    Bare: ``d' = d * g / (prev - g)``, ``x' = x + d'``; the first step is ``d' = -lr * g``.

    Safe, with ``c = (g - prev) / d`` the curvature seen:

    - where ``d`` is zero ``d' = -lr * g``: there is nothing to extrapolate from;
    - elsewhere ``d'`` leads downhill, is as long as the bare one but at most ``growth * |d|``, and is just
      that long where ``c`` isn't positive, for there the parabola has no minimum;
    - where ``g`` and ``prev`` have the same sign ``-lr * g`` is added, since what a parameter hasn't passed
      yet it shouldn't only approach.

    Args:
        p, g, prev, move: parameter, gradient, the gradient before, the step before.
        lr: rate of the gradient steps, at least 0.
        growth: at least 1, the most that a step may be longer than the one before.
        weight_decay: times the parameter, added to the gradient.
        safe: off is the slide's form, which divides by zero where the gradient stays the same.
        t: step, from 1.

    Source: O8 (C s116-121, the sign of s119 corrected: as printed it climbs), Fahlman 1988 for the
    safeguards. Deviation: Fahlman lets a step that went uphill grow to the limit; here it leads downhill.

    >>> quickprop(1.0, 1.0, 3.0, -2.0, lr=0.5, growth=1.75, safe=False, t=2)
    (0.0, 1.0, -1.0)
    >>> quickprop(1.0, 2.0, 3.0, -2.0, lr=0.5, growth=1.75, safe=True, t=2)
    (-3.5, 2.0, -4.5)
    """
    if weight_decay:
        g = g + weight_decay * p
    gradient_step = -lr * g
    change = prev - g
    if safe:
        # What is chosen from is computed on all sides, so the quotient may be anything where it isn't used.
        ratio = where(sign(change) * sign(move) < 0, minimum(abs(g / change), growth), growth)
        jump = -sign(g) * ratio * abs(move)
        jump = jump + where(sign(g) * sign(prev) > 0, gradient_step, 0.0)
        new_move = where(move == 0.0, gradient_step, jump)
    else:
        new_move = where(t > 1, move * g / change, gradient_step)
    return p + new_move, g, new_move
