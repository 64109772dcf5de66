"""K replicas of a model as one program."""

from __future__ import annotations

from thalweg.execution.lanes.chunks import Eliminate, LaneKeeper, LaneProgress, plan, promise, run

__all__ = ["Eliminate", "LaneKeeper", "LaneProgress", "plan", "promise", "run"]
