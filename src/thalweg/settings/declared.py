"""A setting declared once: beside a field's type and default stands what people are told of it.

What has such fields is the signature of the verb that takes them, in Python and on the command line.
"""

from __future__ import annotations

import inspect
import math
import textwrap
from collections.abc import Callable, Mapping
from dataclasses import KW_ONLY, dataclass, fields, replace
from typing import Annotated, Any, ParamSpec, TypeVar, get_args, get_origin, get_type_hints

from thalweg.errors import OptionError, option
from thalweg.settings.choices import words_of

__all__ = [
    "DEVICE",
    "TRUST_CODE",
    "Declared",
    "arguments_of",
    "checked",
    "declared",
    "has_signature_of",
]


@dataclass(frozen=True)
class Declared:
    """What is told of a field, as ``field: Annotated[type, Declared(...)] = default``.

    Attributes:
        said: one sentence, for the command's help, the README and the docstring.
        panel: of the command's help; empty where Python alone has the field.
        python: what Python takes, where that is more or otherwise, for the docstring.
        shown: the default in words, where the value doesn't tell.
        metavar: what the command's help writes in place of a value.
        least: a number's least value; a whole number's most is that of ``settings.tables.MOST``.
        above: what a number must lie above.
        stored: whether a run's directory keeps it, and a resume must agree with it.
    """

    said: str
    panel: str = ""
    _: KW_ONLY
    python: str = ""
    shown: str | None = None
    metavar: str | None = None
    least: int | None = None
    above: float | None = None
    stored: bool = True

    def within(self, panel: str) -> Declared:
        """Return the same in a panel of a verb's help."""
        return replace(self, panel=panel)


DEVICE = Declared("As torch names it.")
TRUST_CODE = Declared(
    "Run the code that the run directory names, though it is not known here or has changed.", stored=False
)


def declared(kind: type) -> dict[str, tuple[Any, Declared]]:
    """Return the type of each field of a dataclass, and what is told of it."""
    hints = get_type_hints(kind, include_extras=True)
    found = {}
    for field in fields(kind):
        assert get_origin(hints[field.name]) is Annotated, f"{kind.__name__}.{field.name} has no Declared"
        plain, told = get_args(hints[field.name])
        found[field.name] = plain, told
    return found


_D = TypeVar("_D")


def checked(given: _D) -> _D:
    """Return settings whose numbers are what their declarations ask for, whole ones as ints.

    Raises:
        OptionError: naming the setting, its value and the rule.
    """
    from thalweg.settings.tables import MOST, is_number, one_of, whole_number

    whole: dict[str, Any] = {}
    for name, (kind, told) in declared(type(given)).items():
        value = getattr(given, name)
        if value is None:
            continue
        if told.least is not None and kind is float:
            if not (is_number(value) and value >= told.least):
                raise OptionError(
                    f"{option(name)} is {value!r}, but must be a number of at least {told.least}"
                )
        elif told.least is not None:
            whole[name] = whole_number(name, value, least=told.least, most=MOST.get(name))
        elif words := words_of(kind):
            one_of(name, value, words)
        elif told.above is not None:
            if not (is_number(value) and value > told.above and math.isfinite(value)):
                raise OptionError(
                    f"{option(name)} is {value!r}, but must be a finite number above {told.above:g}"
                )
        elif float in get_args(kind) and not is_number(value):
            raise OptionError(f"{option(name)} is {value!r}, but must be a number")
    return replace(given, **whole)  # type: ignore[type-var]


_P = ParamSpec("_P")
_R = TypeVar("_R")


def has_signature_of(kind: Callable[_P, Any]) -> Callable[[Callable[..., _R]], Callable[_P, _R]]:
    """Give a function, which takes anything, the arguments of a dataclass with declared fields.

    Type checkers and editors see them, and so do ``inspect.signature`` and ``help``: the docstring's line
    ``Args:`` is followed by what is told of each.
    """

    def given(function: Callable[..., _R]) -> Callable[_P, _R]:
        hints = declared(kind)  # type: ignore[arg-type]
        arguments = [
            one.replace(annotation=hints[name][0]) for name, one in inspect.signature(kind).parameters.items()
        ]
        try:
            returned = get_type_hints(function)["return"]
        except NameError:
            # of a room that is imported when the verb is called
            returned = function.__annotations__["return"]
        function.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
            arguments, return_annotation=returned
        )
        lines = [
            textwrap.fill(
                f"{one.name}: {_told(hints[one.name][1], one.default)}", 108,
                initial_indent=" " * 8, subsequent_indent=" " * 12, break_on_hyphens=False,
            )
            for one in arguments
        ]  # fmt: skip
        function.__doc__ = (function.__doc__ or "").replace(
            "    Args:\n", "\n".join(["    Args:", *lines, ""])
        )
        return function

    return given


def _told(told: Declared, default: object) -> str:
    """What the docstring has: the sentence, what else Python takes, and the default."""
    words = told.said.removesuffix(".")
    shown = told.shown if told.shown is not None else None if default in (None, False) else repr(default)
    python = f"; in Python {told.python}" if told.python else ""
    return f"{words}{python}. Default: {shown}." if shown else f"{words}{python}."


def arguments_of(names: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of an optimizer's constructor but its parameters: what a group of them may set.

    Args:
        names: its ``locals()``, before it has made any names of its own.
    """
    return {name: value for name, value in names.items() if name not in ("self", "params", "__class__")}
