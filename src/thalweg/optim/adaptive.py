"""AdaGrad, RMSProp, Adam, AdamW and NAdam (O4, O5, O6) as torch optimizers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor

from thalweg import rules
from thalweg.optim.base import Params, RuleOptimizer, Settings
from thalweg.settings.bounds import BETAS, FRACTION, FROM_ZERO, Bounds, OptionBounds, PairBounds
from thalweg.settings.declared import arguments_of

__all__ = ["Adagrad", "Adam", "AdamW", "NAdam", "RMSprop"]

_ADAM: dict[str, Bounds | PairBounds] = {
    "lr": FROM_ZERO, "betas": BETAS, "eps": FROM_ZERO, "weight_decay": FROM_ZERO,
}  # fmt: skip


class Adagrad(RuleOptimizer):
    """Rates that shrink with the sum of squared gradients; ``torch.optim.Adagrad``'s twin.

    ``r' = r + g*g``, ``x' = x - lr / (1 + (t - 1) * lr_decay) * g / (sqrt(r') + eps)``.

    Args:
        params: parameters, named parameters, or dictionaries of groups.
        lr: learning rate, at least 0; a number or a tensor with one element.
        lr_decay: at least 0; the rate's own inverse-time decay.
        weight_decay: at least 0; times the parameter, added to the gradient.
        initial_accumulator_value: where ``r`` starts, at least 0.
        eps: outside the root, at least 0.
        foreach, fused: accepted and not used; the runtime chooses by itself.
        maximize: climb instead of descend.
        differentiable: whether autograd goes through the step.

    State: ``step``, ``sum``, from the beginning on. State dictionaries load from and into torch's.

    Raises:
        OptionError: a value out of range.

    Source: O4 (K Alg 8.4 and S 3, both with ``eps=1e-7``), Duchi et al. 2011; rule
    :data:`thalweg.rules.adagrad`. Deviations from torch: float32 state for float16 and bfloat16
    parameters; sparse gradients are refused; ``initial_accumulator_value`` of a group is its own.

    >>> import torch
    >>> x = torch.nn.Parameter(torch.tensor([1.0]))
    >>> optimizer = Adagrad([x], lr=0.5)
    >>> _ = optimizer.zero_grad(), (x**2).sum().backward(), optimizer.step()
    >>> round(x.item(), 6)
    0.5
    """

    bounds: ClassVar[OptionBounds] = dict.fromkeys(
        ("lr", "lr_decay", "weight_decay", "initial_accumulator_value", "eps"), FROM_ZERO
    )

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 1e-2,
        lr_decay: float = 0,
        weight_decay: float = 0,
        initial_accumulator_value: float = 0,
        eps: float = 1e-10,
        foreach: bool | None = None,
        *,
        maximize: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
    ) -> None:
        super().__init__(params, arguments_of(locals()))
        self._begin()

    def share_memory(self) -> None:
        """Move the sums to shared memory, for several processes that train one set of parameters."""
        for group in self.param_groups:
            for p in group["params"]:
                self.state[p]["sum"].share_memory_()

    def _settings(self, group: Mapping[str, Any]) -> Settings:
        names = ("lr", "lr_decay", "weight_decay", "initial_accumulator_value", "eps")
        return rules.adagrad, {name: group[name] for name in names}, {}


class RMSprop(RuleOptimizer):
    """An exponential average in the place of AdaGrad's sum; ``torch.optim.RMSprop``'s twin.

    ``r' = alpha * r + (1 - alpha) * g*g``, ``x' = x - lr * g / (sqrt(r') + eps)``; with ``eps_inside``
    the divisor is ``sqrt(r' + eps)``; ``centered`` takes the square of the averaged gradient from
    ``r'``; with momentum ``b' = momentum * b + g / divisor``, ``x' = x - lr * b'``.

    Args:
        params: parameters, named parameters, or dictionaries of groups.
        lr: learning rate, at least 0; a number or a tensor with one element.
        alpha: in [0, 1), the memory (rho on the slides).
        eps: at least 0.
        weight_decay: at least 0; times the parameter, added to the gradient.
        momentum: at least 0.
        centered: divide by the deviation rather than the root mean square.
        capturable, foreach: accepted and not used; the runtime chooses by itself, and a CUDA graph is
            refused when the step meets one.
        maximize: climb instead of descend.
        differentiable: whether autograd goes through the step.
        eps_inside: as K has it, with ``eps=1e-6``; torch doesn't have this.

    State: ``step``, ``square_avg``, and ``momentum_buffer``, ``grad_avg`` where used. State dictionaries
    load from and into torch's.

    Raises:
        OptionError: a value out of range.

    Source: O5 (K Alg 8.5 inside the root, S 4 outside with ``eps=1e-7``), Hinton 2012; rule
    :data:`thalweg.rules.rmsprop`. Deviations from torch: float32 state for float16 and bfloat16
    parameters; a centered variance that rounding took below zero counts as zero, where torch gives NaN.

    >>> import torch
    >>> x = torch.nn.Parameter(torch.tensor([1.0]))
    >>> optimizer = RMSprop([x], lr=0.05)
    >>> _ = optimizer.zero_grad(), (x**2).sum().backward(), optimizer.step()
    >>> round(x.item(), 6)
    0.5
    """

    bounds: ClassVar[OptionBounds] = dict.fromkeys(("lr", "eps", "weight_decay", "momentum"), FROM_ZERO) | {
        "alpha": FRACTION
    }

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 1e-2,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0,
        momentum: float = 0,
        centered: bool = False,
        capturable: bool = False,
        foreach: bool | None = None,
        maximize: bool = False,
        differentiable: bool = False,
        *,
        eps_inside: bool = False,
    ) -> None:
        super().__init__(params, arguments_of(locals()))

    def _settings(self, group: Mapping[str, Any]) -> Settings:
        names = ("lr", "alpha", "eps", "weight_decay", "momentum")
        options: dict[str, bool | str] = {name: bool(group[name]) for name in ("centered", "eps_inside")}
        return rules.rmsprop, {name: group[name] for name in names}, options


class Adam(RuleOptimizer):
    """The averaged gradient over the root of the averaged square; ``torch.optim.Adam``'s twin.

    ``m' = beta1 * m + (1 - beta1) * g``, ``s' = beta2 * s + (1 - beta2) * g*g``,
    ``x' = x - lr * mh / (sqrt(sh) + eps)`` with ``mh = m' / (1 - beta1**t)``, ``sh = s' / (1 - beta2**t)``.

    Args:
        params: parameters, named parameters, or dictionaries of groups.
        lr: learning rate, at least 0; a number or a tensor with one element.
        betas: the two memories, each in [0, 1).
        eps: at least 0.
        weight_decay: at least 0; times the parameter, added to the gradient.
        amsgrad: divide by the largest averaged square so far.
        foreach, capturable, fused: accepted and not used; the runtime chooses by itself, and a CUDA graph
            is refused when the step meets one.
        maximize: climb instead of descend.
        differentiable: whether autograd goes through the step.
        decoupled_weight_decay: decay as :class:`AdamW` does.
        bias_correction: off: ``mh = m'``, ``sh = s'``; torch doesn't have this.

    State: ``step``, ``exp_avg``, ``exp_avg_sq``, and ``max_exp_avg_sq`` with ``amsgrad``. State
    dictionaries load from and into torch's.

    Raises:
        OptionError: a value out of range.

    Source: O6 (S 5 without correction, S 6 and K Alg 8.7 with it), Kingma and Ba 2015, Reddi et al. 2018;
    rule :data:`thalweg.rules.adam`. Deviation from torch: float32 state for float16 and bfloat16 parameters.

    >>> import torch
    >>> x = torch.nn.Parameter(torch.tensor([1.0]))
    >>> optimizer = Adam([x], lr=0.5)
    >>> _ = optimizer.zero_grad(), (x**2).sum().backward(), optimizer.step()
    >>> round(x.item(), 6)
    0.5
    """

    bounds: ClassVar[OptionBounds] = _ADAM

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 1e-3,
        betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        amsgrad: bool = False,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        decoupled_weight_decay: bool = False,
        bias_correction: bool = True,
    ) -> None:
        super().__init__(params, arguments_of(locals()))

    def _settings(self, group: Mapping[str, Any]) -> Settings:
        rule = rules.adamw if group["decoupled_weight_decay"] else rules.adam
        return rule, *_adam_settings(group)


class AdamW(RuleOptimizer):
    """Adam with weight decay apart from the gradient; ``torch.optim.AdamW``'s twin.

    ``x`` is first multiplied by ``1 - lr * weight_decay``, then the step is that of :class:`Adam`.

    Args:
        params: parameters, named parameters, or dictionaries of groups.
        lr: learning rate, at least 0; a number or a tensor with one element.
        betas: the two memories, each in [0, 1).
        eps: at least 0.
        weight_decay: at least 0.
        amsgrad: divide by the largest averaged square so far.
        maximize: climb instead of descend.
        foreach, capturable, fused: accepted and not used; the runtime chooses by itself, and a CUDA graph
            is refused when the step meets one.
        differentiable: whether autograd goes through the step.
        bias_correction: off is Adam's plain form; torch doesn't have this.

    State: ``step``, ``exp_avg``, ``exp_avg_sq``, and ``max_exp_avg_sq`` with ``amsgrad``. State
    dictionaries load from and into torch's.

    Raises:
        OptionError: a value out of range.

    Source: O6; Loshchilov and Hutter 2019; rule :data:`thalweg.rules.adamw`. Deviation from torch: float32
    state for float16 and bfloat16 parameters.

    >>> import torch
    >>> x = torch.nn.Parameter(torch.tensor([1.0]))
    >>> optimizer = AdamW([x], lr=0.5, weight_decay=0.5)
    >>> _ = optimizer.zero_grad(), (x**2).sum().backward(), optimizer.step()
    >>> round(x.item(), 6)
    0.25
    """

    bounds: ClassVar[OptionBounds] = _ADAM

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 1e-3,
        betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        bias_correction: bool = True,
    ) -> None:
        super().__init__(params, arguments_of(locals()) | {"decoupled_weight_decay": True})

    def _settings(self, group: Mapping[str, Any]) -> Settings:
        return rules.adamw, *_adam_settings(group)


class NAdam(RuleOptimizer):
    """Adam with Nesterov's momentum, which is warmed up; ``torch.optim.NAdam``'s twin.

    With ``u(t) = beta1 * (1 - 0.96 ** (t * momentum_decay) / 2)``, ``U' = U * u(t)`` and ``m'``, ``s'``,
    ``sh`` of :class:`Adam`: ``x' = x - lr * (u(t+1) / (1 - U' * u(t+1)) * m' + (1 - u(t)) / (1 - U') * g) /
    (sqrt(sh) + eps)``.

    Args:
        params: parameters, named parameters, or dictionaries of groups.
        lr: learning rate, at least 0; a number or a tensor with one element.
        betas: the two memories, each in [0, 1).
        eps: at least 0.
        weight_decay: at least 0; times the parameter, added to the gradient.
        momentum_decay: at least 0, how fast the momentum warms up.
        decoupled_weight_decay: decay as :class:`AdamW` does.
        foreach, capturable: accepted and not used; the runtime chooses by itself, and a CUDA graph is
            refused when the step meets one.
        maximize: climb instead of descend.
        differentiable: whether autograd goes through the step.

    State: ``step``, ``mu_product``, ``exp_avg``, ``exp_avg_sq``. State dictionaries load from and into
    torch's.

    Raises:
        OptionError: a value out of range.

    Source: O6 (K speaks of Adam with Nesterov momentum), Dozat 2016; rule :data:`thalweg.rules.nadam`.
    Deviations from torch: ``mu_product`` is float64; float32 state for float16 and bfloat16 parameters.

    >>> import torch
    >>> x = torch.nn.Parameter(torch.tensor([1.0]))
    >>> optimizer = NAdam([x], lr=0.5)
    >>> _ = optimizer.zero_grad(), (x**2).sum().backward(), optimizer.step()
    >>> round(x.item(), 3)
    0.472
    """

    bounds: ClassVar[OptionBounds] = _ADAM | {"momentum_decay": FROM_ZERO}

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 2e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        momentum_decay: float = 4e-3,
        decoupled_weight_decay: bool = False,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
    ) -> None:
        super().__init__(params, arguments_of(locals()))

    def _settings(self, group: Mapping[str, Any]) -> Settings:
        beta1, beta2 = group["betas"]
        hyper = {"beta1": beta1, "beta2": beta2}
        hyper |= {name: group[name] for name in ("lr", "eps", "weight_decay", "momentum_decay")}
        return rules.nadam, hyper, {"decoupled": bool(group["decoupled_weight_decay"])}


def _adam_settings(group: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, bool | str]]:
    beta1, beta2 = group["betas"]
    hyper = {"lr": group["lr"], "beta1": beta1, "beta2": beta2}
    hyper |= {"eps": group["eps"], "weight_decay": group["weight_decay"]}
    return hyper, {name: bool(group[name]) for name in ("amsgrad", "bias_correction")}
