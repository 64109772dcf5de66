"""The stages of a recipe: each table is one stage, or a call of a function that writes several."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from thalweg import strategies
from thalweg.data.examples import Examples, at_places
from thalweg.data.prepare import some_of
from thalweg.errors import DataError, ModelError, OptionError, ThalwegError, UserError, nearest
from thalweg.objectives.nests import mapped
from thalweg.randomness.generators import own_generators
from thalweg.recipe.controls import asked_controls
from thalweg.recipe.schema import GroupsTable, ScheduleTable, StageTable, StrategiesTable
from thalweg.settings import trust
from thalweg.settings.arguments import checked_arguments
from thalweg.settings.plugins import load_object
from thalweg.settings.tables import whole_number
from thalweg.stages import Ramp, Stage, difficulty_by, difficulty_of, methods
from thalweg.stages.names import differing_name, shapes_of
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
    "persons_code",
    "schedule_and_strategies",
    "stages_of",
    "trained_model",
]

_MODEL = ("model", "student", "deep")
_TRAINED = ("teacher", "shallow")
# the same by themselves as for a stage, so that a function may have arguments of these names
_PLAIN = (
    "name", "epochs", "steps", "seed", "examples", "batch_size", "accumulate", "evaluations", "trains",
    "carries", "result",
)  # fmt: skip
_FUNCTIONS = ("make_head", "regressor", "decoder", "emphasis")
_RAMP = {field.name for field in fields(Ramp)}


@dataclass(frozen=True, kw_only=True)
class StageContext:
    """What a recipe gives to the functions that write its stages.

    Attributes:
        model: that is trained.
        spec: that names it.
        example: a batch of inputs.
        loss: what the recipe trains on: a name, or a function.
        data, validation: the examples.
        seed: of the split, which also chooses fewer examples.
        draws: the seed of whatever the functions draw.
        device: where the model lies.
        plateau: the strategy that carries out the recipe's schedule, where that is a plateau.
        resampled: whether each of several models is trained on a resample of its own.
        places, whole: of ``data`` in the training split, and its size, where a table wants fewer examples.
        read: filled with fingerprints of what lies on disk.
    """

    model: nn.Module
    spec: str
    example: Any
    loss: Any
    data: Examples
    validation: Examples
    seed: int
    draws: int
    device: str
    plateau: Sequence[Strategy] = ()
    resampled: bool = False
    places: torch.Tensor | None = None
    whole: int = 0
    read: dict[str, str] = field(default_factory=dict)


def stages_of(tables: Sequence[StageTable], context: StageContext) -> list[Stage]:
    """Write all stages of a recipe.

    Raises:
        UserError: a table that can't be carried out, in one sentence that says which.
    """
    found: list[Stage] = []
    for number, table in enumerate(tables):
        where = f"stage.{number}" if table.name is None else f"the stage {table.name!r}"
        own = replace(context, read={})
        try:
            if table.examples is not None:
                own = _of_fewer(own, table.examples)
            with own_generators(context.draws, "stages", number):
                made = [_plain(table)] if table.method is None else _by_method(table, table.method, own)
            if own.read:
                made = [replace(stage, about={**stage.about, "read": own.read}) for stage in made]
            common = _common(table, own)
        except UserError as problem:
            raise type(problem)(f"in {where}: {problem}") from problem
        found += [_completed(stage, common, context.plateau) for stage in made]
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
    try:
        taken = inspect.signature(function).parameters
    except (TypeError, ValueError) as problem:
        raise OptionError(
            f"{method} doesn't say which arguments it has; give a function that is written in Python"
        ) from problem
    own = table.arguments
    if method == "curriculum" and "controls" in own:
        # which are trained beside it
        asked_controls(table)
        del own["controls"]
    for key in _PLAIN:
        if getattr(table, key) is not None and key in taken:
            own[key] = getattr(table, key)
    if table.name is not None and "name" not in taken and not _takes_any(taken):
        raise OptionError(f"the method {method!r} has no 'name': it names its stages itself; leave it out")
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
            beside = ["controls"] if method == "curriculum" else []
            raise OptionError(f"the method {method!r} has no {key!r}; {nearest(key, [*known, *beside])}")
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
        said = "give it in its table"
        if missing[0] in StageTable.model_fields:
            # what a table of that name says is of the stages, not of the function
            said = "[[stage]] has a key of that name for its stages; call the argument otherwise"
        raise OptionError(f"the method {method!r} needs {missing[0]!r}; {said}")
    before = shapes_of(context.model)
    called = ", ".join(f"{name}={value!r}" for name, value in own.items())
    with persons_code(f"{method}({called})", "correct its arguments or its code"):
        made = function(**{**arguments, **own})
        # which may be a generator
        found = [made] if isinstance(made, Stage) or not hasattr(made, "__iter__") else list(made)
    for stage in found:
        if not isinstance(stage, Stage):
            what = "nothing" if stage is None else type(stage).__name__
            raise OptionError(f"{method} gives {what}; let it return thalweg.stages.Stage objects")
    if not found:
        raise OptionError(f"{method} gives no stage at all; let it return one at least")
    if odd := differing_name(before, shapes_of(context.model)):
        instead = (
            "set model.raw_input = true instead" if own.get("raw_input") else "let model.spec make it so"
        )
        raise ModelError(
            f"the method {method!r} changes what the model consists of ({odd!r}), so that its weights "
            f"wouldn't fit the model {context.spec!r} when it predicts; {instead}"
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


@contextmanager
def persons_code(what: str, remedy: str) -> Iterator[None]:
    """Say in a sentence what a person's own code raises."""
    try:
        yield
    except ThalwegError:
        raise
    except (Exception, SystemExit) as problem:
        where = "".join(f"{note}: " for note in getattr(problem, "__notes__", ()))
        raise OptionError(f"{where}{what} raises {type(problem).__name__}: {problem}; {remedy}") from problem


def _takes_any(taken: Mapping[str, inspect.Parameter]) -> bool:
    return any(one.kind is one.VAR_KEYWORD for one in taken.values())


# What a table can't hold by itself ------------------------------------------------------------------------


def _understood(key: str, value: Any, context: StageContext) -> Any:
    """An argument as the function takes it: a model from its directory, a ramp, a difficulty."""
    if key in _TRAINED:
        return _read_model(key, value, context)
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


def _read_model(key: str, directory: Any, context: StageContext) -> nn.Module:
    model = trained_model(key, directory, context.device)
    content = (Path(directory) / "weights.safetensors").read_bytes()
    context.read[key] = hashlib.sha256(content).hexdigest()[:16]
    return model


def _difficulty(value: Any, context: StageContext) -> Any:
    if isinstance(value, dict):
        if set(value) - {"by", "model", "batch_size"} or "model" not in value:
            raise OptionError(
                f"difficulty is {value!r}; give {{by = 'loss', model = 'RUN'}} with the run directory of a "
                "finished training, by = 'margin' likewise, a file of numbers, or 'file.py:function'"
            )
        model = _read_model("difficulty.model", value["model"], context)
        rest = {name: each for name, each in value.items() if name != "model"}
        if "batch_size" in rest:
            rest["batch_size"] = whole_number("difficulty.batch_size", rest["batch_size"])
        return difficulty_of(model, context.data, loss=context.loss, **rest)
    if isinstance(value, str) and ":" in value and not Path(value).is_file():
        function: Any = load_object(value, "difficulty", OptionError)
        with persons_code(f"the difficulty {value!r}", "let it give a number for each example"):
            return difficulty_by(function, context.data)
    if context.resampled:
        raise OptionError(
            f"difficulty is {value!r}, numbers by the place of an example, but ensemble.resample gives each "
            "member examples of its own; give a function, 'file.py:function', or {by = 'loss', model = 'RUN'}"
        )
    found = value
    if isinstance(value, str):
        try:
            with open(value, "rb") as file:
                found = np.lib.format.read_array(file, allow_pickle=False)
        except Exception as problem:
            raise DataError(
                f"difficulty is {value!r}, which can't be read as an array ({problem}); give an .npy file "
                "with a number for each training example"
            ) from problem
    if isinstance(found, np.ndarray) and (found.dtype.kind not in "biuf" or not found.ndim):
        raise DataError(
            f"difficulty is {value!r}, which holds {found.dtype} of shape {list(found.shape)}; give real "
            "numbers, one for each training example"
        )
    if context.places is None or not isinstance(found, (list, np.ndarray)) or len(found) != context.whole:
        return found
    # of the whole split: those that are learnt from have theirs in it
    return np.asarray(found)[context.places.numpy()]


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
    schedule: ScheduleTable, given: StrategiesTable
) -> tuple[ScheduleOf | str, list[Strategy]]:
    """Return a schedule as ``fit`` takes it, and the strategies, one for a plateau included."""
    made = [strategies.build(name, each) for name, each in given.given().items()]
    return _schedule(schedule), [*made, *_of_plateau(schedule)]


def _schedule(table: ScheduleTable) -> ScheduleOf | str:
    return "constant" if table.name == "plateau" else ScheduleOf(table.name, table.options)


def _of_plateau(table: ScheduleTable) -> list[Strategy]:
    """A plateau is a schedule in recipes, but carried out by a strategy."""
    return [ReduceOnPlateau(patience=2)] if table.name == "plateau" else []


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
    if table.schedule is not None:
        found["schedule"] = _schedule(table.schedule)
        found["adds"] = _of_plateau(table.schedule)
    if table.strategies is not None:
        found["strategies"] = [
            strategies.build(name, each) for name, each in table.strategies.given().items()
        ]
    if table.groups is not None:
        found["groups"] = group_settings(table.groups)
    if table.examples is not None:
        found["data"] = context.data
    return found


def _completed(stage: Stage, common: dict[str, Any], plateau: Sequence[Strategy]) -> Stage:
    """A stage with what its table says, where it says nothing itself."""
    untold = {each.name for each in fields(Stage) if getattr(stage, each.name) is each.default}
    if "optimizer" not in untold:
        # they are another optimizer's
        untold.discard("hyperparameters")
    left = {name: value for name, value in common.items() if name in untold}
    # what comes with the schedule, of the table or of the recipe, goes where it goes
    adds = common.get("adds", plateau) if "schedule" in untold else ()
    return replace(stage, **{**left, "adds": [*stage.adds, *adds]})


def fewer(data: Examples, count: int, seed: int) -> Examples:
    """Return so many of the training examples, classes in their shares."""
    return at_places(data, _places_of_fewer(data, count, seed))


def _places_of_fewer(data: Examples, count: int, seed: int) -> torch.Tensor:
    labels = data.targets
    if labels is not None and (labels.is_floating_point() or labels.ndim > 1):
        labels = None
    places = some_of(len(data), count, None if labels is None else labels.cpu().numpy(), seed=seed)
    return torch.from_numpy(places)


def _of_fewer(context: StageContext, count: int) -> StageContext:
    places = _places_of_fewer(context.data, count, context.seed)
    return replace(context, data=at_places(context.data, places), places=places, whole=len(context.data))


def example_of(data: Examples, size: int) -> Any:
    """Return a batch of inputs, as the functions that write stages look at."""
    inputs, _ = data.batch(torch.arange(min(size, len(data))))
    return mapped(lambda leaf: leaf.detach(), inputs)
