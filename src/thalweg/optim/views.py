"""Tensors as a step computes on them: complex ones as pairs, spread ones as what this process has of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    pass

__all__ = ["is_sharded", "own", "placed", "real"]


def real(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Return complex tensors as ``[..., 2]``."""
    return [torch.view_as_real(x) if x.is_complex() else x for x in tensors]


def is_sharded(p: Tensor) -> bool:
    """Say whether a process has only a part of it."""
    return any(not place.is_replicate() for place in getattr(p, "placements", ()))


def placed(grad: Any, p: Any) -> Tensor:
    """Return a gradient spread over processes as its parameter is."""
    places = getattr(p, "placements", None)
    if places is None or getattr(grad, "placements", None) in (None, places):
        found: Tensor = grad
    else:
        found = grad.redistribute(p.device_mesh, places)
    return found


def own(tensors: Sequence[Any]) -> list[Tensor]:
    """Return what this process has; an elementwise step needs no more."""
    return [x.to_local() if hasattr(x, "to_local") else x for x in tensors]
