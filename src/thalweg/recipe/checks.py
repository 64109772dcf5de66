"""What is checked of a recipe beside its types, without loading data or running a person's code."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TypeAlias

from thalweg import catalogue, data, objectives, schedules, strategies
from thalweg.errors import ModelError, OptionError, RecipeError, nearest
from thalweg.layers import models
from thalweg.objectives.given import What
from thalweg.recipe.positions import Path, dotted
from thalweg.recipe.schema import (
    GroupsTable,
    ObjectiveTable,
    OptimizerTable,
    Recipe,
    ScheduleTable,
    StageTable,
    StrategiesTable,
    mirrors,
    why_not_lanes,
)
from thalweg.stages import methods
from thalweg.strategies.snapshots import SnapshotsSettings

__all__ = ["Wrong", "check"]

Wrong: TypeAlias = Callable[[Path, str], RecipeError]
"""From where a key stands, and a sentence, to the error."""

_OWN_OBJECT = re.compile(r".+:[^\W\d][\w.]*")
_FAMILIES = ("linear", "mlp", "cnn")
_ANY_LENGTH = 1_000_000


def check(recipe: Recipe, wrong: Wrong) -> None:
    """Check what the schema can't know: names and options of the rooms that carry them out.

    Args:
        recipe: as it was read.
        wrong: from where a key stands, and a sentence, to the error.

    Raises:
        RecipeError: something in it can't be carried out.
    """
    if not any(sign in recipe.data.spec for sign in ":./\\") and recipe.data.spec not in data.describe():
        near = nearest(recipe.data.spec, data.describe())
        raise wrong(("data", "spec"), f"there is no data {recipe.data.spec!r}; {near}")
    model = recipe.model.spec
    family = model.partition(":")[0]
    if family in _FAMILIES or ":" not in model:
        try:
            models.factory(model)
        except ModelError as problem:
            raise wrong(("model", "spec"), str(problem)) from problem
    elif not _OWN_OBJECT.fullmatch(model):
        raise wrong(("model", "spec"), f"there is no model {model!r}; {nearest(family, _FAMILIES)}")

    _check_parts(recipe, wrong)

    _check_optimizer(recipe.optimizer, ("optimizer",), wrong)
    _check_schedule(recipe.schedule, ("schedule",), wrong)
    _check_objective(recipe.objective, ("objective",), wrong)
    for number, stage in enumerate(recipe.stage):
        _check_stage(stage, ("stage", number), wrong)
    names = [stage.name for stage in recipe.stage if stage.name is not None]
    if twice := [name for name in names if names.count(name) > 1]:
        number = max(n for n, stage in enumerate(recipe.stage) if stage.name == twice[0])
        raise wrong(
            ("stage", number, "name"), f"two stages are called {twice[0]!r}; give each a name of its own"
        )
    _check_strategies(recipe, wrong)


def _check_optimizer(optimizer: OptimizerTable, at: Path, wrong: Wrong) -> None:
    if ":" not in optimizer.name:
        if optimizer.name not in catalogue.names():
            known = nearest(optimizer.name, catalogue.names())
            raise wrong((*at, "name"), f"there is no optimizer {optimizer.name!r}; {known}")
        entry = catalogue.get(optimizer.name)
        known_numbers = [h.name for h in entry.hyperparameters]
        for key in optimizer.hyperparameters:
            if key not in known_numbers:
                near = nearest(key, known_numbers)
                raise wrong((*at, key), f"the optimizer {optimizer.name!r} has no {key!r}; {near}")
        refused = entry.refusal(optimizer.hyperparameters)
        if refused is not None:
            key, why = refused
            raise wrong((*at, key), f"{dotted((*at, key))} {why}")
    for key, value in optimizer.hyperparameters.items():
        # of a person's own optimizer, whose code isn't run here
        if key in ("params", "self"):
            raise wrong((*at, key), f"{dotted((*at, key))} is what the training gives; leave it out")
        by_name = catalogue.refusal_by_name(key, value) if ":" in optimizer.name else None
        if by_name is not None:
            raise wrong((*at, key), f"{dotted((*at, key))} {by_name}")


def _check_schedule(schedule: ScheduleTable, at: Path, wrong: Wrong) -> None:
    if schedule.name not in schedules.names():
        near = nearest(schedule.name, schedules.names())
        raise wrong((*at, "name"), f"there is no schedule {schedule.name!r}; {near}")
    if schedule.name == "plateau":
        if schedule.options:
            key = next(iter(schedule.options))
            raise wrong((*at, key), "the schedule 'plateau' has no options here; leave them out")
        return
    if "total" in schedule.options:
        raise wrong(
            (*at, "total"),
            f"{dotted((*at, 'total'))} is the length of the training, which [training] says; leave it out",
        )
    try:
        schedules.build(schedule.name, total=_ANY_LENGTH, **schedule.options)
    except OptionError as problem:
        blamed = next((key for key in schedule.options if key in str(problem)), "name")
        raise wrong((*at, blamed), str(problem)) from problem


def _check_objective(objective: ObjectiveTable, at: Path, wrong: Wrong) -> None:
    kinds: dict[str, What] = {
        "loss": "loss", "metric": "metric", "validation_loss": "loss",
    }  # fmt: skip
    for key, what in kinds.items():
        spec = getattr(objective, key)
        known_names = objectives.names(what)
        if spec is not None and ":" not in spec and spec not in known_names:
            raise wrong((*at, key), f"there is no {what} {spec!r}; {nearest(spec, known_names)}")


def _check_stage(stage: StageTable, at: Path, wrong: Wrong) -> None:
    """What a table of a stage says, without running its method."""
    here = dotted(at)
    if stage.method is None:
        if stage.name is None:
            raise wrong(at, f"{here}.name is missing; a stage without a method needs one")
        if stage.arguments:
            key = next(iter(stage.arguments))
            known = list(StageTable.model_fields)
            raise wrong(
                (*at, key),
                f'{here} has no {key!r}; {nearest(key, known)}; a method such as method = "greedy" has '
                "arguments of its own",
            )
        for key in ("epochs", "steps"):
            if isinstance(getattr(stage, key), list):
                raise wrong((*at, key), f"{here}.{key} is a list, which methods take; give one number")
    elif ":" in stage.method:
        if not _OWN_OBJECT.fullmatch(stage.method):
            raise wrong(
                (*at, "method"),
                f"there is no method {stage.method!r}; one of your own is 'file.py:function' or "
                "'package.module:function'",
            )
    elif stage.method not in methods.names():
        near = nearest(stage.method, methods.names())
        raise wrong((*at, "method"), f"there is no method {stage.method!r}; {near}")
    if stage.epochs is not None and stage.steps is not None:
        raise wrong((*at, "steps"), f"{here}.epochs and {here}.steps are both given; give one of them")
    if stage.optimizer is not None:
        _check_optimizer(stage.optimizer, (*at, "optimizer"), wrong)
    if stage.schedule is not None:
        _check_schedule(stage.schedule, (*at, "schedule"), wrong)
    if stage.objective is not None:
        _check_objective(stage.objective, (*at, "objective"), wrong)
    if stage.strategies is not None:
        _check_given(stage.strategies, (*at, "strategies"), wrong)
        _check_no_snapshots(stage.strategies, (*at, "strategies"), wrong)


def _check_parts(recipe: Recipe, wrong: Wrong) -> None:
    """Parts that a model has no place for, as far as its name tells."""
    given = recipe.model.parts.given()
    if recipe.model.spec == "linear" and given:
        part = next(iter(given))
        raise wrong(
            ("model", part),
            f"the model 'linear' has no hidden units for {part} to act on; leave it out, or take 'mlp:128'",
        )
    built = recipe.model.spec.partition(":")[0] in _FAMILIES
    if "stochastic_depth" in given and "skip" not in given and built:
        raise wrong(
            ("model", "stochastic_depth"),
            f"the model {recipe.model.spec!r} has no residual blocks that stochastic_depth could leave out; "
            "set model.skip = true, or leave stochastic_depth out",
        )
    smallest = recipe.training.batch_size // recipe.training.accumulate
    if "batch_norm" in given and smallest < 2:
        raise wrong(
            ("model", "batch_norm"),
            "batch_norm takes statistics over a batch, or each part of one that is accumulated, and these "
            "have a single example; raise training.batch_size, or leave batch_norm out",
        )


def _check_strategies(recipe: Recipe, wrong: Wrong) -> None:
    """Settings that don't go together, with each other or with the optimizer and the schedule."""
    name = recipe.optimizer.name
    entry = None if ":" in name else catalogue.get(name)
    given = recipe.strategies.given()
    _check_given(recipe.strategies, ("strategies",), wrong)
    if recipe.schedule.name == "plateau" and "plateau" in given:
        raise wrong(
            ("strategies", "plateau"),
            "the schedule is 'plateau' already; leave one of them out, or set another schedule",
        )
    if entry is not None and entry.step_kind != "gradient":
        if "clipping" in given:
            raise wrong(
                ("strategies", "clipping"),
                f"clipping doesn't go with {name!r}, whose steps rely on the gradient as it is; "
                "leave one out",
            )
        if recipe.training.precision == "float16":
            raise wrong(
                ("training", "precision"),
                f"float16 needs gradient scaling, which doesn't go with a closure, as {name!r} has one; use "
                "bfloat16 or float32",
            )
        if recipe.groups != GroupsTable():
            raise wrong(("groups",), f"{name!r} treats all parameters as one; leave groups out")
        if recipe.training.accumulate > 1 and entry.step_kind in ("graph", "outputs"):
            raise wrong(
                ("training", "accumulate"),
                f"{name!r} needs the graph of a whole batch, which can't be computed in parts; leave it out",
            )
    if "averaging" in given and entry is not None and hasattr(entry.call.target, "eval"):
        raise wrong(("strategies", "averaging"), f"{name!r} averages its points already; leave averaging out")
    if recipe.stage:
        _check_no_snapshots(recipe.strategies, ("strategies",), wrong)
    if recipe.ensemble is not None:
        _check_ensemble(recipe, wrong)
    if recipe.prediction.crops == 10 and not mirrors(recipe):
        raise wrong(
            ("prediction", "crops"),
            "10 crops are 5 and their mirror images, which training never saw; take 5, or set "
            "strategies.augmentation.flip",
        )
    if recipe.training.accumulate > recipe.training.batch_size:
        raise wrong(
            ("training", "accumulate"),
            f"a batch of {recipe.training.batch_size} can't be computed in {recipe.training.accumulate} "
            "parts; give at most as many parts as it has examples",
        )
    snapshots, cycles = recipe.strategies.of(SnapshotsSettings), recipe.schedule.options.get("cycles")
    if snapshots is not None and cycles is not None and snapshots.cycles != cycles:
        raise wrong(
            ("strategies", "snapshots", "cycles"),
            f"snapshots are taken at the ends of {snapshots.cycles} cycles, but the schedule has {cycles}; "
            "give both the same",
        )


def _check_given(table: StrategiesTable, at: Path, wrong: Wrong) -> None:
    """Names and settings of strategies."""
    for strategy, settings in table.given().items():
        if ":" in strategy:
            # its code isn't run here, which says which settings it has
            if not _OWN_OBJECT.fullmatch(strategy):
                raise wrong(
                    (*at, strategy),
                    f"there is no strategy {strategy!r}; one of your own is 'file.py:Class' or "
                    "'package.module:Class'",
                )
            continue
        try:
            strategies.build(strategy, settings)
        except OptionError as problem:
            raise wrong((*at, strategy), str(problem)) from problem


def _check_no_snapshots(table: StrategiesTable, at: Path, wrong: Wrong) -> None:
    if table.of(SnapshotsSettings) is not None:
        raise wrong(
            (*at, "snapshots"),
            "snapshots make an ensemble of one training, but a training in stages leaves one model; leave "
            "snapshots out, or set ensemble.members",
        )


def _check_ensemble(recipe: Recipe, wrong: Wrong) -> None:
    assert recipe.ensemble is not None
    if recipe.strategies.of(SnapshotsSettings) is not None:
        raise wrong(
            ("strategies", "snapshots"),
            "snapshots make an ensemble of one run, but [ensemble] trains independent ones; leave one "
            "of both out",
        )
    if recipe.ensemble.engine == "lanes":
        why = why_not_lanes(recipe)
        if why is not None:
            raise wrong(
                ("ensemble", "engine"), f"the members can't be lanes: {why}; leave engine out, or use loop"
            )
