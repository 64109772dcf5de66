"""Clipping as a strategy: gradients that are too large, made smaller before the step."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar

from pydantic import Field
from torch import Tensor

from thalweg.errors import OptionError
from thalweg.optim.clipping import clip_by_norm, clip_by_unit, clip_by_value
from thalweg.settings.tables import takes
from thalweg.strategies.base import Settings, Strategy, Trainer

__all__ = ["Clipping", "ClippingSettings"]


class ClippingSettings(Settings):
    """``[strategies.clipping]``."""

    value: float | None = Field(default=None, gt=0)
    unit: float | None = Field(default=None, gt=0)
    norm: float | None = Field(default=None, gt=0)


class Clipping(Strategy):
    """Bound the gradients of every step: entry by entry, unit by unit, and all together, in this order.

    Args:
        value: of no entry's magnitude more than this.
        unit: of no unit's gradient more than this share of its weights, those of the last layer included.
        norm: of all gradients together no longer than this.

    Raises:
        OptionError: none is given, or one isn't positive.

    >>> import torch
    >>> p = torch.nn.Parameter(torch.zeros(2))
    >>> p.grad = torch.tensor([3.0, 4.0])
    >>> Clipping(norm=1.0).clip([p])
    >>> [round(v, 6) for v in p.grad.tolist()]
    [0.6, 0.8]

    Source: R9 (K); the functions are :mod:`thalweg.optim.clipping`.
    """

    name: ClassVar[str] = "clipping"
    priority: ClassVar[int] = 30
    settings: ClippingSettings

    @takes(ClippingSettings)
    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        if not self.settings.model_dump(exclude_none=True):
            raise OptionError("clipping: no bound is given; give norm, value or unit, such as norm = 1.0")

    def attach(self, trainer: Trainer) -> None:
        """Refuse optimizers whose steps a changed gradient would mislead."""
        if trainer.step_kind != "gradient":
            raise OptionError(
                f"clipping doesn't go with {type(trainer.optimizer).__name__}: its searches rely on the "
                "gradient as it is; leave clipping out"
            )

    def clip(self, parameters: Iterable[Tensor]) -> None:
        """Clip the gradients of parameters in place; those without one are left out."""
        wanted = self.settings
        held = [p for p in parameters if p.grad is not None]
        gradients = [p.grad for p in held if p.grad is not None]
        if wanted.value is not None:
            clip_by_value(gradients, wanted.value)
        if wanted.unit is not None:
            clip_by_unit(held, gradients, wanted.unit)
        if wanted.norm is not None:
            clip_by_norm(gradients, wanted.norm)

    def after_backward(self, trainer: Trainer) -> None:
        """Clip what the optimizer is about to see."""
        self.clip(p for group in trainer.optimizer.param_groups for p in group["params"])
