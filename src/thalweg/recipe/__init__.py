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

Reading a recipe loads no data and runs nobody's code. An error begins with file, line and column; what is
wrong with a change is said as ``--set KEY=VALUE``. Contradictions are refused as it is read. What has its
default is left out of what is written.
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
