"""The eager runtime: a program as torch operations, tensor by tensor, on any device and dtype."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from thalweg.rules.program import Program, scalar_tensors

__all__ = ["step"]


def step(
    program: Program,
    params: Sequence[Tensor],
    grads: Sequence[Tensor],
    states: Mapping[str, Sequence[Tensor]],
    scalars: np.ndarray[Any, np.dtype[np.float64]],
) -> None:
    """Run a program on every tensor, in place.

    Args:
        program: the traced rule.
        params, grads: tensors of one shape each pair, ``[...]`` or ``[K, ...]``.
        states: live state to its tensors, as many as parameters.
        scalars: hoisted, float64 ``[S]`` or ``[S, K]``.
    """
    held: dict[tuple[torch.dtype, torch.device, int], list[Tensor]] = {}
    with torch.no_grad():
        for i, (p, g) in enumerate(zip(params, grads, strict=True)):
            key = p.dtype, p.device, p.ndim if scalars.ndim == 2 else 0
            if key not in held:
                held[key] = scalar_tensors(scalars, p)
            own = {name: states[name][i] for name in program.states}
            new_p, new_states = program.evaluate(p, g, own, held[key])
            p.copy_(new_p)
            for name, value in new_states.items():
                own[name].copy_(value)
