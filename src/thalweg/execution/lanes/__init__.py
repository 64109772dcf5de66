"""K replicas of a model as one program."""

from __future__ import annotations

from thalweg.execution.lanes.chunks import Eliminate, Keeper, Progress, plan, promise, run

__all__ = ["Eliminate", "Keeper", "Progress", "plan", "promise", "run"]
