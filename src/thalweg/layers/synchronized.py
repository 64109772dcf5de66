"""Batch normalization by the statistics of all processes' shares of a batch, in anybody's model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from thalweg.layers.norm import entries

__all__ = ["Synchronized"]

Total = Callable[[Tensor], Tensor]


class Synchronized(TorchFunctionMode):
    """Let batch norms that are training normalize by the whole batch, of which this process has a part.

    Means and variances are those of the examples of all processes, each weighted by how many it has, and
    gradients pass through them between processes too. Torch's layers and :class:`thalweg.layers.BatchNorm`
    keep their names and classes: what is replaced while the mode is active is the function that they call.
    Works with any backend, on a CPU too, where ``torch.nn.SyncBatchNorm`` doesn't.

    Args:
        total: from a tensor to its sum over all processes, a new tensor; called by all of them in the same
            order.

    >>> x = torch.tensor([[1.0], [3.0]])
    >>> with Synchronized(lambda mine: mine.clone()):  # alone
    ...     F.batch_norm(x, None, None, training=True, eps=0.0).flatten().tolist()
    [-1.0, 1.0]

    Source: D1 (N 8.35-8.37); Zhang et al. 2018 for the synchronized form.
    """

    def __init__(self, total: Total) -> None:
        super().__init__()
        self._total = total

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is F.batch_norm:
            return self._batch_norm(*args, **kwargs)
        if func is entries:
            # a count of its own: whether there is one entry alone is known only together
            here = entries(*args, **kwargs)
            return round(float(self._total(torch.tensor(float(here), dtype=torch.float64))))
        return func(*args, **kwargs)

    def _batch_norm(
        self,
        input: Tensor,
        running_mean: Tensor | None,
        running_var: Tensor | None,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        training: bool = False,
        momentum: float = 0.1,
        eps: float = 1e-5,
    ) -> Tensor:
        if not training:
            return F.batch_norm(input, running_mean, running_var, weight, bias, False, momentum, eps)
        h = input if input.dtype == torch.float64 else input.float()
        others = [axis for axis in range(h.ndim) if axis != 1]
        shape = [-1 if axis == 1 else 1 for axis in range(h.ndim)]
        count = h.new_tensor([h.numel() / h.shape[1]])
        sums: Tensor = _Sum.apply(torch.cat([h.sum(others), count]), self._total)  # type: ignore[no-untyped-call]
        m = sums[-1].detach()
        mean = sums[:-1] / m
        centred = h - mean.reshape(shape)
        squares: Tensor = _Sum.apply(centred.square().sum(others), self._total)  # type: ignore[no-untyped-call]
        variance = squares / m
        out = centred * torch.rsqrt(variance + eps).reshape(shape)
        if weight is not None:
            out = out * weight.reshape(shape)
        if bias is not None:
            out = out + bias.reshape(shape)
        with torch.no_grad():
            if running_mean is not None:
                running_mean.lerp_(mean.to(running_mean.dtype), momentum)
            if running_var is not None:
                running_var.lerp_((squares / (m - 1)).to(running_var.dtype), momentum)
        return out.to(input.dtype)


class _Sum(torch.autograd.Function):
    """The sum over processes; its gradient is the sum of theirs."""

    @staticmethod
    def forward(ctx: Any, mine: Tensor, total: Total) -> Tensor:
        ctx.total = total
        return total(mine)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return ctx.total(gradient.contiguous()), None
