"""Arguments that come from a table, checked by what a function says of them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, get_type_hints

from pydantic import ConfigDict, PydanticUserError, ValidationError, create_model

from thalweg.settings.tables import Settings, refusal

__all__ = ["checked_arguments", "settings_model", "validated"]

_SPELLED_OTHERWISE = ("tuple_type", "set_type", "frozen_set_type", "is_instance_of", "date_type", "time_type")


class _Arguments(Settings):
    model_config = ConfigDict(arbitrary_types_allowed=True)


def settings_model(function: Callable[..., Any], name: str, *, skip: int = 0) -> type[Settings] | None:
    """Return a model of a function's arguments, by its annotations; ``None`` where there can't be one.

    Args:
        function: any.
        name: of the model.
        skip: so many of the first arguments are left out.
    """
    try:
        hints = get_type_hints(function)
    except Exception:
        # names that are there for type checkers alone
        hints = {}
    fields: dict[str, Any] = {}
    config = ConfigDict(arbitrary_types_allowed=True)
    for key, one in [*inspect.signature(function).parameters.items()][skip:]:
        if one.kind is one.VAR_KEYWORD:
            config["extra"] = "allow"
        elif one.kind is not one.VAR_POSITIONAL:
            fields[key] = (hints.get(key, Any), ... if one.default is one.empty else one.default)
    try:
        base = type("Arguments", (Settings,), {"model_config": config, "__module__": __name__})
        return create_model(name, __base__=base, **fields)
    except (PydanticUserError, NameError, TypeError):
        # such as a name that pydantic keeps for itself: the function judges its values by itself
        return None


def validated(model: type[Settings], values: dict[str, Any], owner: str) -> Settings:
    """Return settings of a model, whose tuples, sets and paths TOML has as lists and text.

    Raises:
        OptionError: a value that doesn't fit.
    """
    try:
        return model.model_validate(values)
    except ValidationError as problem:
        first = problem
    if all(error["type"] in _SPELLED_OTHERWISE for error in first.errors()):
        try:
            return model.model_validate(values, strict=False)
        except ValidationError as problem:
            first = problem
    raise refusal(first, owner, model)


def checked_arguments(function: Callable[..., Any], values: Mapping[str, Any], owner: str) -> dict[str, Any]:
    """Return some of a function's arguments, checked by its annotations; others may be left out.

    Raises:
        OptionError: one that doesn't fit.

    >>> def f(a: int, b: tuple[int, ...] = ()): ...
    >>> checked_arguments(f, {"b": [1, 2]}, "f")
    {'b': (1, 2)}
    """
    model = settings_model(function, "Arguments")
    if model is None:
        return dict(values)
    known = {key: info for key, info in model.model_fields.items() if key in values}
    rest = {key: value for key, value in values.items() if key not in known}
    fields: dict[str, Any] = {key: (info.annotation, ...) for key, info in known.items()}
    some = create_model("Arguments", __base__=_Arguments, **fields)
    held = validated(some, {key: values[key] for key in known}, owner)
    return {**{key: getattr(held, key) for key in known}, **rest}
