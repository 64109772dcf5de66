"""Schedule-Free AdamW as a torch optimizer: what is trained and what is evaluated are two points."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from thalweg import rules, runtimes
from thalweg.errors import OptionError
from thalweg.optim.base import Params, RuleOptimizer, Settings
from thalweg.settings.bounds import ANY, FRACTION, FROM_ZERO, Bounds, OptionBounds, PairBounds
from thalweg.settings.declared import arguments_of

__all__ = ["ScheduleFreeAdamW"]


class ScheduleFreeAdamW(RuleOptimizer):
    """AdamW that averages its iterates and needs no schedule.

    ``z`` goes as AdamW without momentum would; ``x`` is the weighted mean of all ``z``; the gradient is taken
    at ``y = beta1 * x + (1 - beta1) * z``. While training the parameters are ``y``; what should be evaluated,
    saved and used is ``x``: call :meth:`eval` before, and :meth:`train` before the next step. A model with
    batch normalization needs its running statistics computed anew at ``x``.

    Args:
        params: parameters, named parameters, or dictionaries of groups.
        lr: learning rate, at least 0; a number or a tensor with one element.
        betas: how near the mean the gradient is taken, in (0, 1); the memory of the squares, in [0, 1).
        eps: at least 0.
        weight_decay: at least 0, decoupled from the gradient, at ``y``.
        warmup_steps: at least 0, of a linear warm-up.
        r: power of the step in its weight in the mean.
        weight_lr_power: power of the largest rate so far in a step's weight.
        foreach: accepted and not used; the runtime chooses by itself.
        maximize: climb instead of descend.
        differentiable: whether autograd goes through the step.

    State: ``step``, ``z``, ``exp_avg_sq``, ``weight_sum``, ``lr_max``; in evaluation mode also ``y``.

    Raises:
        OptionError: a value out of range; a step in evaluation mode.

    Source: Defazio et al. 2024; rule :data:`thalweg.rules.schedule_free_adamw`. Deviations from the authors'
    package: it begins in training mode; ``y`` is kept while evaluating, so that coming back costs no
    rounding; steps, weights and rates are counted for each parameter.

    >>> x = torch.nn.Parameter(torch.tensor([1.0]))
    >>> optimizer = ScheduleFreeAdamW([x], lr=0.25)
    >>> for _ in range(3):
    ...     optimizer.zero_grad()
    ...     (x**2).sum().backward()
    ...     optimizer.step()
    >>> optimizer.eval()
    >>> round(x.item(), 2)
    0.54
    >>> optimizer.train()
    """

    bounds: ClassVar[OptionBounds] = {
        **dict.fromkeys(("lr", "eps", "weight_decay", "warmup_steps"), FROM_ZERO),
        "r": ANY,
        "weight_lr_power": ANY,
        "betas": PairBounds(
            first=Bounds(
                above=0, below=1,
                why="since the mean can't be told from a training point that holds nothing of it",
            ),
            second=FRACTION,
        ),
    }  # fmt: skip

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 2.5e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        warmup_steps: int = 0,
        r: float = 0.0,
        weight_lr_power: float = 2.0,
        foreach: bool | None = None,
        *,
        maximize: bool = False,
        differentiable: bool = False,
    ) -> None:
        super().__init__(params, arguments_of(locals()) | {"train_mode": True})

    @torch.no_grad()
    def eval(self) -> None:
        """Put the means ``x`` into the parameters; once there, do nothing."""
        for group in self.param_groups:
            if not group["train_mode"]:
                continue
            group["train_mode"] = False
            rule, hyper, _ = self._settings(group)
            begun = [p for p in group["params"] if "z" in self.state.get(p, {})]
            views = [torch.view_as_real(p) if p.is_complex() else p for p in begun]
            z = [self.state[p]["z"] for p in begun]
            held = {"z": [torch.view_as_real(x) if x.is_complex() else x for x in z]}
            shown = runtimes.shown(rule, views, held, {name: float(value) for name, value in hyper.items()})
            for p, view, mean in zip(begun, views, shown, strict=True):
                self.state[p]["y"] = p.detach().clone()
                view.copy_(mean)

    @torch.no_grad()
    def train(self) -> None:
        """Put the training points ``y`` back into the parameters; once there, do nothing."""
        for group in self.param_groups:
            group["train_mode"] = True
            for p in group["params"]:
                if "y" in self.state.get(p, {}):
                    p.copy_(self.state[p].pop("y"))

    def _settings(self, group: Mapping[str, Any]) -> Settings:
        names = ("lr", "eps", "weight_decay", "warmup_steps", "r", "weight_lr_power")
        beta1, beta2 = group["betas"]
        hyper = {"beta1": beta1, "beta2": beta2} | {name: group[name] for name in names}
        return rules.schedule_free_adamw, hyper, {}

    def _admit(self, group: Mapping[str, Any]) -> None:
        if not group["train_mode"]:
            raise OptionError(
                "ScheduleFreeAdamW: a step in evaluation mode, with gradients of the wrong point; call "
                "optimizer.train() before the forward pass"
            )
