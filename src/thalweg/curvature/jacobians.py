"""The Jacobian of a model's outputs with respect to its parameters, by its products (O10)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from thalweg.curvature.model_operator import ModelOperator, Share
from thalweg.curvature.products import JacobianProducts
from thalweg.curvature.vectors import Space, Vector
from thalweg.errors import OptionError
from thalweg.layers.interface import part_of

__all__ = ["Jacobian", "TransposedJacobian"]


class Jacobian(ModelOperator):
    """``J = d outputs / d theta`` of a model on one batch of inputs, ``[m, n]``, by products.

    ``J @ v`` gives the outputs' change along v, in their shape, for v in any form of a
    :class:`CurvatureOperator`; ``J.T @ u`` gives ``J'u`` for u in the outputs' shape or flat ``[m]``, as a
    list of tensors in the order of the parameters. What is said there of modes, frozen and tied parameters
    holds too.

    Args:
        model: called with ``inputs``.
        inputs: of one batch.

    Raises:
        ModelError: no parameter is trained, or the outputs aren't one tensor.
        OptionError: a vector that doesn't fit.

    >>> import torch
    >>> model = torch.nn.Linear(2, 1, bias=False)
    >>> jacobian = Jacobian(model, torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
    >>> jacobian.shape, (jacobian @ torch.ones(2)).tolist(), jacobian.T @ torch.ones(2, 1)
    ((2, 2), [[3.0], [7.0]], [tensor([[4., 6.]])])

    Source: O10 (N, C s95).
    """

    def __init__(self, model: nn.Module, inputs: Any) -> None:
        super().__init__(model)
        self._inputs = inputs
        with self._looking(), torch.no_grad():
            self._outputs_shape = part_of(model(self._here(inputs))).shape

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns: numbers in the outputs, and trained elements."""
        return self._outputs_shape.numel(), self.vectors.size

    def __matmul__(self, v: Any) -> Tensor:
        """Return ``Jv``, in the outputs' shape."""
        vector, _ = self.vectors.take(v)
        with self._shares() as shares:
            ((products, _),) = shares
            found: Tensor = products.push(vector)
        return found

    @property
    def T(self) -> TransposedJacobian:
        """The transposed Jacobian."""
        return TransposedJacobian(self)

    def transposed_product(self, u: Tensor) -> Vector:
        """Return ``J'u``, a list of tensors; ``J.T @ u`` is the same."""
        m = self.shape[0]
        if not isinstance(u, Tensor) or u.shape not in (self._outputs_shape, (m,)):
            got = tuple(u.shape) if isinstance(u, Tensor) else type(u).__name__
            raise OptionError(
                f"Jacobian: the outputs have shape {tuple(self._outputs_shape)}, but u is {got}; give that "
                f"shape, or [{m}]"
            )
        with self._shares() as shares:
            ((products, _),) = shares
            like = products.outputs
            found: Vector = products.pull(u.detach().to(like).reshape(like.shape))
        return found

    def to_dense(self) -> Tensor:
        """Return the matrix itself, ``[m, n]``."""
        with self._shares() as shares:
            ((products, _),) = shares
            found: Tensor = products.matrix()[0].detach()
        return found

    def _alone(self) -> bool:
        return True

    def _computed(self) -> Iterator[Share]:
        outputs = part_of(self.model(self._here(self._inputs)))
        yield JacobianProducts(outputs, self.vectors.leaves, Space()), None


class TransposedJacobian:
    """``J'`` of a :class:`Jacobian`."""

    def __init__(self, jacobian: Jacobian) -> None:
        self.T = jacobian

    def __matmul__(self, u: Tensor) -> Vector:
        """Return ``J'u``, a list of tensors."""
        return self.T.transposed_product(u)
