"""Words that several rooms take for a setting: each list stands here, once, for types, checks and help."""

from __future__ import annotations

from types import UnionType
from typing import Any, Literal, TypeAlias, Union, get_args, get_origin

__all__ = [
    "Activation",
    "ColumnType",
    "EngineChoice",
    "EngineKind",
    "Missing",
    "Precision",
    "TaskKind",
    "Watched",
    "is_union",
    "words_of",
]

TaskKind: TypeAlias = Literal["classification", "regression", "custom"]
Missing: TypeAlias = Literal["drop", "median"]
ColumnType: TypeAlias = Literal["category", "number", "ignore"]
EngineKind: TypeAlias = Literal["lanes", "loop"]
EngineChoice: TypeAlias = Literal["auto", EngineKind]
Activation: TypeAlias = Literal["softmax", "sigmoid", "identity"]
Precision: TypeAlias = Literal["float32", "bfloat16", "float16"]
Watched: TypeAlias = Literal["metric", "loss"]


def words_of(kind: Any) -> tuple[str, ...]:
    """Return the words that a type leaves, where it is a ``Literal`` of them, or ``None``.

    >>> words_of(Literal["drop", "median"] | None), words_of(str)
    (('drop', 'median'), ())
    """
    if get_origin(kind) is Literal:
        return get_args(kind)
    return next((words for one in get_args(kind) if (words := words_of(one))), ()) if is_union(kind) else ()


def is_union(kind: Any) -> bool:
    """Whether a type is one of several, such as one that may be ``None``."""
    return get_origin(kind) in (Union, UnionType)
