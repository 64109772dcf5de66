"""A symmetric matrix of a model's loss over batches, by its products with vectors.

It isn't made as a matrix: a product with a vector takes passes through the model, and memory as a gradient
does. What the loss of all batches together is, is decided as in training: a batch counts by what the loss
divides by (:mod:`thalweg.objectives.dividing`), so that a last batch that is smaller weighs less.

Source: INDEX O9, O10, X3, X9.
"""

from __future__ import annotations

import functools
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.utils import _pytree as trees

from thalweg.curvature.difference_products import Replay, kinks_of
from thalweg.curvature.differentiation import check_twice, not_twice
from thalweg.curvature.model_operator import ModelOperator, Share
from thalweg.curvature.reducing import summed
from thalweg.curvature.symmetric import SymmetricOperator, Way
from thalweg.curvature.vectors import Space, Vector
from thalweg.errors import DataError, OptionError
from thalweg.layers.interface import Interface
from thalweg.objectives import Loss, Task, activations, as_loss
from thalweg.objectives import loss as loss_called
from thalweg.objectives.dividing import Divided, Division, divided
from thalweg.objectives.given import usable
from thalweg.randomness.generators import generator_states, set_generator_states, undisturbed

__all__ = ["CurvatureOperator"]

_ALONE = Space()


class CurvatureOperator(ModelOperator, SymmetricOperator):
    """A symmetric matrix ``[n, n]`` of a loss, with respect to the n trained elements of a model.

    ``operator @ v`` takes a vector in any of three forms, and returns it in the same: a list of tensors in
    the order of ``model.parameters()``, a dictionary by name, or a flat tensor ``[n]``; ``[n, k]`` is k flat
    ones. Frozen parameters (``requires_grad=False``) are left out, and a tied one counts once.

    - Parameters are read at each product. The model runs in the mode that it is in, and is afterwards as it
      was: gradients, batch norm's statistics, generators. In training mode batch norm is differentiated
      through its batch's statistics, and dropout draws the same masks in every product.
    - Products are computed in the type of the parameters, batch after batch. With several processes each
      has the matrix of its own batches; of a model in DistributedDataParallel it is that of all processes'
      batches together, and all have to take the same products.
    - Fused attention and recurrent layers of cuDNN, which can't be differentiated twice, are replaced by
      their plain forms. Where an operation has no second derivative, products are differences of gradients;
      of recurrent layers they are too, since that takes half of the time. ``way`` says which it was, and
      ``caveat`` what that means for this model.

    Args:
        model: called with a batch's inputs, which are brought to the device of its parameters.
        loss: ``"cross-entropy"``, ``"bce"``, ``"mse"``, ``"mae"``, ``"huber"``, or a function of outputs and
            targets to a scalar: a mean or a sum over examples.
        batches: a pair ``(inputs, targets)``, or an iterable of such pairs, as a DataLoader; an iterator is
            read once and kept. It has to give the same examples each time.
        parameters: names of those that count, or of modules whose parameters do, for the block of the matrix
            that belongs to them; None: all that are trained.
        way: ``"products"`` by differentiating twice, exact, ``"differences"`` of gradients, with an error
            of the order ``eps^(2/3)``; None: chosen.

    Raises:
        OptionError: an unknown loss, or one of several batches that is neither mean nor sum; a vector that
            doesn't fit; ``way="products"`` where an operation has no second derivative.
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
        way: Way | None = None,
    ) -> None:
        if way not in (None, "products", "differences"):
            raise OptionError(
                f"{type(self).__name__}: way is {way!r}; give 'products', 'differences' or None"
            )
        self.loss = _loss(loss)
        self.batches: Iterable[Any] = batches
        if isinstance(batches, tuple) and len(batches) == 2 and not isinstance(batches[0], (tuple, list)):
            self.batches = [batches]
        elif isinstance(batches, Iterator):
            self.batches = list(batches)
        super().__init__(model, self.batches, parameters=parameters)
        # a function of a person's own may want all that the model returns
        self._interface = Interface(own=() if activations.family(self.loss) else ("loss",))
        remedy = "give one batch, or a loss that is a mean or a sum over examples"
        self._division = Division(self.loss, remedy=remedy)
        self._several: bool | None = None
        self._asked, self._proven = way, False
        # twice through a recurrent layer takes as long as four gradients
        recurrent = any(isinstance(part, nn.RNNBase) for part in self.model.modules())
        self._way: Way = way or ("differences" if recurrent else "products")

    @abstractmethod
    def _products(self, outputs: Any, targets: Any) -> Any:
        """Return what gives ``gradient`` and ``product(v)`` with the matrix of one batch."""

    @abstractmethod
    def _differences(self, replay: Callable[[Callable[[Any], Any]], Replay], targets: Any) -> Any:
        """Return what gives them by differences, from what makes a replay of a function of outputs."""

    @property
    def way(self) -> Way:
        """How products are computed: as it was asked for or chosen; a product may change the choice."""
        return self._way

    @property
    def caveat(self) -> str | None:
        """What is to be known of the way in which products are computed; None: nothing, they are exact."""
        if self._way == "products":
            return None
        said = "products are differences of gradients"
        if kinks := kinks_of(self.model):
            said += (
                f", which at kinks ({', '.join(kinks)}) see the curvature over their width, with the units "
                "that switch within it, and not that of the piece that the point lies in"
            )
        return said

    def products(self, vectors: list[Vector]) -> list[Vector]:
        """Return the product with each of several vectors, lists of tensors."""
        # all of them batch by batch, since what a batch needs is computed once for all
        each = len(self.vectors.leaves)
        found = self._tried(
            lambda: self._mean(
                lambda products: [t for vector in vectors for t in products.product(vector)],
                each * len(vectors),
            )
        )
        return [found[i * each : (i + 1) * each] for i in range(len(vectors))]

    def _tried(self, compute: Callable[[], Any]) -> Any:
        """Compute by products, and where an operation has no second derivative, by differences."""
        try:
            return compute()
        except RuntimeError as problem:
            if self._way == "differences" or not not_twice(problem):
                raise
            if self._asked == "products":
                raise OptionError(
                    f"{type(self).__name__}: an operation of the model has no second derivative; leave way "
                    f"away, or give way='differences' ({' '.join(str(problem).split())[:160]})"
                ) from problem
        self._way = "differences"
        if self._held is not None:
            set_generator_states(self._generators, self.vectors.device)
            with undisturbed(*self._own):
                self._held = list(self._computed())
        return compute()

    def gradient(self) -> Vector:
        """Return the gradient of the loss over all batches, a list of tensors."""
        each = len(self.vectors.leaves)
        found: Vector = self._tried(
            lambda: self._mean(lambda products: [g.detach().clone() for g in products.gradient], each)
        )
        return found

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
        total, (together,) = summed(self._nothing() if total is None else total, [count], self.group)
        if not together:
            raise DataError(f"{type(self).__name__}: the loss ignores every target; give others")
        return _ALONE.scale(1 / together, total)

    def _nothing(self, count: int = 1) -> Vector:
        return [torch.zeros_like(leaf) for leaf in self.vectors.leaves] * count

    def block(self, *names: str) -> Self:
        """Return the block of the matrix that belongs to parameters, or modules, of these names.

        The generators' states are those of the whole, so that dropout draws the same masks.
        """
        return self._made(self.batches, names)

    def over(self, batches: Iterable[Any]) -> Self:
        """Return the matrix of other batches, of the same parameters."""
        return self._made(batches, list(self.vectors.parameters))

    def parts(self) -> list[tuple[Any, Any]]:
        """Return the batches, as a list."""
        with undisturbed(*self._own):
            set_generator_states(self._generators, self.vectors.device)
            return list(self._pairs())

    def each_product(self, vectors: list[Vector]) -> Iterator[tuple[list[Vector], float | None]]:
        """Give for each batch the products of its own matrix, and what it weighs in the mean.

        The weight is None of a loss that is a sum over examples.
        """
        if not self._proven and self._way == "products":
            # which way it is to be is known behind a product
            self.products(vectors[:1])
        with self._shares() as shares:
            for products, weight in shares:
                if weight != 0:
                    yield [products.product(v) for v in vectors], weight

    def _made(self, batches: Iterable[Any], names: Sequence[str]) -> Self:
        made = type(self)(self.model, self.loss, batches, parameters=names, way=self._asked)
        made._generators, made._way, made.group = self._generators, self._way, self.group
        return made

    def guess(self) -> Vector:
        """Return the gradient, which lies mostly in the sharpest directions."""
        return self.gradient()

    def _mean(self, of: Callable[[Any], Vector], length: int) -> Vector:
        """Return the mean of a vector over batches, weighed by what their losses divide by."""
        total: Vector | None = None
        whole, way, added = 0.0, self._division.way, False
        with self._shares() as shares:
            for products, weight in shares:
                if weight == 0:
                    # all of its targets are ignored
                    continue
                part = of(products)
                if not self._proven and self._way == "products" and (graph := products.graph):
                    check_twice(graph)
                    self._proven = True
                if weight is not None and weight != 1.0:
                    part = _ALONE.scale(weight, part)
                total = part if total is None else _ALONE.add(total, 1.0, part)
                whole += 1.0 if weight is None else weight
                added = weight is None
        if self._division.way != way:
            # a later batch has told what the loss divides by
            return self._mean(of, length)
        if total is None:
            total = self._nothing(length // len(self.vectors.leaves))
        total, (whole, sums) = summed(total, [whole, float(added)], self.group)
        if not whole:
            raise DataError(f"{type(self).__name__}: the loss ignores every target; give others")
        return total if sums or whole == 1.0 else _ALONE.scale(1 / whole, total)

    def _alone(self) -> bool:
        if self._several is None:
            with undisturbed(*self._own):
                batches = self._pairs()
                next(batches)
                self._several = next(batches, None) is not None
        return not self._several

    def _computed(self) -> Iterator[Share]:
        alone = self._alone()
        for inputs, targets in self._pairs():
            if self._way == "products":
                outputs = self.model(inputs)
                yield self._products(outputs, targets), self._weight(outputs, targets, alone)
                continue
            replay = functools.partial(self._replay, inputs, generator_states(self.vectors.device))
            products = self._differences(replay, targets)
            with torch.no_grad():
                outputs = replay(lambda found: found).here()
            yield products, self._weight(outputs, targets, alone)

    def _replay(self, inputs: Any, states: Any, of: Callable[[Any], Any]) -> Replay:
        """What computes a function of a batch's outputs again and again, with the same draws."""
        return Replay(lambda: of(self.model(inputs)), self.model, self.vectors.leaves, states)

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
        for batch in self.batches:
            if not isinstance(batch, (tuple, list)) or len(batch) != 2:
                got = f"{len(batch)} things" if isinstance(batch, (tuple, list)) else type(batch).__name__
                raise DataError(f"{owner}: a batch is {got}; give pairs of inputs and targets")
            count += 1
            yield self._here(batch[0]), self._here(batch[1])
        if not count:
            raise DataError(f"{owner}: there is no batch; give at least one pair of inputs and targets")


def _loss(loss: str | Callable[[Any, Any], Any] | Loss) -> Loss:
    if not isinstance(loss, str):
        return as_loss(loss if isinstance(loss, Loss) else usable(loss, "loss"))
    if loss == "bce":
        return loss_called(loss, Task(kind="classification", classes=("0", "1")))
    return loss_called(loss, Task(kind="custom"))
