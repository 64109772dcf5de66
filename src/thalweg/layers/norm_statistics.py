"""Batch norm's statistics, estimated anew for weights that training never visited."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from thalweg.errors import DataError
from thalweg.layers.modes import begin_training, evaluating, kept_modes, set_mode
from thalweg.layers.norm import BatchNorm, entries
from thalweg.layers.passing import outputs_of

__all__ = ["estimate_batch_norm", "measured_layers"]


class _Moments:
    """Count, mean and sum of squared deviations of a layer's features, over all batches."""

    def __init__(self) -> None:
        self.count, self.mean, self.squares = 0, torch.zeros(()), torch.zeros(())

    def add(self, rows: Tensor) -> None:
        mean = rows.mean(0)
        self.merge(len(rows), mean, (rows - mean).square().sum(0))

    def merge(self, count: int, mean: Tensor, squares: Tensor) -> None:
        total = self.count + count
        if self.count == 0:
            self.count, self.mean, self.squares = count, mean, squares
            return
        # Chan, Golub and LeVeque 1979
        gap = mean - self.mean
        self.squares = self.squares + squares + gap.square() * (self.count * count / total)
        self.mean = self.mean + gap * (count / total)
        self.count = total


@torch.no_grad()
def estimate_batch_norm(
    model: nn.Module,
    batches: Iterable[Any],
    *,
    forward: Callable[[Any], object] | None = None,
    gather: Callable[[Tensor], list[Tensor]] | None = None,
) -> int:
    """Estimate the running statistics of all batch norms anew, in place, such as for averaged weights.

    Means and variances over all entries of all batches, so that a batch counts by its size and the spread
    between batches isn't lost. Batch norms normalize by their batch meanwhile, as while training; everything
    else, dropout included, runs as in evaluation. Frozen batch norms keep their statistics and normalize by
    these: those that stay in evaluation mode while the model is trained (by ``eval()``, or by a ``train``
    of the model's own), and those with a momentum of 0.

    Args:
        model: any; does nothing where it has no batch norm with running statistics. Where all of it is in
            evaluation mode, every batch norm counts as one that trains.
        batches: inputs of the model; of a tuple or list, such as ``(inputs, targets)``, the first.
        forward: what to do with a batch instead of calling the model on it.
        gather: from a tensor to those of all processes, each of which has its share of every batch; all then
            have the statistics of all.

    Returns:
        How many batch norms were estimated.

    Raises:
        DataError: there are no batches.

    >>> model = nn.Sequential(nn.BatchNorm1d(1))
    >>> estimate_batch_norm(model, [torch.tensor([[1.0], [2.0]]), torch.tensor([[6.0]])])
    1
    >>> model[0].running_mean.tolist(), model[0].running_var.tolist()
    ([3.0], [7.0])

    Source: A1 with D1; Izmailov et al. 2018. Deviation: they average the batches' statistics.
    """
    layers = measured_layers(model)
    if not layers:
        return 0
    moments = {layer: _Moments() for layer in layers}

    def look(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        assert isinstance(layer, _BatchNorm)
        axis = layer.axis if isinstance(layer, BatchNorm) else 1
        rows = inputs[0].detach().movedim(axis, -1).reshape(-1, layer.num_features)
        moments[layer].add(rows.to(torch.float32 if rows.device.type == "mps" else torch.float64))
        # a single entry has no statistics to be normalized by while training
        set_mode(layer, entries(inputs[0].detach().movedim(axis, 1)) > 1)

    passed = 0
    handles = [layer.register_forward_pre_hook(look) for layer in layers]
    before = [{name: buffer.clone() for name, buffer in layer.named_buffers()} for layer in layers]
    try:
        with evaluating(model):
            for batch in batches:
                inputs = batch[0] if isinstance(batch, (tuple, list)) else batch
                outputs_of(model, inputs) if forward is None else forward(batch)
                passed += 1
    finally:
        for handle in handles:
            handle.remove()
        for layer, buffers in zip(layers, before, strict=True):
            for name, buffer in layer.named_buffers():
                buffer.copy_(buffers[name])
    if passed == 0:
        raise DataError("there are no batches to estimate batch norm's statistics from: give at least one")
    if gather is not None:
        for layer, seen in moments.items():
            moments[layer] = _together(seen, layer.num_features, gather)
    used = [layer for layer in layers if moments[layer].count]
    for layer in used:
        seen = moments[layer]
        assert layer.running_mean is not None
        assert layer.running_var is not None
        plain = isinstance(layer, BatchNorm) and not layer.unbiased
        layer.running_mean.copy_(seen.mean)
        layer.running_var.copy_(seen.squares / max(seen.count - (0 if plain else 1), 1))
    return len(used)


def measured_layers(model: nn.Module) -> list[_BatchNorm]:
    """Return the batch norms whose running statistics training moves."""
    with kept_modes(model):
        begin_training(model)
        return [
            layer
            for layer in model.modules()
            if isinstance(layer, _BatchNorm)
            and layer.running_mean is not None
            and layer.training
            and layer.momentum != 0
        ]


def _together(mine: _Moments, features: int, gather: Callable[[Tensor], list[Tensor]]) -> _Moments:
    """The moments of all processes, in their order, so that all come to the same bits."""
    mean = mine.mean.expand(features)
    known = torch.stack([torch.full_like(mean, mine.count), mean, mine.squares.expand(features)])
    both = _Moments()
    for count, mean, squares in gather(known):
        if count[0] > 0:
            both.merge(int(count[0]), mean, squares)
    return both
