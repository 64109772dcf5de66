"""Which runtime takes which tensor, and the three calls that optimizers and lanes make."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from thalweg.rules.program import Program, compute_dtype
from thalweg.rules.rule import Rule
from thalweg.rules.trace import trace
from thalweg.runtimes import eager

__all__ = ["apply", "initial_states", "live_states"]

Runtime = Literal["auto", "eager", "cpu"]


def apply(
    rule: Rule,
    params: list[Tensor],
    grads: list[Tensor],
    states: dict[str, list[Tensor]],
    hyper: Mapping[str, Any],
    options: Mapping[str, bool | str],
    t: Any,
    *,
    lanes: bool = False,
    runtime: Runtime = "auto",
    maximize: bool = False,
    cache: dict[Any, Any] | None = None,
) -> None:
    program, settled = _specialise(rule, hyper, options, maximize)
    eager.step(program, params, grads, states, program.scalars(settled, t))


def _specialise(
    rule: Rule, hyper: Mapping[str, Any], options: Mapping[str, bool | str], maximize: bool
) -> tuple[Program, dict[str, Any]]:
    settled, _ = rule.settle(hyper, options)
    zero = frozenset(name for name, value in settled.items() if not np.any(value))
    return trace(rule, options, zero, maximize=maximize), settled


def live_states(rule: Rule, hyper: Mapping[str, Any], options: Mapping[str, bool | str]) -> tuple[str, ...]:
    return _specialise(rule, hyper, options, False)[0].states


def initial_states(
    rule: Rule,
    params: Sequence[Tensor],
    hyper: Mapping[str, Any],
    options: Mapping[str, bool | str],
    *,
    lanes: bool = False,
) -> dict[str, list[Tensor]]:
    program, settled = _specialise(rule, hyper, options, False)
    made: dict[str, list[Tensor]] = {}
    for state in program.states:
        initial = rule.initial.get(state, 0.0)
        value = np.asarray(settled[initial] if isinstance(initial, str) else initial, dtype=np.float64)
        made[state] = [_filled(p, value) for p in params]
    return made


def _filled(p: Tensor, value: Any) -> Tensor:
    state = torch.zeros_like(p, dtype=compute_dtype(p.dtype), requires_grad=False)
    if value.ndim:
        per_lane = torch.from_numpy(value).to(state)
        return state.add_(per_lane.reshape(-1, *(1,) * (p.ndim - 1)))
    return state.fill_(float(value)) if value else state
