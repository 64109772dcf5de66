"""From what a person gives to a problem, for every verb: data read and split, objective and model checked."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from thalweg import data
from thalweg.catalogue import Entry
from thalweg.data.examples import Examples, TensorExamples
from thalweg.data.labelled import several_targets
from thalweg.data.source import Prepared, Source
from thalweg.errors import DataError, OptionError
from thalweg.layers import models
from thalweg.layers.interface import Output
from thalweg.layers.models import Factory
from thalweg.objectives import Task, activations
from thalweg.objectives import metric as metric_named
from thalweg.objectives.given import usable
from thalweg.objectives.nests import leaves
from thalweg.randomness.generators import own_generators, undisturbed
from thalweg.run.directory.environment import usable_device
from thalweg.run.objective import Functions, Objective, leaves_out
from thalweg.run.problem import Problem, initial_module
from thalweg.run.targets import (
    check_pairing,
    check_targets,
    class_numbers,
    ignored_by,
    suited_loss,
    suited_metric,
    tasks_of,
)

__all__ = ["GivenData", "ProblemData"]

_STANDS_IN = 256


@dataclass(frozen=True, kw_only=True)
class GivenData:
    """Prepared data of a problem and what is asked of them; a model and optimizers make it one.

    Attributes:
        prepared: the data, on the device.
        objective: what is trained, apart from what is judged.
        device: where data and models lie.
    """

    prepared: Prepared
    objective: Objective
    device: str

    @classmethod
    def of(
        cls,
        training: Examples,
        validation: Examples | None,
        *,
        loss: Any,
        metric: Any = None,
        validation_loss: Any = None,
        output: Output = None,
        device: str = "cpu",
    ) -> GivenData:
        """Take examples as they are, and find out what is predicted.

        Args:
            training: at least one.
            validation: likewise; without, a few of training's stand in, since lanes evaluate something.
            loss, metric, validation_loss, output: as for :func:`thalweg.fit`.
            device: where data and models lie.

        Raises:
            UserError: something given can't be used, in one sentence.
        """
        loss, metric, validation_loss = _instances(loss, metric, validation_loss)
        if validation_loss is not None and validation is None:
            raise OptionError("validation_loss is of validation data; give these, or leave it out")
        judged = loss if validation_loss is None else validation_loss
        check_pairing(judged, metric)
        known = {
            "training": training.targets,
            "validation": None if validation is None else validation.targets,
        }
        of_loss = known if validation_loss is None else {"training": known["training"]}
        seen = known if validation_loss is None else {"validation": known["validation"]}
        task, outputs = _task(judged, metric, list(seen.values()))
        check_targets(loss, of_loss)
        check_targets(judged, seen)
        if validation_loss is None or activations.family(loss) is not None:
            # else what they mean is the loss's own affair
            training = _suited(training, loss, task)
        validation = None if validation is None else _suited(validation, judged, task)
        scored = _first(training) if validation is None else validation
        shapes = [tuple(leaf.shape[1:]) for leaf in leaves(training.inputs)]
        prepared = Prepared(
            train=training, validation=scored, test=scored, outputs=outputs, task=task, indices={},
            input_shape=shapes[0] if len(shapes) == 1 else (),
        )  # fmt: skip
        if metric is None and task.kind == "custom":
            metric = _LossAsMetric(judged)
        else:
            metric = suited_metric(metric_named(metric, task), task, ignored=ignored_by(judged))
        objective = Objective(loss=loss, metric=metric, judged=validation_loss, output=output)
        return cls(prepared=prepared, objective=objective, device=device)

    @functools.cached_property
    def functions(self) -> Functions:
        """Losses and metric of the data.

        Raises:
            UserError: they don't fit the data.
        """
        return self.objective.on(self.prepared)

    def problem(
        self, factory: Factory, optimizers: Mapping[str, Entry], prepared: Prepared | None = None
    ) -> Problem:
        """Return the problem of a model's factory on these data, or on others that were prepared likewise."""
        return Problem(
            factory=factory,
            data=self.prepared if prepared is None else prepared,
            objective=self.objective,
            optimizers=optimizers,
            device=self.device,
        )

    def check(self, factory: Factory, *, seed: int, examples: int) -> tuple[nn.Module, int | None]:
        """Build a model once, and try it on a few examples.

        Args:
            factory: of the model.
            seed: of its initial weights.
            examples: in a batch; at most 8 are tried.

        Returns:
            The model, in which the interface is, and how many outputs it has for an example.

        Raises:
            UserError: the model fits neither data nor losses.
        """
        shape, outputs = self.prepared.input_shape, self.prepared.outputs
        module = self.objective.interface.attach(initial_module(factory, shape, outputs, seed))
        trained, judged, metric = self.functions
        width = models.check(
            module, self.prepared, trained, metric, judged=judged, examples=min(8, examples),
            read=self.objective.interface.part,
        )  # fmt: skip
        return module, width


@dataclass(frozen=True, kw_only=True)
class ProblemData(GivenData):
    """Data that were read and split, and what is asked of them.

    Attributes:
        source: the data.
        task: what the data were read for, where that isn't what they themselves say.
        seed: of the splits.
        examples: so many of the training part are learnt from; ``None``: all.
    """

    source: Source
    task: str | None
    seed: int
    examples: int | None = None

    @classmethod
    def read(
        cls,
        given: Any,
        *,
        loss: Any = None,
        metric: Any = None,
        validation_loss: Any = None,
        output: Output = None,
        target: str | None = None,
        task: str | None = None,
        missing: str | None = None,
        types: Mapping[str, str] | None = None,
        collate: Callable[[list[Any]], Any] | None = None,
        seed: int,
        replicate: int = 0,
        device: str = "cpu",
        examples: int | None = None,
        accept: Callable[[Source], None] = lambda source: None,
    ) -> ProblemData:
        """Read data and split them; find losses and metric for them.

        Labels of which a loss leaves some out (``ignore_index``) are no classes: they keep their numbers.
        Where the data settle no metric, and none is given, the validation loss chooses.

        Args:
            given, target, task, missing, types, collate: as for :func:`thalweg.data.load`.
            loss, metric, validation_loss, output: as for :func:`thalweg.race`.
            seed, replicate: of the split.
            device: where data and models lie.
            examples: so many of the training part are learnt from; ``None``: all.
            accept: called with the data before they are split; may refuse them.

        Raises:
            UserError: something given can't be used, in one sentence.
        """
        usable_device(device)
        loss, metric, validation_loss = _instances(loss, metric, validation_loss)

        def load(kind: str | None) -> Source:
            return data.load(
                given, target=target, task=kind, missing=missing, types=types, collate=collate
            )  # fmt: skip

        # a Dataset may draw from anybody's generators while it is read
        with own_generators(seed, "data"):
            # the loss that is trained may be a person's own, which says nothing of labels
            losses = [loss] if validation_loss is None else [loss, validation_loss]
            source, numbered = _source(load, task, losses)
            accept(source)
            if numbered:
                task = "custom"
                loss = "cross-entropy" if loss is None else loss
                metric = "accuracy" if metric is None else metric
            prepared = _split(source, seed, replicate, device, examples) if replicate == 0 else None
        if prepared is None:
            with own_generators(seed, "data", replicate):
                prepared = _split(source, seed, replicate, device, examples)
        if metric is None and validation_loss is not None and prepared.task.kind == "custom":
            metric = _LossAsMetric(validation_loss)
        objective = Objective(loss=loss, metric=metric, judged=validation_loss, output=output)
        read = cls(
            source=source, prepared=prepared, objective=objective, task=task, seed=seed, device=device,
            examples=examples,
        )  # fmt: skip
        if prepared.train.targets is None:
            with undisturbed():
                _, some = prepared.train.batch(torch.arange(1))
            if not isinstance(some, Tensor):
                raise several_targets(some, repr(source.spec))
        # refuses what doesn't fit
        _ = read.functions
        return read

    def split(self, replicate: int) -> Prepared:
        """Return another split of the data."""
        if replicate == 0:
            return self.prepared
        with own_generators(self.seed, "data", replicate):
            return _split(self.source, self.seed, replicate, self.device, self.examples)


@dataclass(frozen=True)
class _LossAsMetric:
    """A loss that chooses: less is better."""

    loss: Any
    higher_is_better: bool = False
    __name__ = "validation-loss"

    def __call__(self, outputs: Any, targets: Tensor) -> Tensor:
        return self._function(outputs, targets)

    @functools.cached_property
    def _function(self) -> Callable[[Any, Any], Tensor]:
        return suited_loss(self.loss, {})

    def __getstate__(self) -> dict[str, Any]:
        return {"loss": self.loss, "higher_is_better": self.higher_is_better}


def _instances(loss: Any, metric: Any, validation_loss: Any) -> tuple[Any, Any, Any]:
    """Make an object of a class that was given in place of a function."""
    asked = ((loss, "loss"), (metric, "metric"), (validation_loss, "loss"))
    made = [usable(value, what) if isinstance(value, type) else value for value, what in asked]
    return made[0], made[1], made[2]


def _split(source: Source, seed: int, replicate: int, device: str, examples: int | None) -> Prepared:
    return data.prepare(source, seed=seed, replicate=replicate, device=device, examples=examples)


def _source(
    load: Callable[[str | None], Source], task: str | None, losses: Sequence[Any]
) -> tuple[Source, bool]:
    """Load the data, and say whether labels are taken as they are, since a loss leaves some of them out."""
    left_out = list(dict.fromkeys(leaves_out(loss) for loss in losses))

    def numbered() -> Source | None:
        return next((found for each in left_out if (found := _numbered(load, each)) is not None), None)

    try:
        source = load(task)
    except DataError:
        # so few may be left out that they would make no class
        found = numbered() if task is None else None
        if found is None:
            raise
        return found, True
    if task is None and any(str(each) in source.task.classes for each in left_out):
        found = numbered()
        if found is not None:
            return found, True
    return source, False


def _numbered(load: Callable[[str | None], Source], left_out: int) -> Source | None:
    """The data with labels as they are, where some are the number that is left out, the others from 0 on."""
    try:
        source = load("custom")
    except DataError:
        return None
    labels = getattr(source, "y", None)
    if source.columns or not isinstance(labels, np.ndarray) or labels.ndim != 1:
        return None
    counted = labels[labels != left_out]
    if labels.dtype.kind not in "iu" or not 0 < len(counted) < len(labels) or (counted < 0).any():
        return None
    source.notes.append(
        f"{len(labels) - len(counted)} of {len(labels)} labels are {left_out}, which the loss leaves out: "
        "they are no class, and count in no metric by name"
    )
    return source


def _task(loss: Any, metric: Any, known: Sequence[Tensor | None]) -> tuple[Task, int]:
    """What is predicted, and how many outputs that takes."""
    mine, evaluation = tasks_of(loss, metric, known)
    task = evaluation if mine.kind == "custom" else mine
    if evaluation.by_position:
        raise OptionError(
            f"the metric {metric!r} of an ensemble is of one class for each example, not of classes at "
            "several positions; give a function of outputs and targets as the metric"
        )
    if activations.family(loss) == "two classes" and task.kind == "classification":
        return task, 1
    if task.kind == "custom":
        targets = known[0]
        return task, 0 if targets is None or not len(targets) else targets[0].numel()
    return task, len(task.classes) if task.kind == "classification" else 1


def _suited(examples: Examples, loss: Any, task: Task) -> Examples:
    """Class numbers in the type that the loss takes, where targets are known."""
    targets = examples.targets
    if examples.inputs is None or targets is None or task.kind != "classification":
        return examples
    numbers = class_numbers(targets)
    if numbers is None:
        return examples
    if activations.family(loss) == "two classes" and loss != "bce":
        return TensorExamples(examples.inputs, numbers.to(torch.get_default_dtype()))
    return TensorExamples(examples.inputs, numbers)


def _first(examples: Examples) -> Examples:
    if examples.inputs is None or examples.targets is None:
        return examples
    return TensorExamples(*examples.batch(torch.arange(min(len(examples), _STANDS_IN))))
