"""A recipe understood: its data, its model and everything else that a training needs, checked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from thalweg import catalogue, objectives, recipe
from thalweg.catalogue import Entry
from thalweg.data.source import Prepared, Source
from thalweg.errors import OptionError
from thalweg.layers import models
from thalweg.layers.surgery import with_parts
from thalweg.objectives import activations
from thalweg.recipe.schema import Recipe, ScheduleTable, StrategiesTable
from thalweg.recipe.stages import (
    StageContext,
    example_of,
    group_settings,
    persons_code,
    schedule_and_strategies,
    stages_of,
)
from thalweg.run.directory.environment import usable_device
from thalweg.run.problem import Problem
from thalweg.run.problem_data import ProblemData
from thalweg.run.sampler import Batches, steps_an_epoch
from thalweg.settings.tables import check_length
from thalweg.stages.raw_input import with_raw_input
from thalweg.strategies import Strategy
from thalweg.training.backend import Backend, OneProcess
from thalweg.training.fit_spec import FitSpec
from thalweg.training.loader import ExampleLoader
from thalweg.training.parallel import DistributedDataParallel, FullyShardedDataParallel, local_device
from thalweg.training.param_groups import groups_for
from thalweg.training.rates import ScheduleOf, rates_of
from thalweg.training.staged import StagedTraining
from thalweg.training.trainer import Training

__all__ = ["BuiltRun", "build", "lines", "parameters_of"]


@dataclass(frozen=True, kw_only=True)
class BuiltRun:
    """Everything a training needs, understood and checked.

    Attributes:
        recipe: that it is of.
        read, problem: the data, and what is asked of them.
        entry: the optimizer.
        strategies: of a training without stages.
        model: set up on the backend, where there are no stages.
        backend: what lies beneath.
        training: at its beginning; ``None`` where it has stages.
        staged: the stages, where there are any.
        total: steps of a training without stages.
        say: filled with what is told what strategies have to say.
        text: the model as it prints.
        activation: from outputs to probabilities.
    """

    recipe: Recipe
    read: ProblemData
    problem: Problem
    entry: Entry
    strategies: list[Strategy]
    model: nn.Module
    backend: Backend
    training: Training | None
    staged: StagedTraining | None
    total: int
    say: list[Callable[[str], None]]
    text: str
    activation: activations.Activation

    @property
    def source(self) -> Source:
        """The data."""
        return self.read.source

    @property
    def prepared(self) -> Prepared:
        """The split."""
        return self.problem.data


def build(wanted: Recipe, device: str, world: int, known: ProblemData | None = None) -> BuiltRun:
    """Make everything; the data may be known already."""
    entry = catalogue.resolve(wanted.optimizer.name)
    settings = wanted.training
    if world > 1:
        _check_shares(wanted, entry, world)
    place = usable_device(device if world == 1 else str(local_device(device)), device)
    read = known or ProblemData.read(
        wanted.data.spec, loss=wanted.objective.loss, metric=wanted.objective.metric,
        validation_loss=wanted.objective.validation_loss, output=wanted.model.output,
        target=wanted.data.target, task=wanted.data.task, missing=wanted.data.missing,
        types=wanted.data.types or None, seed=wanted.data.seed, replicate=wanted.data.replicate,
        device=str(place), examples=wanted.data.examples,
    )  # fmt: skip
    prepared = read.prepared
    if wanted.prediction.crops > 1 and len(prepared.input_shape) != 3:
        raise OptionError(
            f"prediction.crops is {wanted.prediction.crops}, but inputs of shape "
            f"{list(prepared.input_shape)} are no images; leave crops out"
        )
    if wanted.prediction.calibrate is not None and prepared.task.kind != "classification":
        raise OptionError(
            f"prediction.calibrate is {wanted.prediction.calibrate!r}, which is for classes, but this is a "
            f"{prepared.task.kind} task; leave it out"
        )
    examples = len(prepared.train)
    steps = steps_an_epoch(examples, settings.batch_size)
    check_length(settings.epochs, steps)

    factory = with_raw_input(
        with_parts(models.factory(wanted.model.spec), wanted.model.parts), wanted.model.raw_input
    )
    model, width = read.check(factory, seed=settings.seed, examples=settings.batch_size)
    loss = read.functions.trained
    activation = activations.activation_of_task(prepared.task, width)
    if prepared.task.kind == "classification":
        activation = activations.activation(loss, width) or activation
    text = str(model)
    if settings.memory_format == "channels_last":
        model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    backend = _backend(settings, place, world)
    say: list[Callable[[str], None]] = []
    schedule, made = schedule_and_strategies(wanted.schedule, wanted.strategies)
    training, staged = None, None
    if wanted.stage:
        staged = _staged(wanted, read, model, backend, schedule)
    else:
        model = backend.set_up(model)
        training = _training(wanted, read, model, backend, entry, schedule, made, width, say)
    return BuiltRun(
        recipe=wanted, read=read, problem=read.problem(factory, {entry.name: entry}), entry=entry,
        strategies=made, model=model, backend=backend, training=training, staged=staged,
        total=settings.epochs * steps, say=say, text=text, activation=activation,
    )  # fmt: skip


def _training(
    wanted: Recipe,
    read: ProblemData,
    model: nn.Module,
    backend: Backend,
    entry: Entry,
    schedule: ScheduleOf | str,
    made: list[Strategy],
    width: int | None,
    say: list[Callable[[str], None]],
) -> Training:
    settings, examples = wanted.training, len(read.prepared.train)
    hyperparameters = wanted.optimizer.hyperparameters
    of_run = entry.of_run(hyperparameters)
    total = settings.epochs * steps_an_epoch(examples, settings.batch_size)
    optimizer = entry.make(parameters_of(model, wanted, entry), **hyperparameters)
    loss = read.functions.trained
    batches = Batches(
        examples,
        seed=settings.seed,
        size=settings.batch_size,
        factor=of_run.get("batch_factor", 1.0),
        growth=of_run.get("batch_growth", 1.0),
    )
    return Training(
        model=model,
        optimizer=optimizer,
        step_kind=entry.step_kind,
        loss=loss,
        loader=ExampleLoader(read.prepared.train, batches, settings.batch_size),
        rates=rates_of(optimizer, schedule, total),
        total=total,
        seed=settings.seed,
        backend=backend,
        strategies=made,
        parts=settings.accumulate,
        measured=("loss", "metric"),
        activation=activations.activation(loss, width),
        say=lambda text: say[0](text),
        interface=read.objective.interface,
    )


def _staged(
    wanted: Recipe,
    read: ProblemData,
    model: nn.Module,
    backend: Backend,
    schedule: ScheduleOf | str,
) -> StagedTraining:
    settings, prepared, objective = wanted.training, read.prepared, read.objective
    loss = objectives.to_hand_on(objective.loss, read.functions.trained)
    metric = objectives.to_hand_on(objective.metric, read.functions.metric)
    context = StageContext(
        model=model, spec=wanted.model.spec,
        example=example_of(prepared.train, max(2, min(8, settings.batch_size))), loss=loss,
        data=prepared.train, validation=prepared.validation, seed=wanted.data.seed, draws=settings.seed,
        device=str(backend.device),
        plateau=schedule_and_strategies(wanted.schedule, StrategiesTable())[1],
        resampled=wanted.ensemble is not None and wanted.ensemble.resample,
    )  # fmt: skip
    stages = stages_of(wanted.stage, context)
    _, made = schedule_and_strategies(ScheduleTable(), wanted.strategies)
    spec = FitSpec(
        model=model, data=prepared.train, loss=loss, optimizer=wanted.optimizer.name, schedule=schedule,
        strategies=made, validation=prepared.validation, metric=metric, validation_loss=objective.judged,
        output=wanted.model.output, epochs=settings.epochs, batch_size=settings.batch_size,
        hyperparameters=wanted.optimizer.hyperparameters, seed=settings.seed,
        evaluations=settings.evaluations, accumulate=settings.accumulate, precision=settings.precision,
        groups=group_settings(wanted.groups), backend=backend,
    )  # fmt: skip
    with persons_code("its code", "correct it"):
        return StagedTraining.of(spec, stages)


def _check_shares(wanted: Recipe, entry: Entry, world: int) -> None:
    """Refuse what can't be divided among processes."""
    settings = wanted.training
    if entry.step_kind in ("graph", "outputs"):
        raise OptionError(
            f"{entry.name} needs the graph of a whole batch, of which each of {world} processes has a part; "
            "train without torchrun, or by an optimizer that needs gradients alone, such as lbfgs"
        )
    if settings.batch_size < world * settings.accumulate:
        raise OptionError(
            f"training.batch_size is {settings.batch_size}, less than one example for each of {world} "
            "processes and each part of a batch; take a larger one, or fewer processes"
        )
    if wanted.ensemble is not None:
        raise OptionError(
            f"the members of an ensemble are trained in one process, not in {world}; leave torchrun out, or "
            "give each member a recipe of its own"
        )


def _backend(settings: recipe.TrainingTable, place: torch.device, world: int) -> Backend:
    if world == 1:
        return OneProcess(place, precision=settings.precision)
    kind = FullyShardedDataParallel if settings.parallel == "fsdp2" else DistributedDataParallel
    return kind(place, precision=settings.precision, sync_batch_norm=settings.sync_batch_norm)


def parameters_of(model: nn.Module, wanted: Recipe, entry: Entry) -> list[Any]:
    """Return the parameters of a model that are trained, in the groups that a recipe asks for."""
    groups = group_settings(wanted.groups)
    if not groups:
        return [p for p in model.parameters() if p.requires_grad]
    return groups_for(entry, model, wanted.optimizer.hyperparameters, **groups)


def lines(made: BuiltRun) -> dict[str, list[str]]:
    """Say what is about to be trained."""
    wanted, prepared, functions = made.recipe, made.prepared, made.problem.functions
    sizes = ", ".join(f"{len(getattr(prepared, part)):,} {part}" for part in ("train", "validation", "test"))
    hyper = ", ".join(f"{name} {value:.4g}" for name, value in wanted.optimizer.hyperparameters.items())
    parameters = sum(p.numel() for p in made.model.parameters())
    lines = {
        "data": [made.source.summary(), sizes, *made.source.notes],
        "model": [f"{wanted.model}, {parameters:,} parameters"],
        "recipe": [
            f"{wanted.optimizer.name}{f' ({hyper})' if hyper else ''}, schedule {wanted.schedule.name}",
            f"{_length(made)}; trained on {functions.trained.name}, evaluated by {functions.metric.name}",
        ],
    }
    if made.source.warnings:
        lines["warning"] = list(made.source.warnings)
    if wanted.ensemble is not None:
        kind = ", each on a resample of its own" if wanted.ensemble.resample else ""
        lines["recipe"].append(f"an ensemble of {wanted.ensemble.members} independent models{kind}")
    backend = made.backend
    if backend.world > 1:
        how = "FSDP2" if backend.sharded else "DDP"
        lines["recipe"].append(f"on {backend.world} processes by {how}, each with its share of every batch")
    if made.training is not None and made.strategies:
        lines["recipe"].append(f"with {', '.join(s.name for s in made.training.strategies)}")
    elif made.strategies:
        lines["recipe"].append(f"with {', '.join(s.name for s in made.strategies)}")
    return lines


def _length(made: BuiltRun) -> str:
    if made.staged is not None:
        names = [stage.name for stage in made.staged.stages]
        stages = "one stage" if len(names) == 1 else f"{len(names)} stages"
        return f"{stages}: {', '.join(names)}"
    training = made.recipe.training
    epochs = f"{training.epochs:,} epoch{'' if training.epochs == 1 else 's'}"
    return f"{epochs} of batches of {training.batch_size}: {made.total:,} steps"
