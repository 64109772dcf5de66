"""Gradient descent and momentum in its spellings (O1, O2, O3)."""

from __future__ import annotations

from typing import Any

from thalweg.rules.rule import rule
from thalweg.rules.vocabulary import where

__all__ = ["averaged_momentum", "lookahead", "momentum", "nesterov", "sgd"]


@rule
def sgd(
    p: Any,
    g: Any,
    momentum_buffer: Any,
    *,
    lr: float = 1e-3,
    momentum: float = 0.0,
    dampening: float = 0.0,
    weight_decay: float = 0.0,
    nesterov: bool = False,
    t: int,
) -> Any:
    """Gradient descent, with momentum whose rate stands outside the velocity.

    ``v' = momentum * v + (1 - dampening) * g`` (at the first step ``v' = g``), ``x' = x - lr * v'``;
    with ``nesterov`` ``x' = x - lr * (g + momentum * v')``; without momentum ``x' = x - lr * g``.

    Args:
        p, g, momentum_buffer: parameter, gradient, velocity.
        lr: learning rate, at least 0.
        momentum: in [0, 1); at 0 there is no velocity.
        dampening: in [0, 1].
        weight_decay: times the parameter, added to the gradient.
        nesterov: the form without look-ahead, exact while momentum is constant.
        t: step, from 1.

    Source: O1, O2 (S 1: ``V = y*V + grad``, ``x -= a*V``), O3; spelled as ``torch.optim.SGD``.

    >>> sgd(1.0, 2.0, 0.5, lr=0.1, momentum=0.5, t=2)
    (0.775, 2.25)
    """
    if weight_decay:
        g = g + weight_decay * p
    if momentum:
        momentum_buffer = momentum * momentum_buffer + where(t > 1, 1 - dampening, 1.0) * g
        g = g + momentum * momentum_buffer if nesterov else momentum_buffer
    return p - lr * g, momentum_buffer


@rule
def momentum(
    p: Any, g: Any, velocity: Any, *, lr: float = 1e-2, momentum: float = 0.9, weight_decay: float = 0.0
) -> Any:
    """Momentum with the rate inside the velocity.

    ``v' = momentum * v - lr * g``, ``x' = x + v'``. A new rate acts on new gradients alone; with the rate
    outside (:data:`sgd`) it rescales the whole velocity. Equal while rate and momentum are constant.

    Args:
        p, g, velocity: parameter, gradient, velocity.
        lr: learning rate, at least 0.
        momentum: in [0, 1).
        weight_decay: times the parameter, added to the gradient.

    Source: O2 (K Alg 8.2, C s126-133); Polyak 1964.

    >>> momentum(1.0, 2.0, 0.5, lr=0.25, momentum=0.5)
    (0.75, -0.25)
    """
    if weight_decay:
        g = g + weight_decay * p
    velocity = momentum * velocity - lr * g
    return p + velocity, velocity


@rule
def averaged_momentum(
    p: Any, g: Any, average: Any, *, lr: float = 1e-2, momentum: float = 0.9, weight_decay: float = 0.0
) -> Any:
    """Momentum as the exponential average of gradients.

    ``m' = momentum * m + (1 - momentum) * g``, ``x' = x - lr * m'``. While rate and momentum are constant
    it is :data:`sgd` at the rate ``lr * (1 - momentum)``.

    Args:
        p, g, average: parameter, gradient, average of the gradients.
        lr: learning rate, at least 0.
        momentum: in [0, 1).
        weight_decay: times the parameter, added to the gradient.

    Source: O2, the prose of K and C.

    >>> averaged_momentum(1.0, 2.0, 0.5, lr=0.4, momentum=0.5)
    (0.5, 1.25)
    """
    if weight_decay:
        g = g + weight_decay * p
    average = momentum * average + (1 - momentum) * g
    return p - lr * average, average


@rule
def nesterov(
    p: Any, g: Any, ahead: Any, *, lr: float = 1e-2, momentum: float = 0.9, weight_decay: float = 0.0
) -> Any:
    """Nesterov's accelerated gradient after the change of variables, right for scheduled momentum too.

    ``x`` is the look-ahead point itself, so the gradient is taken where the parameters are. With ``y`` the
    momentum of the look-ahead before and ``y'`` of the new one (``momentum``):
    ``v' = y*v - lr*g``, ``x' = x + (1 + y')*v' - y*v``. The state is ``ahead = y*v``, the way already
    looked ahead, so that no ``y`` has to be remembered beside it.

    Args:
        p, g, ahead: parameter, gradient, momentum times velocity as of the step before.
        lr: learning rate, at least 0.
        momentum: in [0, 1), of the look-ahead from this step's point.
        weight_decay: times the parameter, added to the gradient.

    Source: O3 (S 2, corrected), Nesterov 1983, Sutskever et al. 2013. Deviation: S 2 writes it for constant
    momentum, and keeps ``v``.

    >>> nesterov(1.0, 2.0, 0.5, lr=0.25, momentum=0.5)
    (0.5, 0.0)
    """
    if weight_decay:
        g = g + weight_decay * p
    velocity = ahead - lr * g
    return p + (1 + momentum) * velocity - ahead, momentum * velocity


@rule
def lookahead(
    p: Any,
    g: Any,
    momentum_buffer: Any,
    *,
    lr: float = 1e-3,
    momentum: float = 0.9,
    weight_decay: float = 0.0,
) -> Any:
    """Nesterov's accelerated gradient, its gradient taken at the look-ahead point ``x - lr * momentum * v``.

    ``v' = momentum * v + g``, ``x' = x - lr * v'``: as :data:`sgd`, but for where ``g`` and decay come from.

    Args:
        p, g, momentum_buffer: parameter, gradient at the look-ahead point, velocity.
        lr: learning rate, at least 0.
        momentum: in [0, 1), of the look-ahead before this step too.
        weight_decay: times the look-ahead point, added to the gradient.

    Source: O3 (K, S 2, C s134-140), Nesterov 1983; the rate outside, as in :data:`sgd`. While the rate is
    constant its look-ahead points are those of :data:`nesterov`, whatever the momentum does.

    >>> lookahead(1.0, 2.0, 0.5, lr=0.25, momentum=0.5)
    (0.4375, 2.25)
    """
    if weight_decay:
        g = g + weight_decay * (p - lr * momentum * momentum_buffer)
    momentum_buffer = momentum * momentum_buffer + g
    return p - lr * momentum_buffer, momentum_buffer
