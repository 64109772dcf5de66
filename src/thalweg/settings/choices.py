"""Words that several rooms take for a setting: each list stands here, once, for types, checks and help."""

from __future__ import annotations

from typing import Literal, TypeAlias

__all__ = [
    "Activation",
    "ColumnType",
    "EngineChoice",
    "EngineKind",
    "Missing",
    "Precision",
    "TaskKind",
    "Watched",
]

TaskKind: TypeAlias = Literal["classification", "regression", "custom"]
Missing: TypeAlias = Literal["drop", "median"]
ColumnType: TypeAlias = Literal["category", "number", "ignore"]
EngineKind: TypeAlias = Literal["lanes", "loop"]
EngineChoice: TypeAlias = Literal["auto", EngineKind]
Activation: TypeAlias = Literal["softmax", "sigmoid", "identity"]
Precision: TypeAlias = Literal["float32", "bfloat16", "float16"]
Watched: TypeAlias = Literal["metric", "loss"]
