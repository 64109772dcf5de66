"""Rprop (O7) and Lion, which ask the gradient for its sign alone, as torch optimizers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from torch import Tensor

from thalweg import rules
from thalweg.errors import OptionError, nearest
from thalweg.optim.base import Params, RuleOptimizer, Settings
from thalweg.rules.sign import OVERSHOOTS
from thalweg.settings.bounds import BETAS, FROM_ZERO, Bounds, OptionBounds, PairBounds
from thalweg.settings.declared import arguments_of

__all__ = ["Lion", "Rprop"]


class Rprop(RuleOptimizer):
    """Steps that grow while the gradient keeps its sign, for each parameter; ``torch.optim.Rprop``'s twin.

    The length ``d`` is multiplied by ``etas[1]`` where gradient and remembered gradient have the same sign,
    by ``etas[0]`` where they have opposite ones, and kept within ``step_sizes``; ``x' = x - sign(g) * d'``.
    Where the sign has changed, ``overshoot`` says what happens:

    - ``"stay"``: no step, and the gradient is remembered as zero: torch's way.
    - ``"back"``: back to where the step before came from, and remembered as zero.
    - ``"reverse"``: the smaller step at once, along the new sign.

    Args:
        params: parameters, named parameters, or dictionaries of groups.
        lr: length of the first step, over 0; a number or a tensor with one element. A schedule on it does
            nothing after the first step.
        etas: factors of shrinking, in (0, 1), and of growing, over 1.
        step_sizes: floor and ceiling of the step's length, at least 0; None for neither.
        capturable, foreach: accepted and not used; the runtime chooses by itself, and a CUDA graph is
            refused when the step meets one.
        maximize: climb instead of descend.
        differentiable: whether autograd goes through the step.
        overshoot: as above; torch doesn't have this.

    State: ``step``, ``prev``, ``step_size``. State dictionaries load from and into torch's.

    Raises:
        OptionError: a value out of range.

    Source: O7 (C s105-114, corrected), Riedmiller and Braun 1993; rule :data:`thalweg.rules.rprop`.
    Deviations from torch: float32 state for float16 and bfloat16 parameters; signs are compared, where torch
    multiplies gradients, whose product may underflow; NaN stays NaN, where torch takes it for zero.

    >>> import torch
    >>> x = torch.nn.Parameter(torch.tensor([1.0]))
    >>> optimizer = Rprop([x], lr=0.5)
    >>> _ = optimizer.zero_grad(), (x**2).sum().backward(), optimizer.step()
    >>> x.item()
    0.5
    """

    bounds: ClassVar[OptionBounds] = {
        "lr": FROM_ZERO,
        "etas": PairBounds(
            first=Bounds(above=0, below=1), second=Bounds(above=1),
            asked="a factor between 0 and 1, then one over 1",
        ),
        "step_sizes": PairBounds(
            first=Bounds(least=0), second=Bounds(least=0), rising=True, optional=True,
            asked="a floor of at least 0 and a ceiling above it, or None for neither",
        ),
    }  # fmt: skip

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 1e-2,
        etas: tuple[float, float] = (0.5, 1.2),
        step_sizes: tuple[float, float] | None = (1e-6, 50),
        *,
        capturable: bool = False,
        foreach: bool | None = None,
        maximize: bool = False,
        differentiable: bool = False,
        overshoot: Literal["stay", "back", "reverse"] = "stay",
    ) -> None:
        super().__init__(params, arguments_of(locals()))

    def _check_more(self, group: Mapping[str, Any]) -> None:
        if group["overshoot"] not in OVERSHOOTS:
            raise OptionError(
                f"Rprop: overshoot is {group['overshoot']!r}; {nearest(str(group['overshoot']), OVERSHOOTS)}"
            )

    def _settings(self, group: Mapping[str, Any]) -> Settings:
        shrink, grow = group["etas"]
        hyper = {"lr": group["lr"], "etaminus": shrink, "etaplus": grow}
        if group["step_sizes"] is not None:
            hyper["step_size_min"], hyper["step_size_max"] = group["step_sizes"]
        return (
            rules.rprop,
            hyper,
            {
                "limits": group["step_sizes"] is not None,
                "overshoot": group["overshoot"],
            },
        )


class Lion(RuleOptimizer):
    """The sign of a mean of gradient and momentum.

    ``x' = x * (1 - lr * weight_decay) - lr * sign(beta1 * m + (1 - beta1) * g)``,
    ``m' = beta2 * m + (1 - beta2) * g``. Every step has the length ``lr``, so ``lr`` wants to be three to ten
    times smaller than Adam's, and ``weight_decay`` as many times larger.

    Args:
        params: parameters, named parameters, or dictionaries of groups.
        lr: learning rate, at least 0; a number or a tensor with one element.
        betas: how much of the step is the average's, and the average's memory, each in [0, 1).
        weight_decay: at least 0.
        decoupled_weight_decay: off: decay is added to the gradient.
        maximize: climb instead of descend.
        differentiable: whether autograd goes through the step.

    State: ``step``, ``exp_avg``.

    Raises:
        OptionError: a value out of range.

    Source: Chen et al. 2023; rule :data:`thalweg.rules.lion`.

    >>> import torch
    >>> x = torch.nn.Parameter(torch.tensor([1.0]))
    >>> optimizer = Lion([x], lr=0.25)
    >>> _ = optimizer.zero_grad(), (x**2).sum().backward(), optimizer.step()
    >>> x.item()
    0.75
    """

    bounds: ClassVar[OptionBounds] = {"lr": FROM_ZERO, "betas": BETAS, "weight_decay": FROM_ZERO}

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 1e-4,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0,
        *,
        decoupled_weight_decay: bool = True,
        maximize: bool = False,
        differentiable: bool = False,
    ) -> None:
        super().__init__(params, arguments_of(locals()))

    def _settings(self, group: Mapping[str, Any]) -> Settings:
        beta1, beta2 = group["betas"]
        hyper = {"lr": group["lr"], "beta1": beta1, "beta2": beta2, "weight_decay": group["weight_decay"]}
        return rules.lion, hyper, {"decoupled": bool(group["decoupled_weight_decay"])}
