"""The ordinary training loop."""

from __future__ import annotations

from thalweg.training import loop
from thalweg.training.processes import portable, run_many

__all__ = ["loop", "portable", "run_many"]
