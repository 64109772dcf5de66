"""Which runtime takes which tensor, and the calls that optimizers and lanes make.

:func:`apply` is :func:`specialise`, ``Program.hoist`` and :func:`launch`; who knows many steps in advance
computes the scalars of all, where no scalar state ties one step to the next. Parameters and states change
in place. A scalar state is a list of one float64 tensor, ``[]`` or ``[K]``, for all parameters of a call.
With ``lanes=True`` tensors are ``[K, ...]``, hyperparameters floats or float64 ``[K]``, ``t`` an int or an
int array ``[K]``. Scalars are computed in float64 and cast to the type computed in, float32 for half
precision, whose states are float32. ``cache`` keeps tables of chunks, and the scalars of the next 32 steps
while settings stay the same; it holds addresses.
"""

from __future__ import annotations

import operator
from array import array
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from thalweg.errors import OptionError, nearest
from thalweg.rules.matrix import MatrixRule
from thalweg.rules.program import Floats, Program, compute_dtype
from thalweg.rules.rule import Rule
from thalweg.rules.trace import trace
from thalweg.runtimes import cpu, eager, gpu, matrix
from thalweg.runtimes.plans import Plan, Taker

__all__ = [
    "apply",
    "available",
    "describe",
    "initial_states",
    "launch",
    "live_scalars",
    "live_states",
    "shown",
    "specialise",
]

Runtime = Literal["auto", "eager", "cpu", "gpu"]
_RUNTIMES = ("auto", "eager", "cpu", "gpu")
# An optimizer steps the same few sets of parameters again and again. (Scalars count as one.)
_PLANS_KEPT = 16
_AHEAD = "scalars"
_STEPS_AHEAD = 32


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
    goes through torch operations. All give the same bits. Half precision is computed in float32. A
    :class:`~thalweg.rules.MatrixRule` always goes through torch operations, one tensor after the other.

    Args:
        rule: the rule.
        params, grads: as many of both, of equal shapes: ``[...]``, or ``[K, ...]`` with lanes.
        states: state to its tensors, for each of :func:`live_states`; for each of :func:`live_scalars` a list
            of one float64 tensor, ``[]`` or ``[K]`` with lanes, for all parameters; others are left alone.
        hyper: hyperparameters: floats, or with lanes float64 arrays ``[K]``; others have their default.
        options: static options of the rule; others have their default.
        t: the step, from 1: an int, or with lanes an int array ``[K]``.
        lanes: whether the first axis of every tensor is K replicas.
        runtime: ``"auto"``, or one of :func:`available`; tensors that it can't take still go eagerly.
        maximize: climb instead of descend.
        cache: a dict of the caller's, for one list of parameters or few, where tables are kept from step
            to step, and scalars for the next steps while settings stay the same. It holds tensors and
            addresses: it must not be copied or saved with its owner.

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
    if isinstance(rule, MatrixRule):
        numbers, chosen = rule.settle(hyper, options)
        matrix.step(rule, params, grads, states, numbers, chosen, t, lanes=lanes, maximize=maximize)
        return
    if cache is not None and not lanes and not rule.scalars and _are_floats(hyper):
        program, scalars = _hoisted(rule, hyper, options, t, maximize, cache)
        launch(program, params, grads, states, scalars, runtime=runtime, cache=cache)
        return
    program, settled = specialise(rule, hyper, options, maximize=maximize)
    held = {name: states[name][0] for name in program.scalar_states}
    scalars, after = program.hoist(settled | {name: x.cpu().numpy() for name, x in held.items()}, t)
    assert lanes or scalars.ndim == 1, "values for each lane, without lanes"
    for name, value in after.items():
        held[name].copy_(torch.from_numpy(np.asarray(value)))
    launch(program, params, grads, states, scalars, runtime=runtime, cache=cache)


def launch(
    program: Program,
    params: list[Tensor],
    grads: list[Tensor],
    states: dict[str, list[Tensor]],
    scalars: Floats,
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
    if isinstance(rule, MatrixRule):
        return rule.states
    return specialise(rule, hyper, options)[0].states


def live_scalars(rule: Rule, hyper: Mapping[str, Any], options: Mapping[str, bool | str]) -> tuple[str, ...]:
    """Return the states of :func:`live_states`' kind that are one number rather than one for each element.

    >>> from thalweg.rules import adam, nadam
    >>> live_scalars(nadam, {}, {}), live_scalars(adam, {}, {})
    (('mu_product',), ())
    """
    return specialise(rule, hyper, options)[0].scalar_states


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
        State to a list of tensors shaped as the parameters, float64 for float64, float32 for all others; a
        scalar state to a list of one float64 tensor, ``[]`` or ``[K]``.

    >>> from thalweg.rules import adagrad
    >>> initial_states(adagrad, [torch.zeros(2)], {"initial_accumulator_value": 0.5}, {})
    {'sum': [tensor([0.5000, 0.5000])]}
    """
    if isinstance(rule, MatrixRule):
        numbers, chosen = rule.settle(hyper, options)
        return matrix.initial_states(rule, params, numbers, chosen, lanes=lanes)
    program, settled = specialise(rule, hyper, options)
    made: dict[str, list[Tensor]] = {}
    for state in (*program.states, *program.scalar_states):
        initial = rule.initial.get(state, 0.0)
        if initial == rule.parameter:
            # What is part of a graph stays so: a differentiable step begins here.
            held = [p.detach() if p.is_leaf else p for p in params]
            made[state] = [p.to(compute_dtype(p.dtype), copy=True) for p in held]
            continue
        value = np.asarray(settled[initial] if isinstance(initial, str) else initial, dtype=np.float64)
        assert lanes or not value.ndim, "values for each lane, without lanes"
        if state in program.states:
            made[state] = [_filled(p, value) for p in params]
        else:
            shape = params[0].shape[:1] if lanes else ()
            made[state] = [torch.from_numpy(np.broadcast_to(value, shape).copy())]
    return made


def shown(
    rule: Rule,
    params: Sequence[Tensor],
    states: Mapping[str, list[Tensor]],
    hyper: Mapping[str, Any],
    *,
    lanes: bool = False,
) -> list[Tensor]:
    """Return what of these parameters is to be evaluated and used: new tensors, if not they themselves.

    Args:
        rule: the rule that trains them.
        params, states, hyper, lanes: as for :func:`apply`.

    >>> from thalweg.rules import adam, schedule_free_adamw
    >>> y, z = [torch.ones(1)], [torch.zeros(1)]
    >>> shown(schedule_free_adamw, y, {"z": z}, {"beta1": 0.5}), shown(adam, y, {}, {}) == y
    ([tensor([2.])], True)
    """
    view = rule.shown
    if view is None or not params:
        return list(params)
    settled, _ = rule.settle(hyper, {})
    copies = [p.detach().clone() for p in params]
    given = {name: states[name] for name in view.states}
    chosen = {name: settled[name] for name in view.hyperparameters}
    apply(view, copies, list(params), given, chosen, {}, 1, lanes=lanes)
    return copies


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


def _are_floats(hyper: Mapping[str, Any]) -> bool:
    return set(map(type, hyper.values())) <= {float}


def _hoisted(
    rule: Rule,
    hyper: Mapping[str, float],
    options: Mapping[str, bool | str],
    t: int,
    maximize: bool,
    cache: dict[Any, Any],
) -> tuple[Program, Floats]:
    # After a step that swept through memory all this code is far from the processor, and takes five times
    # as long as when it is near: it runs once in many steps. As bits, -0.0 isn't 0.0, and nan is nan.
    settings = rule, [*hyper], array("d", hyper.values()).tobytes(), dict(options), maximize
    if not rule.uses_step:
        t = 1
    held: tuple[Any, Program, int, Floats] | None = cache.get(_AHEAD)
    again = held is not None and held[0] == settings
    if held is None or not again or not held[2] <= t < held[2] + len(held[3]):
        program, settled = specialise(rule, hyper, options, maximize=maximize)
        # A schedule changes the settings at every step: only those that stayed will stay.
        steps = np.arange(t, t + (_STEPS_AHEAD if again else 1))
        scalars = np.ascontiguousarray(program.scalars(settled, steps).T)
        cache[_AHEAD] = held = settings, program, t, scalars
    return held[1], held[3][t - held[2]]


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
