"""Whether lanes have moved: a number for each lane's tensor, from all its bits."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

__all__ = ["checksums_of_lanes", "weighed_bits"]

_WHOLE = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
_AT_ONCE = 1 << 20


def weighed_bits(stacked: Tensor) -> Tensor:
    """Return a number for each row of a tensor ``[K, ...]``, as int64 ``[K]``.

    Bits are weighed by odd numbers of their own and added modulo 2**64, so that a change of a single element
    always shows, and one of several all but always.

    >>> one, other = weighed_bits(torch.tensor([[0.0, 1.0], [1.0, 0.0]]))
    >>> bool(one == other)
    False
    """
    plain = torch.view_as_real(stacked) if stacked.is_complex() else stacked
    bits = plain.contiguous().reshape(len(plain), -1).view(_WHOLE[plain.element_size()])
    total = torch.zeros(len(bits), dtype=torch.int64, device=bits.device)
    begin = 0
    for part in torch.split(bits, max(1, _AT_ONCE // max(1, len(bits))), dim=1):
        weights = torch.arange(begin, begin + part.shape[1], device=bits.device).mul_(2 * 0x9E3779B1).add_(1)
        # integers wrap around, whatever the order of adding
        total += (part.long() * weights).sum(1)
        begin += part.shape[1]
    return total


def checksums_of_lanes(parameters: Iterable[Tensor]) -> Tensor:
    """Return a number for each lane and parameter ``[K, ...]``, as int64 ``[K, parameters]``."""
    return torch.stack([weighed_bits(p.detach()) for p in parameters], dim=1)
