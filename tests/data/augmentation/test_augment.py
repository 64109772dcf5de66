"""Augmentation: what is drawn, for whom, colours by their formulas, and what is refused."""

from __future__ import annotations

import colorsys
import sys
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from thalweg.data.augmentation import AugmentationSettings, augment, reach_of
from thalweg.data.augmentation.augment import check_images
from thalweg.data.augmentation.bounds import Parameters, draw
from thalweg.data.augmentation.colour import erase, recolour
from thalweg.data.augmentation.geometry import kornia
from thalweg.errors import DataError, OptionError, UserError

pytest.importorskip("kornia")

FULL: dict[str, Any] = {
    "crop": 0.7, "translate": 0.2, "rotate": 20, "scale": 1.3, "stretch": 1.2, "shear": 15, "lens": 0.2,
    "flip": 0.5, "brightness": 0.2, "contrast": 0.3, "saturation": 0.5, "hue": 0.1, "erase": 0.3,
    "chance": 0.8, "fill": "reflect",
}  # fmt: skip
GENERATOR = torch.Generator().manual_seed(0)
IMAGES = torch.rand(12, 3, 10, 14, generator=GENERATOR)
NUMBER, ZERO, ONE = torch.arange(12) * 7, torch.tensor(0.0), torch.tensor(1.0)


# What is drawn ---------------------------------------------------------------------------------------------


def fields(parameters: Parameters) -> dict[str, Any]:
    return {name: getattr(parameters, name) for name in Parameters.__dataclass_fields__}


def test_draws_depend_on_seed_epoch_and_index_alone() -> None:
    settings = AugmentationSettings(**FULL)
    whole = fields(draw(settings, NUMBER, (10, 14), seed=3, epoch=5))
    order = torch.randperm(12, generator=GENERATOR)[:5]
    for name, values in fields(draw(settings, NUMBER[order], (10, 14), seed=3, epoch=5)).items():
        assert (values == whole[name][order.numpy()]).all(), name
    for other in ({"seed": 4, "epoch": 5}, {"seed": 3, "epoch": 6}):
        different = fields(draw(settings, NUMBER, (10, 14), **other))
        assert all((values != whole[name]).any() for name, values in different.items() if name != "changed")


def test_images_do_not_depend_on_their_batch() -> None:
    whole = augment(IMAGES, NUMBER, seed=1, epoch=2, **FULL)
    for chosen in ([3], [11, 0, 4, 7, 2], list(range(11, -1, -1))):
        torch.testing.assert_close(
            augment(IMAGES[chosen], NUMBER[chosen], seed=1, epoch=2, **FULL), whole[chosen]
        )


def test_one_setting_leaves_the_draws_of_the_others() -> None:
    both = draw(AugmentationSettings(rotate=9, lens=0.1), NUMBER, (8, 8), seed=0, epoch=0)
    one = draw(AugmentationSettings(lens=0.1), NUMBER, (8, 8), seed=0, epoch=0)
    assert (both.lens == one.lens).all()
    assert (one.angle == 0).all()


def uniform(values: Any, low: float, high: float) -> None:
    """Range, mean and variance of a uniform distribution, 4 standard errors of 20 000 draws apart at most."""
    n = len(values)
    assert low <= values.min() < low + 0.01 * (high - low)
    assert high - 0.01 * (high - low) < values.max() <= high
    assert abs(values.mean() - (low + high) / 2) < 4 * (high - low) / np.sqrt(12 * n)
    assert values.var() == pytest.approx((high - low) ** 2 / 12, rel=0.03)


def test_ranges_and_moments() -> None:
    p = draw(AugmentationSettings(**FULL), torch.arange(20_000), (10, 15), seed=0, epoch=0)
    assert sorted(set(p.right.tolist())) == list(range(-3, 4))
    assert sorted(set(p.down.tolist())) == [-2, -1, 0, 1, 2]
    assert np.bincount(p.down.astype(int) + 2) == pytest.approx(4000, rel=0.08)
    uniform(p.angle, -np.radians(20), np.radians(20))
    uniform(p.lean, -np.radians(15), np.radians(15))
    uniform(np.log(p.zoom), -np.log(1.3), np.log(1.3))
    uniform(np.log(p.width), -np.log(1.2), np.log(1.2))
    uniform(p.lens, -0.2, 0.2)
    uniform(p.window, 0.7, 1.0)
    uniform(p.window_right / (1 - p.window), -0.5, 0.5)
    uniform(p.window_down / (1 - p.window), -0.5, 0.5)
    uniform(p.brightness, -0.2, 0.2)
    uniform(p.contrast, 0.7, 1.3)
    uniform(p.saturation, 0.5, 1.5)
    uniform(p.hue, -0.2 * np.pi, 0.2 * np.pi)
    uniform(p.erase_right, 0.0, 1.0)
    uniform(p.erase_down, 0.0, 1.0)
    assert p.mirrored.mean() == pytest.approx(0.5, abs=0.015)
    assert p.changed.mean() == pytest.approx(0.8, abs=0.012)
    drawn = np.stack([value.astype(float) for value in fields(p).values()])
    off = np.corrcoef(drawn) - np.eye(len(drawn))
    assert abs(off).max() < 0.035


# What happens to images ------------------------------------------------------------------------------------


def test_zero_strength_is_the_identity_to_the_bit() -> None:
    assert augment(IMAGES, NUMBER, seed=0) is IMAGES
    none = {"crop": 1.0, "translate": 0.0, "rotate": 0.0, "scale": 1.0, "brightness": 0.0, "chance": 1.0}
    assert torch.equal(augment(IMAGES, NUMBER, seed=0, **none), IMAGES)
    assert torch.equal(augment(IMAGES, NUMBER, seed=0, **{**FULL, "chance": 0.0}), IMAGES)


def test_what_is_not_changed_comes_back_to_the_bit_and_the_given_stays() -> None:
    before = IMAGES.clone()
    found = augment(IMAGES, NUMBER, seed=0, **{**FULL, "chance": 0.5})
    assert torch.equal(IMAGES, before)
    settings = AugmentationSettings(**{**FULL, "chance": 0.5})
    changed = draw(settings, NUMBER, (10, 14), seed=0, epoch=0).changed
    assert 0 < changed.sum() < 12
    same = [torch.equal(a, b) for a, b in zip(found, IMAGES, strict=True)]
    assert same == (~changed).tolist()


def test_mirrors_alone_move_whole_pixels() -> None:
    found = augment(IMAGES, NUMBER, seed=0, flip=0.5)
    mirrored = draw(AugmentationSettings(flip=0.5), NUMBER, (10, 14), seed=0, epoch=0).mirrored
    assert 0 < mirrored.sum() < 12
    for number, image in enumerate(found):
        assert torch.equal(image, IMAGES[number].flip(-1) if mirrored[number] else IMAGES[number])


def test_standardized_images_move_and_change_colour_as_the_pixels_do() -> None:
    """Standardizing and augmenting are the same in either order, black and white being what is reached."""
    mean, std = torch.rand(3, 1, 1), torch.rand(3, 1, 1) + 0.5
    pixels = IMAGES.clone()
    pixels[0, :, 0, 0], pixels[0, :, 0, 1] = 0.0, 1.0
    for fill in ("edge", "reflect", "black"):
        settings = {**FULL, "fill": fill, "erase": 0.4}
        standardized = (pixels - mean) / std
        found = augment(standardized, NUMBER, seed=0, reach=reach_of([standardized]), **settings)
        expected = (augment(pixels, NUMBER, seed=0, **settings) - mean) / std
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    given = augment(pixels * 255, NUMBER, seed=0, black=0.0, white=255.0, **FULL)
    torch.testing.assert_close(given / 255, augment(pixels, NUMBER, seed=0, **FULL), rtol=1e-4, atol=1e-5)


def test_half_precision_is_computed_in_single() -> None:
    half = IMAGES.bfloat16()
    found = augment(half, NUMBER, seed=0, **FULL)
    assert found.dtype == torch.bfloat16
    assert torch.equal(found, augment(half.float(), NUMBER, seed=0, **FULL).bfloat16())


def test_what_the_reach_is() -> None:
    black, white = reach_of([IMAGES[:5], IMAGES[5:]])
    assert torch.equal(black, IMAGES.amin((0, 2, 3)))
    assert torch.equal(white, IMAGES.amax((0, 2, 3)))
    assert reach_of([torch.full((2, 1, 2, 2), 3.0)])[1].tolist() == [4.0]


def colours(**given: float) -> Tensor:
    """What one change of colour makes of the images, each by as much."""
    settings = AugmentationSettings(**dict.fromkeys(given, 0.5))
    drawn = draw(settings, NUMBER, (10, 14), seed=0, epoch=0)
    for name, value in given.items():
        getattr(drawn, name)[:] = value
    return recolour(IMAGES.double(), settings, drawn, ZERO, ONE)


WEIGHTS = torch.tensor([0.299, 0.587, 0.114], dtype=torch.float64)[:, None, None]


def test_brightness_contrast_and_saturation_are_their_formulas() -> None:
    p = IMAGES.double()
    torch.testing.assert_close(colours(brightness=0.3), (p + 0.3).clamp(0, 1))
    torch.testing.assert_close(colours(brightness=-0.3), (p - 0.3).clamp(0, 1))
    grey = (WEIGHTS * p).sum(1, keepdim=True)
    mean = grey.mean((2, 3), keepdim=True)
    torch.testing.assert_close(colours(contrast=1.4), (mean + 1.4 * (p - mean)).clamp(0, 1))
    torch.testing.assert_close(colours(saturation=0.0), grey.expand_as(p))
    torch.testing.assert_close(colours(saturation=1.5), (grey + 1.5 * (p - grey)).clamp(0, 1))


@pytest.mark.parametrize("turn", [0.25, -0.1, 0.5])
def test_hue_turns_in_the_cone_of_pythons_colorsys(turn: float) -> None:
    found = colours(hue=turn * 2 * np.pi)[:2].permute(0, 2, 3, 1).reshape(-1, 3)
    for pixel, result in zip(IMAGES[:2].double().permute(0, 2, 3, 1).reshape(-1, 3), found, strict=True):
        hue, saturation, value = colorsys.rgb_to_hsv(*pixel.tolist())
        expected = colorsys.hsv_to_rgb((hue + turn) % 1, saturation, value)
        assert result.tolist() == pytest.approx(expected, abs=1e-6)


def test_contrast_of_one_channel_is_about_its_mean() -> None:
    settings = AugmentationSettings(contrast=0.5)
    drawn = draw(settings, NUMBER, (10, 14), seed=0, epoch=0)
    p = IMAGES[:, :1].double()
    c, mean = torch.from_numpy(drawn.contrast)[:, None, None, None], p.mean((2, 3), keepdim=True)
    torch.testing.assert_close(recolour(p, settings, drawn, ZERO, ONE), (mean + c * (p - mean)).clamp(0, 1))


def test_erased_squares_have_their_size_and_the_mean() -> None:
    drawn = draw(AugmentationSettings(erase=0.5), NUMBER, (10, 14), seed=0, epoch=0)
    found = erase(IMAGES, 0.5, drawn)
    for number in range(12):
        top = int(drawn.erase_down[number] * 10) - 2
        left = int(drawn.erase_right[number] * 14) - 3
        expected = IMAGES[number].clone()
        expected[:, max(0, top) : top + 5, max(0, left) : left + 7] = IMAGES[number].mean((1, 2))[
            :, None, None
        ]
        torch.testing.assert_close(found[number], expected)


# What is refused -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"crop": 1.5}, "augmentation: crop is 1.5, but must be less than or equal to 1"),
        ({"crop": 0.0}, "crop is 0.0, but must be greater than 0"),
        ({"flip": 2}, "flip is 2, but must be less than or equal to 1"),
        ({"chance": -0.5}, "chance is -0.5"),
        ({"rotation": 10}, "no setting 'rotation'; did you mean 'rotate'"),
        ({"scale": 0.8}, "scale is 0.8, but must be greater than or equal to 1"),
        ({"fill": "grey"}, "fill is 'grey', but must be 'edge', 'reflect' or 'black'"),
        ({"rotate": float("nan")}, "rotate is nan, but must be a finite number"),
        ({"black": 0.0}, "black and white belong together"),
        ({"black": 1.0, "white": 1.0}, "white must be the larger one"),
    ],
)
def test_bad_settings_are_refused(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(OptionError, match=words):
        augment(IMAGES, NUMBER, seed=0, **settings)


@pytest.mark.parametrize(
    ("inputs", "settings", "words"),
    [
        (torch.zeros(4, 7), {"rotate": 1}, r"images.*the inputs here are of shape \[7\]: leave it out"),
        ({"x": IMAGES}, {"rotate": 1}, "the inputs here are dict"),
        (IMAGES.to(torch.uint8), {"rotate": 1}, r"torch.uint8 can't hold"),
        (IMAGES[:, :1], {"hue": 0.1}, "hue is of colours.*1 channel; leave it out"),
        (IMAGES[:, :2], {"saturation": 0.1}, "these images have 2 channels"),
    ],
)
def test_what_are_no_images_is_refused(inputs: Any, settings: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        check_images(inputs, AugmentationSettings(**settings))


def test_an_index_for_each_image() -> None:
    with pytest.raises(DataError, match="12 images but 3 indices"):
        augment(IMAGES, [1, 2, 3], seed=0, rotate=5)


def test_without_kornia_it_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    kornia.cache_clear()
    with monkeypatch.context() as patched:
        patched.setitem(sys.modules, "kornia", None)
        patched.setitem(sys.modules, "kornia.enhance", None)
        with pytest.raises(OptionError, match="needs kornia, which isn't installed here; pip install kornia"):
            augment(IMAGES, NUMBER, seed=0, rotate=5)
        assert torch.equal(augment(IMAGES, NUMBER, seed=0, flip=1.0), IMAGES.flip(-1))
    assert augment(IMAGES, NUMBER, seed=0, rotate=5).shape == IMAGES.shape


@pytest.mark.parametrize(("height", "width", "down", "right"), [(28, 32, 3, 3), (24, 36, 2, 4), (4, 5, 0, 1)])
def test_translations_reach_the_nearest_whole_share_and_are_all_as_likely(
    height: int, width: int, down: int, right: int
) -> None:
    """A tenth of 28 pixels is 3, of 24 it is 2; all whole numbers up to that have the same chance."""
    n = 21_000
    drawn = draw(AugmentationSettings(translate=0.1), torch.arange(n), (height, width), seed=0, epoch=0)
    for values, most in ((drawn.down, down), (drawn.right, right)):
        seen, counts = np.unique(values, return_counts=True)
        assert seen.tolist() == list(range(-most, most + 1))
        expected = n / len(seen)
        # chi-square with at most 8 degrees of freedom: 35 has a chance below 3e-5
        assert ((counts - expected) ** 2 / expected).sum() < 35
