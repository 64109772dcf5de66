"""What a step does to the loss, against what first and second order predicted, by layer (X1, X8).

Source: INDEX X1 (K: ill-conditioning, the second-order cost of a step against its first-order gain), X8 (N
8.34, U: layers that are updated at once).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from thalweg.curvature.model_matrices import BatchGradients, Hessian
from thalweg.curvature.vectors import Vector
from thalweg.errors import OptionError
from thalweg.layers.untouched import untouched
from thalweg.objectives import Loss

__all__ = ["StepEffect", "StepPrediction", "step_of", "step_prediction"]


@dataclass(frozen=True, kw_only=True)
class StepEffect:
    """What a change d of some parameters does to the loss.

    Attributes:
        first: ``g'd``, the change by first order: below zero where the step goes down.
        second: ``d'Hd / 2``, what second order adds.
        actual: ``L(x + d) - L(x)``.
    """

    first: float
    second: float
    actual: float

    @property
    def predicted(self) -> float:
        """The change by first and second order together."""
        return self.first + self.second

    @property
    def rest(self) -> float:
        """What is left to third and higher orders: ``actual - predicted``."""
        return self.actual - self.predicted

    @property
    def cost(self) -> float:
        """The second-order cost over the first-order gain, ``second / -first``.

        Above 1 the step is predicted to raise the loss: the problem is too badly conditioned for it (X1). At
        the best step along d it is 1/2. Infinite or NaN where there is no gain.
        """
        if self.first == 0:
            return math.copysign(math.inf, self.second) if self.second else math.nan
        return self.second / -self.first


@dataclass(frozen=True, kw_only=True)
class StepPrediction:
    """A step of all layers together and of each alone.

    Attributes:
        whole: of all together.
        layers: by name of the module that holds the parameters: of its part of the step, with all others as
            they were.
    """

    whole: StepEffect
    layers: Mapping[str, StepEffect]

    @property
    def interaction(self) -> float:
        """What layers do to each other: the change of all together less the sum of each alone (X8)."""
        return self.whole.actual - sum(layer.actual for layer in self.layers.values())

    @property
    def second_order_interaction(self) -> float:
        """The part of that which second order sees: ``d'Hd / 2`` less that of its diagonal blocks."""
        return self.whole.second - sum(layer.second for layer in self.layers.values())


def step_prediction(
    model: nn.Module,
    loss: str | Callable[[Any, Any], Any] | Loss,
    batches: Iterable[Any],
    step: Any,
    *,
    layers: bool = True,
) -> StepPrediction:
    """Compare the change of the loss by a step with what first and second order predict.

    With ``d`` the step, ``L(x + d) = L(x) + g'd + d'Hd / 2 + ...``. The model is afterwards as it was, and
    its layers draw the same at both ends. For each layer it takes a product with the Hessian and a
    loss, for all together one more of each and a gradient.

    Args:
        model, loss, batches: as for :class:`Hessian`; the batch of the step, or the data that count.
        step: d, in any form that :class:`Hessian` takes: what an optimizer has added to the parameters, or
            would (:func:`step_of`). The parameters are those before it.
        layers: whether each layer is measured alone, too.

    Raises:
        OptionError: a step that doesn't fit.
        DataError: there is no batch.

    >>> import torch
    >>> model = torch.nn.Linear(1, 1, bias=False).double()
    >>> _ = torch.nn.init.ones_(model.weight)
    >>> one = torch.ones(1, 1).double()
    >>> whole = step_prediction(model, "mse", (2 * one, 0 * one), [-one]).whole
    >>> whole.first, whole.second, whole.actual, whole.cost
    (-8.0, 4.0, -4.0, 0.5)

    Source: INDEX X1 (K), X8 (N 8.34).
    """
    batches = list(batches) if isinstance(batches, Iterator) else batches
    hessian = Hessian(model, loss, batches)
    vectors = hessian.vectors
    full, _ = vectors.take(step)
    names = _layers(list(vectors.parameters)) if layers else {}
    parts = [
        [d if name in own else torch.zeros_like(d) for name, d in zip(vectors.parameters, full, strict=True)]
        for own in names.values()
    ]
    moves = [full, *parts]
    with hessian.held():
        gradient = hessian.gradient()
        products = [hessian.products([d])[0] for d in moves]
    losses = BatchGradients.along(hessian)
    before = losses.value()
    effects = []
    for d, product in zip(moves, products, strict=True):
        with _moved(vectors.leaves, d):
            after = losses.value()
        effects.append(
            StepEffect(first=_dot(gradient, d), second=_dot(product, d) / 2, actual=after - before)
        )
    return StepPrediction(whole=effects[0], layers=dict(zip(names, effects[1:], strict=True)))


def step_of(model: nn.Module, optimizer: torch.optim.Optimizer, compute: Callable[[], Any]) -> Vector:
    """Return the step that an optimizer would take, and leave it, the model and the generators as they were.

    Args:
        model: whose parameters the optimizer holds.
        optimizer: any, of torch's kind.
        compute: computes the loss, calls its ``backward()``, and returns it; it is the step's closure.

    Returns:
        The change of each trained parameter, in the order of ``model.parameters()``.

    >>> import torch
    >>> model = torch.nn.Linear(1, 1, bias=False)
    >>> sgd = torch.optim.SGD(model.parameters(), lr=0.5)
    >>> def compute():
    ...     sgd.zero_grad()
    ...     loss = model(torch.ones(1, 1)).sum()
    ...     loss.backward()
    ...     return loss
    >>> step_of(model, sgd, compute)
    [tensor([[-0.5000]])]
    """
    trained = [p for p in model.parameters() if p.requires_grad]
    if not any(p is q for group in optimizer.param_groups for q in group["params"] for p in trained):
        raise OptionError("step_of: the optimizer holds no trained parameter of the model; give its own")
    before = [p.detach().clone() for p in trained]
    with untouched(model, optimizer):
        optimizer.step(compute)
        return [p.detach() - old for p, old in zip(trained, before, strict=True)]


def _layers(names: list[str]) -> dict[str, set[str]]:
    """Names of parameters by the module that they lie in."""
    found: dict[str, set[str]] = {}
    for name in names:
        found.setdefault(name.rpartition(".")[0], set()).add(name)
    return found


@contextmanager
def _moved(leaves: Vector, d: Vector) -> Iterator[None]:
    homes = [leaf.detach().clone() for leaf in leaves]
    with torch.no_grad():
        for leaf, change in zip(leaves, d, strict=True):
            leaf.add_(change)
    try:
        yield
    finally:
        with torch.no_grad():
            for leaf, home in zip(leaves, homes, strict=True):
                leaf.copy_(home)


def _dot(a: Vector, b: Vector) -> float:
    return float(sum((p.double() * q.double()).sum() for p, q in zip(a, b, strict=True)))
