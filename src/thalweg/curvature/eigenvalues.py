"""Eigenvalues of a curvature matrix from its products.

The largest eigenvalue of the Hessian, the sharpness, bounds the learning rate of gradient descent: on a
quadratic a direction with curvature a has its best rate at 1/a, oscillates up to 2/a, and diverges beyond,
so that the sharpest direction decides for all (X9; C s40-54). One below zero tells of a saddle (X3).

Source: INDEX X3, X9. Lanczos, An iteration method for the solution of the eigenvalue problem, 1950; Wu and
Simon, Thick-restart Lanczos method, 2000; Golub and Van Loan, Matrix Computations, chapter 10.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias, get_args

import torch
from torch import Tensor

from thalweg.curvature.krylov import Found, Krylov, Wanted, error_of, joined
from thalweg.curvature.parameter_vectors import ParameterVectors
from thalweg.curvature.symmetric import SymmetricOperator, float64_products
from thalweg.curvature.vectors import Vector
from thalweg.errors import OptionError
from thalweg.randomness import streams

__all__ = ["Eigenpair", "ExtremeEigenvalues", "lanczos", "power_iteration"]

# How much of a random vector is added to a given start, and how many products are then taken at least.
_MIXED = 0.1
_FEWEST = 4
_MEMORY = 2**30

Ends: TypeAlias = Literal["both", "largest", "smallest"]


@dataclass(frozen=True, kw_only=True)
class Eigenpair:
    """An eigenvalue and its direction, as far as they were found.

    Attributes:
        value: the Rayleigh quotient ``v'Av``, which lies between the smallest and the largest eigenvalue.
        vector: v, of length 1: a list of tensors in the order of the parameters.
        residual: ``|Av - value * v|``, computed from products with A; an eigenvalue lies no further from
            ``value`` than this.
        error: what it is taken to be wrong by: the residual, or where that is less ``residual**2 / gap``,
            with the gap to the next eigenvalue as it was found.
        converged: whether the error is within the tolerance.
    """

    value: float
    vector: Vector = field(repr=False)
    residual: float
    error: float
    converged: bool


@dataclass(frozen=True, kw_only=True)
class ExtremeEigenvalues:
    """The ends of a spectrum.

    Attributes:
        largest_pairs: the largest eigenvalues, falling; the true ones aren't smaller. Of several that were
            asked for, a repeated one stands there as often as it is repeated.
        smallest_pairs: the smallest, rising; the true ones aren't larger.
        products: what it took.
        complete: whether all that were asked for have converged, and where several were, a search beside
            them found no other that belongs among them.
    """

    largest_pairs: tuple[Eigenpair, ...]
    smallest_pairs: tuple[Eigenpair, ...]
    products: int
    complete: bool

    @property
    def largest(self) -> Eigenpair:
        """The largest of all eigenvalues; the true one isn't smaller."""
        return self.largest_pairs[0]

    @property
    def smallest(self) -> Eigenpair:
        """The smallest of all eigenvalues, below zero at a saddle; the true one isn't larger.

        So a negative value proves negative curvature, whereas a positive one proves no minimum (X3).
        """
        return self.smallest_pairs[0]

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


def lanczos(
    operator: SymmetricOperator,
    *,
    ends: Ends = "both",
    count: int = 1,
    tolerance: float = 0.01,
    most_products: int = 100,
    memory: int | None = None,
    start: Any = None,
    seed: int = 0,
) -> ExtremeEigenvalues:
    """Find the largest and the smallest eigenvalues by Lanczos iteration with thick restarts.

    From a start ``q1`` of length 1, ``b_j q_(j+1) = A q_j - a_j q_j - b_(j-1) q_(j-1)`` with
    ``a_j = q_j'A q_j``; the extreme eigenvalues of ``Q'AQ`` approach those of A. Vectors are kept in float64,
    and each new one is made orthogonal to all of them, twice, without which eigenvalues would be found again
    and again. Products are kept too, in the type of the parameters, so that a residual is computed and not
    only estimated. Where ``memory`` is full, the best Ritz vectors are kept and the iteration goes on from
    them.

    It ends where the errors of those asked for are within ``tolerance`` times the largest magnitude found. An
    eigenvalue lies no further away than the residual; where one alone is asked for, and stands apart from the
    others by a gap, no further than the residual's square over the gap, which is taken from the Ritz values
    (Kato and Temple).
    The largest takes 5 to 13 products as a rule, the smallest many more.

    From one start an eigenvalue is found once, however often it is repeated. So where several are asked for,
    another search from a random start follows, orthogonal to what was found, until one finds nothing that
    belongs among them: by 99 %, after the bound of Kuczynski and Wozniakowski.

    Args:
        operator: :class:`Hessian`, :class:`GaussNewtonMatrix`, :class:`EmpiricalFisher`, or one of them
            preconditioned or restricted.
        ends: which of them have to be within the tolerance.
        count: how many at each end, at least 1; at most n are there.
        tolerance: above 0, relative.
        most_products: at least 1; the n elements are enough in exact arithmetic.
        memory: bytes for the vectors and products that are kept, ``n * 8`` and n in the parameters' type for
            each; about six vectors come to it for work. None: 1 GiB, or what ``count`` needs at least.
        start: a vector in any form that the operator takes: an eigenvector found a few steps before saves
            most of the work along a training. A tenth of a random one is added to it, since from an exact
            eigenvector nothing else would ever be seen. None: the gradient, which lies mostly in the sharpest
            directions, where the largest eigenvalue alone is asked for; else random.
        seed: of the random start.

    Raises:
        OptionError: an argument out of range, too little memory, a start that is zero or doesn't fit.
        DataError: a product isn't finite.

    >>> import torch
    >>> from thalweg.curvature import Hessian
    >>> model = torch.nn.Linear(2, 1, bias=False).double()
    >>> x = torch.tensor([[2.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    >>> found = lanczos(Hessian(model, "mse", (x, x[:, :1])))  # diagonal: 4 and 1
    >>> round(found.largest.value, 6), round(found.smallest.value, 6), round(found.rate_limit, 6)
    (4.0, 1.0, 0.5)

    Source: INDEX X3, X9; Golub and Van Loan, Matrix Computations, 10.1-10.3; Wu and Simon 2000; Kuczynski and
    Wozniakowski, Estimating the largest eigenvalue by the power and Lanczos algorithms, 1992.
    """
    _check("lanczos", tolerance, most_products)
    if ends not in get_args(Ends):
        raise OptionError(f"lanczos: ends is {ends!r}; give 'both', 'largest' or 'smallest'")
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise OptionError(f"lanczos: count is {count!r}; give a whole number, at least 1")
    vectors = operator.vectors
    n = vectors.size
    count = min(count, n)
    high, low = ends != "smallest", ends != "largest"
    wanted = Wanted(high * count, low * count, tolerance)
    capacity = _capacity(operator, wanted, min(most_products, n), memory)
    product = float64_products(operator)
    krylov = Krylov(product, vectors, capacity, most_products, seed, gaps=count == 1)
    with operator.held():
        if start is None and ends == "largest" and count == 1:
            start = _usable(operator.guess(), vectors)
        first = _start(vectors, start, seed, mixed=True)
        both = krylov.search(wanted, first, fewest=1 if start is None else _FEWEST)
        found, complete = both.extremes(wanted), krylov.reached
        # the one at the very end can't be hidden by its copies, but others can
        while count > 1 and complete and len(found) < n:
            other = Wanted(int(high), int(low), tolerance, beyond=found.bounds(wanted))
            beside = krylov.search(other, _start(vectors, None, seed + krylov.products), beside=found)
            complete = krylov.reached
            if not krylov.belongs(beside, other):
                break
            found = joined([found, beside.extremes(other)], vectors).extremes(wanted)
        kept = [found, *([] if high and low else [both.extremes(Wanted(int(low), int(high), tolerance))])]
        measured = [_pairs(krylov, part, operator, tolerance) for part in kept]
    top = measured[0 if high else 1][: -max(1, wanted.high) - 1 : -1]
    bottom = measured[0 if low else 1][: max(1, wanted.low)]
    asked = [*(top if high else []), *(bottom if low else [])]
    return ExtremeEigenvalues(
        largest_pairs=tuple(top),
        smallest_pairs=tuple(bottom),
        products=krylov.products,
        complete=complete and all(pair.converged for pair in asked) and len(asked) >= (high + low) * count,
    )


def _pairs(krylov: Krylov, found: Found, operator: SymmetricOperator, tolerance: float) -> list[Eigenpair]:
    """The pairs with residuals: from the products at hand where these are linear, else from new ones."""
    vectors, pairs = operator.vectors, []
    least = tolerance * krylov.scale
    for value, row, product, gap in zip(found.values, found.rows, found.products, found.gaps, strict=True):
        by_now = product if operator.way == "products" else krylov.product(row)
        residual = vectors.length(by_now - value * row)
        vector = vectors.from_local(row / vectors.length(row))
        error = error_of(residual, gap)
        made = Eigenpair(value=value, vector=vector, residual=residual, error=error, converged=error <= least)
        pairs.append(made)
    return pairs


def _usable(guess: Vector | None, vectors: ParameterVectors) -> Vector | None:
    """A guess, where it is finite and not zero."""
    if guess is None:
        return None
    length = vectors.length(vectors.local(guess).to(torch.float64))
    return guess if 0 < length < math.inf else None


def _capacity(operator: SymmetricOperator, wanted: Wanted, most: int, memory: int | None) -> int:
    """How many vectors of the iteration are kept."""
    vectors = operator.vectors
    each = 8 + max(p.element_size() for p in vectors.leaves)
    bytes_each = each * len(vectors.local(vectors.leaves))
    least = min(most, wanted.high + wanted.low + 4)
    if memory is None:
        return min(most, max(least, _MEMORY // max(1, bytes_each)))
    capacity = int(memory // max(1, bytes_each))
    if capacity < least:
        raise OptionError(
            f"lanczos: memory is {memory}, but {least} vectors of {bytes_each} bytes are needed; give at "
            f"least {least * bytes_each}, or a smaller count"
        )
    return min(most, capacity)


def power_iteration(
    operator: SymmetricOperator,
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
    product = float64_products(operator)
    vectors = operator.vectors
    v = _start(vectors, start, seed)
    with operator.held():
        for _ in range(most_products):
            w = product(v)
            value = float(vectors.dots(v, w))
            residual = vectors.length(w - value * v)
            converged = residual <= tolerance * abs(value)
            if converged:
                break
            v = w / vectors.length(w)
    vector = vectors.from_local(v)
    return Eigenpair(value=value, vector=vector, residual=residual, error=residual, converged=converged)


def _check(owner: str, tolerance: float, most_products: int) -> None:
    if not 0 < tolerance < math.inf:
        raise OptionError(f"{owner}: tolerance is {tolerance}; give a finite number above 0")
    if most_products < 1:
        raise OptionError(f"{owner}: most_products is {most_products}; give at least 1")


def _start(vectors: ParameterVectors, start: Any, seed: int, *, mixed: bool = False) -> Tensor:
    """A vector of length 1, what this process has of it."""
    drawn = streams.normal(
        (vectors.size,), seed=seed, stream="curvature/start", dtype=torch.float64, device=vectors.device
    )
    drawn = vectors.local_of(drawn / torch.linalg.vector_norm(drawn))
    if start is None:
        return drawn
    flat = vectors.local(vectors.take(start)[0]).to(torch.float64)
    length = vectors.length(flat)
    if not 0 < length < math.inf:
        raise OptionError(f"start: its length is {length}; give a finite vector that isn't zero")
    flat = flat / length + _MIXED * drawn if mixed else flat / length
    return flat / vectors.length(flat)
