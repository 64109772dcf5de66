"""Recipes: one training run as a typed, versioned TOML file, carried out as it stands.

::

    version = 1

    [data]
    spec = "houses.csv"
    target = "price"
    seed = 0
    replicate = 0

    [model]
    spec = "mlp:128,64"

    [objective]
    loss = "mse"
    metric = "rmse"

    [optimizer]
    name = "adam"
    lr = 0.003

    [schedule]
    name = "cosine"

    [training]
    batch_size = 64
    epochs = 30
    seed = 1

    [strategies.early-stopping]
    patience = 5
"""

from __future__ import annotations

from thalweg.recipe.file import dumps, loads, read, write
from thalweg.recipe.schema import (
    VERSION,
    DataTable,
    EnsembleTable,
    GroupsTable,
    GroupTable,
    ModelTable,
    ObjectiveTable,
    OptimizerTable,
    Recipe,
    ScheduleTable,
    StrategiesTable,
    TrainingTable,
    mirrors,
)

__all__ = [
    "VERSION",
    "DataTable",
    "EnsembleTable",
    "GroupTable",
    "GroupsTable",
    "ModelTable",
    "ObjectiveTable",
    "OptimizerTable",
    "Recipe",
    "ScheduleTable",
    "StrategiesTable",
    "TrainingTable",
    "dumps",
    "loads",
    "mirrors",
    "read",
    "write",
]
