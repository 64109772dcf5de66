"""A recipe as a diagnosis sees it: its data as prepared, its model, loss and optimizer as trained."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from thalweg import catalogue
from thalweg.data.source import Prepared
from thalweg.diagnosis.setup import Setup
from thalweg.errors import DataError
from thalweg.layers import models
from thalweg.layers.surgery import with_parts
from thalweg.objectives.activations import activation
from thalweg.randomness.generators import undisturbed
from thalweg.recipe.build import parameters_of
from thalweg.recipe.schema import Recipe
from thalweg.recipe.stages import schedule_and_strategies
from thalweg.run.problem import initial_module
from thalweg.run.problem_data import ProblemData
from thalweg.run.sampler import steps_an_epoch
from thalweg.stages.raw_input import with_raw_input
from thalweg.strategies.clipping import ClippingSettings
from thalweg.strategies.initialization import Initialization
from thalweg.training.rates import Rates, rates_of

__all__ = ["RecipeSetup", "setup_of_recipe"]


@dataclass(frozen=True, kw_only=True)
class RecipeSetup:
    """A set-up made of a recipe.

    Attributes:
        recipe: that it is of.
        setup: what is diagnosed.
        notes: what of the recipe a diagnosis leaves out.
    """

    recipe: Recipe
    setup: Setup
    notes: tuple[str, ...]


def setup_of_recipe(wanted: Recipe, *, device: str = "cpu") -> RecipeSetup:
    """Read a recipe's data and make its set-up; nothing is trained or written.

    Inputs and targets are those that training sees: tables are standardized, classes numbered. The schedule
    goes with the steps, the bound of ``[strategies.clipping]`` with the gradient, and
    ``[strategies.initialization]`` with the first weights; other strategies are left out, and said.

    Raises:
        UserError: something in it can't be used, in one sentence.
    """
    read = ProblemData.read(
        wanted.data.spec, loss=wanted.objective.loss, metric=wanted.objective.metric,
        validation_loss=wanted.objective.validation_loss, output=wanted.model.output,
        target=wanted.data.target, task=wanted.data.task, missing=wanted.data.missing,
        types=wanted.data.types or None, seed=wanted.data.seed, replicate=wanted.data.replicate,
        device=device, examples=wanted.data.examples,
    )  # fmt: skip
    prepared, settings = read.prepared, wanted.training
    if settings.batch_size > len(prepared.train):
        raise DataError(
            f"training.batch_size is {settings.batch_size}, more than the {len(prepared.train)} training "
            "examples there are; lower it"
        )
    factory = with_raw_input(
        with_parts(models.factory(wanted.model.spec), wanted.model.parts), wanted.model.raw_input
    )
    _, width = read.check(factory, seed=settings.seed, examples=settings.batch_size)
    start = _Start(wanted=wanted, read=read, factory=factory, width=width)
    functions = read.functions
    name = functions.trained.name
    with undisturbed():
        made = Setup.of(
            lambda: start(settings.seed)[0],
            prepared.train,
            functions.trained,
            wanted.optimizer.name,
            batch_size=settings.batch_size,
            epochs=settings.epochs,
            metric=functions.metric.name,
            validation=prepared.validation,
        )
    clip = wanted.strategies.of(ClippingSettings)
    setup = replace(
        made,
        start=start,
        clip=None if clip is None else clip.norm,
        named_loss=name if name in _NAMED else None,
    )
    return RecipeSetup(recipe=wanted, setup=setup, notes=tuple(_left_out(wanted, prepared)))


_NAMED = ("cross-entropy", "bce", "mse", "mae", "huber")


@dataclass(frozen=True, kw_only=True)
class _Start:
    """Gives model and optimizer as a training of the recipe begins."""

    wanted: Recipe
    read: ProblemData
    factory: models.Factory
    width: int | None

    def __call__(self, seed: int) -> tuple[nn.Module, torch.optim.Optimizer]:
        wanted, prepared = self.wanted, self.read.prepared
        # the recipe's own seed first, so that what is diagnosed is what would be trained
        drawn = wanted.training.seed + seed
        model = initial_module(self.factory, prepared.input_shape, prepared.outputs, drawn)
        model = self.read.objective.interface.attach(model.to(self.read.device))
        schedule, strategies = schedule_and_strategies(wanted.schedule, wanted.strategies)
        for each in strategies:
            if isinstance(each, Initialization):
                # of the loss, for the bias that the outputs begin with
                each.apply(
                    model,
                    seed=drawn,
                    targets=prepared.train.targets,
                    activation=activation(self.read.functions.trained, self.width),
                )
        entry = catalogue.resolve(wanted.optimizer.name)
        optimizer = entry.make(parameters_of(model, wanted, entry), **wanted.optimizer.hyperparameters)
        if wanted.schedule.name not in ("constant", "plateau"):
            total = wanted.training.epochs * steps_an_epoch(len(prepared.train), wanted.training.batch_size)
            _with_schedule(optimizer, schedule, total)
        return model, optimizer


def _with_schedule(optimizer: torch.optim.Optimizer, schedule: Any, total: int) -> None:
    """Let the rates of each step follow a schedule, from those that are set when the first is taken."""
    held: list[Rates] = []
    done = [0]

    def before(_: Any, args: Any, kwargs: Any) -> None:
        if not held:
            held.append(rates_of(optimizer, schedule, total))
        held[0].set(done[0])
        done[0] += 1

    optimizer.register_step_pre_hook(before)


def _left_out(wanted: Recipe, prepared: Prepared) -> list[str]:
    notes = []
    if wanted.stage:
        notes.append(
            "its stages are left out: what was diagnosed is one training of the whole model, by [optimizer] "
            "and [training]"
        )
    if wanted.ensemble is not None:
        notes.append("what was diagnosed is one member of its ensemble")
    known = ("clipping", "initialization")
    others = [name for name in wanted.strategies.given() if name not in known]
    if others:
        notes.append(f"the short trainings are without its strategies: {', '.join(others)}")
    if wanted.schedule.name == "plateau":
        notes.append("the short trainings keep their rate: a plateau comes later")
    return notes
