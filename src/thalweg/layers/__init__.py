"""What torch.nn lacks, and what puts it into a model that is there already."""

from __future__ import annotations

from thalweg.layers.following import activated

__all__ = ["activated"]
