"""Tensors that are spread over processes, told from others without importing their class."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, TypeGuard

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor

__all__ = ["is_dtensor"]


def is_dtensor(thing: object) -> TypeGuard[DTensor]:
    """Say whether it is a DTensor, without importing that class, which takes as long as torch itself.

    >>> import torch
    >>> is_dtensor(torch.zeros(2))
    False
    """
    # where nobody has imported the class, there is no object of it
    tensor_class = getattr(sys.modules.get("torch.distributed.tensor"), "DTensor", None)
    return tensor_class is not None and isinstance(thing, tensor_class)
