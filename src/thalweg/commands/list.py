"""``thalweg list``."""

from __future__ import annotations

import json as json_module
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from types import FunctionType
from typing import Annotated, Any, Literal

import typer

__all__ = ["list_"]

_Kind = Literal["optimizers", "schedules", "initializations", "data", "models", "stages"]


def list_(
    kind: Annotated[_Kind, typer.Argument(help="What to list.", show_default=False)],
    json: Annotated[bool, typer.Option("--json", help="Print everything known, as JSON.")] = False,
) -> None:
    """List the optimizers, schedules, initializations, data, models or kinds of stages that go by a name."""
    rows = [_plain(entry) for entry in _entries(kind)]
    if json:
        typer.echo(json_module.dumps(rows, indent=2, ensure_ascii=False))
        return
    width = max(len(row["name"]) for row in rows)
    for row in rows:
        typer.echo(f"{row['name']:{width}}  {row['summary']}")


def _entries(kind: _Kind) -> list[Any]:
    """Every entry has ``name`` and ``summary``; what else there is only JSON shows."""
    if kind == "optimizers":
        from thalweg import catalogue

        return [catalogue.get(name) for name in catalogue.names()]
    if kind == "schedules":
        from thalweg import schedules

        return list(schedules.describe())
    if kind == "initializations":
        from thalweg.racing import initializations

        return initializations.describe()
    if kind == "data":
        from thalweg import data

        described = data.describe()
    elif kind == "stages":
        from thalweg.stages import methods

        described = methods.describe()
    else:
        from thalweg.layers import models

        described = models.describe()
    return [{"name": name, "summary": summary} for name, summary in described.items()]


def _plain(value: Any) -> Any:
    """Dataclasses, mappings and sequences as JSON has them; classes and functions by where they live."""
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_plain(item) for item in value]
    if value is None or isinstance(value, (str, int, float, bool)):
        return value
    assert isinstance(value, type | FunctionType), f"no JSON for {value!r}"
    return f"{value.__module__}.{value.__qualname__}"
