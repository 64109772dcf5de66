"""Hessian, Gauss-Newton matrix and empirical Fisher matrix of a model's loss, by their products.

Source: INDEX O9, O10, X3, X9. Products: Pearlmutter, Fast exact multiplication by the Hessian, 1994;
Schraudolph, Fast curvature matrix-vector products for second-order gradient descent, 2002.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as trees

from thalweg.curvature.difference_products import DifferenceProducts, Replay, bend_of, slope_of
from thalweg.curvature.differentiation import gradient_of
from thalweg.curvature.operators import CurvatureOperator
from thalweg.curvature.products import GaussNewtonProducts, HessianProducts, JacobianProducts
from thalweg.curvature.vectors import Space, Vector
from thalweg.errors import ModelError
from thalweg.objectives.nests import count_of, cut

__all__ = ["BatchGradients", "EmpiricalFisher", "GaussNewtonMatrix", "Hessian"]

_ALONE = Space()


class Hessian(CurvatureOperator):
    """``H = d2 L / d theta^2`` of a model's loss, by products (O9).

    ``H v`` differentiates the gradient's inner product with v once more: about twice the work of a gradient.
    At a kink (ReLU) it is the curvature of the piece that the point lies in.

    >>> import torch
    >>> model = torch.nn.Linear(1, 1, bias=False).double()
    >>> x = torch.tensor([[1.0], [2.0]], dtype=torch.float64)
    >>> hessian = Hessian(model, "mse", (x, 3 * x))
    >>> float(hessian @ torch.ones(1))  # 2 * mean(x^2)
    5.0

    Arguments, forms of vectors, and errors: :class:`CurvatureOperator`.

    Source: N Alg 8.8, C s80-91; Pearlmutter, Fast exact multiplication by the Hessian, 1994.
    """

    def _products(self, outputs: Any, targets: Any) -> HessianProducts:
        return HessianProducts(self.loss(outputs, targets), self.vectors.leaves, _ALONE)

    def _differences(self, replay: Callable[[Callable[[Any], Any]], Replay], targets: Any) -> Any:
        return DifferenceProducts(replay(lambda outputs: self.loss(outputs, targets)), self.vectors.leaves)


class GaussNewtonMatrix(CurvatureOperator):
    """``G = J' H_L J``: J of the outputs, ``H_L`` the Hessian of the loss with respect to them (O10).

    It is the Hessian of the loss of a model that is replaced by its linearization: positive semidefinite
    for a loss that is convex in the outputs, and equal to the Hessian where the model is linear. For
    cross-entropy it is the Fisher matrix of the model's own predictions; of ``mse`` over m numbers it is
    ``2 J'J / m``.

    >>> import torch
    >>> model = torch.nn.Linear(1, 1, bias=False).double()
    >>> x = torch.tensor([[1.0], [2.0]], dtype=torch.float64)
    >>> float(GaussNewtonMatrix(model, "mse", (x, 3 * x)) @ torch.ones(1))
    5.0

    Arguments, forms of vectors, and errors: :class:`CurvatureOperator`; and ModelError where outputs aren't
    one tensor.

    Source: N, C s95; Schraudolph, Fast curvature matrix-vector products, 2002.
    """

    def _products(self, outputs: Any, targets: Any) -> GaussNewtonProducts:
        made = self._one(outputs)
        return GaussNewtonProducts(made, self.vectors.leaves, _ALONE, lambda z: self.loss(z, targets))

    def _differences(self, replay: Callable[[Callable[[Any], Any]], Replay], targets: Any) -> Any:
        def loss(z: Tensor) -> Tensor:
            return self.loss(z, targets)

        return DifferenceProducts(
            replay(self._one),
            self.vectors.leaves,
            functools.partial(bend_of, loss),
            functools.partial(slope_of, loss),
        )

    def _one(self, outputs: Any) -> Tensor:
        if not isinstance(outputs, Tensor):
            raise ModelError(
                f"{type(self).__name__}: the model gives {type(outputs).__name__}, but under a loss of your "
                "own outputs have to be one tensor; wrap the model in one that returns it"
            )
        return outputs


class EmpiricalFisher(CurvatureOperator):
    """``F = sum_i c_i g_i g_i' / sum_i c_i``, with the gradient ``g_i`` of the loss of example i alone.

    ``c_i`` is what the loss divides by for it: 1 in a mean over examples, so that F is the mean of outer
    products; its targets that aren't ignored, or their weights, where the loss counts these. Of a loss that
    is a sum, F is the sum. It isn't the Fisher matrix, whose targets are drawn from the model's own
    predictions: that is :class:`GaussNewtonMatrix` of cross-entropy.

    No gradient of a single example is computed: with J the Jacobian of the examples' losses,
    ``F v = J' (c * J v) / sum c``, two passes back for all examples of a batch together. The model is called
    with whole batches; in training mode batch norm makes an example's loss depend on the others.

    >>> import torch
    >>> model = torch.nn.Linear(1, 1, bias=False).double()
    >>> _ = torch.nn.init.zeros_(model.weight)
    >>> x = torch.tensor([[1.0], [2.0]], dtype=torch.float64)
    >>> float(EmpiricalFisher(model, "mse", (x, x)) @ torch.ones(1))  # gradients -2 and -8
    34.0

    Arguments, forms of vectors, and errors: :class:`CurvatureOperator`.

    Source: INDEX O10; Martens, New insights and perspectives on the natural gradient method, 2020; Kunstner,
    Balles and Hennig, Limitations of the empirical Fisher approximation, 2019.
    """

    def _products(self, outputs: Any, targets: Any) -> Any:
        losses, shares = self._each(outputs, targets)
        return _FisherProducts(JacobianProducts(losses, self.vectors.leaves, _ALONE), shares)

    def _differences(self, replay: Callable[[Callable[[Any], Any]], Replay], targets: Any) -> Any:
        with torch.no_grad():
            shares = replay(lambda outputs: self._each(outputs, targets)[1]).here()
        return DifferenceProducts(
            replay(lambda outputs: self._each(outputs, targets)[0]),
            self.vectors.leaves,
            lambda losses, pushed: shares * pushed,
            lambda losses: shares,
        )

    def _each(self, outputs: Any, targets: Any) -> tuple[Tensor, Tensor]:
        """The loss of each example, and its share in that of the batch."""
        whole, count = self._divided(outputs, targets), count_of(targets)
        alike = whole.divisor is not None and float(whole.divisor) == count * whole.positions
        if alike or whole.divisor is None:
            share = 1.0 if whole.divisor is None else 1 / count
            try:
                losses = torch.func.vmap(self._single)(outputs, targets)
                return losses, torch.full_like(losses, share).detach()
            except RuntimeError:
                # what looks at numbers can't be done for all at once
                pass
        found = [
            self._division.part(cut(outputs, count, i, i + 1), cut(targets, count, i, i + 1))
            for i in range(count)
        ]
        losses = torch.stack([each.value for each in found])
        # what ignores its target has a mean over nothing
        counts = [1.0 if each.divisor is None else float(each.divisor) for each in found]
        shares = losses.detach().new_tensor(counts)
        return losses, shares if whole.divisor is None else shares / shares.sum().clamp(min=1e-300)

    def _single(self, outputs: Any, targets: Any) -> Tensor:
        one = trees.tree_map_only(Tensor, lambda t: t[None], (outputs, targets))
        return self.loss(*one)


@dataclass(frozen=True)
class _FisherProducts:
    """Products ``J' (shares * J v)`` with the Jacobian of the examples' losses."""

    jacobian: JacobianProducts
    shares: Tensor

    @property
    def graph(self) -> Vector:
        return self.jacobian.graph

    @property
    def gradient(self) -> Vector:
        return self.jacobian.pull(self.shares)

    def product(self, v: Vector) -> Vector:
        return self.jacobian.pull(self.shares * self.jacobian.push(v))


class BatchGradients(CurvatureOperator):
    """Gradients of batches, one after the other, without what products would need.

    Arguments and errors: :class:`CurvatureOperator`.
    """

    def _products(self, outputs: Any, targets: Any) -> Any:
        return _Loss(self.loss(outputs, targets), self.vectors.leaves)

    def _differences(self, replay: Callable[[Callable[[Any], Any]], Replay], targets: Any) -> Any:
        return DifferenceProducts(replay(lambda outputs: self.loss(outputs, targets)), self.vectors.leaves)

    @classmethod
    def along(cls, operator: CurvatureOperator) -> BatchGradients:
        """Return those of an operator's batches and parameters, with the same random draws."""
        names = list(operator.vectors.parameters)
        made = cls(operator.model, operator.loss, operator.batches, parameters=names)
        made._generators, made.group = operator._generators, operator.group
        return made

    def value(self) -> float:
        """Return the loss over all batches."""
        return float(self._mean(lambda products: [products.value], 1)[0])

    def each(self) -> Iterator[tuple[Vector, float]]:
        """Give each batch's gradient of the mean over its examples, and how many these are.

        Examples count as the loss counts them: ignored ones don't, and weighed ones by their weights.
        """
        with self._looking():
            found = self._pairs()
            for inputs, targets in found:
                outputs = self.model(inputs)
                loss = self._divided(outputs, targets)
                gradient = self._products(outputs, targets).gradient
                if loss.divisor is None:
                    size = float(count_of(targets))
                    gradient = _ALONE.scale(1 / size, gradient)
                else:
                    size = float(loss.divisor) / loss.positions
                if size:
                    yield gradient, size


@dataclass(frozen=True)
class _Loss:
    loss: Tensor
    leaves: Vector

    @property
    def graph(self) -> Vector:
        return []

    @property
    def value(self) -> Tensor:
        return self.loss.detach().double()

    @property
    def gradient(self) -> Vector:
        return gradient_of(self.loss, self.leaves)
