"""Eigenvalues, trace and diagonal of a curvature matrix from its products.

The largest eigenvalue of the Hessian, the sharpness, bounds the learning rate of gradient descent: on a
quadratic a direction with curvature a has its best rate at 1/a, oscillates up to 2/a, and diverges beyond,
so that the sharpest direction decides for all (X9; C s40-54). One below zero tells of a saddle (X3).

Source: INDEX X3, X9. Lanczos, An iteration method for the solution of the eigenvalue problem, 1950; Golub and
Van Loan, Matrix Computations, chapter 10; Hutchinson, A stochastic estimator of the trace, 1989; Bekas,
Kokiopoulou and Saad, An estimator for the diagonal of a matrix, 2007.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor

from thalweg.curvature.operators import CurvatureOperator
from thalweg.curvature.vectors import Vector, is_sharded
from thalweg.errors import DataError, OptionError
from thalweg.randomness import streams

__all__ = [
    "DiagonalEstimate",
    "Eigenpair",
    "ExtremeEigenvalues",
    "TraceEstimate",
    "diagonal",
    "lanczos",
    "power_iteration",
    "trace",
]

# Products that a search from a given start takes at least, and how much of a random one is added to it.
_FEWEST = 4
_MIXED = 0.1

Ends: TypeAlias = Literal["both", "largest", "smallest"]


@dataclass(frozen=True, kw_only=True)
class Eigenpair:
    """An eigenvalue and its direction, as far as they were found.

    Attributes:
        value: the Rayleigh quotient ``v'Av``, which lies between the smallest and the largest eigenvalue.
        vector: v, of length 1: a list of tensors in the order of the parameters.
        residual: ``|Av - value * v|``; an eigenvalue lies no further from ``value`` than this.
        converged: whether the residual is within the tolerance.
    """

    value: float
    vector: Vector = field(repr=False)
    residual: float
    converged: bool


@dataclass(frozen=True, kw_only=True)
class ExtremeEigenvalues:
    """Both ends of a spectrum.

    Attributes:
        largest: of all eigenvalues; the true one isn't smaller.
        smallest: of all eigenvalues, below zero at a saddle; the true one isn't larger. So a negative value
            proves negative curvature, whereas a positive one proves no minimum (X3).
        products: what it took.
    """

    largest: Eigenpair
    smallest: Eigenpair
    products: int

    @property
    def rate_limit(self) -> float:
        """The learning rate beyond which gradient descent diverges on the quadratic: 2 / largest (X9).

        Infinite where no curvature is positive. The rate that is best along the sharpest direction is half.
        """
        return 2 / self.largest.value if self.largest.value > 0 else math.inf

    @property
    def condition_number(self) -> float:
        """``largest / smallest``, which decides how slow gradient descent is (X9; C s54, s65).

        Infinite where the smallest isn't above zero.
        """
        return self.largest.value / self.smallest.value if self.smallest.value > 0 else math.inf


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


def lanczos(
    operator: CurvatureOperator,
    *,
    ends: Ends = "both",
    tolerance: float = 0.01,
    most_products: int = 100,
    start: Any = None,
    seed: int = 0,
) -> ExtremeEigenvalues:
    """Find the largest and the smallest eigenvalue by Lanczos iteration.

    From a start ``q1`` of length 1, ``b_j q_(j+1) = A q_j - a_j q_j - b_(j-1) q_(j-1)`` with
    ``a_j = q_j'A q_j``; the extreme eigenvalues of the tridiagonal matrix of all a and b approach those of A.
    Vectors are kept in float64, ``[products, n]``, and each new one is made orthogonal to all of them, twice,
    without which eigenvalues would be found again and again.

    It ends where the residual of the ends asked for is within ``tolerance`` times the largest magnitude
    found. The error of an eigenvalue is at most its residual, and where it stands apart from the others about
    the residual's square over that distance: 1 % asked for is mostly 0.1 % had. The largest takes 5 to 20
    products as a rule, the smallest many more.

    Args:
        operator: :class:`Hessian` or :class:`GaussNewtonMatrix`.
        ends: which of them have to be within the tolerance.
        tolerance: above 0, relative.
        most_products: at least 1; the n elements are enough in exact arithmetic.
        start: a vector in any form that the operator takes: an eigenvector found a few steps before saves
            most of the work along a training. A tenth of a random one is added to it, since from an exact
            eigenvector nothing else would ever be seen. None: random.
        seed: of the random start.

    Raises:
        OptionError: an argument out of range, a start that is zero or doesn't fit, sharded parameters.
        DataError: a product isn't finite.

    >>> import torch
    >>> from thalweg.curvature import Hessian
    >>> model = torch.nn.Linear(2, 1, bias=False).double()
    >>> x = torch.tensor([[2.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    >>> found = lanczos(Hessian(model, "mse", (x, x[:, :1])))  # diagonal: 4 and 1
    >>> round(found.largest.value, 6), round(found.smallest.value, 6), round(found.rate_limit, 6)
    (4.0, 1.0, 0.5)

    Source: INDEX X3, X9; Golub and Van Loan, Matrix Computations, 10.1-10.3.
    """
    _check("lanczos", tolerance, most_products)
    if ends not in ("both", "largest", "smallest"):
        raise OptionError(f"lanczos: ends is {ends!r}; give 'both', 'largest' or 'smallest'")
    product = _product_of(operator)
    basis = [_start(operator, start, seed, mixed=True)]
    alphas: list[float] = []
    betas: list[float] = []
    size = operator.shape[0]
    with operator.held():
        while True:
            q = basis[-1]
            w = product(q)
            alphas.append(float(q @ w))
            kept = torch.stack(basis)
            for _ in range(2):
                w = w - kept.T @ (kept @ w)
            beta = float(torch.linalg.vector_norm(w))
            values, rotation = np.linalg.eigh(np.diag(alphas) + np.diag(betas, 1) + np.diag(betas, -1))
            scale = float(np.abs(values).max())
            if len(basis) == size or beta <= 1e-13 * scale:
                # there is no other direction with a part in the start
                beta = 0.0
            residuals = beta * np.abs(rotation[-1])
            least = tolerance * scale
            wanted = {"both": [0, -1], "largest": [-1], "smallest": [0]}[ends]
            found = all(residuals[i] <= least for i in wanted)
            # an eigenvector to begin with is found at once, whichever it is
            looked = beta == 0 or start is None or len(basis) >= _FEWEST
            if (found and looked) or len(basis) >= most_products:
                break
            betas.append(beta)
            basis.append(w / beta)

    def pair(i: int) -> Eigenpair:
        vector = kept.T @ torch.as_tensor(rotation[:, i], device=kept.device)
        residual = float(residuals[i])
        return Eigenpair(
            value=float(values[i]),
            vector=operator.vectors.unflat(_unit(vector)),
            residual=residual,
            converged=residual <= least,
        )

    return ExtremeEigenvalues(largest=pair(-1), smallest=pair(0), products=len(basis))


def power_iteration(
    operator: CurvatureOperator,
    *,
    tolerance: float = 0.01,
    most_products: int = 1000,
    start: Any = None,
    seed: int = 0,
) -> Eigenpair:
    """Find the eigenvalue of largest magnitude by ``v <- Av / |Av|``, in the memory of two vectors.

    It takes many more products than :func:`lanczos`, whose best vector is at least as good after as many:
    the error falls by the ratio of the two largest magnitudes in each. Of two that differ in sign alone it
    finds neither. Arguments and errors: as for :func:`lanczos`.

    >>> import torch
    >>> from thalweg.curvature import Hessian
    >>> model = torch.nn.Linear(2, 1, bias=False).double()
    >>> x = torch.tensor([[2.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    >>> round(power_iteration(Hessian(model, "mse", (x, x[:, :1]))).value, 2)
    4.0

    Source: INDEX X9; Golub and Van Loan, Matrix Computations, 7.3.1.
    """
    _check("power_iteration", tolerance, most_products)
    product = _product_of(operator)
    v = _start(operator, start, seed)
    with operator.held():
        for _ in range(most_products):
            w = product(v)
            value = float(v @ w)
            residual = float(torch.linalg.vector_norm(w - value * v))
            converged = residual <= tolerance * abs(value)
            if converged:
                break
            v = _unit(w)
    return Eigenpair(value=value, vector=operator.vectors.unflat(v), residual=residual, converged=converged)


def trace(operator: CurvatureOperator, *, samples: int = 32, seed: int = 0) -> TraceEstimate:
    """Estimate the sum of all eigenvalues: the mean of ``z'Az`` over random z of elements 1 and -1.

    Its variance is ``2 * sum of A_ij^2, i != j``, over the samples: a diagonal matrix is met at once.

    Args:
        operator: :class:`Hessian` or :class:`GaussNewtonMatrix`.
        samples: products to take, at least 2.
        seed: of the signs.

    Raises:
        OptionError: fewer samples, sharded parameters.
        DataError: a product isn't finite.

    Source: Hutchinson, A stochastic estimator of the trace of the influence matrix, 1989.
    """
    found: list[float] = []
    _sample("trace", operator, samples, seed, lambda z, az: found.append(float(z @ az)))
    error = float(np.std(found, ddof=1)) / math.sqrt(samples)
    return TraceEstimate(value=float(np.mean(found)), standard_error=error, samples=samples)


def diagonal(operator: CurvatureOperator, *, samples: int = 32, seed: int = 0) -> DiagonalEstimate:
    """Estimate the diagonal: the mean of ``z * (Az)``, element by element, over random z of 1 and -1.

    The variance of element i is ``sum of A_ij^2, j != i``, over the samples: what is small beside its row
    takes many. Arguments and errors: as for :func:`trace`.

    Source: Bekas, Kokiopoulou and Saad, An estimator for the diagonal of a matrix, 2007.
    """
    mean = torch.zeros(operator.shape[0], dtype=torch.float64, device=operator.vectors.device)
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
        values=vectors.unflat(mean), standard_errors=vectors.unflat(errors), samples=samples
    )


def _sample(
    owner: str, operator: CurvatureOperator, samples: int, seed: int, take: Callable[[Tensor, Tensor], None]
) -> None:
    """Hand over random signs and their products."""
    if samples < 2:
        raise OptionError(
            f"{owner}: samples is {samples}; give at least 2, of which a standard error can be had"
        )
    product = _product_of(operator)
    size, device = operator.shape[0], operator.vectors.device
    with operator.held():
        for number in range(samples):
            bits = streams.bits((size,), seed=seed, stream="curvature/signs", step=number, device=device)
            signs = 1.0 - 2.0 * (bits >> 31).to(torch.float64)
            take(signs, product(signs))


def _product_of(operator: CurvatureOperator) -> Callable[[Tensor], Tensor]:
    """Return flat products in float64, whatever the parameters' type."""
    if is_sharded(operator.vectors.leaves):
        raise OptionError(
            "parameters are sharded over processes, and estimates of curvature need them as one vector; take "
            "products with the operator itself, of lists of tensors, or a model in one process"
        )

    def product(flat: Tensor) -> Tensor:
        found: Tensor = operator @ flat
        if not bool(torch.isfinite(found).all()):
            raise DataError(
                f"{type(operator).__name__}: a product isn't finite: the loss, or its slope, overflows or is "
                f"NaN at these parameters; look at the loss first"
            )
        return found.to(torch.float64)

    return product


def _check(owner: str, tolerance: float, most_products: int) -> None:
    if not 0 < tolerance < math.inf:
        raise OptionError(f"{owner}: tolerance is {tolerance}; give a finite number above 0")
    if most_products < 1:
        raise OptionError(f"{owner}: most_products is {most_products}; give at least 1")


def _start(operator: CurvatureOperator, start: Any, seed: int, *, mixed: bool = False) -> Tensor:
    vectors = operator.vectors
    drawn = streams.normal(
        (vectors.size,), seed=seed, stream="curvature/start", dtype=torch.float64, device=vectors.device
    )
    if start is None:
        return _unit(drawn)
    flat = vectors.flat(vectors.take(start)[0]).to(torch.float64)
    length = float(torch.linalg.vector_norm(flat))
    if not 0 < length < math.inf:
        raise OptionError(f"start: its length is {length}; give a finite vector that isn't zero")
    return _unit(_unit(flat) + _MIXED * _unit(drawn)) if mixed else _unit(flat)


def _unit(vector: Tensor) -> Tensor:
    length: Tensor = torch.linalg.vector_norm(vector)
    return vector / length
