"""Losses and metrics: what training lowers, and what people judge by."""

from typing import Literal

from thalweg.objectives.given import Task
from thalweg.objectives.losses import Loss, as_loss, default_loss, loss, loss_names
from thalweg.objectives.metrics import Metric, default_metric, metric, metric_names

__all__ = [
    "Loss",
    "Metric",
    "Task",
    "as_loss",
    "default_loss",
    "default_metric",
    "loss",
    "loss_names",
    "metric",
    "metric_names",
    "names",
]


def names(what: Literal["loss", "metric"], task: Task | None = None) -> tuple[str, ...]:
    """Return the names of the losses or metrics that fit ``task``, or of all.

    >>> names("metric", Task(kind="regression"))
    ('rmse', 'r2', 'mae')
    """
    return loss_names(task) if what == "loss" else metric_names(task)
