"""Arguments to verbs: one file a verb, and no logic."""

from __future__ import annotations

from thalweg.commands.app import main

__all__ = ["main"]
