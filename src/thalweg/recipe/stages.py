"""The stages of a recipe: each table is one stage, or a call of a function that writes several."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from thalweg import strategies
from thalweg.data.examples import Examples, at_places
from thalweg.data.prepare import some_of
from thalweg.errors import DataError, OptionError, UserError, nearest
from thalweg.objectives.nests import mapped
from thalweg.recipe.schema import GroupsTable, ScheduleTable, StageTable, StrategiesTable
from thalweg.settings import trust
from thalweg.settings.arguments import checked_arguments
from thalweg.settings.plugins import load_object
from thalweg.stages import Ramp, Stage, difficulty_by, difficulty_of, methods
from thalweg.stages.stage import GIVEN
from thalweg.strategies import ReduceOnPlateau, Strategy
from thalweg.training.param_groups import Pattern
from thalweg.training.predicting import load_model
from thalweg.training.rates import ScheduleOf
from thalweg.training.results import Stored

__all__ = [
    "StageContext",
    "example_of",
    "fewer",
    "group_settings",
    "schedule_and_strategies",
    "stages_of",
    "trained_model",
]

_MODEL = ("model", "student", "deep")
_TRAINED = ("teacher", "shallow")
_FUNCTIONS = ("make_head", "regressor", "decoder", "emphasis")
_RAMP = {field.name for field in fields(Ramp)}


@dataclass(frozen=True, kw_only=True)
class StageContext:
    """What a recipe gives to the functions that write its stages.

    Attributes:
        model: that is trained.
        example: a batch of inputs.
        loss: what the recipe trains on: a name, or a function.
        data, validation: the examples.
        seed: of the split, which also chooses fewer examples.
        device: where the model lies.
    """

    model: nn.Module
    example: Any
    loss: Any
    data: Examples
    validation: Examples
    seed: int
    device: str


def stages_of(tables: Sequence[StageTable], context: StageContext) -> list[Stage]:
    """Write all stages of a recipe.

    Raises:
        UserError: a table that can't be carried out, in one sentence that says which.
    """
    found: list[Stage] = []
    for number, table in enumerate(tables):
        where = f"stage.{number}" if table.name is None else f"the stage {table.name!r}"
        try:
            made = [_plain(table)] if table.method is None else _by_method(table, table.method, context)
            common = _common(table, context)
        except UserError as problem:
            raise type(problem)(f"in {where}: {problem}") from problem
        found += [_completed(stage, common) for stage in made]
    return found


def _plain(table: StageTable) -> Stage:
    if table.arguments:
        key = next(iter(table.arguments))
        known = [name for name in StageTable.model_fields if name != "method"]
        raise OptionError(
            f"a stage has no {key!r}; {nearest(key, known)} (a method has arguments: method = 'greedy')"
        )
    if table.name is None:
        raise OptionError("name is missing; a stage without a method needs one")
    if isinstance(table.epochs, list) or isinstance(table.steps, list):
        raise OptionError("epochs and steps of a single stage are one number each; give one")
    return Stage(name=table.name, epochs=table.epochs, steps=table.steps, trains=table.trains)


def _by_method(table: StageTable, method: str, context: StageContext) -> list[Stage]:
    if ":" in method:
        function: Any = load_object(method, "stages", OptionError)
        if not callable(function):
            raise OptionError(
                f"{method} is of type {type(function).__name__}, not a function that returns stages"
            )
    else:
        function = methods.get(method)
    taken = inspect.signature(function).parameters
    own = table.arguments
    for key in ("name", "epochs", "steps"):
        if getattr(table, key) is not None and key in taken:
            own[key] = getattr(table, key)
    loss = None if table.objective is None else table.objective.loss
    given = {
        **dict.fromkeys(_MODEL, context.model),
        "example": context.example,
        "loss": context.loss if loss is None else loss,
    }
    needed = {"data": context.data, "validation": context.validation}
    known = [
        name
        for name, one in taken.items()
        if one.kind not in (one.VAR_KEYWORD, one.VAR_POSITIONAL) and name not in given
    ]
    for key in own:
        if key not in known and not (":" in method and _takes_any(taken)):
            raise OptionError(f"the method {method!r} has no {key!r}; {nearest(key, known)}")
    if ":" not in method:
        own = {key: _understood(key, value, context) for key, value in own.items()}
    own = checked_arguments(function, own, f"the method {method!r}")
    arguments = {
        name: value
        for name, value in {**given, **needed}.items()
        if name in taken and (name in given or taken[name].default is inspect.Parameter.empty)
    }
    missing = [
        name
        for name in known
        if taken[name].default is inspect.Parameter.empty and name not in own and name not in arguments
    ]
    if missing:
        raise OptionError(f"the method {method!r} needs {missing[0]!r}; give it in its table")
    try:
        made = function(**{**arguments, **own})
    except UserError:
        raise
    except Exception as problem:
        said = ", ".join(f"{name}={value!r}" for name, value in own.items())
        raise OptionError(
            f"{method}({said}) raises {type(problem).__name__}: {problem}; correct its arguments or its code"
        ) from problem
    found = [made] if isinstance(made, Stage) else list(made)
    for stage in found:
        if not isinstance(stage, Stage):
            raise OptionError(
                f"{method} gives {type(stage).__name__}; let it return thalweg.stages.Stage objects"
            )
    lengths = {key: getattr(table, key) for key in ("epochs", "steps")}
    for key, value in lengths.items():
        if value is not None and key not in taken:
            if isinstance(value, list):
                raise OptionError(f"{key} of the method {method!r} is one number, not a list; give one")
            found = [
                replace(stage, **{key: value}) if stage.epochs is None and stage.steps is None else stage
                for stage in found
            ]
    return found


def _takes_any(taken: Mapping[str, inspect.Parameter]) -> bool:
    return any(one.kind is one.VAR_KEYWORD for one in taken.values())


# What a table can't hold by itself ------------------------------------------------------------------------


def _understood(key: str, value: Any, context: StageContext) -> Any:
    """An argument as the function takes it: a model from its directory, a ramp, a difficulty."""
    if key in _TRAINED:
        return trained_model(key, value, context.device)
    if key == "difficulty":
        return _difficulty(value, context)
    if key in _FUNCTIONS and isinstance(value, str):
        return load_object(value, key, OptionError)
    return _ramps(value)


def _ramps(value: Any) -> Any:
    if isinstance(value, dict):
        if "start" in value and set(value) <= _RAMP:
            return Ramp(**value)
        return {name: _ramps(each) for name, each in value.items()}
    return [_ramps(each) for each in value] if isinstance(value, list) else value


def trained_model(key: str, directory: Any, device: str) -> nn.Module:
    """Return the model that a finished training has left, in evaluation mode.

    Raises:
        UserError: there is none.
        TrustError: the directory names code that nobody has run here.
    """
    if not isinstance(directory, str):
        raise OptionError(f"{key} is {directory!r}; give the run directory of a finished training")
    folder = Path(directory)
    stored = Stored.read(folder / "model.json")
    if stored.members:
        raise OptionError(
            f"{key} is {directory}, which holds an ensemble; give the directory of a training of one model"
        )
    around = trust.current()
    recorded = {stored.spec: stored.code} if stored.code else {}
    with trust.Gate(directory=folder, recorded=recorded, accepted=around.accepted):
        return load_model(folder, stored, "weights.safetensors", device)


def _difficulty(value: Any, context: StageContext) -> Any:
    if isinstance(value, dict):
        if set(value) - {"by", "model", "batch_size"} or "model" not in value:
            raise OptionError(
                f"difficulty is {value!r}; give {{by = 'loss', model = 'RUN'}} with the run directory of a "
                "finished training, by = 'margin' likewise, a file of numbers, or 'file.py:function'"
            )
        model = trained_model("difficulty.model", value["model"], context.device)
        rest = {name: each for name, each in value.items() if name != "model"}
        return difficulty_of(model, context.data, loss=context.loss, **rest)
    if isinstance(value, str) and ":" in value and not Path(value).is_file():
        return difficulty_by(load_object(value, "difficulty", OptionError), context.data)  # type: ignore[arg-type]
    if isinstance(value, str):
        try:
            return np.load(value, allow_pickle=False)
        except (OSError, ValueError, EOFError) as problem:
            raise DataError(
                f"difficulty is {value!r}, which can't be read as an array ({problem}); give an .npy file "
                "with a number for each training example"
            ) from problem
    return value


# What every stage may have --------------------------------------------------------------------------------


def group_settings(groups: GroupsTable) -> dict[str, Any]:
    """Return a table of groups as arguments of ``parameter_groups``; empty where it says nothing."""
    if groups == GroupsTable():
        return {}
    return {
        "decay_all": groups.decay == "all",
        "depth_factor": groups.depth_factor,
        "patterns": [Pattern(match=p.match, rate=p.rate, decay=p.decay) for p in groups.patterns],
    }


def schedule_and_strategies(
    schedule: ScheduleTable | None, given: StrategiesTable | None
) -> tuple[ScheduleOf | str, list[Strategy]]:
    """Return a schedule as ``fit`` takes it, and the strategies, one for a plateau included."""
    made = [] if given is None else [strategies.build(name, each) for name, each in given.given().items()]
    if schedule is None:
        return "constant", made
    if schedule.name == "plateau":
        return "constant", [*made, ReduceOnPlateau(patience=2)]
    return ScheduleOf(schedule.name, schedule.options), made


def _common(table: StageTable, context: StageContext) -> dict[str, Any]:
    """What the stages of a table have, by fields of a stage, where they say nothing themselves."""
    found: dict[str, Any] = {
        name: value
        for name in ("batch_size", "accumulate", "evaluations", "carries", "result", "seed", "trains")
        if (value := getattr(table, name)) is not None
    }
    if table.objective is not None:
        found |= {
            name: value
            for name in ("loss", "metric", "validation_loss")
            if (value := getattr(table.objective, name)) is not None
        }
    if table.optimizer is not None:
        found |= {"optimizer": table.optimizer.name, "hyperparameters": table.optimizer.hyperparameters}
    schedule, made = schedule_and_strategies(table.schedule, table.strategies)
    if table.schedule is not None:
        found["schedule"] = schedule
    if table.strategies is not None:
        found["strategies"] = made
    elif made:
        found["adds"] = made
    if table.groups is not None:
        found["groups"] = group_settings(table.groups)
    if table.examples is not None:
        found["data"] = fewer(context.data, table.examples, context.seed)
    return found


def _completed(stage: Stage, common: dict[str, Any]) -> Stage:
    untold = (GIVEN, None, False, "last", ())
    left = {
        name: value for name, value in common.items() if any(getattr(stage, name) is each for each in untold)
    }
    return replace(stage, **left)


def fewer(data: Examples, count: int, seed: int) -> Examples:
    """Return so many of the training examples, classes in their shares."""
    labels = data.targets
    if labels is not None and (labels.is_floating_point() or labels.ndim > 1):
        labels = None
    places = some_of(len(data), count, None if labels is None else labels.cpu().numpy(), seed=seed)
    return at_places(data, torch.from_numpy(places))


def example_of(data: Examples, size: int) -> Any:
    """Return a batch of inputs, as the functions that write stages look at."""
    inputs, _ = data.batch(torch.arange(min(size, len(data))))
    return mapped(lambda leaf: leaf.detach(), inputs)
