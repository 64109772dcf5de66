"""Run one rule over many tensors and lanes."""

from __future__ import annotations

from thalweg.runtimes.choose import (
    apply,
    available,
    describe,
    initial_states,
    launch,
    live_states,
    specialise,
)

__all__ = ["apply", "available", "describe", "initial_states", "launch", "live_states", "specialise"]
