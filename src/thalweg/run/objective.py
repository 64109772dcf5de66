"""What a training lowers, apart from what it is evaluated by, and how both read what the model returns."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from thalweg.data.source import Prepared
from thalweg.errors import ThalwegError
from thalweg.layers.interface import Interface, Output
from thalweg.layers.passing import no_fault_of_the_model
from thalweg.layers.untouched import untouched
from thalweg.objectives import Loss, Metric, Task, activations
from thalweg.objectives import loss as loss_named
from thalweg.randomness.generators import undisturbed
from thalweg.run.targets import ignored_by, loss_of, objective_of

__all__ = ["Functions", "Objective", "leaves_out"]


class Functions(NamedTuple):
    """An objective on some data.

    Attributes:
        trained: the loss that training lowers.
        judged: the loss that validation and test are evaluated by.
        metric: what chooses, likewise.
    """

    trained: Loss
    judged: Loss
    metric: Metric


@dataclass(frozen=True, kw_only=True)
class Objective:
    """What is trained, apart from what is judged.

    Attributes:
        loss: what training lowers: a name, ``file.py:function``, or a function of outputs and targets.
        metric: what validation is evaluated by, likewise.
        judged: the loss that validation and test are evaluated by; ``None``: the one that is trained.
        output: the part of the model's outputs that losses and metrics compare, where that isn't clear by
            itself (:mod:`thalweg.layers.interface`).
        interface: how the model is called and read; one for all its replicas.
    """

    loss: Any = None
    metric: Any = None
    judged: Any = None
    output: Output = None
    interface: Interface = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        losses = {"loss": self.loss, "judged": self.judged}
        own = [name for name, each in losses.items() if each is not None and activations.family(each) is None]
        if self.metric is not None and activations.kind_of_metric(self.metric) is None:
            own.append("metric")
        object.__setattr__(self, "interface", Interface(self.output, tuple(own)))

    @property
    def judging(self) -> Any:
        """The loss that validation and test are evaluated by, as it was asked for."""
        return self.loss if self.judged is None else self.judged

    def on(self, prepared: Prepared) -> Functions:
        """Return losses and metric for prepared data.

        Raises:
            UserError: they don't fit the data, in one sentence.
        """
        if self.judged is None:
            return self.reading(*objective_of(self.loss, self.metric, prepared))
        # what is trained needn't read outputs as the metric does, nor mean the same by targets
        judged, metric = objective_of(self.judged, self.metric, prepared, ("validation", "test"))
        return self.reading(loss_of(self.loss, prepared, ("training",)), metric, judged)

    def reading(self, trained: Loss, metric: Metric | None, judged: Loss | None = None) -> Functions:
        """Return functions that read what the model returns.

        Names, and torch's functions, are given the part. A function of a person's own is given all that the
        model returns if it can compute with that, and the part if not; the first batch shows which.
        """
        read = self._loss("loss", self.loss, trained)
        return Functions(
            read,
            read if judged is None else self._loss("judged", self.judged, judged),
            None if metric is None else self._metric(metric),  # type: ignore[arg-type]
        )

    def _loss(self, which: str, spec: Any, made: Loss) -> Loss:
        called, compare = f"the loss {made.name!r}", made.compare
        if spec is None or activations.family(spec) is not None:
            reader: Callable[[Any, Any], Any] = lambda outputs, targets: self.interface.part(outputs, called)  # noqa: E731
        else:
            reader = _OwnFunction(which, made.function, self.interface, called)

        def compared(outputs: Any, targets: Any) -> tuple[Any, Any]:
            return compare(outputs if isinstance(outputs, Tensor) else reader(outputs, targets), targets)

        return replace(made, compare=compared)

    def _metric(self, made: Metric) -> Metric:
        called, reduce = f"the metric {made.name!r}", made._reduce
        if made.function is None:
            reader: Callable[[Any, Any], Any] = lambda outputs, targets: self.interface.part(outputs, called)  # noqa: E731
        else:
            reader = _OwnFunction("metric", made.function, self.interface, called)

        def reduced(outputs: Any, targets: Any) -> Any:
            return reduce(outputs if isinstance(outputs, Tensor) else reader(outputs, targets), targets)

        return replace(made, _reduce=reduced)


def leaves_out(loss: Any) -> int:
    """Return the class number that a loss leaves out, given as a name, ``file.py:function`` or a function.

    >>> leaves_out(nn.CrossEntropyLoss(ignore_index=3)), leaves_out("cross-entropy"), leaves_out(None)
    (3, -100, -100)
    """
    if isinstance(loss, str) and ":" in loss:
        loss = loss_named(loss, Task(kind="custom"))
    return ignored_by(loss)


class _OwnFunction:
    """Gives a person's own function the whole of what the model returns, or its part, whichever it takes."""

    def __init__(self, which: str, function: Callable[..., Any], interface: Interface, called: str) -> None:
        self._which, self._function, self._interface, self._called = which, function, interface, called
        self._whole: bool | None = None

    def __call__(self, outputs: Any, targets: Any) -> Any:
        if self._whole is None:
            self._whole = self._wants_whole(outputs, targets)
            self._interface.settle(self._which, whole=self._whole)
        return outputs if self._whole else self._interface.part(outputs, self._called)

    def _wants_whole(self, outputs: Any, targets: Any) -> bool:
        problem = self._tried(outputs, targets)
        if problem is None:
            return True
        try:
            part = self._interface.part(outputs, self._called)
        except ThalwegError:
            if isinstance(problem, (TypeError, AttributeError)):
                # it takes a tensor, and which one isn't clear
                raise
            return True
        if self._tried(part, targets) is None:
            return False
        # neither: its own error is that of what it seems to be made for
        return not isinstance(problem, (TypeError, AttributeError))

    def _tried(self, outputs: Any, targets: Any) -> Exception | None:
        own = (
            untouched(self._function, parameters=False)
            if isinstance(self._function, nn.Module)
            else undisturbed()
        )
        try:
            with own, torch.no_grad(), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                self._function(outputs, targets)
        except Exception as problem:
            if no_fault_of_the_model(problem):
                raise
            return problem
        return None
