"""Quickprop (O8) as a torch optimizer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor

from thalweg import rules
from thalweg.optim.base import Params, RuleOptimizer, Settings
from thalweg.settings.bounds import FROM_ZERO, Bounds, OptionBounds
from thalweg.settings.declared import arguments_of

__all__ = ["Quickprop"]


class Quickprop(RuleOptimizer):
    """Newton's step for each parameter alone, with the curvature that its last two gradients show.

    Bare: ``d' = d * g / (prev - g)``, ``x' = x + d'``, after a first step ``d' = -lr * g``. With ``safe`` the
    step leads downhill, is at most ``growth`` times as long as the one before, is that long where the
    curvature isn't positive, has ``-lr * g`` added while the gradient keeps its sign, and begins anew with
    ``-lr * g`` where the step before was zero.

    It supposes one function: gradients of different minibatches say little about curvature.

    Args:
        params: parameters, named parameters, or dictionaries of groups.
        lr: rate of the gradient steps, at least 0; a number or a tensor with one element.
        growth: at least 1, the most that a step may be longer than the one before.
        weight_decay: at least 0; times the parameter, added to the gradient.
        safe: whether the safeguards are on; off is the slide's form, which divides by zero where a gradient
            stays the same.
        maximize: climb instead of descend.
        differentiable: whether autograd goes through the step.

    State: ``step``, ``prev``, ``move``.

    Raises:
        OptionError: a value out of range.

    Source: O8 (C s116-121, the sign of s119 corrected), Fahlman 1988; rule :data:`thalweg.rules.quickprop`.

    >>> import torch
    >>> x = torch.nn.Parameter(torch.tensor([1.0]))
    >>> optimizer = Quickprop([x], lr=0.25, safe=False)
    >>> for _ in range(2):
    ...     _ = optimizer.zero_grad(), (x**2).sum().backward(), optimizer.step()
    >>> x.item()
    0.0
    """

    bounds: ClassVar[OptionBounds] = {"lr": FROM_ZERO, "growth": Bounds(least=1), "weight_decay": FROM_ZERO}

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 1e-2,
        growth: float = 1.75,
        weight_decay: float = 0,
        *,
        safe: bool = True,
        maximize: bool = False,
        differentiable: bool = False,
    ) -> None:
        super().__init__(params, arguments_of(locals()))

    def _settings(self, group: Mapping[str, Any]) -> Settings:
        names = ("lr", "growth", "weight_decay")
        return rules.quickprop, {name: group[name] for name in names}, {"safe": bool(group["safe"])}
