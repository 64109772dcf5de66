"""The ordinary training loop, what its steps cost, and the choice between it and lanes."""

from __future__ import annotations

from thalweg.training import loop
from thalweg.training.choose import Choice
from thalweg.training.cost import measured_passes, step_seconds
from thalweg.training.processes import portable, run_many
from thalweg.training.steps import FORWARD_BACKWARD

__all__ = [
    "FORWARD_BACKWARD",
    "Choice",
    "loop",
    "measured_passes",
    "portable",
    "run_many",
    "step_seconds",
]
