"""A person's own strategy by name: ``file.py:Class`` or ``package.module:Class``, and its settings."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError

from thalweg.errors import OptionError, UserError
from thalweg.settings.arguments import settings_model, validated
from thalweg.settings.plugins import load_object
from thalweg.settings.tables import Settings, settle
from thalweg.strategies.base import Strategy, settings_of

__all__ = ["OwnSettings", "build_own", "load_own", "plain_value"]


def plain_value(value: Any) -> Any:
    """Let through what a recipe, a run directory and a report can hold, and refuse anything else."""
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    for each in inside:
        plain_value(each)
    if isinstance(value, (str, int, list, dict)) or (isinstance(value, float) and math.isfinite(value)):
        return value
    raise PydanticCustomError("plain", "text, a finite number, true or false, or a list or table of these")


class OwnSettings(Settings):
    """The table of a strategy of one's own in a recipe; its code, which isn't run to read it, says more."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, Annotated[Any, AfterValidator(plain_value)]] = Field(init=False)


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
    held = validated(model, dict(settings), owner)
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


def _model(kind: type[Strategy]) -> type[Settings]:
    """The model of its settings: its own, or one made of the arguments that it takes."""
    own = settings_of(kind)
    if own is not Settings or kind.__init__ is Strategy.__init__:
        return own
    return settings_model(kind.__init__, kind.__name__, skip=1) or OwnSettings
