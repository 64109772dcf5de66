"""The density of a curvature matrix's eigenvalues, from a few products (X3, X9).

Source: INDEX X3, X9. Golub and Meurant, Matrices, moments and quadrature, 1994; Ubaru, Chen and Saad, Fast
estimation of tr(f(A)) via stochastic Lanczos quadrature, 2017; Ghorbani, Krishnan and Xiao, An investigation
into neural net optimization via Hessian eigenvalue density, 2019.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from thalweg.curvature.symmetric import SymmetricOperator, float64_products
from thalweg.curvature.traces import random_signs
from thalweg.errors import OptionError

__all__ = ["SpectralDensity", "spectral_density"]

_MEMORY = 2**30
_NOTHING = 1e-10

_Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class SpectralDensity:
    """Eigenvalues' density as weighted points, from several random vectors.

    Attributes:
        points: ``[samples, steps]``, the nodes of each quadrature: the outermost are eigenvalues nearly.
        weights: likewise, from 0; those of a sample add up to 1. Zero where a quadrature has fewer nodes.
        size: n, how many eigenvalues there are.
        products: what it took.
    """

    points: _Floats = field(repr=False)
    weights: _Floats = field(repr=False)
    size: int
    products: int

    def mean(self, function: Callable[[_Floats], _Floats]) -> tuple[float, float]:
        """Return the mean of a function over all eigenvalues, ``tr(f(A)) / n``, and its standard error."""
        each = (self.weights * function(self.points)).sum(1)
        if len(each) < 2:
            return float(each.mean()), math.inf
        return float(each.mean()), float(each.std(ddof=1)) / math.sqrt(len(each))

    def share_below(self, bound: float) -> float:
        """Return the share of eigenvalues below a number, as that of negative ones."""
        return self.mean(lambda x: (x < bound).astype(np.float64))[0]

    def at(self, x: _Floats, *, width: float | None = None) -> _Floats:
        """Return the density at points, each eigenvalue widened to a normal distribution.

        Args:
            x: where.
            width: standard deviation; None: a hundredth of the range.
        """
        sigma = self.width if width is None else width
        if not sigma > 0:
            raise OptionError(f"width is {sigma}; give a number above 0")
        apart = (np.asarray(x, dtype=np.float64)[..., None, None] - self.points) / sigma
        bumps = np.exp(-(apart**2) / 2) / (sigma * math.sqrt(2 * math.pi))
        found: _Floats = (bumps * self.weights).sum(-1).mean(-1)
        return found

    @property
    def range(self) -> tuple[float, float]:
        """The smallest and the largest point."""
        real = self.points[self.weights > 0]
        return float(real.min()), float(real.max())

    @property
    def width(self) -> float:
        """The width that :meth:`at` takes: a hundredth of the range."""
        low, high = self.range
        return (high - low) / 100 or max(abs(high), 1.0) / 100


def spectral_density(
    operator: SymmetricOperator,
    *,
    samples: int = 8,
    steps: int = 40,
    memory: int | None = None,
    seed: int = 0,
) -> SpectralDensity:
    """Estimate the density of eigenvalues by stochastic Lanczos quadrature.

    For a random vector z of elements 1 and -1, m steps of Lanczos iteration give a tridiagonal matrix. Its
    eigenvalues are the nodes, and its eigenvectors' squared first elements the weights of a Gauss quadrature:
    ``sum_i w_i f(t_i) = z'f(A)z / n``, exact for polynomials of degree ``2m - 1``. The mean over z is
    ``tr(f(A)) / n``.

    Args:
        operator: any matrix of this package.
        samples: random vectors, at least 1; several give a standard error.
        steps: products for each, at least 1; at most n are taken.
        memory: bytes for the vectors to which new ones are made orthogonal, 8 n each; where fewer fit than
            there are steps, they are those before, and outer eigenvalues show more than once, with weights
            that are right together. None: 1 GiB.
        seed: of the random vectors.

    Raises:
        OptionError: an argument out of range.
        DataError: a product isn't finite.

    >>> import torch
    >>> from thalweg.curvature import Hessian
    >>> model = torch.nn.Linear(2, 1, bias=False).double()
    >>> x = torch.tensor([[2.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    >>> density = spectral_density(Hessian(model, "mse", (x, x[:, :1])), samples=2)  # 4 and 1
    >>> round(density.mean(lambda t: t)[0], 6), round(density.share_below(2.0), 6)
    (2.5, 0.5)

    Source: Ubaru, Chen and Saad 2017; Ghorbani, Krishnan and Xiao 2019.
    """
    for name, number in (("samples", samples), ("steps", steps)):
        if number < 1:
            raise OptionError(f"spectral_density: {name} is {number}; give at least 1")
    vectors = operator.vectors
    product = float64_products(operator)
    n = vectors.size
    steps = min(steps, n)
    points, weights = np.zeros((samples, steps)), np.zeros((samples, steps))
    taken = 0
    with operator.held():
        for number in range(samples):
            z = random_signs(vectors, seed, number)
            room = max(2, int((_MEMORY if memory is None else memory) // (8 * max(1, len(z)))))
            unit = z / vectors.length(z)
            basis = [unit]
            alphas: list[float] = []
            betas: list[float] = []
            while True:
                w = product(unit)
                taken += 1
                alphas.append(float(vectors.dots(unit, w)))
                for _ in range(2):
                    for q in basis:
                        w = w - vectors.dots(q, w) * q
                beta = vectors.length(w)
                scale = max(map(abs, alphas)) + max(betas, default=0.0)
                if len(alphas) == steps or beta <= _NOTHING * scale:
                    break
                betas.append(beta)
                unit = w / beta
                basis = [*basis[1 - room :], unit]
            values, rotation = np.linalg.eigh(np.diag(alphas) + np.diag(betas, 1) + np.diag(betas, -1))
            points[number, : len(values)] = values
            weights[number, : len(values)] = rotation[0] ** 2
    return SpectralDensity(points=points, weights=weights, size=n, products=taken)
