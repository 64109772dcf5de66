"""Recipes as TOML files: read with errors that say where, written so that they read back equal."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path as FilePath
from typing import Any, cast, get_args, get_origin

import tomli_w
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from thalweg.errors import RecipeError, nearest, option
from thalweg.recipe.checks import check
from thalweg.recipe.positions import Path, dotted, positions
from thalweg.recipe.schema import VERSION, Recipe
from thalweg.run.directory.writing import reason, write_whole

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
    check(recipe, where.error)
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
    values["stage"] = [stage.written() for stage in recipe.stage]
    return tomli_w.dumps({table: value for table, value in values.items() if value not in ({}, [])})


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
        path: Path = ()
        here: Any = inside
        while isinstance(here, dict) and len(here) == 1:
            (part, here), *_ = here.items()
            place: Any = part
            if isinstance(target, list):
                # [[stage]] and its like are counted from 0
                place = _place_in(target, part)
                if place is None:
                    raise RecipeError(
                        f"{option('changes', [change])}: {dotted(path)} has {len(target)} tables, of which "
                        f"none is {part!r}; give a name, or a number from 0 to {len(target) - 1}"
                    )
            elif not isinstance(target, dict):
                raise RecipeError(
                    f"{option('changes', [change])}: {dotted(path)} is {_shown(target)}, which has no keys "
                    f"such as {part!r}; set {dotted(path)} itself"
                )
            path = (*path, place)
            if not isinstance(here, dict) or len(here) != 1:
                target[place] = here
            elif isinstance(target, dict) and not isinstance(target.get(place), (dict, list)):
                target[place] = {}
            target = target[place]
        found[path] = change.strip()
    return found


def _place_in(tables: Sequence[Any], part: str) -> int | None:
    """The place of a table in an array of tables, by its name or its number from 0."""
    names = [each.get("name") if isinstance(each, dict) else None for each in tables]
    if part in names:
        return names.index(part)
    return int(part) if part.isdecimal() and int(part) < len(tables) else None


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
    key = dotted(loc)
    kind, value = details["type"], details["input"]
    if kind == "extra_forbidden":
        known = _fields(loc[:-1])
        table = f"[{dotted(loc[:-1])}] has" if len(loc) > 1 else "a recipe has"
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
    if kind == "list_type" and (of := _listed(loc)) is not None:
        tables = isinstance(of, type) and issubclass(of, BaseModel)
        rule = f"an array of tables, [[{key}]]" if tables else "a list of text in quotes"
        return f"{key} is {_shown(value)} but must be {rule}"
    rule = details["msg"].removeprefix("Input should be ").removeprefix("a valid ")
    if kind in ("model_type", "model_attributes_type", "dict_type"):
        return f"{key} is {_shown(value)} but must be a table, [{key}]"
    return f"{key} is {_shown(value)} but must be {_RULES.get(kind, rule)}"


def _shown(value: object) -> str:
    """A value in a sentence, cut where it is longer than a sentence."""
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:80]}... ({len(text)} characters)"


_LONGEST = 10_000_000
_TOLD = ("batch_size", "epochs", "seed", "evaluations")
_UNION_BRANCHES = frozenset(
    {"bool", "int", "float", "list[union[int,float]]", "constrained-int", "list[constrained-int]"}
)
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
    return list(_named(_table_at(loc)))


def _table_at(loc: Sequence[str | int]) -> type[BaseModel]:
    model: Any = Recipe
    for part in loc:
        if isinstance(part, int):
            continue
        annotation = next(info.annotation for key, info in _named(model).items() if key == part)
        choices = get_args(annotation) or (annotation,)
        model = next(each for each in choices if isinstance(each, type) and issubclass(each, BaseModel))
    return cast("type[BaseModel]", model)


def _listed(loc: Sequence[str | int]) -> Any:
    """What a key has a list of, tables or text; ``None`` where it is something else."""
    try:
        annotation = _named(_table_at(loc[:-1]))[str(loc[-1])].annotation
    except (KeyError, StopIteration):
        return None
    for each in (annotation, *get_args(annotation)):
        if get_origin(each) is list and isinstance(of := get_args(each)[0], type):
            return of if issubclass(of, (str, BaseModel)) else None
    return None


def _named(model: type[BaseModel]) -> dict[str, Any]:
    return {info.alias or name: info for name, info in model.model_fields.items()}
