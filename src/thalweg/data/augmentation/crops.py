"""A fixed set of crops, to average predictions over."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from torch import Tensor

from thalweg.data.augmentation.geometry import warp
from thalweg.errors import DataError, OptionError

__all__ = ["Crops", "crops"]

Crops = Literal[1, 5, 10]


def crops(images: Tensor, count: Crops = 5, *, window: float = 0.875) -> Tensor:
    """Return images seen through a fixed set of windows, each brought back to their size.

    Args:
        images: ``[B, C, H, W]``, float32 or float64.
        count: 5: the centre and the four corners; 10: their mirror images too; 1: the images as they are.
        window: share of the sides that is seen, in (0, 1).

    Returns:
        ``[count, B, C, H, W]``: centre, upper left, upper right, lower left, lower right, and the same of
        the mirror images.

    Raises:
        OptionError: another count, or a window that isn't inside the image.
        DataError: these are no images.

    >>> images = torch.rand(3, 1, 16, 16)
    >>> seen = crops(images, 10, window=0.75)
    >>> seen.shape, torch.allclose(seen[0, :, :, 1:-1, 1:-1].flip(-1), seen[5, :, :, 1:-1, 1:-1])
    (torch.Size([10, 3, 1, 16, 16]), True)

    Source: A6 (S); Krizhevsky, Sutskever and Hinton 2012 for the ten.
    """
    if count not in (1, 5, 10):
        raise OptionError(
            f"{count} crops aren't known: 5 are the centre and the corners, 10 their mirror images too, 1 is "
            "the whole image"
        )
    if not 0 < window < 1:
        raise OptionError(
            f"window = {window} isn't allowed: a crop is smaller than its image, by a share of the sides in "
            "(0, 1)"
        )
    if not isinstance(images, Tensor) or images.ndim != 4 or not images.is_floating_point():
        here = (
            f"{images.dtype} of shape {list(images.shape[1:])}" if isinstance(images, Tensor) else "several"
        )
        raise DataError(
            "crops are of images, [channels, height, width] for each example and of a floating type; the "
            f"inputs here are {here}: predict without crops"
        )
    if count == 1:
        return images[None]
    height, width = images.shape[-2:]
    half = (1 - window) / 2
    seen = []
    for mirror in (1, -1)[: count // 5]:
        for down, right in ((0, 0), (-half, -half), (-half, half), (half, -half), (half, half)):
            one = [[mirror * window, 0, mirror * right * width], [0, window, down * height]]
            seen.append(warp(images, np.broadcast_to(one, (len(images), 2, 3))))
    return torch.stack(seen)
