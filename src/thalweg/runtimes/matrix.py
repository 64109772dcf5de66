"""Runs matrix rules: tensor by tensor, all lanes of one at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from thalweg.rules.matrix import MatrixRule
from thalweg.rules.program import Floats, compute_dtype

__all__ = ["initial_states", "step"]


def step(
    rule: MatrixRule,
    params: Sequence[Tensor],
    grads: Sequence[Tensor],
    states: Mapping[str, Sequence[Tensor]],
    hyper: Mapping[str, Any],
    options: Mapping[str, bool | str],
    t: int,
    *,
    lanes: bool,
    maximize: bool,
) -> None:
    """Take one step, in place; the arguments are those of :func:`thalweg.runtimes.apply`."""
    assert np.ndim(t) == 0, "lanes of a matrix rule step together"
    counting = {"t": t} if rule.uses_step else {}
    with torch.no_grad():
        for i, (p, g) in enumerate(zip(params, grads, strict=True)):
            own = [states[name][i] for name in rule.states]
            dtype = compute_dtype(p.dtype)
            given = [
                x.to(dtype) if lanes else x.to(dtype).unsqueeze(0) for x in (p, -g if maximize else g, *own)
            ]
            new = rule.function(*given, **_by_lane(hyper, given[0]), **options, **counting)
            new = new if isinstance(new, tuple) else (new,)
            for old, value in zip((p, *own), new, strict=True):
                old.copy_(value if lanes else value.squeeze(0))


def initial_states(
    rule: MatrixRule,
    params: Sequence[Tensor],
    hyper: Mapping[str, Any],
    options: Mapping[str, bool | str],
    *,
    lanes: bool,
) -> dict[str, list[Tensor]]:
    """Make the states before the first step; the arguments are those of the runtimes' own."""
    made: dict[str, list[Tensor]] = {name: [] for name in rule.states}
    for p in params:
        held = p.detach().to(compute_dtype(p.dtype))
        held = held if lanes else held.unsqueeze(0)
        for name, value in rule.begin(held, _by_lane(hyper, held), options).items():
            made[name].append(value if lanes else value.squeeze(0))
    return made


def _by_lane(hyper: Mapping[str, Any], p: Tensor) -> dict[str, Floats]:
    return {name: np.array(np.broadcast_to(value, len(p)), dtype=np.float64) for name, value in hyper.items()}
