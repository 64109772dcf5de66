"""Steps that ask the gradient for its sign alone: Rprop (O7) and Lion."""

from __future__ import annotations

from typing import Any

from thalweg.errors import OptionError, nearest
from thalweg.rules.rule import rule
from thalweg.rules.vocabulary import maximum, minimum, sign, where

__all__ = ["OVERSHOOTS", "lion", "rprop"]

OVERSHOOTS = ("stay", "back", "reverse")
"""What Rprop may do where the gradient's sign has changed."""


@rule(initial={"step_size": "lr"})
def rprop(
    p: Any,
    g: Any,
    prev: Any,
    step_size: Any,
    *,
    lr: float = 1e-2,
    etaminus: float = 0.5,
    etaplus: float = 1.2,
    step_size_min: float = 1e-6,
    step_size_max: float = 50.0,
    limits: bool = True,
    overshoot: str = "stay",
) -> Any:
    """Rprop: steps of each parameter's own that grow while its gradient keeps its sign.

    With ``g`` and ``prev`` of the same sign ``d' = etaplus * d``, of opposite signs ``d' = etaminus * d``,
    with either zero ``d' = d``; with ``limits`` ``d'`` is brought into ``[step_size_min, step_size_max]``.
    Then ``x' = x - sign(g) * d'`` and ``prev' = g``, except where the sign has changed:

    - ``"stay"``: ``x' = x``, ``prev' = 0``; from there the next step goes with its own sign and ``d'``.
    - ``"back"``: ``x' = x + sign(prev) * d``, where the step before came from, ``prev' = 0``.
    - ``"reverse"``: no exception; the smaller step leads back at once.

    Args:
        p, g, prev, step_size: parameter, gradient, the gradient remembered, length of the step.
        lr: length of the first step, over 0; nothing afterwards.
        etaminus: in (0, 1).
        etaplus: over 1.
        step_size_min, step_size_max: over 0, floor and ceiling of the step's length.
        limits: whether there are floor and ceiling.
        overshoot: what happens where the sign has changed.

    Source: O7 (C s105-114; limits s113, none s114; back s109-114; reverse s105), Riedmiller and Braun 1993;
    "stay" is ``torch.optim.Rprop``. Igel and Huesken 2003 call them iRprop-, Rprop+ and Rprop-. Deviations:
    the slides let the step carry a sign, on which the limits act wrongly and which is never renewed; here
    limits act on its length, the sign is the current gradient's, and after going back the remembered
    gradient is zero, so that the next step neither grows nor shrinks. Signs are compared, where torch
    multiplies gradients, whose product may underflow; a gradient that is NaN makes the parameter NaN, where
    torch takes it for zero.

    >>> rprop(1.0, 2.0, 3.0, 0.5, etaplus=1.2, etaminus=0.5, step_size_min=0.0, step_size_max=0.55)
    (0.44999999999999996, 2.0, 0.55)
    >>> rprop(1.0, -2.0, 3.0, 0.5, etaplus=1.2, etaminus=0.5, limits=False, overshoot="back")
    (1.5, 0.0, 0.25)
    """
    if overshoot not in OVERSHOOTS:
        raise OptionError(f"rprop: overshoot is {overshoot!r}; {nearest(overshoot, OVERSHOOTS)}")
    direction = sign(g)
    agreement = direction * sign(prev)
    changed = agreement < 0
    shorter = where(changed, etaminus * step_size, step_size)
    length = where(agreement > 0, etaplus * step_size, shorter)
    if limits:
        length = minimum(maximum(length, step_size_min), step_size_max)
    moved = p - direction * length
    if overshoot == "reverse":
        return moved, g, length
    stayed = p + sign(prev) * step_size if overshoot == "back" else p
    return where(changed, stayed, moved), where(changed, 0.0, g), length


@rule
def lion(
    p: Any,
    g: Any,
    exp_avg: Any,
    *,
    lr: float = 1e-4,
    beta1: float = 0.9,
    beta2: float = 0.99,
    weight_decay: float = 0.0,
    decoupled: bool = True,
) -> Any:
    """Lion: the sign of a mean of gradient and momentum, which remembers longer than it looks.

    ``x' = x * (1 - lr * weight_decay) - lr * sign(beta1 * m + (1 - beta1) * g)``,
    ``m' = beta2 * m + (1 - beta2) * g``.

    Args:
        p, g, exp_avg: parameter, gradient, average of the gradients.
        lr: learning rate, at least 0: the length of every step.
        beta1: in [0, 1), how much of the step is the average's.
        beta2: in [0, 1), the memory of the average.
        weight_decay: at least 0.
        decoupled: whether decay acts on the parameter; otherwise it is added to the gradient.

    Source: Chen et al. 2023, a descendant of O7's signs and O2's averages.

    >>> lion(1.0, 2.0, -1.0, lr=0.25, beta1=0.5, beta2=0.75)
    (0.75, -0.25)
    """
    if weight_decay:
        if decoupled:
            p = p * (1 - lr * weight_decay)
        else:
            g = g + weight_decay * p
    step = sign(beta1 * exp_avg + (1 - beta1) * g)
    return p - lr * step, beta2 * exp_avg + (1 - beta2) * g
