"""The loss of a model at points of its parameters that it hasn't reached by training.

The model is moved there and back again. Nothing is differentiated, so that a point costs a forward pass over
all batches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from thalweg.curvature.model_matrices import BatchGradients
from thalweg.curvature.model_operator import Share
from thalweg.curvature.reducing import gathered
from thalweg.errors import OptionError, nearest
from thalweg.layers.norm_statistics import estimate_batch_norm, measured_layers
from thalweg.layers.untouched import untouched
from thalweg.objectives import Loss, Metric
from thalweg.objectives.nests import joined
from thalweg.randomness.generators import set_generator_states
from thalweg.settings.tables import one_of

__all__ = ["Measure", "NormStatistics", "Place", "Places", "place_of"]

Measure: TypeAlias = Callable[[Any, Any], Any] | Metric
"""A metric: of all outputs and all targets, a number."""

NormStatistics: TypeAlias = Literal["estimated", "kept"]
"""Batch norm's running statistics at a point: estimated anew there, or those that the model has."""

Place: TypeAlias = Mapping[str, Tensor]
"""Parameters and buffers by name."""


@dataclass(frozen=True, kw_only=True)
class _Scored:
    outputs: Any
    targets: Any


class Places:
    """A model that is moved to points and evaluated there, as it was before behind :meth:`visiting`.

    The model is called in its own mode. In evaluation mode batch norm has running statistics, which go with
    the parameters that they were measured at. ``statistics`` says what they are elsewhere; in training mode
    batch norm goes by its batch, and nothing is estimated. Dropout draws the same masks everywhere.

    Args:
        model, loss, batches: as for :class:`thalweg.curvature.Hessian`; a model without trained parameters
            may be given too.
        measure: a metric beside the loss, of all outputs together; None: none.
        statistics: of batch norm.
        parameters: names of parameters, or of modules, that directions are made for; None: all trained.
        known: words that ``statistics`` may be.

    Attributes:
        vectors: of the parameters that directions are made for.
        running: names of batch norm's running statistics.
        statistics: of batch norm; ``"none"`` where there is none, ``"batch"`` where it goes by its batch.
        passes: forward passes over all batches so far.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: str | Callable[[Any, Any], Any] | Loss,
        batches: Iterable[Any],
        *,
        measure: Measure | None = None,
        statistics: str = "estimated",
        parameters: Sequence[str] | None = None,
        known: Sequence[str] = get_args(NormStatistics),
    ) -> None:
        one_of("statistics", statistics, known)
        self.model = model.module if isinstance(model, DistributedDataParallel) else model
        with untouched(model, parameters=False):
            if not any(p.requires_grad for p in model.parameters()):
                for p in model.parameters():
                    p.requires_grad_(p.is_floating_point())
            self._losses = _LossValues(model, loss, batches, parameters=parameters, way="products")
        self.vectors = self._losses.vectors
        self._losses.measure = measure
        # which are found by letting the model train for a moment
        with untouched(self.model):
            layers = measured_layers(self.model)
        there = {id(layer) for layer in layers}
        self.running = frozenset(
            f"{name}.{buffer}" if name else buffer
            for name, part in self.model.named_modules()
            if id(part) in there
            for buffer in ("running_mean", "running_var")
        )
        self.statistics = statistics
        if not layers:
            self.statistics = "none"
        elif any(layer.training for layer in layers):
            self.statistics = "batch"
        self._losses.estimated = self.statistics == "estimated"
        self.passes = 0

    @property
    def tensors(self) -> dict[str, Tensor]:
        """What can be moved: parameters and buffers of real numbers, by name; a tied one once."""
        found: dict[str, Tensor] = {name: p.detach() for name, p in self.model.named_parameters()}
        found |= {name: b.detach() for name, b in self.model.named_buffers()}
        return {name: t for name, t in found.items() if t.is_floating_point() or t.is_complex()}

    @contextmanager
    def visiting(self) -> Iterator[None]:
        """Within this context the model may be moved; behind it, it is as it was."""
        with untouched(self.model):
            yield

    @torch.no_grad()
    def at(self, place: Place) -> tuple[float, float]:
        """Move to a point, of some or all tensors, and return loss and metric (NaN where there is none)."""
        tensors = self.tensors
        for name, value in place.items():
            tensors[name].copy_(value)
        self.passes += 2 if self._losses.estimated else 1
        return self._losses.scores()


class _LossValues(BatchGradients):
    """The loss over batches, without a graph, and a metric."""

    measure: Measure | None = None
    estimated = False

    def scores(self) -> tuple[float, float]:
        self._seen: list[_Scored] = []
        loss = self.value()
        if self.measure is None:
            return loss, float("nan")
        seen = gathered(self._seen, self.group)
        outputs, targets = joined([s.outputs for s in seen]), joined([s.targets for s in seen])
        if isinstance(self.measure, Metric):
            found = self.measure.score(self.measure.reduce(outputs, targets), targets)
        else:
            found = self.measure(outputs, targets)
        return loss, float(found)

    def _products(self, outputs: Any, targets: Any) -> Any:
        if self.measure is not None:
            self._seen.append(_Scored(outputs=outputs, targets=targets))
        return super()._products(outputs, targets)

    def _computed(self) -> Iterator[Share]:
        # it begins anew where a later batch has told what the loss divides by
        self._seen = []
        if self.estimated:
            group = self.group
            estimate_batch_norm(
                self.model,
                (inputs for inputs, _ in self._pairs()),
                gather=None if group is None else lambda tensor: gathered([tensor], group),
            )
            set_generator_states(self._generators, self.vectors.device)
        yield from super()._computed()

    @contextmanager
    def _looking(self) -> Iterator[None]:
        with super()._looking(), torch.no_grad():
            yield


def place_of(given: Any, like: Mapping[str, Tensor], needed: Iterable[str], owner: str, what: str) -> Place:
    """Return a point that was given as a model, or as its ``state_dict()``, by the names of ``like``.

    Args:
        given: the point.
        like: tensors that it may hold.
        needed: names that it has to hold.
        owner, what: for errors.

    Raises:
        OptionError: it is neither, lacks a name, or a shape is another.
    """
    if isinstance(given, nn.Module):
        inner = given.module if isinstance(given, DistributedDataParallel) else given
        held: Mapping[str, Any] = {**dict(inner.named_parameters()), **dict(inner.named_buffers())}
    elif isinstance(given, Mapping):
        held = given
        if held and all(isinstance(name, str) and name.startswith("module.") for name in held):
            held = {name.removeprefix("module."): value for name, value in held.items()}
    else:
        raise OptionError(
            f"{owner}: {what} is of type {type(given).__name__}; give a model, or what its state_dict() "
            "returns"
        )
    for name in needed:
        if name not in held:
            near = nearest(name, [str(each) for each in held]) if held else "it is empty"
            raise OptionError(f"{owner}: {what} has no {name!r}, which the model has; {near}")
    found = {}
    for name, mine in like.items():
        value = held.get(name)
        if value is None:
            continue
        if not isinstance(value, Tensor) or value.shape != mine.shape:
            got = list(value.shape) if isinstance(value, Tensor) else f"a {type(value).__name__}"
            raise OptionError(
                f"{owner}: {name!r} of {what} is {got}, and the model's is {list(mine.shape)}; give a point "
                "of the same model"
            )
        # a copy, since the model itself may be the point, and is moved
        found[name] = value.detach().to(mine, copy=True)
    return found
