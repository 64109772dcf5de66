"""Sums over the processes of a model in DistributedDataParallel."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist

from thalweg.curvature.vectors import Vector

__all__ = ["gathered", "summed"]


def summed(vector: Vector, numbers: list[float], group: Any) -> tuple[Vector, list[float]]:
    """Return the sums of tensors, and of numbers, over all processes of a group; None: this one alone."""
    if group is None:
        return vector, numbers
    vector = [t.clone() for t in vector]
    for tensor in vector:
        dist.all_reduce(tensor, group=group)
    where = vector[0].device if vector else torch.device("cpu")
    together = torch.tensor(numbers, dtype=torch.float64, device=where)
    dist.all_reduce(together, group=group)
    return vector, together.tolist()


def gathered(items: list[Any], group: Any) -> list[Any]:
    """Return the items of all processes of a group, in the order of the processes; None: this one alone."""
    if group is None:
        return items
    lists: list[Any] = [None] * dist.get_world_size(group)
    dist.all_gather_object(lists, items, group=group)
    return [item for each in lists for item in each]
