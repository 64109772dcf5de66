"""Which runtime takes which tensor, and the calls that optimizers and lanes make."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from thalweg.errors import OptionError, nearest
from thalweg.rules.program import Program, compute_dtype
from thalweg.rules.rule import Rule
from thalweg.rules.trace import trace
from thalweg.runtimes import cpu, eager, gpu
from thalweg.runtimes.tables import Plan, Taker

__all__ = ["apply", "available", "describe", "initial_states", "launch", "live_states", "specialise"]

Runtime = Literal["auto", "eager", "cpu", "gpu"]
_RUNTIMES = ("auto", "eager", "cpu", "gpu")
# An optimizer steps the same few sets of parameters again and again.
_PLANS_KEPT = 16


def available() -> tuple[str, ...]:
    """Return the runtimes that work here, the fastest first, each for the tensors that it takes.

    >>> "eager" in available()
    True
    """
    there = {"gpu": gpu.there() and gpu.usable(), "cpu": cpu.usable(), "eager": True}
    return tuple(name for name, works in there.items() if works)


def describe() -> str:
    """Say in one line what runs optimizer steps here."""
    return f"{cpu.describe()}; {gpu.describe()}; eager torch operations for everything else"


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
    """Take one step of a rule, in place on parameters and states.

    Dense contiguous float32 and float64 tensors on the CPU go to a compiled kernel, all at once, and those
    on an NVIDIA GPU to another, of half precision too; every other tensor, and a rule with a general power,
    goes through torch operations. All give the same bits. Half precision is computed in float32.

    Args:
        rule: the rule.
        params, grads: as many of both, of equal shapes: ``[...]``, or ``[K, ...]`` with lanes.
        states: state to its tensors, for each of :func:`live_states`; others are left alone.
        hyper: hyperparameters: floats, or with lanes float64 arrays ``[K]``; others have their default.
        options: static options of the rule; others have their default.
        t: the step, from 1: an int, or with lanes an int array ``[K]``.
        lanes: whether the first axis of every tensor is K replicas.
        runtime: ``"auto"``, or one of :func:`available`; tensors that it can't take still go eagerly.
        maximize: climb instead of descend.
        cache: a dict of the caller's, for one list of parameters or few, where tables are kept from step
            to step. It holds tensors and addresses: it must not be copied or saved with its owner.

    Raises:
        OptionError: a name that the rule doesn't have, a runtime that isn't available.
        RuleError: the rule can't be traced.

    >>> from thalweg.rules import momentum
    >>> p, g = [torch.ones(2)], [torch.full((2,), 2.0)]
    >>> states = initial_states(momentum, p, {}, {})
    >>> apply(momentum, p, g, states, {"lr": 0.25}, {}, 1)
    >>> p
    [tensor([0.5000, 0.5000])]
    """
    program, settled = specialise(rule, hyper, options, maximize=maximize)
    scalars = program.scalars(settled, t)
    assert lanes or scalars.ndim == 1, "values for each lane, without lanes"
    launch(program, params, grads, states, scalars, runtime=runtime, cache=cache)


def launch(
    program: Program,
    params: list[Tensor],
    grads: list[Tensor],
    states: dict[str, list[Tensor]],
    scalars: np.ndarray[Any, np.dtype[np.float64]],
    *,
    runtime: Runtime = "auto",
    cache: dict[Any, Any] | None = None,
) -> None:
    """Take one step of a specialised rule whose scalars were hoisted beforehand, as :func:`apply` does.

    Args:
        program: from :func:`specialise`.
        params, grads, states, runtime, cache: as for :func:`apply`.
        scalars: from :meth:`Program.scalars <thalweg.rules.program.Program.scalars>`, ``[S]`` or ``[S, K]``.
    """
    if runtime not in _RUNTIMES:
        raise OptionError(f"runtime is {runtime!r}; {nearest(str(runtime), _RUNTIMES)}")
    if runtime == "cpu" and not cpu.usable():
        raise OptionError(f"runtime is 'cpu', but there are {cpu.describe()}; use 'auto' or install Numba")
    if runtime == "gpu" and not (gpu.there() and gpu.usable()):
        raise OptionError(f"runtime is 'gpu', but there are {gpu.describe()}; use 'auto'")
    columns = [params, grads, *(states[name] for name in program.states)]
    assert all(len(column) == len(params) for column in columns), "a tensor of each kind for each parameter"
    takers: list[Taker] = []
    if program.portable and not torch.compiler.is_compiling():
        takers = _takers(runtime, params)
    if not takers:
        eager.step(program, params, grads, states, scalars)
        return
    plan = _plan(takers, program, columns, scalars.shape[1] if scalars.ndim == 2 else 1, cache)
    plan.launch(scalars)
    if plan.rest:
        rest = [[column[i] for i in plan.rest] for column in columns]
        eager.step(program, rest[0], rest[1], dict(zip(program.states, rest[2:], strict=True)), scalars)


def live_states(rule: Rule, hyper: Mapping[str, Any], options: Mapping[str, bool | str]) -> tuple[str, ...]:
    """Return the states that these settings need: no velocity without momentum, for instance.

    >>> from thalweg.rules import sgd
    >>> live_states(sgd, {"momentum": 0.9}, {}), live_states(sgd, {}, {})
    (('momentum_buffer',), ())
    """
    return specialise(rule, hyper, options)[0].states


def initial_states(
    rule: Rule,
    params: Sequence[Tensor],
    hyper: Mapping[str, Any],
    options: Mapping[str, bool | str],
    *,
    lanes: bool = False,
) -> dict[str, list[Tensor]]:
    """Make the live states before the first step.

    Args:
        rule: the rule.
        params: the parameters.
        hyper, options, lanes: as for :func:`apply`.

    Returns:
        State to a list of tensors shaped as the parameters, float64 for float64, float32 for all others.

    >>> from thalweg.rules import adagrad
    >>> initial_states(adagrad, [torch.zeros(2)], {"initial_accumulator_value": 0.5}, {})
    {'sum': [tensor([0.5000, 0.5000])]}
    """
    program, settled = specialise(rule, hyper, options)
    made: dict[str, list[Tensor]] = {}
    for state in program.states:
        initial = rule.initial.get(state, 0.0)
        value = np.asarray(settled[initial] if isinstance(initial, str) else initial, dtype=np.float64)
        assert lanes or not value.ndim, "values for each lane, without lanes"
        made[state] = [_filled(p, value) for p in params]
    return made


def specialise(
    rule: Rule, hyper: Mapping[str, Any], options: Mapping[str, bool | str], *, maximize: bool = False
) -> tuple[Program, dict[str, Any]]:
    """Return the program of a rule for these settings, and all its hyperparameters, defaults filled in.

    >>> from thalweg.rules import sgd
    >>> specialise(sgd, {"momentum": 0.9}, {})[0].states
    ('momentum_buffer',)
    """
    settled, _ = rule.settle(hyper, options)
    zero = frozenset(name for name, value in settled.items() if _is_zero(value))
    return trace(rule, options, zero, maximize=maximize), settled


def _is_zero(value: Any) -> bool:
    return value == 0 if isinstance(value, float | int) else not np.any(value)


def _takers(runtime: Runtime, params: list[Tensor]) -> list[Taker]:
    # Asked whether it is usable, a runtime may log that it isn't: only where there is work for it.
    if runtime != "auto":
        return [] if runtime == "eager" else [cpu if runtime == "cpu" else gpu]
    takers: list[Taker] = []
    elsewhere = gpu.BUILT and any(map(_is_cuda, params))
    if elsewhere and gpu.usable():
        takers.append(gpu)
    if not (elsewhere and all(map(_is_cuda, params))) and cpu.usable():
        takers.append(cpu)
    return takers


_is_cuda = operator.attrgetter("is_cuda")


def _plan(
    takers: list[Taker],
    program: Program,
    columns: list[list[Tensor]],
    lanes: int,
    cache: dict[Any, Any] | None,
) -> Plan:
    key = program, lanes, tuple(map(id, columns[0]))
    held = None if cache is None else cache.get(key)
    # The parameters are held beside the plan, so that their ids stay theirs.
    if held is not None and held[0].fits(takers, columns):
        plan: Plan = held[0]
        return plan
    plan = Plan(takers, program, columns, lanes)
    if cache is not None:
        cache.pop(key, None)
        while len(cache) >= _PLANS_KEPT:
            cache.pop(next(iter(cache)))
        cache[key] = plan, list(columns[0])
    return plan


def _filled(p: Tensor, value: Any) -> Tensor:
    state = torch.zeros_like(p, dtype=compute_dtype(p.dtype), requires_grad=False)
    if value.ndim:
        per_lane = torch.from_numpy(value).to(state)
        return state.add_(per_lane.reshape(-1, *(1,) * (p.ndim - 1)))
    return state.fill_(float(value)) if value else state
