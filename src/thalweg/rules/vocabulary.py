"""The words that a rule may use beside arithmetic, the same on every runtime.

A rule is written with ``+ - * /``, unary ``-``, ``abs``, comparisons, ``**`` with a scalar exponent, and
the functions of this page. They take traced values, torch tensors, NumPy arrays and plain numbers.

=================  =========================  ==========================  ===========================
word               NaN                        zeros                       infinity
=================  =========================  ==========================  ===========================
``sqrt(x)``        NaN; NaN for ``x < 0``     ``sqrt(-0.0)`` is ``-0.0``  ``sqrt(inf)`` is ``inf``
``abs(x)``         NaN                        ``abs(-0.0)`` is ``0.0``    ``abs(-inf)`` is ``inf``
``sign(x)``        ``sign(nan)`` is NaN       the zero itself, signed     ``sign(-inf)`` is ``-1``
``minimum(a, b)``  NaN if either is           ``b`` where both are equal  as numbers
``maximum(a, b)``  NaN if either is           ``b`` where both are equal  as numbers
``where(c, a, b)`` of the side chosen only    of the side chosen          of the side chosen
``a < b``, ...     false; ``!=`` is true      ``-0.0 == 0.0``             as numbers
``a / b``          NaN for ``0 / 0``          ``1 / -0.0`` is ``-inf``    ``inf / inf`` is NaN
=================  =========================  ==========================  ===========================

Every operation is rounded once, to the nearest, in the compute type; nothing is contracted into a
fused multiply-add, and denormal numbers are kept. ``x**2`` is ``x * x``, ``x**3`` is ``x * x * x``,
``x**0.5`` is ``sqrt(x)`` and a negative exponent of these is one over them; any other exponent of a
tensor is the ``pow`` of the library at hand, and such a rule runs eagerly.
"""

from __future__ import annotations

import builtins
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

__all__ = ["abs", "maximum", "minimum", "sign", "sqrt", "where"]

# What a rule computes with: a traced value, a tensor, an array or a number. No static type covers them all.
Value = Any


def sqrt(x: Value) -> Value:
    """Return the square root, element by element, correctly rounded.

    Args:
        x: any value; the root of a negative number is NaN.

    >>> sqrt(9.0)
    3.0
    """
    return _apply("sqrt", _sqrt_torch, np.sqrt, x)


def abs(x: Value) -> Value:
    """Return the magnitude, element by element; Python's own ``abs`` does the same.

    >>> abs(-0.0)
    0.0
    """
    return builtins.abs(x)


def sign(x: Value) -> Value:
    """Return 1, -1, or ``x`` itself where it is a zero or NaN.

    Deviation: ``torch.sign`` gives 0 for NaN and drops the sign of a zero.

    >>> sign(-3.0), sign(-0.0)
    (-1.0, -0.0)
    """
    return _apply("sign", _sign_torch, _sign_numpy, x)


def minimum(a: Value, b: Value) -> Value:
    """Return the smaller of two values: ``a`` if it is less or NaN, otherwise ``b``.

    >>> minimum(1.0, 2.0)
    1.0
    """
    return _apply("minimum", _minimum_torch, _minimum_numpy, a, b)


def maximum(a: Value, b: Value) -> Value:
    """Return the larger of two values: ``a`` if it is more or NaN, otherwise ``b``.

    >>> maximum(1.0, 2.0)
    2.0
    """
    return _apply("maximum", _maximum_torch, _maximum_numpy, a, b)


def where(condition: Value, a: Value, b: Value) -> Value:
    """Return ``a`` where the condition holds, ``b`` elsewhere; both sides are computed.

    Args:
        condition: a comparison.
        a, b: values.

    >>> where(2.0 > 1.0, 5.0, 7.0)
    5.0
    """
    return _apply("where", _where_torch, np.where, condition, a, b)


def _apply(
    word: str, on_tensors: Callable[..., Value], on_arrays: Callable[..., Value], *args: Value
) -> Value:
    # A traced value says what the word means for it; the tracer needs no import here.
    for arg in args:
        handler = getattr(type(arg), "__rule_word__", None)
        if handler is not None:
            return handler(arg, word, args)
    if any(isinstance(arg, torch.Tensor) for arg in args):
        return on_tensors(*args)
    with np.errstate(all="ignore"):
        result = on_arrays(*args)
    return result if any(isinstance(arg, np.ndarray | np.generic) for arg in args) else result.item()


def _sqrt_torch(x: Value) -> Value:
    # On the CPU torch's root may come from MKL, which gets the last bit of one float32 in five wrong.
    # NumPy's is the processor's. Where derivatives or torch's transforms need to see it, it is torch's.
    if (
        type(x) is torch.Tensor
        and x.is_cpu
        and not torch.is_grad_enabled()
        and not torch.compiler.is_compiling()
    ):
        try:
            with np.errstate(all="ignore"):
                return torch.from_numpy(np.asarray(np.sqrt(x.numpy())))
        except (RuntimeError, TypeError):
            pass
    return torch.sqrt(x)


def _sign_torch(x: Value) -> Value:
    return torch.where(x > 0, torch.ones_like(x), torch.where(x < 0, -torch.ones_like(x), x))


def _sign_numpy(x: Value) -> Value:
    return np.where(x > np.float64(0), 1.0, np.where(x < np.float64(0), -1.0, x))


def _minimum_torch(a: Value, b: Value) -> Value:
    return _where_torch((a < b) | (a != a), a, b)


def _minimum_numpy(a: Value, b: Value) -> Value:
    return np.where((a < np.float64(b)) | (a != np.float64(a)), a, b)


def _maximum_torch(a: Value, b: Value) -> Value:
    return _where_torch((a > b) | (a != a), a, b)


def _maximum_numpy(a: Value, b: Value) -> Value:
    return np.where((a > np.float64(b)) | (a != np.float64(a)), a, b)


def _where_torch(condition: Value, a: Value, b: Value) -> Value:
    return torch.where(torch.as_tensor(condition), a, b)
