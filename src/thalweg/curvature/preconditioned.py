"""A curvature matrix in coordinates that are scaled, each by a factor of its own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from thalweg.curvature.symmetric import SymmetricOperator, Way
from thalweg.curvature.vectors import Vector

__all__ = ["Preconditioned"]


class Preconditioned(SymmetricOperator):
    """``S (sign * A + diag(shift)) S`` with ``S = diag(scale)``: with the eigenvalues of ``S^2 A``.

    With ``scale = P^(-1/2)`` it is ``P^(-1/2) A P^(-1/2)``: what a preconditioned step ``x - lr * P^-1 g``
    sees of A (O16; C s66-80). An element whose scale is 0 is projected out: it adds an eigenvalue 0.

    Args:
        operator: A.
        scale: a vector in any form that the operator takes, of numbers from 0.
        shift: likewise, added to the diagonal, as weight decay adds to the Hessian; None: nothing.
        sign: 1, or -1 for what an optimizer sees that climbs.

    >>> import torch
    >>> from thalweg.curvature import Hessian
    >>> model = torch.nn.Linear(2, 1, bias=False).double()
    >>> x = torch.tensor([[2.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    >>> hessian = Hessian(model, "mse", (x, x[:, :1]))  # diagonal: 4 and 1
    >>> whitened = Preconditioned(hessian, torch.tensor([0.5, 1.0]))
    >>> torch.diagonal(whitened.to_dense()).tolist()
    [1.0, 1.0]

    Source: INDEX O16, X9.
    """

    def __init__(
        self, operator: SymmetricOperator, scale: Any, *, shift: Any = None, sign: float = 1.0
    ) -> None:
        self.operator, self.vectors = operator, operator.vectors
        self._scale, _ = self.vectors.take(scale)
        self._shift = None if shift is None else self.vectors.take(shift)[0]
        self._sign = sign

    @property
    def way(self) -> Way:
        """How products are computed."""
        return self.operator.way

    @contextmanager
    def held(self, memory: int | None = None) -> Iterator[None]:
        """Keep what one product has computed for the next ones, as the operator does."""
        with self.operator.held(memory):
            yield

    def guess(self) -> Vector | None:
        """Return the operator's guess in these coordinates."""
        guess = self.operator.guess()
        return None if guess is None else [s * g for s, g in zip(self._scale, guess, strict=True)]

    def products(self, vectors: list[Vector]) -> list[Vector]:
        """Return the product with each of several vectors, lists of tensors."""
        scaled = [[s * t for s, t in zip(self._scale, v, strict=True)] for v in vectors]
        found = self.operator.products(scaled)
        made = []
        for product, v in zip(found, scaled, strict=True):
            signed = [self._sign * t for t in product]
            if self._shift is not None:
                signed = [t + d * e for t, d, e in zip(signed, self._shift, v, strict=True)]
            made.append([s * t for s, t in zip(self._scale, signed, strict=True)])
        return made
