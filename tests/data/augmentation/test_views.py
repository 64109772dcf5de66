"""Crops at test time, against slices that torch resizes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn import functional

from thalweg.data.augmentation import crops
from thalweg.errors import DataError, OptionError, UserError

pytest.importorskip("kornia")

IMAGES = torch.rand(3, 2, 16, 24, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_crops_are_windows_resized() -> None:
    """Windows of three quarters, 12 by 18 pixels; torch doesn't look beyond them."""
    found = crops(IMAGES, 10, window=0.75)
    assert found.shape == (10, 3, 2, 16, 24)
    places = [(2, 3), (0, 0), (0, 6), (4, 0), (4, 6)]
    for number, (top, left) in enumerate(places):
        cut = IMAGES[..., top : top + 12, left : left + 18]
        expected = functional.interpolate(cut, size=(16, 24), mode="bilinear", align_corners=False)
        inside = (..., slice(1, -1), slice(1, -1))
        torch.testing.assert_close(found[number][inside], expected[inside], rtol=0, atol=1e-12)
    assert torch.equal(crops(IMAGES, 5, window=0.75), found[:5])
    mirrored = crops(IMAGES.flip(-1), 5, window=0.75)
    torch.testing.assert_close(found[5:], mirrored, rtol=0, atol=1e-12)


def test_one_crop_is_the_image() -> None:
    assert torch.equal(crops(IMAGES, 1), IMAGES[None])


@pytest.mark.parametrize(
    ("inputs", "options", "kind", "words"),
    [
        (IMAGES, {"count": 7}, OptionError, "7 crops aren't known: 5 are the centre and the corners"),
        (
            IMAGES,
            {"window": 1.5},
            OptionError,
            "window = 1.5 isn't allowed: a crop is smaller",
        ),
        (IMAGES[0, 0], {}, DataError, r"crops are of images.*shape \[24\]: predict without"),
        (IMAGES.to(torch.uint8), {}, DataError, "torch.uint8"),
    ],
)
def test_what_is_refused(inputs: Any, options: Any, kind: type[UserError], words: str) -> None:
    with pytest.raises(kind, match=words):
        crops(inputs, **options)
