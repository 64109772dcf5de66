"""Run one rule over many tensors and lanes."""

from __future__ import annotations

from thalweg.runtimes.choose import apply, available, describe, initial_states, live_scalars, live_states

__all__ = ["apply", "available", "describe", "initial_states", "live_scalars", "live_states"]
