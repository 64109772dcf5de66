"""Optimizers as linear recursions: what a step does where the second moment is held fast.

Along a direction of curvature a, in coordinates scaled by the optimizer's divisor D and its rate, every
optimizer here is, with the gradient ``g = a x``,

    m' = b m + t g,   x' = c x - p m' - q g

whose eigenvalues lie within the unit circle where ``0 < a < (1 + b) (1 + c) / (p t + q (1 + b))``: Jury's
conditions on the characteristic polynomial. ``b`` is the memory, ``t`` what a gradient adds to it, ``p`` and
``q`` the shares of the average and of the new gradient in the step, and ``1 - c`` what decoupled weight decay
takes away. Gradient descent has b = p = 0, q = 1 and the limit 2; heavy ball p = 1, q = 0: 2 (1 + b);
Nesterov p = b, q = 1: (2 + 2b) / (1 + 2b); Adam p = 1, t = 1 - b: (2 + 2b) / (1 - b).

Optimizers are read by the names of their options and states, torch's and those of this package alike.

Source: INDEX X9, O1-O6. Polyak, Some methods of speeding up the convergence of iteration methods, 1964; Cohen
et al., Gradient descent on neural networks typically occurs at the edge of stability, 2021, and Adaptive
gradient methods at the edge of stability, 2022.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor

from thalweg.errors import OptionError

__all__ = ["Recursion", "UpdateRule", "rule_of"]

Group: TypeAlias = Mapping[str, Any]
State: TypeAlias = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Recursion:
    """``m' = memory * m + taken * g``, ``x' = kept * x - averaged * m' - fresh * g``, at a rate of 1.

    >>> Recursion().limit, Recursion(memory=0.5, averaged=1.0, fresh=0.0).limit
    (2.0, 3.0)
    """

    memory: float = 0.0
    taken: float = 1.0
    averaged: float = 0.0
    fresh: float = 1.0
    kept: float = 1.0

    @property
    def limit(self) -> float:
        """The largest curvature at which it doesn't grow."""
        b = self.memory
        return (1 + b) * (1 + self.kept) / (self.averaged * self.taken + self.fresh * (1 + b))


@dataclass(frozen=True, kw_only=True)
class UpdateRule:
    """How an optimizer is read.

    Attributes:
        recursion: from a group's options and a parameter's state, as it is once averages have filled.
        divisor: likewise, what a gradient is divided by: a tensor, infinite where there has never been a
            gradient; None: 1.
        filled: from a group and the mean of squared gradients, the state that will be there once averages
            have filled.
        decay: where weight decay acts: in the ``gradient``; ``apart``, on the parameter; or ``beside`` the
            divided gradient. A group's ``decoupled_weight_decay`` means apart.
        said: the bound, in words.
    """

    recursion: Callable[[Group, State], Recursion]
    divisor: Callable[[Group, State], Tensor] | None = None
    filled: Callable[[Group, Tensor], State] | None = None
    decay: Literal["gradient", "apart", "beside"] = "gradient"
    said: str = "2 / lambda"

    def where_decay_acts(self, group: Group) -> str:
        """Return where weight decay acts in a group."""
        return "apart" if group.get("decoupled_weight_decay") else self.decay

    def kept(self, group: Group) -> float:
        """Return what decoupled weight decay leaves of a parameter in a step."""
        if self.where_decay_acts(group) != "apart":
            return 1.0
        return 1 - float(group["lr"]) * float(group.get("weight_decay", 0.0))


def rule_of(optimizer: torch.optim.Optimizer) -> UpdateRule:
    """Return how an optimizer is read, by the name of its class or one that it is made from.

    Raises:
        OptionError: it isn't a linear recursion, or isn't known.
    """
    for made in type(optimizer).__mro__:
        if made.__name__ in _RULES:
            return _RULES[made.__name__]
    name = type(optimizer).__name__
    known = ", ".join(sorted(_RULES))
    raise OptionError(
        f"stability: no bound is known for {name}, whose step isn't a fixed multiple of the gradient; "
        f"known are {known}. For another one scale the matrix yourself: "
        "lanczos(Preconditioned(operator, scale))"
    )


def _descent(group: Group, state: State) -> Recursion:
    b = float(group.get("momentum", 0.0))
    if not b:
        return Recursion()
    taken = 1 - float(group.get("dampening", 0.0))
    if group.get("nesterov"):
        # the look-ahead points move as the parameters do without look-ahead
        return Recursion(memory=b, taken=taken, averaged=b, fresh=1.0)
    return Recursion(memory=b, taken=taken, averaged=1.0, fresh=0.0)


def _spelled(group: Group, state: State) -> Recursion:
    b = float(group["momentum"])
    taken = 1 - b if group["spelling"] == "average" else 1.0
    return Recursion(memory=b, taken=taken, averaged=1.0, fresh=0.0)


def _nesterov(group: Group, state: State) -> Recursion:
    b = float(group["momentum"])
    return Recursion(memory=b, averaged=b, fresh=1.0)


def _adam(group: Group, state: State) -> Recursion:
    b = float(group["betas"][0])
    return Recursion(memory=b, taken=1 - b, averaged=1.0, fresh=0.0)


def _nadam(group: Group, state: State) -> Recursion:
    b = float(group["betas"][0])
    decay = float(group.get("momentum_decay", 0.0))
    t = _step(state)
    now, later = (b * (1 - 0.5 * 0.96 ** (k * decay)) for k in (t, t + 1))
    return Recursion(memory=b, taken=1 - b, averaged=later, fresh=1 - now)


def _free(group: Group, state: State) -> Recursion:
    # the mean of all iterates stands still beside the last of them
    beta = float(group["betas"][0])
    return Recursion(fresh=1 - beta)


def _step(state: State) -> float:
    return float(state.get("step", 1.0))


def _grown(state: State, beta: float, group: Group) -> float:
    """What bias correction divides an average by."""
    return 1 - beta ** max(1.0, _step(state)) if group.get("bias_correction", True) else 1.0


def _over(squares: Tensor, group: Group, grown: float = 1.0, *, inside: bool = False) -> Tensor:
    eps = float(group["eps"])
    found = squares.to(torch.promote_types(squares.dtype, torch.float32)) / grown
    divisor = (found + eps).sqrt() if inside else found.sqrt() + eps
    return divisor.masked_fill(squares == 0, torch.inf)


def _adams(group: Group, state: State) -> Tensor:
    squares: Tensor = state["max_exp_avg_sq"] if group.get("amsgrad") else state["exp_avg_sq"]
    return _over(squares, group, _grown(state, float(group["betas"][1]), group))


def _radams(group: Group, state: State) -> Tensor:
    beta, t = float(group["betas"][1]), max(1.0, _step(state))
    most = 2 / (1 - beta) - 1
    share = t * beta**t / (1 - beta**t)
    rho = most - 2 * share
    if rho <= 5:
        # the first steps divide by nothing
        return torch.ones_like(state["exp_avg_sq"])
    kept = float(((rho - 4) * (rho - 2) * most / ((most - 4) * (most - 2) * rho)) ** 0.5)
    return _adams(group, state) / kept


def _rmsprops(group: Group, state: State) -> Tensor:
    squares: Tensor = state["square_avg"]
    if group.get("centered"):
        # a gradient that never changes has no deviation, but is one
        apart = (squares - state["grad_avg"].square()).clamp(min=0)
        squares = torch.where(squares == 0, 0.0, apart.clamp(min=torch.finfo(squares.dtype).tiny))
    return _over(squares, group, inside=bool(group.get("eps_inside")))


def _adagrads(group: Group, state: State) -> Tensor:
    squares: Tensor = state["sum"]
    slower = 1 + max(0.0, _step(state)) * float(group.get("lr_decay", 0.0))
    return _over(squares, group) * slower


def _adadeltas(group: Group, state: State) -> Tensor:
    eps = float(group["eps"])
    squares: Tensor = state["square_avg"]
    moved: Tensor = state["acc_delta"]
    divisor = ((squares + eps) / (moved + eps)).sqrt()
    return divisor.masked_fill(squares == 0, torch.inf)


def _adamaxes(group: Group, state: State) -> Tensor:
    largest: Tensor = state["exp_inf"]
    return largest.masked_fill(largest <= float(group["eps"]), torch.inf)


def _filled(name: str) -> Callable[[Group, Tensor], State]:
    def state(group: Group, squares: Tensor) -> State:
        # so late that bias correction does nothing
        return {name: squares, "step": 1e9, f"max_{name}": squares, "grad_avg": torch.zeros_like(squares)}

    return state


def _filled_sum(group: Group, squares: Tensor) -> State:
    # behind the first step
    return {"sum": squares + float(group.get("initial_accumulator_value", 0.0)), "step": 0.0}


_HEAVY = "2 (1 + b) / lambda"
_ADAM = "(2 + 2 b1) / (1 - b1) / lambda, of the preconditioned matrix with the second moment frozen"
_DIVIDED = "of the preconditioned matrix with the second moment frozen"
_ADAM_RULE = UpdateRule(recursion=_adam, divisor=_adams, filled=_filled("exp_avg_sq"), said=_ADAM)
_RULES: dict[str, UpdateRule] = {
    "ASGD": UpdateRule(recursion=lambda group, state: Recursion()),
    "Adadelta": UpdateRule(
        recursion=lambda group, state: Recursion(), divisor=_adadeltas, said=f"2 / lambda, {_DIVIDED}"
    ),
    "Adagrad": UpdateRule(
        recursion=lambda group, state: Recursion(),
        divisor=_adagrads,
        filled=_filled_sum,
        said=f"2 / lambda, {_DIVIDED}",
    ),
    "Adam": _ADAM_RULE,
    "AdamW": replace(_ADAM_RULE, decay="apart"),
    "Adamax": UpdateRule(
        recursion=_adam,
        divisor=_adamaxes,
        filled=lambda group, squares: {"exp_inf": squares.sqrt()},
        said=_ADAM,
    ),
    "Momentum": UpdateRule(recursion=_spelled, said=_HEAVY),
    "NAdam": UpdateRule(
        recursion=_nadam,
        divisor=_adams,
        filled=_filled("exp_avg_sq"),
        said=f"(2 + 2b) / (u (1 - b) + (1 - u) (1 + b)) / lambda, {_DIVIDED}",
    ),
    "Nesterov": UpdateRule(recursion=_nesterov, said="(2 + 2b) / (1 + 2b) / lambda"),
    "RAdam": UpdateRule(recursion=_adam, divisor=_radams, filled=_filled("exp_avg_sq"), said=_ADAM),
    "RMSprop": UpdateRule(
        recursion=_descent,
        divisor=_rmsprops,
        filled=_filled("square_avg"),
        said=f"2 (1 + b) / lambda, {_DIVIDED}",
    ),
    "SGD": UpdateRule(recursion=_descent, said=f"2 / lambda; with momentum {_HEAVY}; with Nesterov's "
                      "(2 + 2b) / (1 + 2b) / lambda"),
    "ScheduleFreeAdamW": UpdateRule(
        recursion=_free,
        divisor=_adams,
        filled=_filled("exp_avg_sq"),
        decay="beside",
        said=f"2 / (1 - b1) / lambda, {_DIVIDED}",
    ),
    "SparseAdam": _ADAM_RULE,
}  # fmt: skip
