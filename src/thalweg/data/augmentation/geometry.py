"""Where the pixels of a changed image come from: everything that moves them, composed into one warp."""

from __future__ import annotations

import math
from functools import cache
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from thalweg.data.augmentation.bounds import Parameters
from thalweg.errors import OptionError

__all__ = ["Fill", "kornia", "matrices", "warp"]

Fill = Literal["edge", "reflect", "black"]

_PADDING = {"edge": "border", "reflect": "reflection", "black": "zeros"}


@cache
def kornia() -> Any:
    """Return kornia, which does the work on pixels.

    Raises:
        OptionError: it isn't installed.
    """
    try:
        import kornia.enhance
        import kornia.geometry.transform
    except ImportError as problem:
        raise OptionError(
            "changing images needs kornia, which isn't installed here; pip install kornia, or leave the "
            "augmentation out"
        ) from problem
    return kornia


def matrices(parameters: Parameters, size: tuple[int, int]) -> npt.NDArray[np.float64]:
    """Return, for each example, the affine map from a pixel's place to where it comes from.

    ``source = o + s * T^-1 (place - t)``, both measured in pixels from the image's centre, with the window's
    share s and its centre o, the translation t, and T a mirror, then scale, stretch, shear and rotation. Lens
    distortion, which isn't affine, acts on the place before.

    Returns:
        ``[B, 2, 3]``, of homogeneous ``(x, y, 1)``.

    Source: A6 (S).
    """
    p, (height, width) = parameters, size
    cosine, sine, slope = np.cos(p.angle), np.sin(p.angle), np.tan(p.lean)
    share = p.window / p.zoom
    across = np.where(p.mirrored, -share, share) / p.width
    along = share * p.width
    made = np.empty((len(share), 2, 3))
    made[:, 0, 0] = across * (cosine - slope * sine)
    made[:, 0, 1] = -across * (sine + slope * cosine)
    made[:, 1, 0] = along * sine
    made[:, 1, 1] = along * cosine
    made[:, 0, 2] = p.window_right * width - made[:, 0, 0] * p.right - made[:, 0, 1] * p.down
    made[:, 1, 2] = p.window_down * height - made[:, 1, 0] * p.right - made[:, 1, 1] * p.down
    return made


def warp(
    images: Tensor,
    maps: npt.NDArray[np.float64],
    lens: npt.NDArray[np.float64] | None = None,
    *,
    fill: Fill = "edge",
    black: Tensor | None = None,
) -> Tensor:
    """Take each pixel from where its image's map says, by bilinear interpolation.

    Args:
        images: ``[B, C, H, W]``, float32 or float64.
        maps: ``[B, 2, 3]``, as of :func:`matrices`.
        lens: ``[B]``: a place at r, 1 in the corners, counts as one at ``r * (1 + lens * r**2)``.
        fill: what lies beyond the edges.
        black: ``[C]`` or one number, for ``fill="black"``; by default 0.

    Returns:
        ``[B, C, H, W]``.

    >>> image = torch.arange(9.0).reshape(1, 1, 3, 3)
    >>> warp(image, np.array([[[1.0, 0, 1], [0, 1, 0]]]))[0, 0].tolist()
    [[1.0, 2.0, 2.0], [4.0, 5.0, 5.0], [7.0, 8.0, 8.0]]
    """
    height, width = images.shape[-2:]
    # grid_sample counts from -1 to 1 between the outer edges of the outer pixels
    half = np.array([width, height]) / 2
    scaled = maps * np.append(half, 1.0) / half[:, None]
    m = torch.from_numpy(scaled).to(images.device, images.dtype)[..., None, None]
    x, y, square = _places(height, width, images.dtype, images.device)
    coordinates = []
    for row in range(2):
        place = m[:, row, 0] * x + m[:, row, 1] * y
        if lens is not None:
            k = torch.from_numpy(lens).to(images.device, images.dtype)[:, None, None]
            place = place * (1 + k * square)
        coordinates.append(place + m[:, row, 2])
    ground = None if fill != "black" or black is None else black.to(images).reshape(-1, 1, 1)
    warped: Tensor = kornia().geometry.transform.remap(
        images if ground is None else images - ground, *coordinates,
        padding_mode=_PADDING[fill], align_corners=False, normalized_coordinates=True,
    )  # fmt: skip
    return warped if ground is None else warped + ground


@cache
def _places(
    height: int, width: int, dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, Tensor, Tensor]:
    """Columns, rows, and squares of the distances from the centre, 1 in the corners of the image."""
    x = (2 * torch.arange(width, dtype=torch.float64) + 1) / width - 1
    y = ((2 * torch.arange(height, dtype=torch.float64) + 1) / height - 1)[:, None]
    diagonal = math.hypot(height, width)
    square = (x * width / diagonal) ** 2 + (y * height / diagonal) ** 2
    return x.to(device, dtype), y.to(device, dtype), square.to(device, dtype)
