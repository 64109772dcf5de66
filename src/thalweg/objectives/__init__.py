"""Losses and metrics: what training lowers, and what models are evaluated by."""

from thalweg.objectives.given import Task, default, names
from thalweg.objectives.losses import Loss, as_loss, loss
from thalweg.objectives.metrics import Metric, metric, to_hand_on

__all__ = ["Loss", "Metric", "Task", "as_loss", "default", "loss", "metric", "names", "to_hand_on"]
