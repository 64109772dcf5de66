"""Muon as a torch optimizer, with AdamW for what is no matrix if wanted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from torch import Tensor

from thalweg import rules
from thalweg.errors import OptionError, nearest
from thalweg.optim.base import Params, RuleOptimizer, Settings, check_number
from thalweg.rules.muon import ADJUSTMENTS, PRECISIONS
from thalweg.settings.bounds import BETAS, FRACTION, FROM_ZERO, Bounds, OptionBounds
from thalweg.settings.declared import arguments_of

__all__ = ["Muon"]

_OTHERS = ("refuse", "adamw")


class Muon(RuleOptimizer):
    """Momentum whose matrices are brought to singular values near one; ``torch.optim.Muon``'s twin.

    ``b' = momentum * b + (1 - momentum) * g``; ``O`` is ``b'`` (with ``nesterov`` mixed with ``g`` once more)
    after ``ns_steps`` of Newton and Schulz's iteration; ``x' = x * (1 - lr * weight_decay) - lr * s * O``.
    With ``others="adamw"`` vectors and numbers are AdamW's, and tensors of more than two axes are matrices
    of as many rows as their first axis; embeddings and the output layer do better in a group of their own.

    Args:
        params: parameters, named parameters, or dictionaries of groups.
        lr: learning rate, at least 0; a number or a tensor with one element.
        weight_decay: at least 0, decoupled from the gradient.
        momentum: in [0, 1).
        nesterov: whether the momentum looks ahead.
        ns_coefficients: three numbers, of the iteration.
        eps: at least 0, the least norm that is divided by.
        ns_steps: a whole number from 1 to 99.
        adjust_lr_fn: ``"original"`` (or None): ``s = sqrt(max(1, rows / columns))``; ``"match_rms_adamw"``:
            ``s = 0.2 * sqrt(max(rows, columns))``, for rates and decay as AdamW has them.
        others: what is done with parameters of other than two axes: ``"refuse"`` or ``"adamw"``.
        adamw_betas, adamw_eps: of AdamW.
        adamw_ratio: at least 0, AdamW's rate over ``lr``.
        precision: of the iteration: ``"bfloat16"``, or the ``"parameter"``'s own.
        maximize: climb instead of descend.

    State: ``step``, ``momentum_buffer``, and with ``others="adamw"`` ``exp_avg``, ``exp_avg_sq``, each empty
    where the other is used. State dictionaries load from and into torch's.

    Raises:
        OptionError: a value out of range; a parameter that is no matrix; a complex parameter.

    Source: Jordan et al. 2024, Liu et al. 2025; rules :data:`thalweg.rules.muon`,
    :data:`~thalweg.rules.muon_adamw`. Deviations from torch: float32 state for float16 and bfloat16
    parameters; a step where squares of a gradient overflow, in which torch stays.

    >>> import torch
    >>> x = torch.nn.Parameter(torch.eye(2))
    >>> optimizer = Muon([x], lr=0.5, weight_decay=0.0, precision="parameter")
    >>> _ = optimizer.zero_grad(), (x**2).sum().backward(), optimizer.step()
    >>> bool(x[0, 0] < 0.7), x[0, 1].item()
    (True, 0.0)
    """

    bounds: ClassVar[OptionBounds] = {
        **dict.fromkeys(("lr", "weight_decay", "eps", "adamw_eps", "adamw_ratio"), FROM_ZERO),
        "momentum": FRACTION,
        "adamw_betas": BETAS,
        "ns_steps": Bounds(least=1, most=99, whole=True),
    }

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 1e-3,
        weight_decay: float = 0.1,
        momentum: float = 0.95,
        nesterov: bool = True,
        ns_coefficients: tuple[float, float, float] = (3.4445, -4.7750, 2.0315),
        eps: float = 1e-7,
        ns_steps: int = 5,
        adjust_lr_fn: str | None = None,
        *,
        others: Literal["refuse", "adamw"] = "refuse",
        adamw_betas: tuple[float, float] = (0.9, 0.999),
        adamw_eps: float = 1e-8,
        adamw_ratio: float = 1.0,
        precision: Literal["bfloat16", "parameter"] = "bfloat16",
        maximize: bool = False,
    ) -> None:
        super().__init__(params, arguments_of(locals()))
        for group in self.param_groups:
            self._admit(group)

    def _check_more(self, group: Mapping[str, Any]) -> None:
        coefficients = group["ns_coefficients"]
        if not isinstance(coefficients, tuple | list) or len(coefficients) != 3:
            raise OptionError(f"Muon: ns_coefficients is {coefficients!r}; give three numbers")
        for number in coefficients:
            check_number("Muon", "ns_coefficients", number)
        words = (
            ("adjust_lr_fn", (None, *ADJUSTMENTS)),
            ("others", _OTHERS),
            ("precision", PRECISIONS),
        )
        for name, known in words:
            if group[name] not in known:
                near = nearest(str(group[name]), [word for word in known if word is not None])
                raise OptionError(f"Muon: {name} is {group[name]!r}; {near}")

    def _settings(self, group: Mapping[str, Any]) -> Settings:
        a, b, c = group["ns_coefficients"]
        hyper = {name: group[name] for name in ("lr", "weight_decay", "momentum", "eps", "ns_steps")}
        hyper |= {"ns_a": a, "ns_b": b, "ns_c": c}
        options: dict[str, bool | str] = {
            "nesterov": bool(group["nesterov"]),
            "adjust_lr_fn": group["adjust_lr_fn"] or "original",
            "precision": group["precision"],
        }
        if group["others"] == "refuse":
            return rules.muon, hyper, options
        beta1, beta2 = group["adamw_betas"]
        hyper |= {"beta1": beta1, "beta2": beta2}
        hyper |= {name: group[name] for name in ("adamw_eps", "adamw_ratio")}
        return rules.muon_adamw, hyper, options

    def _admit(self, group: Mapping[str, Any]) -> None:
        if group["others"] != "refuse":
            return
        for p in group["params"]:
            if p.ndim != 2:
                raise OptionError(
                    f"Muon: a parameter has the shape {tuple(p.shape)}, but only matrices can be made "
                    f"orthogonal; give others='adamw', or this one to another optimizer"
                )
