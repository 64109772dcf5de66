"""A person's own strategy by name: ``file.py:Class`` or ``package.module:Class``, and its settings."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from typing import Annotated, Any, get_type_hints

from pydantic import AfterValidator, ConfigDict, Field, PydanticUserError, ValidationError, create_model
from pydantic_core import PydanticCustomError

from thalweg.errors import OptionError, UserError
from thalweg.settings.plugins import load_object
from thalweg.settings.tables import Settings, refusal, settle
from thalweg.strategies.base import Strategy, settings_of

__all__ = ["OwnSettings", "build_own", "load_own"]


def _plain(value: Any) -> Any:
    """Let through what a recipe, a run directory and a report can hold."""
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    for each in inside:
        _plain(each)
    if isinstance(value, (str, int, list, dict)) or (isinstance(value, float) and math.isfinite(value)):
        return value
    raise PydanticCustomError("plain", "text, a finite number, true or false, or a list or table of these")


class OwnSettings(Settings):
    """The table of a strategy of one's own in a recipe; its code, which isn't run to read it, says more."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, Annotated[Any, AfterValidator(_plain)]] = Field(init=False)


def load_own(spec: str) -> type[Strategy]:
    """Import a class of strategies.

    Raises:
        OptionError: there is none by that name.
        TrustError: a run directory names it, and nobody here has run it before; or it has changed.
    """
    found = load_object(spec, "strategy", OptionError)
    if isinstance(found, type) and issubclass(found, Strategy):
        return found
    kind = f"the class {found.__name__}" if isinstance(found, type) else f"of type {type(found).__name__}"
    raise OptionError(
        f"the strategy {spec!r} is {kind}, not a class of strategies; derive a class from "
        "thalweg.strategies.Strategy"
    )


def build_own(spec: str, settings: Mapping[str, Any]) -> Strategy:
    """Make a strategy of a person's own.

    Args:
        spec: ``file.py:Class`` or ``package.module:Class``.
        settings: fields of the model that its ``settings`` are annotated with, or else arguments of its
            ``__init__``, whose annotations hold. Lists become tuples, and texts paths, where wanted.

    Raises:
        OptionError: no such class, a setting that it doesn't have, or a value that doesn't fit.

    >>> build_own("thalweg.strategies:Clipping", {"norm": 1.0}).settings
    ClippingSettings(value=None, unit=None, norm=1.0)
    >>> build_own("thalweg.strategies:Clipping", {"nrom": 1.0})
    Traceback (most recent call last):
    thalweg.errors.OptionError: the strategy 'thalweg.strategies:Clipping' has no setting 'nrom'; did you \
mean 'norm'?
    """
    kind, owner = load_own(spec), f"the strategy {spec!r}"
    model = _model(kind)
    held = _validated(model, dict(settings), owner)
    values = {name: getattr(held, name) for name in settings}
    try:
        made = kind(**values)
    except UserError:
        raise
    except Exception as problem:
        given = ", ".join(f"{name}={value!r}" for name, value in settings.items())
        raise OptionError(
            f"{spec}({given}) raises {type(problem).__name__}: {problem}; correct its settings or its code"
        ) from problem
    if made.settings is Strategy.settings:
        # written down, so that a resume under others is noticed
        made.settings = settle(OwnSettings, owner, **settings)
    return made


def _validated(model: type[Settings], values: dict[str, Any], owner: str) -> Settings:
    """Settings of a model, whose tuples, sets and paths TOML has as lists and text."""
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


_SPELLED_OTHERWISE = ("tuple_type", "set_type", "frozen_set_type", "is_instance_of", "date_type", "time_type")


def _model(kind: type[Strategy]) -> type[Settings]:
    """The model of its settings: its own, or one made of the arguments that it takes."""
    own = settings_of(kind)
    if own is not Settings or kind.__init__ is Strategy.__init__:
        return own
    try:
        hints = get_type_hints(kind.__init__)
    except Exception:
        # names that are there for type checkers alone
        hints = {}
    fields: dict[str, Any] = {}
    config = ConfigDict(arbitrary_types_allowed=True)
    for name, one in [*inspect.signature(kind.__init__).parameters.items()][1:]:
        if one.kind is one.VAR_KEYWORD:
            config["extra"] = "allow"
        elif one.kind is not one.VAR_POSITIONAL:
            fields[name] = (hints.get(name, Any), ... if one.default is one.empty else one.default)
    try:
        base = type("Arguments", (Settings,), {"model_config": config, "__module__": __name__})
        return create_model(kind.__name__, __base__=base, **fields)
    except (PydanticUserError, NameError, TypeError):
        # such as a name that pydantic keeps for itself: the class judges its values by itself
        return OwnSettings
