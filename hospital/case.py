"""What a case is: a training as a person hands it over, what is wrong with it, and how it is judged."""

from __future__ import annotations

import inspect
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader, TensorDataset

from hospital.data import Data

__all__ = [
    "CAUSES",
    "Case",
    "Given",
    "changed",
    "given",
    "healthy",
    "read",
    "reinputted",
    "retargeted",
    "score",
    "sick",
    "worst",
]

CAUSES = (
    "output-activation",
    "output-units",
    "hidden-activation",
    "loss-function",
    "learning-rate-high",
    "learning-rate-low",
    "optimizer",
    "epochs-few",
    "batch-large",
    "batch-small",
    "input-scale",
    "target-scale",
    "labels",
    "split-mismatch",
    "initialization",
    "capacity",
    "depth",
    "regularization",
    "frozen",
    "order",
)


@dataclass(frozen=True)
class Given:
    """A training as a person hands it over, and a test set for judging.

    Attributes:
        model: makes the module anew, from torch's generator.
        x: inputs of training.
        y: targets of training.
        loss: a callable of outputs and targets.
        optimizer: makes it for a module.
        batch_size: examples a step.
        epochs: passes over the data.
        read: from outputs to predictions in the units of the targets, as the person does.
        test: clean inputs and targets; for a case whose validation data are spoiled, these.
        scored: ``"accuracy"``, ``"balanced"``, ``"labels"``, ``"r2"`` or ``"pooled"``; more is better.
        validation: inputs and targets, or none.
        form: ``"tensors"``, ``"dataset"`` or ``"loader"``.
        shuffle: whether the examples are drawn in another order each epoch.
        made: whether module and optimizer are handed over as functions.
    """

    model: Callable[[], nn.Module]
    x: Tensor
    y: Tensor
    loss: Callable[[Tensor, Tensor], Tensor]
    optimizer: Callable[[nn.Module], Optimizer]
    batch_size: int
    epochs: int
    read: Callable[[Tensor], Tensor]
    test: tuple[Tensor, Tensor]
    scored: str = "accuracy"
    validation: tuple[Tensor, Tensor] | None = None
    form: str = "tensors"
    shuffle: bool = True
    made: bool = False

    def keywords(self, seed: int) -> dict[str, Any]:
        """Return the arguments of ``thalweg.diagnose``."""
        data: Any = (self.x, self.y)
        if self.form == "dataset":
            data = TensorDataset(self.x, self.y)
        elif self.form == "loader" or not self.shuffle:
            data = DataLoader(TensorDataset(self.x, self.y), batch_size=self.batch_size, shuffle=self.shuffle)
        torch.manual_seed(seed)
        model: Any = self.model()
        optimizer: Any = self.optimizer(model)
        groups = optimizer.param_groups
        if self.made and len(groups) == 1 and len(groups[0]["params"]) == len(list(model.parameters())):
            kind, taken = type(optimizer), inspect.signature(type(optimizer)).parameters
            options = {name: value for name, value in optimizer.defaults.items() if name in taken}
            model, optimizer = self.model, lambda parameters: kind(parameters, **options)
        return {
            "model": model,
            "data": data,
            "loss": self.loss,
            "optimizer": optimizer,
            "batch_size": self.batch_size,
            "epochs": self.epochs,
            "validation": self.validation,
        }


@dataclass(frozen=True)
class Case:
    """A training whose illness is known.

    Attributes:
        name: of the case.
        causes: codes; the first is the root cause, an expert would accept the others. None: it is healthy.
        make: the training, as a function of a seed.
        cured: the same without the fault.
        also: codes that are true as well, though they aren't the cause.
        pair: whether two faults were put in; then ``causes`` has both.
        raises: whether a step of the training raises.
        tried: whether a change of the training could help, and not only other data.
        odd: whether it is a healthy one that looks ill.
    """

    name: str
    causes: tuple[str, ...]
    make: Callable[[int], Given]
    cured: Callable[[int], Given]
    also: tuple[str, ...] = ()
    pair: bool = False
    raises: bool = False
    tried: bool = True
    odd: bool = False
    kind: str = field(default="")

    @property
    def healthy(self) -> bool:
        """Whether nothing is wrong."""
        return not self.causes


Change = Callable[[Given], Given]
Base = Callable[[int], Given]


def given(
    data: Data, model: Callable[[], nn.Module], loss: Any, optimizer: Callable[[Any], Optimizer], **more: Any
) -> Given:
    """Return a training of data; ``optimizer`` is a function of parameters."""
    values = {
        "batch_size": 32,
        "epochs": 20,
        "read": read.classes,
        "test": data.test,
        "validation": data.validation,
        **more,
    }
    return Given(
        model=model,
        x=data.x,
        y=data.y,
        loss=loss,
        optimizer=lambda made: optimizer(made.parameters()),
        **values,
    )


def sick(
    name: str,
    causes: str,
    base: Base,
    change: Change | None = None,
    /,
    *,
    also: str = "",
    pair: bool = False,
    raises: bool = False,
    tried: bool = True,
    cured: Base | None = None,
    **values: Any,
) -> Case:
    """Return a case: a healthy training with something changed, by values of its fields and by a function."""

    def make(seed: int) -> Given:
        found = changed(base(seed), **values)
        return change(found) if change else found

    return Case(
        name,
        tuple(causes.split()),
        _varied(name, make),
        cured or base,
        tuple(also.split()),
        pair,
        raises,
        tried,
    )


def healthy(
    name: str, base: Base, change: Change | None = None, /, *, odd: bool = False, **values: Any
) -> Case:
    """Return a case where nothing is wrong; what it can reach is what ``base`` does."""
    made = sick(name, "", base, change, **values)
    return replace(made, odd=odd)


def retargeted(found: Given, change: Callable[[Tensor], Tensor]) -> Given:
    """Return a training with all targets changed."""
    (x, y), validation = found.test, found.validation
    return replace(
        found,
        y=change(found.y),
        test=(x, change(y)),
        validation=None if validation is None else (validation[0], change(validation[1])),
    )


def reinputted(found: Given, change: Callable[[Tensor], Tensor]) -> Given:
    """Return a training with all inputs changed."""
    (x, y), validation = found.test, found.validation
    return replace(
        found,
        x=change(found.x),
        test=(change(x), y),
        validation=None if validation is None else (change(validation[0]), validation[1]),
    )


def changed(found: Given, **values: Any) -> Given:
    """Return a training with other values; ``opt`` is an optimizer as a function of parameters."""
    if "opt" in values:
        make = values.pop("opt")
        values["optimizer"] = lambda made: make(made.parameters())
    return replace(found, **values)


def _varied(name: str, make: Base) -> Base:
    """Hand some over as a dataset, a loader, or functions, as people do."""
    number = zlib.crc32(name.encode()) % 5

    def varied(seed: int) -> Given:
        found = make(seed)
        if found.form != "tensors" or not found.shuffle:
            return found
        return replace(
            found, form=("tensors", "tensors", "dataset", "loader", "tensors")[number], made=number == 4
        )

    return varied


class read:
    """How people read outputs."""

    @staticmethod
    def classes(outputs: Tensor) -> Tensor:
        """The class of the largest output."""
        return outputs.argmax(1)

    @staticmethod
    def logit(outputs: Tensor) -> Tensor:
        """One where an output is above zero."""
        return (outputs > 0).float()

    @staticmethod
    def chance(outputs: Tensor) -> Tensor:
        """One where an output is above a half."""
        return (outputs > 0.5).float()

    @staticmethod
    def number(outputs: Tensor) -> Tensor:
        """The output."""
        return outputs

    @staticmethod
    def nearest(outputs: Tensor) -> Tensor:
        """The nearest whole number."""
        return outputs.round()


def score(kind: str, predictions: Tensor, targets: Tensor) -> float:
    """Return how good predictions are, more is better: a share from 0 to 1, or R2, at least -1.

    ``"r2"`` is the mean over outputs, ``"pooled"`` that of all outputs together.
    """
    predictions, targets = predictions.detach().double(), targets.double()
    if kind in ("r2", "pooled"):
        if predictions.numel() != targets.numel():
            predictions = predictions.reshape(len(targets), -1).expand(len(targets), targets[0].numel())
        predictions, targets = predictions.reshape(len(targets), -1), targets.reshape(len(targets), -1)
        if kind == "pooled":
            share = 1 - ((predictions - targets) ** 2).sum() / ((targets - targets.mean(0)) ** 2).sum()
            return float(share.nan_to_num(-1, -1, -1).clamp(-1, 1))
        left = ((predictions - targets) ** 2).mean(0) / ((targets - targets.mean(0)) ** 2).mean(0)
        return float((1 - left).nan_to_num(-1, -1, -1).clamp(-1, 1).mean())
    if kind == "labels":
        # both kinds of mistakes count alike, however rare a label is
        rights = predictions.reshape(targets.shape) == targets
        return float(torch.stack([rights[targets == each].double().mean() for each in (0, 1)]).mean())
    named, true = _numbers(predictions), _numbers(targets)
    rights = (named == true).double()
    if kind == "balanced":
        return float(torch.stack([rights[true == each].mean() for each in true.unique()]).mean())
    return float(rights.mean())


def _numbers(values: Tensor) -> Tensor:
    if values.dim() > 1 and values[0].numel() > 1:
        return values.reshape(len(values), -1).argmax(1)
    return values.reshape(-1).round()


def worst(kind: str) -> float:
    """Return the score of a training that came to nothing."""
    return -1.0 if kind in ("r2", "pooled") else 0.0
