"""What measuring each claim costs, as it was measured when the gallery was made."""

from __future__ import annotations

import importlib.resources
import json
from functools import cache

from thalweg.claims.claim import SizeName

__all__ = ["seconds_of"]


def seconds_of(name: str, size: SizeName) -> float | None:
    """Return seconds of one core that a claim took; ``None`` where it wasn't measured at this size."""
    found = _costs().get(name, {}).get(size)
    return None if found is None else float(found)


@cache
def _costs() -> dict[str, dict[str, float]]:
    text = (importlib.resources.files("thalweg.claims") / "costs.json").read_text(encoding="utf-8")
    found: dict[str, dict[str, float]] = json.loads(text)
    return found
