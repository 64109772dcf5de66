"""Gradients that are too large, made smaller: by their norm, by value, and unit by unit.

A step off a cliff is as long as the gradient there; clipping bounds it. All functions work in place on lists
of gradients, of any mix of types and devices, sharded ones included, and leave numbers on the device.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from thalweg.errors import OptionError
from thalweg.runtimes.dtensors import is_dtensor

__all__ = ["Clipped", "clip_by_norm", "clip_by_unit", "clip_by_value", "total_norm"]


class Clipped(NamedTuple):
    """The norm before clipping, and what the gradients were multiplied by: two tensors ``[]``."""

    norm: Tensor
    factor: Tensor


@torch.no_grad()
def total_norm(tensors: Iterable[Tensor], p: float = 2.0) -> Tensor:
    """Compute the norm of all tensors as one long vector.

    ``(sum |g_i|**p)**(1/p)``, or the largest magnitude for p = inf; in float32 at least. Sharded tensors
    count whole: only numbers pass between processes, one for each group of processes.

    Args:
        tensors: any; none at all have norm 0.
        p: positive.

    Returns:
        Tensor ``[]`` on the device of the first.

    Raises:
        OptionError: p isn't positive.

    >>> total_norm([torch.tensor([3.0]), torch.tensor([[4.0]])])
    tensor(5.)
    """
    if not p > 0:
        raise OptionError(f"p = {p} isn't allowed: a norm's power is positive, such as 2 or inf")
    groups: dict[tuple[object, ...], list[Tensor]] = {}
    for tensor in tensors:
        key: tuple[object, ...] = (tensor.device, tensor.dtype)
        if is_dtensor(tensor):
            key = (*key, tensor.device_mesh, tensor.placements)
        groups.setdefault(key, []).append(tensor)
    if not groups:
        return torch.zeros(())
    norms: list[Tensor] = []
    norm: Tensor
    for group in groups.values():
        dtype = group[0].dtype if group[0].dtype == torch.float64 else torch.float32
        # half precision has no room for squares
        parts = torch._foreach_norm(group, p, dtype=dtype)
        norm = torch.linalg.vector_norm(torch.stack(list(parts)), p)
        norms.append(norm.full_tensor() if is_dtensor(norm) else norm)
    widest = torch.float64 if any(norm.dtype == torch.float64 for norm in norms) else torch.float32
    together = torch.stack([norm.to(norms[0].device, widest) for norm in norms])
    norm = torch.linalg.vector_norm(together, p)
    return norm


@torch.no_grad()
def clip_by_norm(gradients: Sequence[Tensor], largest: float, p: float = 2.0) -> Clipped:
    """Scale all gradients down together where their norm is over a bound.

    ``g <- g * min(1, largest / norm)``: the direction stays. Where the norm is infinite, or overflows, what
    is finite becomes 0; where it is NaN nothing is changed, since no factor would help. Both are to be seen
    in ``norm``.

    Args:
        gradients: changed in place.
        largest: the bound, positive.
        p: of the norm, see :func:`total_norm`.

    Returns:
        The norm as it was, and the factor; reading them on the host waits for the device.

    Raises:
        OptionError: a bound or power that isn't positive.

    >>> g = torch.tensor([3.0, 4.0])
    >>> clip_by_norm([g], 1.0).norm.item(), [round(v, 6) for v in g.tolist()]
    (5.0, [0.6, 0.8])

    Source: R9 (K); Pascanu, Mikolov and Bengio 2013. Torch adds 1e-6 to the norm; here the bound is exact.
    """
    _check_bound("largest", largest)
    norm = total_norm(gradients, p)
    factor = torch.where(torch.isnan(norm), torch.ones_like(norm), (largest / norm).clamp(max=1.0))
    _scale(gradients, factor)
    return Clipped(norm, factor)


def _scale(gradients: Sequence[Tensor], factor: Tensor) -> None:
    groups: dict[tuple[torch.device, torch.dtype], list[Tensor]] = {}
    for gradient in gradients:
        local = gradient.to_local() if is_dtensor(gradient) else gradient
        groups.setdefault((local.device, local.dtype), []).append(local)
    for (device, _), group in groups.items():
        torch._foreach_mul_(group, factor.to(device))


@torch.no_grad()
def clip_by_value(gradients: Sequence[Tensor], largest: float) -> None:
    """Bound every entry: ``g <- min(max(g, -largest), largest)``, which can turn the direction.

    Args:
        gradients: changed in place; NaN stays.
        largest: magnitude, positive.

    Raises:
        OptionError: a bound that isn't positive.

    >>> g = torch.tensor([0.5, -7.0])
    >>> clip_by_value([g], 1.0)
    >>> g.tolist()
    [0.5, -1.0]

    Source: R9 (K); Mikolov 2012.
    """
    _check_bound("largest", largest)
    for gradient in gradients:
        (gradient.to_local() if is_dtensor(gradient) else gradient).clamp_(-largest, largest)


@torch.no_grad()
def clip_by_unit(
    parameters: Sequence[Tensor], gradients: Sequence[Tensor], share: float = 0.01, floor: float = 1e-3
) -> None:
    """Bound each unit's gradient by a share of its weights: adaptive gradient clipping.

    ``g_i <- g_i * min(1, share * max(|w_i|, floor) / |g_i|)`` for each unit i, a row along the first axis of
    a weight; a vector or a single number, such as a bias, is one unit. So a plain step changes no unit's
    weights by more than ``lr * share`` of them. The bound follows the weights and needs no history. The
    authors leave a classifier's last layer unclipped: give the others.

    Args:
        parameters: the weights; of transposed convolutions a row is an input.
        gradients: as many, of the same shapes; changed in place. Units with NaN stay.
        share: positive.
        floor: on the norm of the weights, positive, so that units that begin at zero can move.

    Raises:
        OptionError: a share or a floor that isn't positive.

    >>> g = torch.tensor([[30.0, 40.0], [0.001, 0.0]])
    >>> clip_by_unit([torch.tensor([[3.0, 4.0], [3.0, 4.0]])], [g], share=0.1)
    >>> [[round(v, 6) for v in row] for row in g.tolist()]
    [[0.3, 0.4], [0.001, 0.0]]

    Source: R9 (K) by an adaptive bound; Brock, De, Smith and Simonyan 2021 (NFNets).
    """
    _check_bound("share", share)
    _check_bound("floor", floor)
    for parameter, gradient in zip(parameters, gradients, strict=True):
        bound = share * _unit_norms(parameter).clamp(min=floor)
        norms = _unit_norms(gradient)
        factor = torch.where(torch.isnan(norms), torch.ones_like(norms), (bound / norms).clamp(max=1.0))
        gradient.mul_(factor.to(gradient.dtype))


def _unit_norms(tensor: Tensor) -> Tensor:
    dtype = tensor.dtype if tensor.dtype == torch.float64 else torch.float32
    axes = list(range(1, tensor.ndim)) if tensor.ndim > 1 else None
    norms: Tensor = torch.linalg.vector_norm(tensor.detach(), dim=axes, keepdim=tensor.ndim > 1, dtype=dtype)
    return norms


def _check_bound(name: str, value: float) -> None:
    if not 0 < value < math.inf:
        raise OptionError(f"{name} = {value} isn't allowed: give a positive number")
