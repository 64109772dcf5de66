"""Hessian, Gauss-Newton matrix and Jacobian of a model's parameters, by their products with vectors.

None of them is made as a matrix: a product with a vector takes passes through the model, and memory as a
gradient does. What the loss of all batches together is, is decided as in training: a batch counts by what the
loss divides by (:mod:`thalweg.objectives.dividing`), so that a last batch that is smaller weighs less.

Source: INDEX O9, O10, X3, X9. Products: Pearlmutter, Fast exact multiplication by the Hessian, 1994;
Schraudolph, Fast curvature matrix-vector products for second-order gradient descent, 2002.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Self, TypeAlias

import torch
from torch import Tensor, nn
from torch.utils import _pytree as trees

from thalweg.curvature.differentiation import differentiable_twice, gradient_of, outside_inference
from thalweg.curvature.parameter_vectors import ParameterVectors
from thalweg.curvature.products import GaussNewtonProducts, HessianProducts, JacobianProducts
from thalweg.curvature.symmetric import SymmetricOperator, Way
from thalweg.curvature.vectors import Space, Vector
from thalweg.errors import DataError, ModelError, OptionError
from thalweg.layers.interface import Interface, part_of
from thalweg.layers.untouched import untouched
from thalweg.objectives import Loss, Task, activations, as_loss
from thalweg.objectives import loss as loss_called
from thalweg.objectives.dividing import Divided, Division, divided
from thalweg.objectives.given import usable
from thalweg.objectives.nests import count_of
from thalweg.randomness.generators import generator_states, set_generator_states, undisturbed

__all__ = ["CurvatureOperator", "GaussNewtonMatrix", "Hessian", "Jacobian", "TransposedJacobian"]

_ALONE = Space()
# What one batch gives, and what its loss divides by: None where losses of batches are summed.
_Share: TypeAlias = tuple[Any, float | None]


class _ModelOperator(ABC):
    """What operators over a model's parameters have in common: it is looked at without a trace."""

    def __init__(self, model: nn.Module, *own: object, parameters: Sequence[str] | None = None) -> None:
        self.model, self._own, self._interface = model, own, Interface()
        self.vectors = ParameterVectors(model, type(self).__name__, parameters)
        self._generators = generator_states(self.vectors.device)
        self._held: list[_Share] | None = None

    @abstractmethod
    def _computed(self) -> Iterator[_Share]:
        """Compute what products need, batch by batch; within :meth:`_looking`."""

    @abstractmethod
    def _alone(self) -> bool:
        """Whether there is but one batch."""

    @contextmanager
    def held(self, memory: int | None = None) -> Iterator[None]:
        """Keep what one product has computed for the next ones, as long as parameters stay as they are.

        Within the context a product costs passes back only, about half of the work. Of several batches
        nothing is kept, since that would take the memory of all of them. What is drawn from generators within
        the context is taken back behind it.
        """
        if self._held is not None or not self._alone():
            yield
            return
        with self._looking():
            self._held = list(self._computed())
            try:
                yield
            finally:
                self._held = None

    @contextmanager
    def _shares(self) -> Iterator[Iterable[_Share]]:
        if self._held is not None:
            yield self._held
            return
        with self._looking():
            yield self._computed()

    @contextmanager
    def _looking(self) -> Iterator[None]:
        """Leave the model as it is, and let dropout draw the same masks in every product."""
        with (
            untouched(self.model, None, *self._own, parameters=False),
            self._interface.attached(self.model),
            torch.inference_mode(False),
            torch.enable_grad(),
            differentiable_twice(self.model),
        ):
            set_generator_states(self._generators, self.vectors.device)
            yield

    def _here(self, value: Any) -> Any:
        device = self.vectors.device
        return trees.tree_map_only(Tensor, lambda tensor: outside_inference(tensor).to(device), value)


class CurvatureOperator(_ModelOperator, SymmetricOperator):
    """A symmetric matrix ``[n, n]`` of a loss, with respect to the n trained elements of a model.

    ``operator @ v`` takes a vector in any of three forms, and returns it in the same: a list of tensors in
    the order of ``model.parameters()``, a dictionary by name, or a flat tensor ``[n]``; ``[n, k]`` is k flat
    ones. Frozen parameters (``requires_grad=False``) are left out, and a tied one counts once.

    - Parameters are read at each product. The model runs in the mode that it is in, and is afterwards as it
      was: gradients, batch norm's statistics, generators. In training mode batch norm is differentiated
      through its batch's statistics, and dropout draws the same masks in every product.
    - Products are computed in the type of the parameters, batch after batch. With several processes each
      has the matrix of its own batches.
    - Fused attention and recurrent layers of cuDNN, which can't be differentiated twice, are replaced by
      their plain forms.

    Args:
        model: called with a batch's inputs, which are brought to the device of its parameters.
        loss: ``"cross-entropy"``, ``"bce"``, ``"mse"``, ``"mae"``, ``"huber"``, or a function of outputs and
            targets to a scalar: a mean or a sum over examples.
        batches: a pair ``(inputs, targets)``, or an iterable of such pairs, as a DataLoader; an iterator is
            read once and kept. It has to give the same examples each time.
        parameters: names of those that count, or of modules whose parameters do, for the block of the matrix
            that belongs to them; None: all that are trained.

    Raises:
        OptionError: an unknown loss, or one of several batches that is neither mean nor sum; a vector that
            doesn't fit.
        DataError: there is no batch, one is no pair, or all targets are ignored.
        ModelError: no parameter is trained, or they lie on several devices.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: str | Callable[[Any, Any], Any] | Loss,
        batches: Iterable[Any],
        *,
        parameters: Sequence[str] | None = None,
    ) -> None:
        self.loss = _loss(loss)
        self._batches: Iterable[Any] = batches
        if isinstance(batches, tuple) and len(batches) == 2 and not isinstance(batches[0], (tuple, list)):
            self._batches = [batches]
        elif isinstance(batches, Iterator):
            self._batches = list(batches)
        super().__init__(model, self._batches, parameters=parameters)
        # a function of a person's own may want all that the model returns
        self._interface = Interface(own=() if activations.family(self.loss) else ("loss",))
        remedy = "give one batch, or a loss that is a mean or a sum over examples"
        self._division = Division(self.loss, remedy=remedy)
        self._several: bool | None = None

    @abstractmethod
    def _products(self, outputs: Any, targets: Any) -> HessianProducts | GaussNewtonProducts:
        """Return what gives products with the matrix of one batch."""

    @property
    def way(self) -> Way:
        """How products are computed."""
        return "products"

    def products(self, vectors: list[Vector]) -> list[Vector]:
        """Return the product with each of several vectors, lists of tensors."""
        # all of them batch by batch, since what a batch needs is computed once for all
        found = self._mean(lambda products: [t for vector in vectors for t in products.product(vector)])
        each = len(self.vectors.leaves)
        return [found[i * each : (i + 1) * each] for i in range(len(vectors))]

    def gradient(self) -> Vector:
        """Return the gradient of the loss over all batches, a list of tensors."""
        return self._mean(lambda products: [g.detach() for g in products.gradient])

    def squared_gradients(self) -> Vector:
        """Return the mean over batches of the squares of their gradients, element by element."""
        total: Vector | None = None
        count = 0
        with self._shares() as shares:
            for products, weight in shares:
                if weight == 0:
                    continue
                part = [g.detach().square() for g in products.gradient]
                total = part if total is None else _ALONE.add(total, 1.0, part)
                count += 1
        if total is None:
            raise DataError(f"{type(self).__name__}: the loss ignores every target; give others")
        return _ALONE.scale(1 / count, total)

    def block(self, *names: str) -> Self:
        """Return the block of the matrix that belongs to parameters, or modules, of these names.

        The generators' states are those of the whole, so that dropout draws the same masks.
        """
        return self._made(self._batches, names)

    def over(self, batches: Iterable[Any]) -> Self:
        """Return the matrix of other batches, of the same parameters."""
        return self._made(batches, list(self.vectors.parameters))

    def parts(self) -> list[tuple[Any, Any]]:
        """Return the batches, as a list."""
        with undisturbed(*self._own):
            set_generator_states(self._generators, self.vectors.device)
            return list(self._pairs())

    def each_product(self, vectors: list[Vector]) -> Iterator[tuple[list[Vector], float]]:
        """Give for each batch the products of its own matrix, and what it weighs in the mean.

        Of a loss that is a sum over examples, each batch's is multiplied by their number, and weighs 1.
        """
        with self._shares() as shares:
            found = [
                ([products.product(v) for v in vectors], weight) for products, weight in shares if weight != 0
            ]
        summed = len(found) if any(weight is None for _, weight in found) else 1
        for products, weight in found:
            yield [_ALONE.scale(float(summed), p) for p in products], 1.0 if weight is None else weight

    def _made(self, batches: Iterable[Any], names: Sequence[str]) -> Self:
        made = type(self)(self.model, self.loss, batches, parameters=names)
        made._generators = self._generators
        return made

    def guess(self) -> Vector:
        """Return the gradient, which lies mostly in the sharpest directions."""
        return self.gradient()

    def _mean(self, of: Callable[[Any], Vector]) -> Vector:
        """Return the mean of a vector over batches, weighed by what their losses divide by."""
        total: Vector | None = None
        whole, way = 0.0, self._division.way
        with self._shares() as shares:
            for products, weight in shares:
                if weight == 0:
                    # all of its targets are ignored
                    continue
                part = of(products)
                part = part if weight is None else _ALONE.scale(weight, part)
                total = part if total is None else _ALONE.add(total, 1.0, part)
                whole += 1.0 if weight is None else weight
                summed = weight is None
        if self._division.way != way:
            # a later batch has told what the loss divides by
            return self._mean(of)
        if total is None:
            raise DataError(f"{type(self).__name__}: the loss ignores every target; give others")
        return total if summed else _ALONE.scale(1 / whole, total)

    def _alone(self) -> bool:
        if self._several is None:
            with undisturbed(*self._own):
                batches = self._pairs()
                next(batches)
                self._several = next(batches, None) is not None
        return not self._several

    def _computed(self) -> Iterator[_Share]:
        alone = self._alone()
        for inputs, targets in self._pairs():
            outputs = self.model(inputs)
            yield self._products(outputs, targets), self._weight(outputs, targets, alone)

    @torch.no_grad()
    def _weight(self, outputs: Any, targets: Any, alone: bool) -> float | None:
        if alone:
            outputs = trees.tree_map_only(Tensor, torch.Tensor.detach, outputs)
            found = divided(self.loss.function, *self.loss.compare(outputs, targets))
            return 0.0 if found.divisor is not None and not float(found.divisor) else 1.0
        found = self._divided(outputs, targets)
        return None if found.divisor is None else float(found.divisor)

    @torch.no_grad()
    def _divided(self, outputs: Any, targets: Any) -> Divided:
        outputs = trees.tree_map_only(Tensor, torch.Tensor.detach, outputs)
        return self._division.part(outputs, targets)

    def _pairs(self) -> Iterator[tuple[Any, Any]]:
        owner, count = type(self).__name__, 0
        for batch in self._batches:
            if not isinstance(batch, (tuple, list)) or len(batch) != 2:
                got = f"{len(batch)} things" if isinstance(batch, (tuple, list)) else type(batch).__name__
                raise DataError(f"{owner}: a batch is {got}; give pairs of inputs and targets")
            count += 1
            yield self._here(batch[0]), self._here(batch[1])
        if not count:
            raise DataError(f"{owner}: there is no batch; give at least one pair of inputs and targets")


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
        if not isinstance(outputs, Tensor):
            raise ModelError(
                f"{type(self).__name__}: the model gives {type(outputs).__name__}, but under a loss of your "
                "own outputs have to be one tensor; wrap the model in one that returns it"
            )
        return GaussNewtonProducts(outputs, self.vectors.leaves, _ALONE, lambda z: self.loss(z, targets))


class BatchGradients(CurvatureOperator):
    """Gradients of batches, one after the other, without what products would need.

    Arguments and errors: :class:`CurvatureOperator`.
    """

    def _products(self, outputs: Any, targets: Any) -> Any:
        return _Gradient(gradient_of(self.loss(outputs, targets), self.vectors.leaves))

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
class _Gradient:
    gradient: Vector


class Jacobian(_ModelOperator):
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

    def _computed(self) -> Iterator[_Share]:
        outputs = part_of(self.model(self._here(self._inputs)))
        yield JacobianProducts(outputs, self.vectors.leaves, _ALONE), None


class TransposedJacobian:
    """``J'`` of a :class:`Jacobian`."""

    def __init__(self, jacobian: Jacobian) -> None:
        self.T = jacobian

    def __matmul__(self, u: Tensor) -> Vector:
        """Return ``J'u``, a list of tensors."""
        return self.T.transposed_product(u)


def _loss(loss: str | Callable[[Any, Any], Any] | Loss) -> Loss:
    if not isinstance(loss, str):
        return as_loss(loss if isinstance(loss, Loss) else usable(loss, "loss"))
    if loss == "bce":
        return loss_called(loss, Task(kind="classification", classes=("0", "1")))
    return loss_called(loss, Task(kind="custom"))
