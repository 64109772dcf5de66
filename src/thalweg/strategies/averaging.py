"""Averaging as a strategy: what is evaluated and kept is an average of the points that training visits."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar, Literal

from pydantic import Field
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from thalweg.averaging import Average, AverageKind, ExponentialAverage, Tail, Uniform, estimate_batch_norm
from thalweg.settings.tables import takes
from thalweg.strategies.base import Settings, Strategy, Trainer

__all__ = ["Averaging", "AveragingSettings"]


class AveragingSettings(Settings):
    """``[strategies.averaging]``."""

    kind: Literal["exponential", "uniform", "tail"] = "exponential"
    decay: float = Field(default=0.999, ge=0, lt=1)
    warmup: Literal["ramp", "corrected", "none"] = "ramp"
    tail: float = Field(default=0.5, ge=0, lt=1)
    every: int = Field(default=1, ge=1)
    batches: int = Field(default=50, ge=1)


class Averaging(Strategy):
    """Average parameters and buffers over steps; evaluations and the result are of the average.

    Batch norm's statistics belong to weights, not to an average of weights: before the average is evaluated,
    they are estimated again on training batches, always the same ones.

    Args:
        kind: ``"exponential"``, ``"uniform"``, or ``"tail"``: uniform over the last part of the run.
        decay, warmup: of the exponential one, see :class:`thalweg.averaging.ExponentialAverage`.
        tail: part of the run before the tail begins.
        every: steps between two points that count.
        batches: how many batches the statistics are estimated on.

    Raises:
        OptionError: a value out of range.

    >>> import torch
    >>> model = nn.Linear(1, 1, bias=False)
    >>> averaging = Averaging(kind="uniform")
    >>> for value in (1.0, 2.0, 6.0):
    ...     _ = model.weight.data.fill_(value)
    ...     averaging.update(model)
    >>> with averaging.swapped(model):
    ...     print(model.weight.item())
    3.0

    Source: A1 (N 8.39, S), with D1 for the statistics; the functions are :mod:`thalweg.averaging`.
    """

    name: ClassVar[str] = "averaging"
    priority: ClassVar[int] = 40
    follows: ClassVar[bool] = True
    settings: AveragingSettings

    @takes(AveragingSettings)
    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self._average: Average | None = None
        self._planned = 1
        self._seen = 0

    def update(self, model: nn.Module) -> None:
        """Take the model's present point into the average, if it is one that counts."""
        self._seen += 1
        if (self._seen - 1) % self.settings.every == 0:
            self._of(model).update()

    @contextmanager
    def swapped(
        self,
        model: nn.Module,
        batches: Iterable[Any] | None = None,
        *,
        forward: Callable[[Any], object] | None = None,
        gather: Callable[[Tensor], list[Tensor]] | None = None,
    ) -> Iterator[None]:
        """Let the model hold the average; with training batches, under statistics estimated anew.

        ``forward`` and ``gather`` are those of :func:`thalweg.averaging.estimate_batch_norm`.
        """
        average = self._of(model)
        if average.count == 0:
            yield
            return
        with average.swapped():
            if batches is not None:
                estimate_batch_norm(model, batches, forward=forward, gather=gather)
            yield

    def attach(self, trainer: Trainer) -> None:
        """Know the length of the run, for the tail."""
        self._planned = max(1, trainer.steps)
        self._of(trainer.model)

    def after_step(self, trainer: Trainer) -> None:
        """Take the point in."""
        self.update(trainer.model)

    @contextmanager
    def evaluation_weights(self, trainer: Trainer) -> Iterator[None]:
        """Let the average be evaluated."""
        batches, forward = self._batches(trainer), _forward(trainer)
        with self.swapped(trainer.model, batches, forward=forward, gather=trainer.gather):
            yield

    def finished(self, trainer: Trainer) -> None:
        """Leave the average in the model."""
        average = self._of(trainer.model)
        if average.count:
            average.copy_to(trainer.model)
            if (batches := self._batches(trainer)) is not None:
                estimate_batch_norm(trainer.model, batches, forward=_forward(trainer), gather=trainer.gather)

    def state_dict(self) -> dict[str, Any]:
        """Return the average, and how many points were seen."""
        average = None if self._average is None else self._average.state_dict()
        return {"seen": self._seen, "average": average}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on; the model must have been met before, by :meth:`attach` or :meth:`update`."""
        self._seen = state["seen"]
        if state["average"] is not None:
            assert self._average is not None, "the model hasn't been met"
            self._average.load_state_dict(state["average"])

    def _of(self, model: nn.Module) -> Average:
        if self._average is None or self._average.model is not model:
            self._average = Average(model, self._kind())
        return self._average

    def _kind(self) -> AverageKind:
        wanted = self.settings
        if wanted.kind == "uniform":
            return Uniform()
        if wanted.kind == "tail":
            # steps within the share: 0.57 * 100 is a little less than 57
            before = math.floor(wanted.tail * self._planned + 1e-9)
            # points are taken at steps 1, 1 + every, ...: the first one beyond the share begins the tail
            return Tail(start=-(-before // wanted.every) + 1)
        return ExponentialAverage(decay=wanted.decay, warmup=wanted.warmup)

    def _batches(self, trainer: Trainer) -> Iterable[Any] | None:
        normalized = any(isinstance(module, _BatchNorm) for module in trainer.model.modules())
        return trainer.inputs(self.settings.batches) if normalized else None


def _forward(trainer: Trainer) -> Callable[[Any], object]:
    def forward(batch: Any) -> object:
        with trainer.forward_context():
            return trainer.model(batch[0])

    return forward
