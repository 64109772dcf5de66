"""Options of the command: those that a verb declares for Python too, and those that several verbs have."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin

import typer

from thalweg.commands import parsing
from thalweg.errors import in_command
from thalweg.settings.choices import is_union, words_of
from thalweg.settings.declared import DEVICE, TRUST_CODE, Declared, declared

__all__ = ["device", "json", "read", "takes", "trust_code"]


def trust_code(panel: str | None = None) -> Any:
    """``--trust-code``, in a panel of a verb's help."""
    return typer.Option("--trust-code", help=TRUST_CODE.said, rich_help_panel=panel)


def device(panel: str | None = None) -> Any:
    """``--device``, in a panel of a verb's help."""
    return typer.Option(help=DEVICE.said, rich_help_panel=panel)


def json(panel: str | None = None) -> Any:
    """``--json``, in a panel of the help of a verb that leaves ``results.json``."""
    return typer.Option(
        "--json", help="Print results.json on standard output, and nothing else.", rich_help_panel=panel
    )


_F = TypeVar("_F", bound=Callable[..., Any])


def takes(kind: type) -> Callable[[_F], _F]:
    """Give a verb of the command, beside its own options, those that a dataclass declares for it.

    The verb gets them as keywords, as they were typed; :func:`read` makes of them what Python takes.
    """

    def given(verb: _F) -> _F:
        own = inspect.signature(verb, eval_str=True)
        first, *more = [one for one in own.parameters.values() if one.kind is not one.VAR_KEYWORD]
        made = [
            inspect.Parameter(
                name,
                inspect.Parameter.KEYWORD_ONLY,
                default=getattr(kind, name),
                annotation=_option(name, of, told),
            )
            for name, (of, told) in declared(kind).items()
            if told.panel
        ]
        parameters = [first, *made, *more]
        verb.__signature__ = own.replace(parameters=parameters)  # type: ignore[attr-defined]
        verb.__annotations__ = {one.name: one.annotation for one in parameters} | {"return": None}
        return verb

    return given


def _option(name: str, kind: Any, told: Declared) -> Any:
    """An option of the command, from what is declared: a flag, a choice, a number or a word."""
    plain, reading = _typed(kind)
    metavar = told.metavar or ("NAME,..." if reading is parsing.names else None)
    option = typer.Option(
        in_command(name),
        help=told.said,
        show_default=told.shown or True,
        metavar=metavar,
        rich_help_panel=told.panel,
    )
    return Annotated[plain, option]


def _typed(kind: Any) -> tuple[Any, Callable[[Any], Any] | None]:
    """What the command takes for a type of Python's, and what reads it."""
    inner = [one for one in get_args(kind) if one is not type(None)] if is_union(kind) else [kind]
    optional = is_union(kind) and type(None) in get_args(kind)
    reading: Callable[[Any], Any] | None = None
    if words := words_of(kind):
        plain: Any = Literal[words]
    elif get_origin(inner[0]) is Sequence:
        plain, reading = str, parsing.names
    elif get_origin(inner[0]) is Mapping:
        plain = list[str]
        reading = parsing.spaces if get_origin(get_args(inner[0])[1]) is tuple else parsing.column_types
    else:
        plain = next((one for one in (Path, bool, int, float) if one in inner), str)
    return (plain | None if optional or kind is Any else plain), reading


def read(kind: type, typed: Mapping[str, Any]) -> dict[str, Any]:
    """Return what was typed as Python takes it: lists of names, ranges and types of columns are read.

    Raises:
        OptionError: one can't be read.
    """
    readers = {name: _typed(of)[1] for name, (of, _) in declared(kind).items()}
    return {
        name: reader(value) if (reader := readers[name]) and value is not None else value
        for name, value in typed.items()
    }
