"""What is known of a curvature from some batches of the data: intervals by leaving one batch out (X6).

With ``t`` the statistic of all K batches and ``t_b`` that of all but batch b, the jackknife's standard error
is ``sqrt((K - 1) / K * sum_b (t_b - mean)^2)``, and the interval ``t`` plus and minus Student's quantile of
``K - 1`` degrees of freedom times it.

Source: INDEX X6; Tukey, Bias and confidence in not-quite large samples, 1958; Efron and Stein, The jackknife
estimate of variance, 1981.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from thalweg.curvature.eigenvalues import lanczos
from thalweg.curvature.operators import CurvatureOperator
from thalweg.curvature.reducing import gathered
from thalweg.curvature.traces import random_signs
from thalweg.errors import DataError, OptionError

__all__ = ["Interval", "curvature_along", "interval_of", "over_batches"]


@dataclass(frozen=True, kw_only=True)
class Interval:
    """An estimate from some batches, and where the value of all data lies at the given level.

    Attributes:
        value: of these batches together.
        low, high: of the interval.
        standard_error: of the value.
        bias: what the value is too large by on the average, as far as that is known; the interval lies about
            ``value - bias``.
        batches: K, what it rests on.
        level: how often such an interval covers the true value.
    """

    value: float
    low: float
    high: float
    standard_error: float
    bias: float
    batches: int
    level: float


def interval_of(
    value: float, without: Sequence[float], *, level: float = 0.95, bias: float = 0.0, more: float = 0.0
) -> Interval:
    """Return the jackknife's interval.

    Args:
        value: of all batches.
        without: for each batch the value of all the others; at least two.
        level: between 0 and 1.
        bias: of the value, taken off.
        more: another standard error, from elsewhere.

    >>> found = interval_of(2.0, [2.5, 2.0, 1.5])  # the mean of 1, 2 and 3
    >>> round(found.standard_error, 3), round(found.high, 3)
    (0.577, 4.484)
    """
    from scipy.stats import t

    if not 0 < level < 1:
        raise OptionError(f"level is {level}; give a number between 0 and 1, as 0.95")
    values = np.asarray(without, dtype=np.float64)
    count = len(values)
    spread = float(((values - values.mean()) ** 2).sum())
    error = math.hypot(math.sqrt((count - 1) / count * spread), more)
    reach = float(t.ppf((1 + level) / 2, count - 1)) * error
    middle = float(value - bias)
    return Interval(
        value=value,
        low=middle - reach,
        high=middle + reach,
        standard_error=error,
        bias=bias,
        batches=count,
        level=level,
    )


def curvature_along(operator: CurvatureOperator, vector: Any, *, level: float = 0.95) -> Interval:
    """Measure the curvature ``v'Av / v'v`` along a direction, with its interval over batches.

    Of a direction that was found on other batches it has no bias: where the whole interval lies below zero,
    there is negative curvature beyond what the choice of batches explains (X3).

    Args:
        operator: of at least two batches.
        vector: v, in any form that the operator takes.
        level: of the interval.

    Raises:
        OptionError: one batch alone, a vector that is zero or doesn't fit.

    >>> import torch
    >>> from thalweg.curvature import Hessian
    >>> model = torch.nn.Linear(1, 1, bias=False).double()
    >>> batches = [(torch.tensor([[x]], dtype=torch.float64), torch.zeros(1, 1)) for x in (1.0, 2.0, 3.0)]
    >>> found = curvature_along(Hessian(model, "mse", batches), torch.ones(1))
    >>> round(found.value, 3), found.batches, found.low < found.value < found.high
    (9.333, 3, True)

    Source: INDEX X3, X6.
    """
    rows, weights, _ = _forms(operator, [operator.vectors.take(vector)[0]])
    values = np.array([row[0] for row in rows])
    return interval_of(float(_mean(values, weights)), _without(values, weights), level=level)


def over_batches(
    operator: CurvatureOperator,
    of: Literal["largest", "smallest", "trace"] | Callable[[CurvatureOperator], float],
    *,
    tolerance: float = 0.01,
    most_products: int = 100,
    samples: int = 16,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Estimate an eigenvalue or the trace, with its interval over batches.

    An eigenvalue is found on all batches; without one it changes by ``v'(A_without - A) v`` to first order,
    which takes one more product in all. To second order the largest eigenvalue of a sample is too large by
    about ``sum_j |v_j'(A_sample - A) v|^2 / (lambda - lambda_j)``, which is estimated likewise, with 0 for
    all other eigenvalues, and taken off; and the smallest too small. The error of the trace is both that of
    the batches and that of the random signs.

    Args:
        operator: of at least two batches; 8 and more are better.
        of: what to estimate; a function of an operator is computed anew without each batch, which takes as
            many times its work.
        tolerance, most_products: as for :func:`lanczos`.
        samples: products for the trace, at least 2.
        level: of the interval.
        seed: as for :func:`lanczos` and :func:`trace`.

    Raises:
        OptionError: one batch alone, an argument out of range.
        DataError: a product isn't finite.

    Source: INDEX X6, X9.
    """
    if callable(of):
        parts = operator.parts()
        _several(len(parts))
        whole = of(operator)
        left = [of(operator.over([p for p in parts if p is not part])) for part in parts]
        return interval_of(float(whole), left, level=level)
    vectors = operator.vectors
    if of == "trace":
        if samples < 2:
            raise OptionError(f"over_batches: samples is {samples}; give at least 2")
        signs = [vectors.from_local(random_signs(vectors, seed, number)) for number in range(samples)]
        rows, weights, _ = _forms(operator, signs)
        of_all = _mean(rows, weights)
        means = rows.mean(1)
        probing = float(np.std(of_all, ddof=1)) / math.sqrt(samples)
        value = _mean(means, weights)
        return interval_of(float(value), _without(means, weights), level=level, more=probing)
    if of not in ("largest", "smallest"):
        raise OptionError(f"over_batches: of is {of!r}; give 'largest', 'smallest', 'trace' or a function")
    with operator.held():
        found = lanczos(operator, ends=of, tolerance=tolerance, most_products=most_products, seed=seed)
        pair = found.largest if of == "largest" else found.smallest
        rows, weights, across = _forms(operator, [pair.vector], across=True)
    values, count = rows[:, 0], len(rows)
    shares = weights / (weights.sum() - weights)
    bias = (count - 1) * float((shares**2 * across).mean()) / pair.value if pair.value else 0.0
    bias = bias if (bias > 0) == (of == "largest") else 0.0
    return interval_of(pair.value, _without(values, weights), level=level, bias=bias, more=pair.error)


def _forms(
    operator: CurvatureOperator, given: list[list[Tensor]], *, across: bool = False
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return ``v'A_b v / v'v`` for each batch and vector, the batches' weights, and the rest of ``A_b v``."""
    vectors = operator.vectors
    flats = [vectors.local(v).to(torch.float64) for v in given]
    # of signs the form itself is wanted, whose length is sqrt(n)
    lengths = [1.0 if not across and len(given) > 1 else vectors.length(flat) ** 2 for flat in flats]
    if not all(0 < length < math.inf for length in lengths):
        raise OptionError("the direction has length 0 or isn't finite; give another")
    found = []
    for products, weight in operator.each_product(given):
        local = [vectors.local(product).to(torch.float64) for product in products]
        row = [float(vectors.dots(p, v)) / s for p, v, s in zip(local, flats, lengths, strict=True)]
        found.append((row, weight, vectors.length(local[0] - row[0] * flats[0]) ** 2 if across else 0.0))
    found = gathered(found, operator.group)
    _several(len(found))
    rows = np.array([row for row, _, _ in found])
    rest = np.array([each for _, _, each in found])
    if not np.isfinite(rows).all():
        raise DataError(f"{type(operator).__name__}: a product isn't finite; look at the loss first")
    if any(weight is None for _, weight, _ in found):
        # the whole is the sum over batches, which is the mean of as many times each
        count = len(found)
        return count * rows, np.ones(count), count**2 * rest
    return rows, np.array([float(weight or 0.0) for _, weight, _ in found]), rest


def _several(count: int) -> None:
    if count < 2:
        raise OptionError("an interval over batches needs at least 2 of them; cut the batch into several")


def _mean(values: npt.NDArray[np.float64], weights: npt.NDArray[np.float64]) -> Any:
    return weights @ values / weights.sum()


def _without(values: npt.NDArray[np.float64], weights: npt.NDArray[np.float64]) -> list[float]:
    whole, parts = weights @ values, weights * values
    found: list[float] = ((whole - parts) / (weights.sum() - weights)).tolist()
    return found
