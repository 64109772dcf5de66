"""Rates of each parameter's own: AdaGrad, RMSProp, Adam, AdamW, NAdam (O4, O5, O6)."""

from __future__ import annotations

from typing import Any

from thalweg.rules.rule import rule
from thalweg.rules.vocabulary import maximum, sqrt, where

__all__ = ["adagrad", "adam", "adamw", "nadam", "rmsprop"]


@rule(initial={"sum": "initial_accumulator_value"})
def adagrad(
    p: Any,
    g: Any,
    sum: Any,
    *,
    lr: float = 1e-2,
    lr_decay: float = 0.0,
    weight_decay: float = 0.0,
    initial_accumulator_value: float = 0.0,
    eps: float = 1e-10,
    t: int,
) -> Any:
    """AdaGrad: rates that shrink with the sum of squared gradients.

    ``r' = r + g*g``, ``x' = x - lr / (1 + (t - 1) * lr_decay) * g / (sqrt(r') + eps)``.

    Args:
        p, g, sum: parameter, gradient, sum of squares.
        lr: learning rate, at least 0.
        lr_decay: at least 0; the rate's own inverse-time decay.
        weight_decay: times the parameter, added to the gradient.
        initial_accumulator_value: where ``sum`` starts, at least 0.
        eps: outside the root, over 0.
        t: step, from 1.

    Source: O4 (K Alg 8.4 and S 3 with eps 1e-7), Duchi et al. 2011; spelled as ``torch.optim.Adagrad``.

    >>> adagrad(1.0, 2.0, 5.0, lr=1.5, eps=0.0, t=1)
    (0.0, 9.0)
    """
    if weight_decay:
        g = g + weight_decay * p
    sum = sum + g * g
    return p - lr / (1 + (t - 1) * lr_decay) * g / (sqrt(sum) + eps), sum


@rule
def rmsprop(
    p: Any,
    g: Any,
    square_avg: Any,
    momentum_buffer: Any,
    grad_avg: Any,
    *,
    lr: float = 1e-2,
    alpha: float = 0.99,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    momentum: float = 0.0,
    centered: bool = False,
    eps_inside: bool = False,
) -> Any:
    """RMSProp: AdaGrad with an exponential average in the place of the sum.

    ``r' = alpha * r + (1 - alpha) * g*g``, ``x' = x - lr * g / (sqrt(r') + eps)``; with ``eps_inside``
    the divisor is ``sqrt(r' + eps)``; ``centered`` takes the square of the averaged gradient from ``r'``;
    with momentum ``b' = momentum * b + g / divisor``, ``x' = x - lr * b'``.

    Args:
        p, g, square_avg, momentum_buffer, grad_avg: parameter, gradient, and the averages.
        lr: learning rate, at least 0.
        alpha: in [0, 1), the memory of the averages (rho on the slides).
        eps: over 0.
        weight_decay: times the parameter, added to the gradient.
        momentum: in [0, 1).
        centered: divide by the deviation rather than the root mean square.
        eps_inside: as K has it (with eps 1e-6).

    Source: O5 (K Alg 8.5 inside, S 4 outside with 1e-7), Hinton 2012; spelled as ``torch.optim.RMSprop``.
    Deviation: a variance that rounding took below zero counts as zero, where torch gives NaN; the variance of
    squares that overflow is infinite, where torch gives that or NaN, as the processor multiplies.

    >>> rmsprop(1.0, 2.0, 0.0, 0.0, 0.0, lr=0.5, alpha=0.75, eps=0.0)
    (0.0, 1.0, 0.0, 0.0)
    """
    if weight_decay:
        g = g + weight_decay * p
    square_avg = alpha * square_avg + (1 - alpha) * g * g
    spread = square_avg
    if centered:
        grad_avg = alpha * grad_avg + (1 - alpha) * g
        spread = maximum(square_avg - grad_avg * grad_avg, 0.0)
        # Where squares overflow there is no difference, but no step either: only infinity has a - a != 0.
        spread = where(square_avg - square_avg == 0, spread, square_avg)
    divisor = sqrt(spread + eps) if eps_inside else sqrt(spread) + eps
    step = g / divisor
    if momentum:
        step = momentum_buffer = momentum * momentum_buffer + step
    return p - lr * step, square_avg, momentum_buffer, grad_avg


@rule
def adam(
    p: Any,
    g: Any,
    exp_avg: Any,
    exp_avg_sq: Any,
    max_exp_avg_sq: Any,
    *,
    lr: float = 1e-3,
    beta1: float = 0.9,
    beta2: float = 0.999,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    amsgrad: bool = False,
    bias_correction: bool = True,
    t: int,
) -> Any:
    """Adam: the averaged gradient over the root of the averaged square.

    ``m' = beta1 * m + (1 - beta1) * g``, ``s' = beta2 * s + (1 - beta2) * g*g``,
    ``x' = x - lr * mh / (sqrt(sh) + eps)`` with ``mh = m' / (1 - beta1**t)``, ``sh = s' / (1 - beta2**t)``;
    without ``bias_correction`` ``mh = m'``, ``sh = s'``; ``amsgrad`` takes the largest ``s'`` so far.

    Args:
        p, g, exp_avg, exp_avg_sq, max_exp_avg_sq: parameter, gradient, the averages and their maximum.
        lr: learning rate, at least 0.
        beta1, beta2: in [0, 1), the memories.
        eps: over 0.
        weight_decay: times the parameter, added to the gradient.
        amsgrad: whether the divisor may only grow.
        bias_correction: off is the plain form of S 5.
        t: step, from 1.

    Source: O6 (S 5, S 6, K Alg 8.7), Kingma and Ba 2015, Reddi et al. 2018; spelled as ``torch.optim.Adam``.
    Deviation: the slides count from 0 (S 6), here from 1; eps is 1e-8 as in K.

    >>> adam(1.0, 2.0, 0.0, 0.0, 0.0, lr=0.5, beta1=0.5, beta2=0.75, eps=0.0, t=1)
    (0.5, 1.0, 1.0, 0.0)
    """
    if weight_decay:
        g = g + weight_decay * p
    return _adam(
        p, g, exp_avg, exp_avg_sq, max_exp_avg_sq, lr, beta1, beta2, eps, amsgrad, bias_correction, t
    )


@rule
def adamw(
    p: Any,
    g: Any,
    exp_avg: Any,
    exp_avg_sq: Any,
    max_exp_avg_sq: Any,
    *,
    lr: float = 1e-3,
    beta1: float = 0.9,
    beta2: float = 0.999,
    eps: float = 1e-8,
    weight_decay: float = 1e-2,
    amsgrad: bool = False,
    bias_correction: bool = True,
    t: int,
) -> Any:
    """AdamW: Adam with weight decay apart from the gradient.

    ``x`` is first multiplied by ``1 - lr * weight_decay``, then the step is that of :data:`adam`.

    Args:
        p, g, exp_avg, exp_avg_sq, max_exp_avg_sq: parameter, gradient, the averages and their maximum.
        lr: learning rate, at least 0.
        beta1, beta2: in [0, 1), the memories.
        eps: over 0.
        weight_decay: at least 0, decoupled from the gradient.
        amsgrad: whether the divisor may only grow.
        bias_correction: off is the plain form of S 5.
        t: step, from 1.

    Source: O6; Loshchilov and Hutter 2019; spelled as ``torch.optim.AdamW``.

    >>> adamw(1.0, 2.0, 0.0, 0.0, 0.0, lr=0.5, beta1=0.5, beta2=0.75, eps=0.0, weight_decay=0.5, t=1)
    (0.25, 1.0, 1.0, 0.0)
    """
    if weight_decay:
        p = p * (1 - lr * weight_decay)
    return _adam(
        p, g, exp_avg, exp_avg_sq, max_exp_avg_sq, lr, beta1, beta2, eps, amsgrad, bias_correction, t
    )


@rule(initial={"mu_product": 1.0}, scalars=("mu_product",))
def nadam(
    p: Any,
    g: Any,
    exp_avg: Any,
    exp_avg_sq: Any,
    mu_product: Any,
    *,
    lr: float = 2e-3,
    beta1: float = 0.9,
    beta2: float = 0.999,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    momentum_decay: float = 4e-3,
    decoupled: bool = False,
    t: int,
) -> Any:
    """NAdam: Adam with Nesterov's momentum, which is warmed up.

    With ``u(t) = beta1 * (1 - 0.96 ** (t * momentum_decay) / 2)``, ``U' = U * u(t)`` and ``m'``, ``s'``,
    ``sh`` of :data:`adam`: ``x' = x - lr * (u(t+1) / (1 - U' * u(t+1)) * m' + (1 - u(t)) / (1 - U') * g) /
    (sqrt(sh) + eps)``.

    Args:
        p, g, exp_avg, exp_avg_sq: parameter, gradient, the averages.
        mu_product: product of the momenta so far, one number.
        lr: learning rate, at least 0.
        beta1, beta2: in [0, 1), the memories.
        eps: over 0.
        weight_decay: at least 0.
        momentum_decay: at least 0, how fast the momentum warms up.
        decoupled: whether decay multiplies the parameter; otherwise it is added to the gradient.
        t: step, from 1.

    Source: O6 (K speaks of Adam with Nesterov momentum), Dozat 2016; spelled as ``torch.optim.NAdam``.

    >>> new = nadam(1.0, 2.0, 0.0, 0.0, 1.0, lr=0.5, beta1=0.5, beta2=0.75, eps=0.0, momentum_decay=0.0, t=1)
    >>> [round(x, 6) for x in new]
    [0.433333, 1.0, 1.0, 0.25]
    """
    if weight_decay:
        if decoupled:
            p = p * (1 - lr * weight_decay)
        else:
            g = g + weight_decay * p
    mu = beta1 * (1 - 0.5 * 0.96 ** (t * momentum_decay))
    mu_next = beta1 * (1 - 0.5 * 0.96 ** ((t + 1) * momentum_decay))
    mu_product = mu_product * mu
    exp_avg = beta1 * exp_avg + (1 - beta1) * g
    exp_avg_sq = beta2 * exp_avg_sq + (1 - beta2) * g * g
    ahead = lr * mu_next / (1 - mu_product * mu_next) * exp_avg
    step = ahead + lr * (1 - mu) / (1 - mu_product) * g
    divisor = sqrt(exp_avg_sq) / sqrt(1 - beta2**t) + eps
    return p - step / divisor, exp_avg, exp_avg_sq, mu_product


def _adam(
    p: Any,
    g: Any,
    exp_avg: Any,
    exp_avg_sq: Any,
    max_exp_avg_sq: Any,
    lr: Any,
    beta1: Any,
    beta2: Any,
    eps: Any,
    amsgrad: bool,
    bias_correction: bool,
    t: Any,
) -> Any:
    exp_avg = beta1 * exp_avg + (1 - beta1) * g
    exp_avg_sq = beta2 * exp_avg_sq + (1 - beta2) * g * g
    largest = exp_avg_sq
    if amsgrad:
        largest = max_exp_avg_sq = maximum(max_exp_avg_sq, exp_avg_sq)
    if bias_correction:
        # Corrections of scalars alone are hoisted: one division an element for each line of the slide.
        step = lr / (1 - beta1**t) * exp_avg
        divisor = sqrt(largest) / sqrt(1 - beta2**t) + eps
    else:
        step, divisor = lr * exp_avg, sqrt(largest) + eps
    return p - step / divisor, exp_avg, exp_avg_sq, max_exp_avg_sq
