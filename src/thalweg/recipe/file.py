"""Recipes as TOML files: read with errors that say where, written so that they read back equal."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path as FilePath
from typing import Any, get_args

import tomli_w
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from thalweg import catalogue, data, objectives, schedules, strategies
from thalweg.errors import ModelError, OptionError, RecipeError, nearest, option
from thalweg.layers import models
from thalweg.objectives.given import What
from thalweg.recipe.positions import Path, positions
from thalweg.recipe.schema import VERSION, GroupsTable, Recipe, mirrors, why_not_lanes
from thalweg.run.directory.writing import reason, write_whole
from thalweg.strategies.snapshots import SnapshotsSettings

__all__ = ["dumps", "loads", "read", "write"]


def read(path: str | FilePath, changes: Sequence[str] = ()) -> Recipe:
    """Read a recipe and check everything in it that can be checked without loading data or running code.

    Args:
        path: of a TOML file.
        changes: such as ``"optimizer.lr=0.01"``: keys to set, over what the file says.

    Raises:
        RecipeError: the file can't be read, isn't TOML, or holds an unknown key or a wrong value; the
            sentence begins with file, line and column.
    """
    path = FilePath(path)
    try:
        with open(path, "rb", opener=_without_waiting) as file:
            content = file.read(_LONGEST + 1)
        if len(content) > _LONGEST:
            raise RecipeError(f"{path} is longer than any recipe ({_LONGEST:,} bytes); give a TOML file")
        text = content.decode()
    except UnicodeDecodeError as problem:
        raise RecipeError(f"{path} is not text in UTF-8; a recipe is a TOML file") from problem
    except OSError as problem:
        raise RecipeError(
            f"the recipe {path} can't be read ({reason(problem)}); give the path of a TOML file"
        ) from problem
    return loads(text, name=str(path), changes=changes)


def _without_waiting(path: str, flags: int) -> int:
    """Open a FIFO that nobody writes to as an empty file, instead of waiting for ever."""
    opened = os.open(path, flags | getattr(os, "O_NONBLOCK", 0))
    if hasattr(os, "set_blocking"):
        os.set_blocking(opened, True)
    return opened


def loads(text: str, *, name: str = "recipe", changes: Sequence[str] = ()) -> Recipe:
    """Read a recipe from its text.

    Args:
        text: TOML.
        name: what the text is called in messages.
        changes: as for :func:`read`.

    Raises:
        RecipeError: as for :func:`read`.

    >>> recipe = loads('''
    ... version = 1
    ... data.spec = "digits"
    ... model.spec = "mlp:64"
    ... optimizer = {name = "adam", lr = 0.01}
    ... training = {batch_size = 32, epochs = 20}
    ... ''')
    >>> recipe.training.epochs
    20
    """
    try:
        values = tomllib.loads(text)
        _odd(values)
    except RecursionError as problem:
        raise RecipeError(
            f"{name} is nested too deeply for a recipe; write its tables as [table]"
        ) from problem
    # beside its own errors, what Python says of numbers of thousands of digits
    except ValueError as problem:
        raise RecipeError(f"{name} is not TOML: {str(problem)[:1].lower()}{str(problem)[1:]}") from problem
    where = _Places(name, positions(text), _changed(values, changes))
    odd = _odd(values)
    if odd is not None:
        raise where.error(*odd)
    try:
        recipe = Recipe.model_validate(values)
    except ValidationError as problem:
        # In the order of the file, so that repairing goes from top to bottom.
        def rank(details: ErrorDetails) -> tuple[bool, tuple[int, int], bool]:
            kind = details["type"]
            return kind == "missing", where.position(details["loc"]), kind != "finite_number"

        details = min(problem.errors(), key=rank)
        raise where.error(details["loc"], _sentence(details)) from problem
    _check(recipe, where)
    return recipe


def write(recipe: Recipe, path: str | FilePath) -> None:
    """Write a recipe as TOML, whole or not at all.

    Raises:
        OSError: the file can't be written.
    """
    write_whole(FilePath(path), dumps(recipe).encode())


def dumps(recipe: Recipe) -> str:
    """Return a recipe as TOML; reading it gives an equal recipe.

    >>> recipe = Recipe.model_validate({
    ...     "data": {"spec": "iris"},
    ...     "model": {"spec": "linear"},
    ...     "optimizer": {"name": "sgd", "lr": 0.5},
    ...     "training": {"batch_size": 16, "epochs": 3},
    ... })
    >>> loads(dumps(recipe)) == recipe
    True
    """
    values = recipe.model_dump(exclude_none=True, by_alias=True)
    if not values["data"]["types"]:
        del values["data"]["types"]
    values["model"] = recipe.model.model_dump(exclude_defaults=True)
    # what decides how long a training is and what it draws is written down even where it is the default
    training = recipe.training.model_dump(exclude_defaults=True)
    values["training"] = {
        key: value for key, value in values["training"].items() if key in training or key in _TOLD
    }
    values["groups"] = recipe.groups.model_dump(exclude_defaults=True)
    if recipe.ensemble is not None:
        values["ensemble"] = recipe.ensemble.model_dump(exclude_defaults=True)
    values["prediction"] = recipe.prediction.model_dump(exclude_defaults=True)
    return tomli_w.dumps({table: value for table, value in values.items() if value != {}})


@dataclass(frozen=True)
class _Places:
    """Where keys stand: in the text, or among the changes."""

    name: str
    where: Mapping[Path, tuple[int, int]]
    changes: Mapping[Path, str]

    def position(self, loc: Sequence[str | int]) -> tuple[int, int]:
        """Of the key at the longest beginning of ``loc`` that stands in the text."""
        path = tuple(loc)
        while path and path not in self.where:
            path = path[:-1]
        return self.where.get(path, (1, 1))

    def error(self, loc: Sequence[str | int], sentence: str) -> RecipeError:
        path = tuple(loc)
        for key, change in self.changes.items():
            # what is wrong may be a table that stands nowhere but in the change
            if path[: len(key)] == key or (path == key[: len(path)] and path not in self.where):
                return RecipeError(f"{option('changes', [change])}: {sentence}")
        line, column = self.position(loc)
        return RecipeError(f"{self.name}, line {line}, column {column}: {sentence}")


def _changed(values: dict[str, Any], changes: Sequence[str]) -> dict[Path, str]:
    """Set keys in what was read; where each change stands."""
    found: dict[Path, str] = {}
    for change in changes:
        key, sign, value = change.partition("=")
        if not sign or not key.strip():
            raise RecipeError(
                f"{option('changes', [change])} isn't KEY=VALUE; write it as "
                f"{option('changes', ['optimizer.lr=0.01'])}"
            )
        try:
            inside = tomllib.loads(f"{key} = {value}")
        except ValueError:
            try:
                # a word without quotes is text
                inside = tomllib.loads(f"{key} = {tomli_w.dumps({'v': value.strip()})[4:]}")
            except ValueError as problem:
                raise RecipeError(
                    f"{option('changes', [change])} isn't KEY=VALUE as in TOML; write it as "
                    f"{option('changes', ['optimizer.lr=0.01'])}"
                ) from problem
        target: Any = values
        path: tuple[str, ...] = ()
        here: Any = inside
        while isinstance(here, dict) and len(here) == 1:
            (part, here), *_ = here.items()
            path = (*path, part)
            if not isinstance(here, dict) or len(here) != 1:
                target[part] = here
            elif not isinstance(target.get(part), dict):
                target[part] = {}
            target = target[part]
        found[path] = change.strip()
    return found


def _odd(value: Any, path: Path = ()) -> tuple[Path, str] | None:
    """Where there is what TOML, paths or names can't hold, if anywhere, and a sentence about it."""
    name = ".".join(map(str, path))
    if isinstance(value, str):
        return (path, f"{name} holds a NUL character; take it out") if "\0" in value else None
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        return path, f"{name} is beyond 64 bits, which whole numbers of TOML have; give a smaller one"
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, each in inside:
        here = (*path, key)
        if isinstance(key, str) and "\0" in key:
            return here, f"{'.'.join(map(str, here))} holds a NUL character; take it out"
        found = _odd(each, here)
        if found is not None:
            return found
    return None


def _sentence(details: ErrorDetails) -> str:
    loc = [part for part in details["loc"] if not (isinstance(part, str) and part in _UNION_BRANCHES)]
    key = _dotted(loc)
    kind, value = details["type"], details["input"]
    if kind == "extra_forbidden":
        known = _fields(loc[:-1])
        table = f"[{_dotted(loc[:-1])}] has" if len(loc) > 1 else "a recipe has"
        return f"{table} no {loc[-1]!r}; {nearest(str(loc[-1]), known)}"
    if kind == "missing":
        return f"{key} is missing" + (f" from [{loc[-2]}]" if len(loc) > 1 else "") + "; a recipe needs it"
    if kind == "literal_error":
        if key == "version":
            return f"version is {value!r}, but this thalweg reads version {VERSION}"
        known = str(details["ctx"]["expected"]).replace("'", "").replace(" or ", ", ").split(", ")
        return f"{key} is {_shown(value)}; {nearest(str(value), known)}"
    if kind == "bool_type" and "bool" not in details["loc"]:
        return f"{key} is {_shown(value)} but must be true or false"
    rule = details["msg"].removeprefix("Input should be ").removeprefix("a valid ")
    if kind in ("model_type", "model_attributes_type", "dict_type"):
        return f"{key} is {_shown(value)} but must be a table, [{key}]"
    return f"{key} is {_shown(value)} but must be {_RULES.get(kind, rule)}"


def _dotted(loc: Sequence[str | int]) -> str:
    """A key as TOML spells it."""
    return ".".join(
        str(part) if isinstance(part, int) or re.fullmatch(r"[\w-]+", part) else f'"{part}"' for part in loc
    )


def _shown(value: object) -> str:
    """A value in a sentence, cut where it is longer than a sentence."""
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:80]}... ({len(text)} characters)"


_LONGEST = 10_000_000
_TOLD = ("batch_size", "epochs", "seed", "evaluations")
_OWN_OBJECT = re.compile(r".+:[^\W\d][\w.]*")
_FAMILIES = ("linear", "mlp", "cnn")
_ANY_LENGTH = 1_000_000
_UNION_BRANCHES = frozenset({"bool", "int", "float", "list[union[int,float]]"})
_RULES = {
    "bool_type": "a number or true or false",
    "finite_number": "a finite number",
    "float_parsing": "a number",
    "float_type": "a number",
    "int_from_float": "a whole number",
    "int_type": "a whole number",
    "list_type": "a number or a list of numbers",
    "string_type": "text in quotes",
}


def _fields(loc: Sequence[str | int]) -> list[str]:
    """The keys that the table at ``loc`` may have."""
    model: Any = Recipe
    for part in loc:
        if isinstance(part, int):
            continue
        annotation = next(info.annotation for key, info in _named(model).items() if key == part)
        choices = get_args(annotation) or (annotation,)
        model = next(each for each in choices if isinstance(each, type) and issubclass(each, BaseModel))
    return list(_named(model))


def _named(model: type[BaseModel]) -> dict[str, Any]:
    return {info.alias or name: info for name, info in model.model_fields.items()}


def _check(recipe: Recipe, where: _Places) -> None:
    """What the schema can't know: names and options of the rooms that carry them out."""

    def wrong(loc: tuple[str, ...], sentence: str) -> RecipeError:
        return where.error(loc, sentence)

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

    optimizer = recipe.optimizer
    if ":" not in optimizer.name:
        if optimizer.name not in catalogue.names():
            known = nearest(optimizer.name, catalogue.names())
            raise wrong(("optimizer", "name"), f"there is no optimizer {optimizer.name!r}; {known}")
        entry = catalogue.get(optimizer.name)
        known_numbers = [h.name for h in entry.hyperparameters]
        for key in optimizer.hyperparameters:
            if key not in known_numbers:
                near = nearest(key, known_numbers)
                raise wrong(("optimizer", key), f"the optimizer {optimizer.name!r} has no {key!r}; {near}")
        refused = entry.refusal(optimizer.hyperparameters)
        if refused is not None:
            key, why = refused
            raise wrong(("optimizer", key), f"optimizer.{key} {why}")
    for key, value in optimizer.hyperparameters.items():
        # of a person's own optimizer, whose code isn't run here
        if key in ("params", "self"):
            raise wrong(("optimizer", key), f"optimizer.{key} is what the training gives; leave it out")
        by_name = catalogue.refusal_by_name(key, value) if ":" in optimizer.name else None
        if by_name is not None:
            raise wrong(("optimizer", key), f"optimizer.{key} {by_name}")

    schedule = recipe.schedule
    if schedule.name not in schedules.names():
        near = nearest(schedule.name, schedules.names())
        raise wrong(("schedule", "name"), f"there is no schedule {schedule.name!r}; {near}")
    if schedule.name == "plateau":
        if schedule.options:
            key = next(iter(schedule.options))
            raise wrong(("schedule", key), "the schedule 'plateau' has no options here; leave them out")
    else:
        if "total" in schedule.options:
            raise wrong(
                ("schedule", "total"),
                "schedule.total is the length of the training, which [training] says; leave it out",
            )
        try:
            schedules.build(schedule.name, total=_ANY_LENGTH, **schedule.options)
        except OptionError as problem:
            blamed = next((key for key in schedule.options if key in str(problem)), "name")
            raise wrong(("schedule", blamed), str(problem)) from problem

    kinds: dict[str, What] = {
        "loss": "loss", "metric": "metric", "validation_loss": "loss",
    }  # fmt: skip
    for key, what in kinds.items():
        spec = getattr(recipe.objective, key)
        known_names = objectives.names(what)
        if spec is not None and ":" not in spec and spec not in known_names:
            raise wrong(("objective", key), f"there is no {what} {spec!r}; {nearest(spec, known_names)}")
    _check_strategies(recipe, wrong)


def _check_parts(recipe: Recipe, wrong: Callable[[tuple[str, ...], str], RecipeError]) -> None:
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


def _check_strategies(recipe: Recipe, wrong: Callable[[tuple[str, ...], str], RecipeError]) -> None:
    """Settings that don't go together, with each other or with the optimizer and the schedule."""
    name = recipe.optimizer.name
    entry = None if ":" in name else catalogue.get(name)
    given = recipe.strategies.given()
    for strategy, settings in given.items():
        if ":" in strategy:
            # its code isn't run here, which says which settings it has
            if not _OWN_OBJECT.fullmatch(strategy):
                raise wrong(
                    ("strategies", strategy),
                    f"there is no strategy {strategy!r}; one of your own is 'file.py:Class' or "
                    "'package.module:Class'",
                )
            continue
        try:
            strategies.build(strategy, settings)
        except OptionError as problem:
            raise wrong(("strategies", strategy), str(problem)) from problem
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


def _check_ensemble(recipe: Recipe, wrong: Callable[[tuple[str, ...], str], RecipeError]) -> None:
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
