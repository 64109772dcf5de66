"""Gradient descent and momentum (O1, O2, O3) as torch optimizers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from thalweg import rules
from thalweg.errors import OptionError, nearest
from thalweg.optim.base import Params, RuleOptimizer, Settings, check_number
from thalweg.rules import Rule
from thalweg.settings.bounds import ANY, FRACTION, FROM_ZERO, OptionBounds
from thalweg.settings.declared import arguments_of

__all__ = ["SGD", "Momentum", "Nesterov"]


class SGD(RuleOptimizer):
    """Gradient descent, with momentum and Nesterov's form of it if wanted; ``torch.optim.SGD``'s twin.

    ``v' = momentum * v + (1 - dampening) * g`` (``v' = g`` where a velocity begins),
    ``x' = x - lr * v'``; with ``nesterov=True`` ``x' = x - lr * (g + momentum * v')``.

    With ``nesterov="lookahead"`` the gradient is that of the look-ahead point ``x - lr * momentum * v``, and
    decay's too: ``step(closure)`` calls the closure there; without a closure the gradient is computed
    within ``with optimizer.look_ahead():``, backward pass included. The parameters themselves rest at ``x``.

    Args:
        params: parameters, named parameters, or dictionaries of groups.
        lr: learning rate, at least 0; a number or a tensor with one element.
        momentum: at least 0; at 0 there is no velocity.
        dampening: what is taken from the gradient on its way into the velocity; 0 with ``nesterov``.
        weight_decay: at least 0; times the parameter, added to the gradient.
        nesterov: True is the form without look-ahead, exact while rate and momentum are constant;
            :class:`Nesterov` is right for scheduled momentum too. ``"lookahead"`` really looks ahead, which
            torch can't.
        maximize: climb instead of descend.
        foreach, fused: accepted and not used; the runtime chooses by itself.
        differentiable: whether autograd goes through the step.

    State: ``momentum_buffer``, where momentum isn't 0. State dictionaries load from and into torch's.

    Raises:
        OptionError: a value out of range; a step with a gradient that wasn't computed ahead.

    Source: O1, O2 (S 1), O3; rules :data:`thalweg.rules.sgd`, :data:`~thalweg.rules.lookahead`. Deviation
    from torch: float32 state for float16 and bfloat16 parameters.

    >>> import torch
    >>> x = torch.nn.Parameter(torch.tensor([1.0]))
    >>> optimizer = SGD([x], lr=0.5, momentum=0.9)
    >>> _ = optimizer.zero_grad(), (x**2).sum().backward(), optimizer.step()
    >>> x.item()
    0.0
    """

    counts_steps = False

    bounds: ClassVar[OptionBounds] = dict.fromkeys(("lr", "momentum", "weight_decay"), FROM_ZERO) | {
        "dampening": ANY
    }

    # Whether the gradients are those of the look-ahead point; and whether the parameters are there now.
    _looked = False
    _ahead = False

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 1e-3,
        momentum: float = 0,
        dampening: float = 0,
        weight_decay: float | Tensor = 0,
        nesterov: bool | Literal["lookahead"] = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        differentiable: bool = False,
        fused: bool | None = None,
    ) -> None:
        super().__init__(params, arguments_of(locals()))

    def _check_more(self, group: Mapping[str, Any]) -> None:
        if group["nesterov"] not in (True, False, "lookahead"):
            raise OptionError(f"SGD: nesterov is {group['nesterov']!r}; give True, False or 'lookahead'")
        if group["nesterov"] == "lookahead" and group.get("differentiable"):
            raise OptionError(
                "SGD: nesterov='lookahead' moves the parameters for a while, through which autograd can't "
                "differentiate; give nesterov=True or differentiable=False"
            )
        if group["nesterov"] and (group["momentum"] <= 0 or group["dampening"] != 0):
            raise OptionError(
                f"SGD: nesterov={group['nesterov']!r} with momentum {group['momentum']} and dampening "
                f"{group['dampening']}; give a momentum over 0 and no dampening"
            )

    def _settings(self, group: Mapping[str, Any]) -> Settings:
        names = ("lr", "momentum", "dampening", "weight_decay")
        if group["nesterov"] == "lookahead":
            return rules.lookahead, {name: group[name] for name in names if name != "dampening"}, {}
        return rules.sgd, {name: group[name] for name in names}, {"nesterov": bool(group["nesterov"])}

    @contextmanager
    def look_ahead(self) -> Iterator[None]:
        """Hold the parameters of groups with ``nesterov="lookahead"`` at their look-ahead points.

        The gradients for the next step are computed within, backward pass included; on leaving the
        parameters are where they were, to the bit. Within itself it does nothing.

        >>> import torch
        >>> x = torch.nn.Parameter(torch.tensor([1.0]))
        >>> optimizer = SGD([x], lr=0.25, momentum=0.5, nesterov="lookahead")
        >>> for _ in range(2):
        ...     optimizer.zero_grad()
        ...     with optimizer.look_ahead():
        ...         (x**2).sum().backward()
        ...     optimizer.step()
        >>> x.item()
        0.125
        """
        if self._ahead:
            yield
            return
        homes: list[tuple[Tensor, Tensor]] = []
        with torch.no_grad():
            for group in self.param_groups:
                if group["nesterov"] != "lookahead":
                    continue
                reach = check_number("SGD", "lr", group["lr"]) * group["momentum"]
                for p in group["params"]:
                    velocity = self.state[p].get("momentum_buffer") if p in self.state else None
                    if velocity is not None:
                        homes.append((p, p.detach().clone()))
                        p.sub_(velocity, alpha=reach)
        self._ahead = self._looked = True
        try:
            yield
        finally:
            self._ahead = False
            with torch.no_grad():
                for p, home in homes:
                    p.copy_(home)

    def _evaluating(self) -> AbstractContextManager[None]:
        return self.look_ahead()

    def _admit(self, group: Mapping[str, Any]) -> None:
        if group["nesterov"] == "lookahead" and not self._looked:
            raise OptionError(
                "SGD: nesterov='lookahead' needs the gradient of the look-ahead point; compute it within "
                "`with optimizer.look_ahead():`, or give step a closure"
            )

    def _stepped(self) -> None:
        self._looked = False


_MOMENTUM = {"lr": FROM_ZERO, "momentum": FRACTION, "weight_decay": FROM_ZERO}
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

    bounds: ClassVar[OptionBounds] = _MOMENTUM

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
        super().__init__(params, arguments_of(locals()))

    def _check_more(self, group: Mapping[str, Any]) -> None:
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

    bounds: ClassVar[OptionBounds] = _MOMENTUM

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
        super().__init__(params, arguments_of(locals()))

    def _settings(self, group: Mapping[str, Any]) -> Settings:
        return rules.nesterov, _momentum_hyperparameters(group), {}


def _momentum_hyperparameters(group: Mapping[str, Any]) -> dict[str, Any]:
    return {name: group[name] for name in ("lr", "momentum", "weight_decay")}
