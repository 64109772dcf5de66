"""Trace and diagonal of a curvature matrix from its products with random signs.

Source: Hutchinson, A stochastic estimator of the trace, 1989; Bekas, Kokiopoulou and Saad, An estimator for
the diagonal of a matrix, 2007.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from thalweg.curvature.parameter_vectors import ParameterVectors
from thalweg.curvature.symmetric import SymmetricOperator, float64_products
from thalweg.curvature.vectors import Vector
from thalweg.errors import OptionError
from thalweg.randomness import streams

__all__ = ["DiagonalEstimate", "TraceEstimate", "diagonal", "random_signs", "trace"]


@dataclass(frozen=True, kw_only=True)
class TraceEstimate:
    """A trace and its standard error, from so many ``samples``."""

    value: float
    standard_error: float
    samples: int


@dataclass(frozen=True, kw_only=True)
class DiagonalEstimate:
    """A diagonal and its standard errors, from so many ``samples``: lists of tensors, as the parameters."""

    values: Vector = field(repr=False)
    standard_errors: Vector = field(repr=False)
    samples: int


def trace(operator: SymmetricOperator, *, samples: int = 32, seed: int = 0) -> TraceEstimate:
    """Estimate the sum of all eigenvalues: the mean of ``z'Az`` over random z of elements 1 and -1.

    Its variance is ``2 * sum of A_ij^2, i != j``, over the samples: a diagonal matrix is met at once.

    Args:
        operator: :class:`Hessian` or :class:`GaussNewtonMatrix`.
        samples: products to take, at least 2.
        seed: of the signs.

    Raises:
        OptionError: fewer samples.
        DataError: a product isn't finite.

    Source: Hutchinson, A stochastic estimator of the trace of the influence matrix, 1989.
    """
    found: list[float] = []
    _sample("trace", operator, samples, seed, lambda z, az: found.append(float(operator.vectors.dots(z, az))))
    error = float(np.std(found, ddof=1)) / math.sqrt(samples)
    return TraceEstimate(value=float(np.mean(found)), standard_error=error, samples=samples)


def diagonal(operator: SymmetricOperator, *, samples: int = 32, seed: int = 0) -> DiagonalEstimate:
    """Estimate the diagonal: the mean of ``z * (Az)``, element by element, over random z of 1 and -1.

    The variance of element i is ``sum of A_ij^2, j != i``, over the samples: what is small beside its row
    takes many. Arguments and errors: as for :func:`trace`.

    Source: Bekas, Kokiopoulou and Saad, An estimator for the diagonal of a matrix, 2007.
    """
    mean = operator.vectors.local(operator.vectors.leaves).to(torch.float64).mul_(0)
    spread = torch.zeros_like(mean)
    count = 0

    def take(z: Tensor, az: Tensor) -> None:
        # Welford's running mean and sum of squares
        nonlocal count
        count += 1
        before = z * az - mean
        mean.add_(before / count)
        spread.add_(before * (z * az - mean))

    _sample("diagonal", operator, samples, seed, take)
    errors = (spread / (samples - 1) / samples).sqrt()
    vectors = operator.vectors
    return DiagonalEstimate(
        values=vectors.from_local(mean), standard_errors=vectors.from_local(errors), samples=samples
    )


def _sample(
    owner: str, operator: SymmetricOperator, samples: int, seed: int, take: Callable[[Tensor, Tensor], None]
) -> None:
    """Hand over random signs and their products."""
    if samples < 2:
        raise OptionError(
            f"{owner}: samples is {samples}; give at least 2, of which a standard error can be had"
        )
    product = float64_products(operator)
    with operator.held():
        for number in range(samples):
            signs = random_signs(operator.vectors, seed, number)
            take(signs, product(signs))


def random_signs(vectors: ParameterVectors, seed: int, number: int) -> Tensor:
    """Return what this process has of a vector of elements 1 and -1."""
    size, device = vectors.size, vectors.device
    bits = streams.bits((size,), seed=seed, stream="curvature/signs", step=number, device=device)
    return vectors.local_of(1.0 - 2.0 * (bits >> 31).to(torch.float64))
