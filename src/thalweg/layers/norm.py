"""Batch normalization as the texts define it, and what puts it into a model that is there already."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.overrides import handle_torch_function, has_torch_function_unary

from thalweg.errors import ModelError, OptionError, nearest
from thalweg.layers.following import activated
from thalweg.layers.modes import in_mode_of
from thalweg.layers.passing import SingleEntryError

__all__ = [
    "BatchNorm",
    "Insertion",
    "Normalized",
    "batch_norm",
    "entries",
    "insert_batch_norm",
    "replace",
]


class Normalized(NamedTuple):
    """A normalized batch and the statistics it was normalized by: ``[*, F, *]``, ``[F]`` and ``[F]``."""

    values: Tensor
    mean: Tensor
    variance: Tensor


def batch_norm(
    h: Tensor,
    gamma: Tensor | None = None,
    beta: Tensor | None = None,
    *,
    delta: float = 1e-8,
    axis: int = 1,
) -> Normalized:
    """Normalize a batch by its own mean and standard deviation, as the slides write it.

    ``gamma * (h - mean) / sqrt(delta + variance) + beta`` with the mean and the variance, divided by m, over
    all m entries of a feature: over examples, and over the places of a feature map. Gradients pass through
    both.

    Args:
        h: ``[B, F, *]``, or with the features along another axis.
        gamma, beta: ``[F]``; left out, 1 and 0.
        delta: not negative; keeps the root away from 0.
        axis: of the features.

    Returns:
        The normalized batch, its mean and its variance.

    >>> values, mean, variance = batch_norm(torch.tensor([[1.0], [3.0]]))
    >>> values.flatten().tolist(), mean.tolist(), variance.tolist()
    ([-1.0, 1.0], [2.0], [1.0])

    Source: D1 (N 8.35-8.37, U); Ioffe and Szegedy 2015. K divides by the variance, which is an error.
    """
    axis %= h.ndim
    others = [other for other in range(h.ndim) if other != axis]
    shape = [-1 if other == axis else 1 for other in range(h.ndim)]
    mean = h.mean(others)
    centred = h - mean.reshape(shape)
    variance = centred.square().mean(others)
    values = centred / torch.sqrt(delta + variance).reshape(shape)
    if gamma is not None:
        values = gamma.reshape(shape) * values
    if beta is not None:
        values = values + beta.reshape(shape)
    return Normalized(values, mean, variance)


def entries(h: Tensor) -> int:
    """Return how many entries a feature has in a batch ``[B, F, *]``; a mode may count those of others too.

    >>> entries(torch.zeros(2, 3, 5))
    10
    """
    if has_torch_function_unary(h):
        counted: int = handle_torch_function(entries, (h,), h)
        return counted
    return h.numel() // h.shape[1]


class BatchNorm(_BatchNorm):
    """Batch normalization as a layer, with running averages of the statistics for evaluation.

    Computes :func:`batch_norm` by torch's kernels, under torch's names of parameters and buffers. In training
    mode ``running = (1 - momentum) * running + momentum * statistic`` of the batch.

    Args:
        features: F.
        delta: under the root.
        momentum: of the running averages, in ``(0, 1]``; ``None``: their plain mean over all batches so far.
        axis: of the features: 1, as in feature maps, or -1, as linear layers give them.
        unbiased: whether running variances are those with m - 1, as torch has it, instead of the texts' m.
        affine: whether there are gamma (``weight``) and beta (``bias``).
        running: whether there are running averages; without, evaluation too takes the batch's statistics.

    Raises:
        OptionError: a value that isn't allowed.
        ModelError: a batch that doesn't have ``features``; in training, one entry a feature alone.

    >>> norm = BatchNorm(3)
    >>> out = norm(torch.randn(100, 3) * 5 + 2)
    >>> bool((out.mean(0).abs() < 1e-5).all()), norm.running_var.shape
    (True, torch.Size([3]))

    Source: D1 (N 8.35-8.37, K, U). Deviation: torch's default for delta is 1e-5.
    """

    def __init__(
        self,
        features: int,
        *,
        delta: float = 1e-8,
        momentum: float | None = 0.1,
        axis: int = 1,
        unbiased: bool = False,
        affine: bool = True,
        running: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        if not 0 <= delta < math.inf:
            raise OptionError(
                f"delta = {delta} isn't allowed: give a number that isn't negative, such as 1e-8"
            )
        if momentum is not None and not 0 < momentum <= 1:
            raise OptionError(
                f"momentum = {momentum} isn't allowed: give one in (0, 1], or None for the mean"
            )
        super().__init__(
            features, eps=delta, momentum=momentum, affine=affine, track_running_stats=running,
            device=device, dtype=dtype,
        )  # fmt: skip
        self.axis, self.unbiased = axis, unbiased

    def forward(self, input: Tensor) -> Tensor:
        """Normalize ``[B, F, *]``, or with the features along ``axis``."""
        if input.ndim < 2 or input.shape[self.axis] != self.num_features:
            raise ModelError(
                f"a batch of shape {list(input.shape)} hasn't {self.num_features} features along "
                f"axis {self.axis}"
            )
        h = input.movedim(self.axis, 1)
        if self.running_mean is None or self.running_var is None:
            return self._by_batch(h, None, None).movedim(1, self.axis)
        if not self.training:
            out = F.batch_norm(h, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
            return out.movedim(1, self.axis)
        # with a momentum of 1 torch writes the batch's own statistics here, the variance with m - 1
        mean, variance = torch.zeros_like(self.running_mean), torch.zeros_like(self.running_var)
        out = self._by_batch(h, mean, variance)
        if not self.unbiased:
            m = entries(h)
            variance = variance * ((m - 1) / m)
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        share: float | Tensor
        if self.momentum is None:
            share = 1 / self.num_batches_tracked.to(mean.dtype)
        else:
            share = self.momentum
        self.running_mean.copy_(self.running_mean + share * (mean - self.running_mean))
        self.running_var.copy_(self.running_var + share * (variance - self.running_var))
        return out.movedim(1, self.axis)

    def _by_batch(self, h: Tensor, mean: Tensor | None, variance: Tensor | None) -> Tensor:
        if entries(h) == 1:
            raise SingleEntryError(
                "batch normalization of a single entry a feature gives nothing but beta: take more"
            )
        return F.batch_norm(
            h, mean, variance, self.weight, self.bias, training=True, momentum=1.0, eps=self.eps
        )

    def extra_repr(self) -> str:
        """Say what the layer is set to."""
        return (
            f"{self.num_features}, delta={self.eps:g}, momentum={self.momentum}, axis={self.axis}, "
            f"unbiased={self.unbiased}, affine={self.affine}, running={self.track_running_stats}"
        )


@dataclass(frozen=True)
class Insertion:
    """What :func:`insert_batch_norm` changed.

    Args:
        normalized: layer to the activation that follows it; the layer is now ``NAME.0``, its batch
            normalization ``NAME.1``.
        dropped: names that the biases had which were removed.
    """

    normalized: dict[str, str]
    dropped: tuple[str, ...]


def insert_batch_norm(
    model: nn.Module,
    *,
    layers: Iterable[str] | None = None,
    example: Any = None,
    delta: float = 1e-8,
    momentum: float | None = 0.1,
    unbiased: bool = False,
) -> Insertion:
    """Put batch normalization between linear layers or convolutions and their activations, in place.

    ``activation(X W + b)`` becomes ``activation(gamma * normalized(X W) + beta)``: the bias, which the mean
    would take away again, is removed, and beta begins at 0. Each such layer is replaced by an
    ``nn.Sequential`` of itself and the normalization. Make optimizers afterwards, since parameters change;
    containers whose own code reads a layer's weight, as torch's transformer layers do, can't be changed so.

    Args:
        model: any.
        layers: names of the layers; without, those that :func:`~thalweg.layers.following.activated` finds.
        example: a batch on which to see what leads into what; without, ``nn.Sequential`` is read.
        delta, momentum, unbiased: as of :class:`BatchNorm`.

    Returns:
        What was changed.

    Raises:
        OptionError: a name that no linear layer or convolution has.
        ModelError: nothing was found to normalize, or the model is itself the layer.

    >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    >>> insert_batch_norm(model)
    Insertion(normalized={'0': 'relu'}, dropped=('0.bias',))
    >>> model[0]
    Sequential(
      (0): Linear(in_features=4, out_features=8, bias=False)
      (1): BatchNorm(8, delta=1e-08, momentum=0.1, axis=-1, unbiased=False, affine=True, running=True)
    )

    Source: D1 (N, U).
    """
    seen = activated(model, example)
    able = {name for name, module in model.named_modules() if isinstance(module, (nn.Linear, _ConvNd))}
    if layers is None:
        chosen = {name: activation for name, activation in seen.items() if name in able}
    else:
        chosen = {name: seen.get(name, "as told") for name in layers}
        for name in chosen:
            if name not in able:
                raise OptionError(f"there is no linear layer or convolution {name!r}; {nearest(name, able)}")
    if not chosen:
        raise ModelError(
            "no layer was found that leads into an activation: name some by layers, or give an example batch"
        )
    if "" in chosen:
        raise ModelError("the model is itself the layer to be normalized: put it into an nn.Sequential first")
    dropped = []
    for name in chosen:
        layer = model.get_submodule(name)
        assert isinstance(layer, (nn.Linear, _ConvNd))
        norm = BatchNorm(
            layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels,
            delta=delta,
            momentum=momentum,
            axis=-1 if isinstance(layer, nn.Linear) else 1,
            unbiased=unbiased,
            device=layer.weight.device,
            dtype=layer.weight.dtype,
        )
        in_mode_of(norm, layer)
        if layer.bias is not None:
            layer.register_parameter("bias", None)
            dropped.append(f"{name}.bias")
        replace(model, layer, in_mode_of(nn.Sequential(layer, norm), layer))
    return Insertion(chosen, tuple(dropped))


def replace(model: nn.Module, old: nn.Module, new: nn.Module) -> None:
    """Wherever a model holds one module, let it hold another, which may hold the first."""
    within = set(new.modules())
    for parent in list(model.modules()):
        for name, child in list(parent._modules.items()):
            if child is old and parent not in within:
                parent._modules[name] = new
