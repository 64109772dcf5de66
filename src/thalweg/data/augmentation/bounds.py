"""How far images are changed at most, and by how much each one is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field
from torch import Tensor

from thalweg.randomness import streams
from thalweg.settings.tables import Settings

__all__ = ["AugmentationSettings", "Parameters", "draw"]

Array = npt.NDArray[np.float64]

_DRAWS = 18


class AugmentationSettings(Settings):
    """``[strategies.augmentation]``: how far each change goes at most; what isn't given stays off.

    Attributes:
        crop: smallest window, as a share of both sides; its share is uniform from there to 1, its place
            uniform within the image, and it is brought back to the image's size.
        translate: share of the sides, either way; moves by whole pixels, which blurs nothing.
        rotate: degrees, either way.
        scale: largest factor; log-uniform from its inverse to it.
        stretch: largest factor of the width, by which the height is divided; log-uniform like ``scale``.
        shear: degrees by which upright lines lean, either way.
        lens: radial distortion: what lies at r comes from ``r * (1 + k * r**2)``, with k uniform either way
            and r = 1 in the corners.
        flip: chance of a mirror image.
        brightness: added, as a share of the way from black to white, either way.
        contrast: distances from the image's mean grey are multiplied by 1 minus this to 1 plus this.
        saturation: likewise distances from each pixel's grey; of images with three channels.
        hue: turns of the colour circle, either way; of images with three channels.
        erase: side of a square, as a share of the image's sides, that takes the image's mean.
        chance: of an example to be changed at all.
        fill: what lies beyond the edges: the nearest pixel, the mirrored image, or black.
        black, white: values of these in the inputs; by default known or measured by whoever uses this.
    """

    crop: float = Field(default=1.0, gt=0, le=1)
    translate: float = Field(default=0.0, ge=0, le=0.5)
    rotate: float = Field(default=0.0, ge=0, le=180)
    scale: float = Field(default=1.0, ge=1, le=4)
    stretch: float = Field(default=1.0, ge=1, le=4)
    shear: float = Field(default=0.0, ge=0, le=60)
    lens: float = Field(default=0.0, ge=0, le=0.3)
    flip: float = Field(default=0.0, ge=0, le=1)
    brightness: float = Field(default=0.0, ge=0, le=1)
    contrast: float = Field(default=0.0, ge=0, le=1)
    saturation: float = Field(default=0.0, ge=0, le=1)
    hue: float = Field(default=0.0, ge=0, le=0.5)
    erase: float = Field(default=0.0, ge=0, lt=1)
    chance: float = Field(default=1.0, ge=0, le=1)
    fill: Literal["edge", "reflect", "black"] = "edge"
    black: float | None = None
    white: float | None = None

    @property
    def bends(self) -> bool:
        """Whether pixels move otherwise than in a mirror."""
        still = self.translate == self.rotate == self.shear == self.lens == 0
        return not (still and self.crop == self.scale == self.stretch == 1)

    @property
    def colours(self) -> bool:
        """Whether colours change."""
        return not self.brightness == self.contrast == self.saturation == self.hue == 0

    @property
    def on(self) -> bool:
        """Whether anything changes."""
        return self.chance > 0 and (self.bends or self.colours or self.flip > 0 or self.erase > 0)

    @property
    def needs_reach(self) -> bool:
        """Whether it matters what black and white are."""
        return self.colours or (self.bends and self.fill == "black")


@dataclass(frozen=True, kw_only=True)
class Parameters:
    """What happens to each example of a batch; every field is ``[B]``.

    Attributes:
        changed: whether anything does.
        right, down: whole pixels.
        angle, lean: radians; a positive angle turns against the clock.
        zoom, width: factors of both sides, and of the width, by which the height is divided.
        lens: the coefficient k.
        window: share of the sides that is seen; ``window_right``, ``window_down``: how far its centre is
            from the image's, as a share of the sides.
        mirrored: whether left and right change places.
        brightness, contrast, saturation, hue: an addend, two factors, and radians.
        erase_right, erase_down: centre of the erased square, from 0 to 1.
    """

    changed: npt.NDArray[np.bool_]
    right: Array
    down: Array
    angle: Array
    lean: Array
    zoom: Array
    width: Array
    lens: Array
    window: Array
    window_right: Array
    window_down: Array
    mirrored: npt.NDArray[np.bool_]
    brightness: Array
    contrast: Array
    saturation: Array
    hue: Array
    erase_right: Array
    erase_down: Array


def draw(
    settings: AugmentationSettings, indices: Tensor, size: tuple[int, int], *, seed: int, epoch: int
) -> Parameters:
    """Draw what happens to each example, a pure function of the seed, the epoch and its index.

    Every setting has a number of its own among an example's draws, so that turning one on leaves the others
    as they were.

    Args:
        settings: how far.
        indices: ``[B]``, whole numbers.
        size: height and width of the images.
        seed: of the run.
        epoch: from 0.

    >>> some = draw(AugmentationSettings(rotate=10.0), torch.tensor([5, 2]), (8, 8), seed=0, epoch=1)
    >>> alone = draw(AugmentationSettings(rotate=10.0), torch.tensor([2]), (8, 8), seed=0, epoch=1)
    >>> bool(some.angle[1] == alone.angle[0]), bool(abs(some.angle).max() <= np.radians(10))
    (True, True)

    Source: A6 (S), which names the changes; their ranges are ours.
    """
    lanes = indices.detach().to("cpu", torch.int64)
    drawn = streams.uniform((_DRAWS,), seed=seed, stream="augmentation", step=epoch, lane=lanes)
    u: Array = drawn.numpy().astype(np.float64).T
    height, width = size

    def either(number: int, most: float) -> Array:
        found: Array = (2 * u[number] - 1) * most
        return found

    def pixels(number: int, sides: int) -> Array:
        most = int(settings.translate * sides + 0.5)
        found: Array = np.floor(u[number] * (2 * most + 1)) - most
        return found

    window = 1 - u[8] * (1 - settings.crop)
    return Parameters(
        changed=u[0] < settings.chance,
        right=pixels(1, width),
        down=pixels(2, height),
        angle=np.radians(either(3, settings.rotate)),
        zoom=settings.scale ** either(4, 1),
        width=settings.stretch ** either(5, 1),
        lean=np.radians(either(6, settings.shear)),
        lens=either(7, settings.lens),
        window=window,
        window_right=(u[9] - 0.5) * (1 - window),
        window_down=(u[10] - 0.5) * (1 - window),
        mirrored=u[11] < settings.flip,
        brightness=either(12, settings.brightness),
        contrast=1 + either(13, settings.contrast),
        saturation=1 + either(14, settings.saturation),
        hue=either(15, settings.hue * 2 * np.pi),
        erase_right=u[16],
        erase_down=u[17],
    )
