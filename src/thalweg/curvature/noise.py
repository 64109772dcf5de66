"""The noise of gradients over minibatches, and the batch size that pays (X6).

Source: INDEX X6, E2; McCandlish, Kaplan and Amodei, An empirical model of large-batch training, 2018.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor, nn

from thalweg.curvature.model_matrices import BatchGradients
from thalweg.curvature.reducing import gathered, summed
from thalweg.curvature.sampling import interval_of
from thalweg.curvature.vectors import Space, Vector
from thalweg.errors import DataError, OptionError
from thalweg.objectives import Loss

__all__ = ["NoiseScale", "noise_scale", "noise_scale_of"]

_MEMORY = 2**30


@dataclass(frozen=True, kw_only=True)
class NoiseScale:
    """How noisy gradients are: ``S = tr(Sigma) / |G|^2``, in examples.

    ``Sigma`` is the covariance of the gradient of one example, ``G`` the gradient of all data. The gradient
    of a batch of B examples has an expected squared error of ``tr(Sigma) / B``: at ``B = S`` it is as large
    as the squared gradient itself.

    Attributes:
        value: S; infinite where no gradient stands out from the noise.
        low, high: of its interval; high is infinite where the gradient may as well be zero.
        trace: ``tr(Sigma)``, without bias.
        squared_norm: ``|G|^2``, without bias; it can come out below zero.
        examples: N, of all batches together, or what their losses divide by.
        batches: K.
        level: how often such an interval covers the true value.
    """

    value: float
    low: float
    high: float
    trace: float
    squared_norm: float
    examples: float
    batches: int
    level: float

    @property
    def batch_size(self) -> float:
        """The batch size that pays: S. A step makes half the progress of one without noise.

        Smaller batches take about as many examples in all, in more steps; larger ones about as many steps.
        """
        return self.value

    def progress(self, batch_size: float) -> float:
        """Return what a step at its best rate achieves, of what one without noise does: ``1 / (1 + S/B)``."""
        return 1 / (1 + self.value / batch_size)

    def efficiency(self, batch_size: float) -> float:
        """Return what an example achieves, of what it does in the smallest batches: ``1 / (1 + B/S)``."""
        return 1 / (1 + batch_size / self.value) if self.value else 0.0

    def norm_bias(self, batch_size: float) -> float:
        """Return by which share ``|g|^2`` of a batch is too large on the average: ``S / B``."""
        return self.value / batch_size


def noise_scale(
    model: nn.Module,
    loss: str | Callable[[Any, Any], Any] | Loss,
    batches: Iterable[Any],
    *,
    level: float = 0.95,
    population: int | None = None,
    parameters: Sequence[str] | None = None,
    memory: int | None = None,
) -> NoiseScale:
    """Estimate the noise scale of gradients from those of several batches.

    With ``g_b`` the gradient of batch b of ``n_b`` examples, N of them together in K batches, and ``g`` of
    all together,

        tr(Sigma) = sum_b n_b |g_b - g|^2 / (K - 1),    |G|^2 = |g|^2 - tr(Sigma) / N,

    both without bias. The interval is that of the jackknife over batches for ``1 / S = |G|^2 / tr(Sigma)``,
    turned over: it stays right where the gradient can't be told from zero, and then has no upper end. The
    model is called in its mode, as in training: dropout counts as noise, and batch norm makes what a batch
    is part of what its gradient is.

    Args:
        model, loss: as for :class:`Hessian`.
        batches: pairs ``(inputs, targets)``, at least 2, drawn at random; 8 and more give a useful interval.
        level: of the interval, between 0 and 1.
        population: how many examples there are, where batches are drawn from them without repetition and G is
            theirs; None: G is that of all data that might be drawn.
        parameters: names of those whose gradients count, or of modules; None: all.
        memory: bytes for keeping gradients; beyond it they are computed twice. None: 1 GiB.

    Raises:
        OptionError: fewer than two batches, an argument out of range.
        DataError: a gradient isn't finite.

    >>> import torch
    >>> model = torch.nn.Linear(1, 1, bias=False).double()
    >>> _ = torch.nn.init.zeros_(model.weight)
    >>> batches = [(torch.ones(2, 1).double(), torch.full((2, 1), t).double()) for t in (1.0, 2.0, 3.0)]
    >>> found = noise_scale(model, "mse", batches)  # gradients -2, -4, -6
    >>> round(found.trace, 3), round(found.squared_norm, 3), round(found.value, 3)
    (8.0, 14.667, 0.545)

    Source: INDEX X6; McCandlish et al. 2018, appendix A.
    """
    gradients = BatchGradients(model, loss, batches, parameters=parameters)
    return _noise(gradients.each, gradients.vectors.leaves, level, population, memory, gradients.group)


def noise_scale_of(
    gradients: Sequence[Vector], sizes: Sequence[float], *, level: float = 0.95, population: int | None = None
) -> NoiseScale:
    """Estimate the noise scale from gradients at hand, as :func:`noise_scale` does.

    Args:
        gradients: of batches, each a list of tensors: the mean over its examples.
        sizes: examples in each.
        level, population: as there.

    >>> import torch
    >>> found = noise_scale_of([[torch.tensor([1.0])], [torch.tensor([3.0])]], [4, 4])
    >>> found.trace, found.squared_norm
    (8.0, 3.0)
    """
    if len(gradients) != len(sizes):
        raise OptionError(
            f"noise_scale: there are {len(gradients)} gradients but {len(sizes)} sizes; give one size each"
        )
    return _noise(
        lambda: iter(zip(gradients, map(float, sizes), strict=True)),
        gradients[0] if gradients else [],
        level,
        population,
        None,
    )


def _noise(
    each: Callable[[], Iterator[tuple[Vector, float]]],
    like: Vector,
    level: float,
    population: int | None,
    memory: int | None,
    group: Any = None,
) -> NoiseScale:
    sizes, squares, dots = _inner_products(each, like, _MEMORY if memory is None else memory, group)
    if len(sizes) < 2:
        raise OptionError(
            f"noise_scale: there is {len(sizes)} batch, and noise shows between several; give at least 2"
        )
    if not (np.isfinite(squares).all() and np.isfinite(dots).all()):
        raise DataError("noise_scale: the gradient of a batch isn't finite; look at the loss first")
    if population is not None and population < sizes.sum():
        raise OptionError(
            f"noise_scale: population is {population}, but the batches hold {sizes.sum():g} examples; give "
            "at least as many"
        )
    trace, squared_norm = _estimates(sizes, squares, dots, population)
    share = squared_norm / trace if trace else math.inf
    value = 1 / share if share > 0 else math.inf
    low = high = value
    if len(sizes) > 2 and trace:
        without = []
        whole = dots.sum()
        for b in range(len(sizes)):
            kept = np.arange(len(sizes)) != b
            # dots are those with n_b g_b of the sum of all, from which this one is taken out
            inner = _without(dots, sizes, squares, whole, b)
            of_others = _from_sums(sizes[kept], squares[kept], inner, population)
            without.append(of_others[1] / of_others[0] if of_others[0] else share)
        found = interval_of(share, without, level=level)
        low = 1 / found.high if found.high > 0 else math.inf
        high = 1 / found.low if found.low > 0 else math.inf
    elif trace:
        low, high = 0.0, math.inf
    return NoiseScale(
        value=value,
        low=low,
        high=high,
        trace=trace,
        squared_norm=squared_norm,
        examples=float(sizes.sum()),
        batches=len(sizes),
        level=level,
    )


_Floats = npt.NDArray[np.float64]


def _estimates(
    sizes: _Floats, squares: _Floats, dots: _Floats, population: int | None
) -> tuple[float, float]:
    return _from_sums(sizes, squares, float(dots.sum()), population)


def _from_sums(sizes: _Floats, squares: _Floats, whole: float, population: int | None) -> tuple[float, float]:
    """Return ``tr(Sigma)`` and ``|G|^2``, from ``|g_b|^2`` and the squared norm of the sum of ``n_b g_b``."""
    total = float(sizes.sum())
    trace = max(0.0, (float(sizes @ squares) - whole / total)) / (len(sizes) - 1)
    # of all that there is nothing is left to chance
    drawn = 1.0 if population is None else 1 - total / population
    return trace, whole / total**2 - drawn * trace / total


def _without(dots: _Floats, sizes: _Floats, squares: _Floats, whole: float, b: int) -> float:
    """The squared norm of the sum of all ``n g`` but one."""
    return float(whole - 2 * dots[b] + sizes[b] ** 2 * squares[b])


def _inner_products(
    each: Callable[[], Iterator[tuple[Vector, float]]], like: Vector, memory: int, group: Any
) -> tuple[_Floats, _Floats, _Floats]:
    """Return sizes, ``|g_b|^2``, and the inner products of ``n_b g_b`` with the sum of all of them."""
    space = Space()
    room = memory // max(1, sum(t.numel() * t.element_size() for t in like))
    sizes: list[float] = []
    squares: list[float] = []
    kept: list[Vector] = []
    total: list[Tensor] | None = None
    for gradient, size in each():
        sizes.append(size)
        squares.append(float(_dot(gradient, gradient)))
        # in float64, since what is alike is subtracted
        part = [size * t.detach().double() for t in gradient]
        total = part if total is None else space.add(total, 1.0, part)
        if len(kept) < room:
            kept.append([t.detach() for t in gradient])
    dots: list[float] = []
    if total is None:
        total = [t.detach().double() * 0 for t in like]
    total, _ = summed(total, [], group)
    if sizes:
        again = kept if len(kept) == len(sizes) else (gradient for gradient, _ in each())
        dots = [size * float(_dot(g, total)) for g, size in zip(again, sizes, strict=True)]
    found = gathered(list(zip(sizes, squares, dots, strict=True)), group)
    columns = np.array(found, dtype=np.float64).reshape(len(found), 3)
    return columns[:, 0], columns[:, 1], columns[:, 2]


def _dot(a: Vector, b: Vector) -> Tensor:
    return Space().dot([t.detach().double() for t in a], [t.detach().double() for t in b])
