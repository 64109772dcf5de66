"""SOAP as a torch optimizer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

from torch import Tensor

from thalweg import rules
from thalweg.errors import OptionError
from thalweg.optim.base import Params, RuleOptimizer, Settings
from thalweg.settings.bounds import BETAS, FRACTION, FROM_ZERO, Bounds, OptionBounds
from thalweg.settings.declared import arguments_of

__all__ = ["SOAP"]


class SOAP(RuleOptimizer):
    """Adam in slowly turning coordinates, in which the gradient's rows and columns are uncorrelated.

    Two running averages, of ``G * G^T`` and ``G^T * G``, give a matrix an orthogonal basis on either side,
    and a tensor of more axes, as a convolution's kernel, has one for each axis likewise. The bases follow by
    a power iteration every ``precondition_frequency`` steps. The square is averaged in them, the momentum
    outside; the step is Adam's there, turned back. The first step only begins the averages. Vectors and
    numbers are Adam's, unless ``precondition_1d``.

    Args:
        params: parameters, named parameters, or dictionaries of groups.
        lr: learning rate, at least 0; a number or a tensor with one element.
        betas: the two memories, each in [0, 1).
        shampoo_beta: in [0, 1), the memory of the averages that give the bases; None for ``betas[1]``.
        eps: at least 0.
        weight_decay: at least 0, decoupled from the gradient.
        precondition_frequency: a whole number of at least 1.
        max_precondition_dim: a whole number of at least 1; longer axes have no basis.
        precondition_1d: whether vectors have one.
        correct_bias: whether averages are corrected for their start at 0.
        normalize_gradient: whether a step is divided by its root mean square.
        maximize: climb instead of descend.

    State: ``step``, ``exp_avg``, ``exp_avg_sq``, ``covariances``, ``bases``: of the last two ``n * n``
    numbers for each axis of n elements that has a basis, side by side.

    Raises:
        OptionError: a value out of range; a complex parameter; a state of a version that kept two bases for
            any tensor.

    Source: Vyas et al. 2024; rule :data:`thalweg.rules.soap`. Deviations from the authors' code: directions
    without gradient have bases that rounding doesn't choose; a gradient whose squares overflow is left out
    of the averages of products; float32 state for float16 and bfloat16 parameters, float64 for float64.

    >>> import torch
    >>> x = torch.nn.Parameter(torch.eye(2))
    >>> optimizer = SOAP([x], lr=0.25, weight_decay=0.0)
    >>> for _ in range(2):
    ...     _ = optimizer.zero_grad(), (x**2).sum().backward(), optimizer.step()
    >>> round(x[0, 0].item(), 3)
    0.75
    """

    bounds: ClassVar[OptionBounds] = {
        **dict.fromkeys(("lr", "eps", "weight_decay"), FROM_ZERO),
        **dict.fromkeys(("precondition_frequency", "max_precondition_dim"), Bounds(least=1, whole=True)),
        "betas": BETAS,
        "shampoo_beta": replace(FRACTION, optional=True),
    }

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 3e-3,
        betas: tuple[float, float] = (0.95, 0.95),
        shampoo_beta: float | None = None,
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        precondition_frequency: int = 10,
        max_precondition_dim: int = 10000,
        *,
        precondition_1d: bool = False,
        correct_bias: bool = True,
        normalize_gradient: bool = False,
        maximize: bool = False,
    ) -> None:
        super().__init__(params, arguments_of(locals()))

    def _before_loading(self, given: Mapping[str, Any]) -> None:
        if any(isinstance(entry, dict) and "left_basis" in entry for entry in given["state"].values()):
            raise OptionError(
                "SOAP: the state is of an earlier version, with two bases for any tensor; start again"
            )

    def _settings(self, group: Mapping[str, Any]) -> Settings:
        names = ("lr", "eps", "weight_decay", "precondition_frequency", "max_precondition_dim")
        beta1, beta2 = group["betas"]
        hyper = {"beta1": beta1, "beta2": beta2, "shampoo_beta": group["shampoo_beta"] or 0.0}
        words = ("precondition_1d", "correct_bias", "normalize_gradient")
        options: dict[str, bool | str] = {name: bool(group[name]) for name in words}
        return rules.soap, hyper | {name: group[name] for name in names}, options
