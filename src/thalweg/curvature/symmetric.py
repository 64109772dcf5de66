"""What every symmetric matrix over a model's parameters offers: products in any form, and itself."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import torch
from torch import Tensor

from thalweg.curvature.parameter_vectors import ParameterVectors
from thalweg.curvature.vectors import Space, Vector
from thalweg.errors import DataError

if TYPE_CHECKING:
    from scipy.sparse.linalg import LinearOperator

__all__ = ["SymmetricOperator", "Way", "float64_products"]

Way: TypeAlias = Literal["products", "differences"]
"""How products are computed: by differentiating twice, or by differences of gradients."""


class SymmetricOperator(ABC):
    """A symmetric matrix ``[n, n]`` over the n trained elements of a model, known by its products.

    ``operator @ v`` takes a vector in any of three forms, and returns it in the same: a list of tensors in
    the order of ``model.parameters()``, a dictionary by name, or a flat tensor ``[n]``; ``[n, k]`` is k flat
    ones.

    Attributes:
        vectors: the parameters, and the forms of vectors over them.
    """

    vectors: ParameterVectors

    @abstractmethod
    def products(self, vectors: list[Vector]) -> list[Vector]:
        """Return the product with each of several vectors, lists of tensors."""

    @property
    @abstractmethod
    def way(self) -> Way:
        """How products are computed; until the first, how they will be as far as that is known."""

    @contextmanager
    def held(self, memory: int | None = None) -> Iterator[None]:
        """Keep for the next products what one has computed, as long as parameters stay as they are."""
        yield

    def guess(self) -> Vector | None:
        """Return a vector that is likely to lie in the sharpest directions, if there is one."""
        return None

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.vectors.size, self.vectors.size

    def __matmul__(self, v: Any) -> Any:
        """Return the product with a vector, in its form."""
        several = isinstance(v, Tensor) and v.ndim == 2
        taken = [self.vectors.take(each) for each in (v.unbind(1) if several else [v])]
        found = self.products([vector for vector, _ in taken])
        made = [back(each) for each, (_, back) in zip(found, taken, strict=True)]
        return torch.stack(made, 1) if several else made[0]

    def to_dense(self) -> Tensor:
        """Return the matrix itself, ``[n, n]``, from n products: for small models."""
        found: Tensor = self @ self.vectors.identity()
        return found

    def to_scipy(self) -> LinearOperator:
        """Return it as SciPy's ``LinearOperator``, for ``scipy.sparse.linalg.eigsh`` and others."""
        from scipy.sparse.linalg import LinearOperator

        def product(v: Any) -> Any:
            found: Tensor = self @ torch.as_tensor(v).reshape(-1)
            return found.cpu().numpy()

        dtype = str(Space().dtype(self.vectors.leaves)).removeprefix("torch.")
        return LinearOperator(self.shape, matvec=product, rmatvec=product, dtype=dtype)


def float64_products(operator: SymmetricOperator) -> Callable[[Tensor], Tensor]:
    """Return products of what a process has of a vector, ``[local]`` in float64 whatever the type.

    Raises:
        DataError: on a call, a product isn't finite.
    """
    vectors = operator.vectors

    def product(flat: Tensor) -> Tensor:
        (found,) = operator.products([vectors.from_local(flat)])
        local = vectors.local(found)
        bad = (~torch.isfinite(local)).sum().to(torch.float64)
        if float(vectors.length(bad.expand(local.shape)) if vectors.sharded else bad):
            raise DataError(
                f"{type(operator).__name__}: a product isn't finite: the loss, or its slope, overflows or is "
                f"NaN at these parameters; look at the loss first"
            )
        return local.to(torch.float64)

    return product
