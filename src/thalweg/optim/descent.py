"""Gradient descent and momentum (O1, O2, O3) as torch optimizers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from torch import Tensor

from thalweg import rules
from thalweg.errors import OptionError, nearest
from thalweg.optim.base import (
    Params,
    RuleOptimizer,
    Settings,
    check_fraction,
    check_not_negative,
    check_number,
)
from thalweg.rules import Rule

__all__ = ["SGD", "Momentum", "Nesterov"]


class SGD(RuleOptimizer):
    """Gradient descent, with momentum and Nesterov's form of it if wanted; ``torch.optim.SGD``'s twin.

    ``v' = momentum * v + (1 - dampening) * g`` (``v' = g`` where a velocity begins),
    ``x' = x - lr * v'``; with ``nesterov`` ``x' = x - lr * (g + momentum * v')``.

    Args:
        params: parameters, named parameters, or dictionaries of groups.
        lr: learning rate, at least 0; a number or a tensor with one element.
        momentum: at least 0; at 0 there is no velocity.
        dampening: what is taken from the gradient on its way into the velocity; 0 with ``nesterov``.
        weight_decay: at least 0; times the parameter, added to the gradient.
        nesterov: the form without look-ahead, exact while momentum is constant; :class:`Nesterov` is
            right for scheduled momentum too.
        maximize: climb instead of descend.
        foreach, fused: accepted and not used; the runtime chooses by itself.
        differentiable: whether autograd goes through the step.

    State: ``momentum_buffer``, where momentum isn't 0. State dictionaries load from and into torch's.

    Raises:
        OptionError: a value out of range.

    Source: O1, O2 (S 1), O3; rule :data:`thalweg.rules.sgd`. Deviation from torch: float32 state for
    float16 and bfloat16 parameters.

    >>> import torch
    >>> x = torch.nn.Parameter(torch.tensor([1.0]))
    >>> optimizer = SGD([x], lr=0.5, momentum=0.9)
    >>> _ = optimizer.zero_grad(), (x**2).sum().backward(), optimizer.step()
    >>> x.item()
    0.0
    """

    counts_steps = False

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 1e-3,
        momentum: float = 0,
        dampening: float = 0,
        weight_decay: float | Tensor = 0,
        nesterov: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        differentiable: bool = False,
        fused: bool | None = None,
    ) -> None:
        super().__init__(
            params,
            {
                "lr": lr,
                "momentum": momentum,
                "dampening": dampening,
                "weight_decay": weight_decay,
                "nesterov": nesterov,
                "maximize": maximize,
                "foreach": foreach,
                "differentiable": differentiable,
                "fused": fused,
            },
        )

    def _check(self, group: Mapping[str, Any]) -> None:
        for name in ("lr", "momentum", "weight_decay"):
            check_not_negative("SGD", name, group[name])
        check_number("SGD", "dampening", group["dampening"])
        if group["nesterov"] not in (True, False):
            raise OptionError(f"SGD: nesterov is {group['nesterov']!r}; give True or False")
        if group["nesterov"] and (group["momentum"] <= 0 or group["dampening"] != 0):
            raise OptionError(
                f"SGD: nesterov=True with momentum {group['momentum']} and dampening {group['dampening']}; "
                f"give a momentum over 0 and no dampening"
            )

    def _settings(self, group: Mapping[str, Any]) -> Settings:
        names = ("lr", "momentum", "dampening", "weight_decay")
        return rules.sgd, {name: group[name] for name in names}, {"nesterov": bool(group["nesterov"])}


_SPELLINGS: dict[str, Rule] = {
    "inside": rules.momentum,
    "outside": rules.sgd,
    "average": rules.averaged_momentum,
}


class Momentum(RuleOptimizer):
    """Momentum in the three spellings of the lectures.

    - ``"inside"``: ``v' = momentum * v - lr * g``, ``x' = x + v'``: the rate inside the velocity.
    - ``"outside"``: ``v' = momentum * v + g``, ``x' = x - lr * v'``: a change of rate acts on the whole
      velocity at once; what :class:`SGD` does.
    - ``"average"``: ``m' = momentum * m + (1 - momentum) * g``, ``x' = x - lr * m'``.

    The first two are equal while rate and momentum are constant; the third then equals them at the rate
    ``lr * (1 - momentum)``.

    Args:
        params: parameters, named parameters, or dictionaries of groups.
        lr: learning rate, at least 0; a number or a tensor with one element.
        momentum: in [0, 1).
        weight_decay: at least 0; times the parameter, added to the gradient.
        spelling: ``"inside"``, ``"outside"`` or ``"average"``.
        maximize: climb instead of descend.
        differentiable: whether autograd goes through the step.

    State: ``step``, and ``velocity``, ``momentum_buffer`` or ``average``.

    Raises:
        OptionError: a value out of range.

    Source: O2 (inside: K Alg 8.2, C s126-133; outside: S 1; average: the prose of K and C); rules
    :data:`thalweg.rules.momentum`, :data:`~thalweg.rules.sgd`, :data:`~thalweg.rules.averaged_momentum`.

    >>> import torch
    >>> x = torch.nn.Parameter(torch.tensor([1.0]))
    >>> optimizer = Momentum([x], lr=0.25, momentum=0.5)
    >>> for _ in range(2):
    ...     _ = optimizer.zero_grad(), (x**2).sum().backward(), optimizer.step()
    >>> x.item()
    0.0
    """

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 1e-2,
        momentum: float = 0.9,
        weight_decay: float = 0,
        *,
        spelling: Literal["inside", "outside", "average"] = "inside",
        maximize: bool = False,
        differentiable: bool = False,
    ) -> None:
        super().__init__(
            params,
            {
                "lr": lr,
                "momentum": momentum,
                "weight_decay": weight_decay,
                "spelling": spelling,
                "maximize": maximize,
                "differentiable": differentiable,
            },
        )

    def _check(self, group: Mapping[str, Any]) -> None:
        _check_momentum("Momentum", group)
        if group["spelling"] not in _SPELLINGS:
            raise OptionError(
                f"Momentum: spelling is {group['spelling']!r}; {nearest(str(group['spelling']), _SPELLINGS)}"
            )

    def _settings(self, group: Mapping[str, Any]) -> Settings:
        return _SPELLINGS[group["spelling"]], _momentum_hyperparameters(group), {}


class Nesterov(RuleOptimizer):
    """Nesterov's accelerated gradient without look-ahead, right for scheduled momentum too.

    The parameters are the look-ahead points themselves. With ``y`` the momentum of the step before and
    ``y'`` this one's: ``v' = y*v - lr*g``, ``x' = x + (1 + y') * v' - y*v``. The state is ``y*v``, so
    that each parameter remembers by itself how far it has already looked ahead.

    Args:
        params: parameters, named parameters, or dictionaries of groups.
        lr: learning rate, at least 0; a number or a tensor with one element.
        momentum: in [0, 1).
        weight_decay: at least 0; times the parameter, added to the gradient.
        maximize: climb instead of descend.
        differentiable: whether autograd goes through the step.

    State: ``step``, ``ahead``.

    Raises:
        OptionError: a value out of range.

    Source: O3 (S 2, corrected), Nesterov 1983, Sutskever et al. 2013; rule :data:`thalweg.rules.nesterov`.

    >>> import torch
    >>> x = torch.nn.Parameter(torch.tensor([1.0]))
    >>> optimizer = Nesterov([x], lr=0.25, momentum=0.5)
    >>> _ = optimizer.zero_grad(), (x**2).sum().backward(), optimizer.step()
    >>> x.item()
    0.25
    """

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 1e-2,
        momentum: float = 0.9,
        weight_decay: float = 0,
        *,
        maximize: bool = False,
        differentiable: bool = False,
    ) -> None:
        super().__init__(
            params,
            {
                "lr": lr,
                "momentum": momentum,
                "weight_decay": weight_decay,
                "maximize": maximize,
                "differentiable": differentiable,
            },
        )

    def _check(self, group: Mapping[str, Any]) -> None:
        _check_momentum("Nesterov", group)

    def _settings(self, group: Mapping[str, Any]) -> Settings:
        return rules.nesterov, _momentum_hyperparameters(group), {}


def _check_momentum(owner: str, group: Mapping[str, Any]) -> None:
    check_not_negative(owner, "lr", group["lr"])
    check_fraction(owner, "momentum", group["momentum"])
    check_not_negative(owner, "weight_decay", group["weight_decay"])


def _momentum_hyperparameters(group: Mapping[str, Any]) -> dict[str, Any]:
    return {name: group[name] for name in ("lr", "momentum", "weight_decay")}
