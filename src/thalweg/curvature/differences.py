"""Curvature from differences of gradients, where a gradient can't be differentiated again (O13).

On functions with kinks (ReLU) differences find the curvature over their width, which products don't see.
Their error is of the order ``eps^(2/3)``: central differences, with a width of ``eps^(1/3)``.

Source: C s95, INDEX O13.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from thalweg.curvature.vectors import Space, Vector

__all__ = ["difference_matrix", "difference_product", "width"]


def width(x: Vector, v: Vector, space: Space, *, narrow: bool = False) -> Tensor:
    """Return h, by which x is moved along v: ``eps^(1/3) * max(1, |x|_max) / |v|_max``.

    Args:
        x, v: point and direction.
        space: lanes or alone.
        narrow: no wider than ``eps^(1/3) * max(1, |x|_2) / |v|_2`` either, which keeps a move of many
            elements at once small beside the point.
    """
    dtype = space.dtype(x)
    least = torch.finfo(dtype).tiny
    h = space.norm_max(x).clamp(min=1.0) / space.norm_max(v).clamp(min=least)
    if narrow:
        h = torch.minimum(h, space.norm(x).clamp(min=1.0) / space.norm(v).clamp(min=least))
    found: Tensor = torch.finfo(dtype).eps ** (1 / 3) * h
    return found


def difference_product(
    gradient: Callable[[Vector], Vector], x: Vector, v: Vector, space: Space, *, narrow: bool = False
) -> Vector:
    """Return ``Hv = (g(x + h v) - g(x - h v)) / 2h`` for the gradient g of a function; see :func:`width`."""
    h = width(x, v, space, narrow=narrow)
    ahead = gradient(space.add(x, h, v))
    behind = gradient(space.add(x, -h, v))
    return space.scale(0.5 / h, space.subtract(ahead, behind))


def difference_matrix(
    gradient: Callable[[Vector], Vector], x: Vector, block: Sequence[int], space: Space
) -> Tensor:
    """Return the part of the Hessian that belongs to these tensors, made symmetric: ``[..., n, n]``.

    Raises:
        OptionError: a tensor is sharded.
    """
    owner = "a finite-difference Hessian"
    part = [x[i] for i in block]
    flat = space.ravel(part, owner)
    width = torch.finfo(flat.dtype).eps ** (1 / 3)
    columns = []
    for j in range(flat.shape[-1]):
        h = width * flat[..., j].abs().clamp(min=1.0)
        ends = []
        for sign in (1.0, -1.0):
            moved = flat.clone()
            moved[..., j] += sign * h
            there = list(x)
            for i, tensor in zip(block, space.unravel(moved, part), strict=True):
                there[i] = tensor
            found = gradient(there)
            ends.append(space.ravel([found[i] for i in block], owner))
        columns.append((ends[0] - ends[1]) / (2 * h)[..., None])
    matrix = torch.stack(columns, dim=-1)
    return (matrix + matrix.mT) / 2
