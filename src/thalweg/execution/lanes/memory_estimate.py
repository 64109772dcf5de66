"""How much memory a lane needs, measured on a few, and how many fit."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from thalweg.execution.lanes.step import LaneProgram
from thalweg.objectives.nests import leaves
from thalweg.settings.free_memory import free_bytes

__all__ = ["available_bytes", "lane_bytes", "lanes_that_fit"]

_SHARE = 0.5  # of what is available; the rest is for everybody else and for what the estimate misses


def lane_bytes(program: LaneProgram, inputs: Any, targets: Tensor, *, evaluated: int) -> int:
    """Estimate the memory of one lane, from one forward pass of a few.

    ``parameters * (2 + states + 2) + buffers + 2 * activations kept for the backward pass + 2 * the largest
    of them at the size of an evaluation block + batch``: parameter, gradient, states, and two temporaries.

    Args:
        program: of K lanes, at least 2, that has done a step.
        inputs: ``[K, B, ...]``, or a nest of such.
        targets: ``[K, B, ...]``.
        evaluated: examples in a block of an evaluation.

    Returns:
        Bytes a lane.
    """
    lanes, batch = targets.shape[:2]
    given = list(leaves(inputs))
    own = {tensor.data_ptr() for tensor in (*program.stack.tensors.values(), *given)}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        if tensor.data_ptr() not in own:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    buffers = {name: t.clone() for name, t in program.stack.tensors.items() if not t.requires_grad}
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        program.forward(program.stack.tensors, inputs, draw=program.draws, training=True)
    with torch.no_grad():
        for name, before in buffers.items():
            program.stack.tensors[name].copy_(before)

    parameters = sum(p.nbytes for p in program.stack.parameters)
    states = sum(t.nbytes for group in program.groups for own_ in group.states.values() for t in own_)
    fixed = sum(t.nbytes for t in buffers.values())
    activations = sum(kept.values())
    largest = max(kept.values(), default=0) * max(1.0, evaluated / batch)
    data = sum(leaf[0].nelement() * leaf.element_size() for leaf in (*given, targets))
    return int((4 * parameters + states + fixed + 2 * activations + 2 * largest) / lanes + 2 * data)


def available_bytes(device: torch.device) -> int:
    """Return the memory that is free: the GPU's, or what Linux calls available within the control group."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return free_bytes()


def lanes_that_fit(bytes_a_lane: int, free: int) -> int:
    """Return how many lanes fit into half of the free memory, at least 2.

    >>> lanes_that_fit(2**20, 2**30)
    512
    """
    return max(2, int(_SHARE * free) // max(bytes_a_lane, 1))
