"""Brightness, contrast, saturation and hue of images, and squares erased from them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from thalweg.data.augmentation.bounds import AugmentationSettings, Parameters
from thalweg.data.augmentation.geometry import kornia

__all__ = ["erase", "recolour"]


def recolour(
    images: Tensor, settings: AugmentationSettings, parameters: Parameters, black: Tensor, white: Tensor
) -> Tensor:
    """Change colours, one after another: brightness, contrast, saturation, hue.

    With pixels ``p = (x - black) / (white - black)``, kept between 0 and 1 after each: ``p + b``;
    ``m + c * (p - m)`` with m the mean grey of the image; ``g + c * (p - g)`` with g the grey of the pixel,
    ``0.299 R + 0.587 G + 0.114 B``; the hue turned in the HSV cone. An image with another number of channels
    than three has its mean over all of them as grey.

    Args:
        images: ``[B, C, H, W]``.
        settings: which of them are on.
        parameters: how much.
        black, white: ``[C]`` or one number.

    Source: A6 (S).
    """
    enhance = kornia().enhance
    low, span = black.to(images).reshape(-1, 1, 1), (white - black).to(images).reshape(-1, 1, 1)
    pixels = ((images - low) / span).clamp(0, 1)
    if settings.brightness:
        pixels = enhance.adjust_brightness(pixels, _like(parameters.brightness, images))
    if settings.contrast:
        pixels = enhance.adjust_contrast_with_mean_subtraction(pixels, _like(parameters.contrast, images))
    if settings.saturation:
        pixels = enhance.adjust_saturation_with_gray_subtraction(pixels, _like(parameters.saturation, images))
    if settings.hue:
        pixels = enhance.adjust_hue(pixels, _like(parameters.hue, images))
    return pixels * span + low


def erase(images: Tensor, share: float, parameters: Parameters) -> Tensor:
    """Give a square of each image the image's mean, channel by channel; parts of it may lie outside.

    Args:
        images: ``[B, C, H, W]``.
        share: of the sides.
        parameters: where.

    Source: DeVries and Taylor 2017, who take the mean of all images.
    """
    height, width = images.shape[-2:]
    rows = _stripe(parameters.erase_down, height, share, images.device)
    columns = _stripe(parameters.erase_right, width, share, images.device)
    inside = (rows[:, :, None] & columns[:, None, :])[:, None]
    return torch.where(inside, images.mean((-2, -1), keepdim=True), images)


def _stripe(centre: npt.NDArray[np.float64], pixels: int, share: float, device: torch.device) -> Tensor:
    side = max(1, int(share * pixels + 0.5))
    begin = torch.from_numpy(np.floor(centre * pixels) - side // 2).to(device)[:, None]
    place = torch.arange(pixels, device=device)
    return (place >= begin) & (place < begin + side)


def _like(values: npt.NDArray[np.float64], images: Tensor) -> Tensor:
    return torch.from_numpy(values).to(images.device, images.dtype)
