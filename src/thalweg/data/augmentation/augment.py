"""Images changed at random, so that a model learns what doesn't matter."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from thalweg.data.augmentation.bounds import AugmentationSettings, draw
from thalweg.data.augmentation.colour import erase, recolour
from thalweg.data.augmentation.geometry import kornia, matrices, warp
from thalweg.errors import DataError, OptionError
from thalweg.settings.tables import settle

__all__ = ["Reach", "augment", "augment_by", "check", "check_images", "reach_of"]

Reach = tuple[Tensor, Tensor]
"""Black and white: the values ``[C]`` that stand for them in inputs."""


def augment(
    images: Tensor,
    indices: Tensor | Sequence[int],
    *,
    seed: int,
    epoch: int = 0,
    reach: Reach | None = None,
    **settings: Any,
) -> Tensor:
    """Change each image at random, as far as the settings go.

    What happens to an example is a pure function of ``(seed, epoch, index)``: neither the batch that it
    stands in nor a process nor a device matters. All that moves pixels is one warp, with one interpolation;
    colours come after, erasing last. What isn't set stays off, and with nothing set the images come back as
    they are.

    Args:
        images: ``[B, C, H, W]``, of a floating type.
        indices: ``[B]``: which example each of them is.
        seed: of the run.
        epoch: from 0.
        reach: values of black and white in the inputs, ``[C]`` each, where ``settings`` don't give them;
            by default 0 and 1.
        settings: those of :class:`~thalweg.data.augmentation.bounds.AugmentationSettings`.

    Returns:
        ``[B, C, H, W]``; the images given are left as they are.

    Raises:
        OptionError: an unknown setting, a value out of range, or colours that these images don't have; or
            kornia isn't installed.
        DataError: these are no images.

    >>> images = torch.rand(4, 1, 8, 8)
    >>> changed = augment(images, [10, 11, 12, 13], seed=0, epoch=2, rotate=15, translate=0.1)
    >>> alone = augment(images[2:3], [12], seed=0, epoch=2, rotate=15, translate=0.1)
    >>> changed.shape, torch.allclose(changed[2:3], alone)
    (torch.Size([4, 1, 8, 8]), True)

    Source: A6 (S).
    """
    wanted: AugmentationSettings = settle(AugmentationSettings, "augmentation", **settings)
    check(wanted)
    return augment_by(wanted, images, torch.as_tensor(indices), seed=seed, epoch=epoch, reach=reach)


def augment_by(
    settings: AugmentationSettings,
    images: Tensor,
    indices: Tensor,
    *,
    seed: int,
    epoch: int,
    reach: Reach | None = None,
) -> Tensor:
    """:func:`augment` by settings that are made already."""
    check_images(images, settings)
    if len(indices) != len(images):
        raise DataError(f"there are {len(images)} images but {len(indices)} indices; give one for each")
    if not settings.on:
        return images
    given = images
    if images.dtype not in (torch.float32, torch.float64):
        images = images.float()
    size = images.shape[-2], images.shape[-1]
    drawn = draw(settings, indices, size, seed=seed, epoch=epoch)
    black, white = _reach(settings, reach)
    result = images
    if settings.bends:
        lens = drawn.lens if settings.lens else None
        result = warp(result, matrices(drawn, size), lens, fill=settings.fill, black=black)
    elif settings.flip:
        mirrored = torch.from_numpy(drawn.mirrored).to(images.device)
        result = torch.where(mirrored[:, None, None, None], result.flip(-1), result)
    if settings.colours:
        result = recolour(result, settings, drawn, black, white)
    if settings.erase:
        result = erase(result, settings.erase, drawn)
    if settings.chance < 1:
        changed = torch.from_numpy(drawn.changed).to(images.device)
        result = torch.where(changed[:, None, None, None], result, images)
    return result.to(given.dtype)


def check(settings: AugmentationSettings) -> None:
    """Refuse settings that contradict each other.

    Raises:
        OptionError: one sentence.
    """
    black, white = settings.black, settings.white
    if (black is None) != (white is None):
        raise OptionError("augmentation: black and white belong together; give both, or none to measure them")
    if black is not None and white is not None and not black < white:
        raise OptionError(
            f"augmentation: black is {black} and white is {white}; white must be the larger one"
        )


def check_images(inputs: Any, settings: AugmentationSettings) -> None:
    """Refuse inputs that can't be changed as these settings want it.

    Raises:
        DataError: they are no images ``[B, C, H, W]`` of a floating type.
        OptionError: colours that they don't have; or kornia isn't installed.
    """
    if not isinstance(inputs, Tensor) or inputs.ndim != 4:
        what = f"of shape {list(inputs.shape[1:])}" if isinstance(inputs, Tensor) else type(inputs).__name__
        raise DataError(
            "augmentation is for images, one tensor with [channels, height, width] for each example; the "
            f"inputs here are {what}: leave it out"
        )
    if not inputs.is_floating_point():
        raise DataError(
            f"augmentation mixes neighbouring pixels, which {inputs.dtype} can't hold; give images of a "
            "floating type"
        )
    channels = inputs.shape[1]
    for name in ("saturation", "hue"):
        if getattr(settings, name) and channels != 3:
            raise OptionError(
                f"augmentation: {name} is of colours, red, green and blue, but these images have {channels} "
                f"{'channel' if channels == 1 else 'channels'}; leave it out"
            )
    if settings.bends or settings.colours:
        kornia()


def reach_of(batches: Iterable[Tensor]) -> Reach:
    """Return the smallest and the largest value of each channel, as black and white.

    Standardised pixels reach from what black has become to what white has, so that colours mean the same
    whatever was done to the pixels before. A channel of one value counts as reaching 1 further.

    Args:
        batches: images ``[B, C, H, W]``.

    >>> reach_of([torch.tensor([0.0, 255.0]).reshape(2, 1, 1, 1) / 100 - 1])
    (tensor([-1.]), tensor([1.5500]))
    """
    black = white = torch.zeros(0)
    for images in batches:
        low, high = images.amin((0, 2, 3)), images.amax((0, 2, 3))
        if black.numel():
            low, high = torch.minimum(black, low), torch.maximum(white, high)
        black, white = low, high
    return black, torch.where(white > black, white, black + 1)


def _reach(settings: AugmentationSettings, reach: Reach | None) -> Reach:
    if settings.black is not None and settings.white is not None:
        return torch.tensor(settings.black), torch.tensor(settings.white)
    return (torch.tensor(0.0), torch.tensor(1.0)) if reach is None else reach
