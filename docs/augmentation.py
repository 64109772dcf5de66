"""Draw what each change does to one photograph: ``make docs``.

The photograph is scikit-learn's ``china.jpg``, by danielbuechele, CC BY 2.0, cut to a square, smaller.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from sklearn.datasets import load_sample_image
from torch import Tensor

from thalweg.data.augmentation import augment

FILE = Path(__file__).parent / "images" / "augmentation.jpg"
CHANGES: tuple[tuple[str, dict[str, Any]], ...] = (
    ("crop", {"crop": 0.5}),
    ("translate", {"translate": 0.25}),
    ("rotate", {"rotate": 30}),
    ("scale", {"scale": 1.6}),
    ("stretch", {"stretch": 1.5}),
    ("shear", {"shear": 25}),
    ("lens", {"lens": 0.3}),
    ("flip", {"flip": 0.5}),
    ("brightness", {"brightness": 0.4}),
    ("contrast", {"contrast": 0.7}),
    ("saturation", {"saturation": 1.0}),
    ("hue", {"hue": 0.2}),
    ("erase", {"erase": 0.4}),
    ("all, mildly", {
        "crop": 0.8, "translate": 0.05, "rotate": 10, "scale": 1.1, "stretch": 1.1, "shear": 5, "lens": 0.1,
        "flip": 0.5, "brightness": 0.15, "contrast": 0.2, "saturation": 0.3, "hue": 0.03, "erase": 0.2,
        "fill": "reflect",
    }),
)  # fmt: skip

_SIDE, _GAP, _LABEL, _SHOWN, _ROWS = 76, 4, 96, 4, 7


def photograph() -> Tensor:
    """Return the photograph, ``[3, 76, 76]``, from 0 to 1."""
    square = Image.fromarray(load_sample_image("china.jpg")).crop((105, 15, 475, 385))
    pixels = np.asarray(square.resize((_SIDE, _SIDE), Image.Resampling.LANCZOS))
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1).float() / 255


def draw() -> Image.Image:
    """Draw a row for each change: its name, and the photograph as four examples of one epoch see it."""
    image = photograph()
    step = _SIDE + _GAP
    width = _LABEL + _SHOWN * step
    page = Image.new("RGB", (2 * width + _GAP, _ROWS * step + _GAP), "white")
    pen, font = ImageDraw.Draw(page), ImageFont.load_default(size=13)
    for number, (name, settings) in enumerate(CHANGES):
        left, top = number // _ROWS * width + _GAP, number % _ROWS * step + _GAP
        values = [str(value) for value in settings.values()] if len(settings) == 1 else []
        pen.multiline_text((left + 4, top + 22), "\n".join([name, *values]), "black", font, spacing=6)
        shown = augment(image.expand(_SHOWN, -1, -1, -1), range(_SHOWN), seed=323, **settings)
        for place, tile in enumerate(shown):
            pixels = (tile.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()
            page.paste(Image.fromarray(pixels), (left + _LABEL + place * step, top))
    return page


if __name__ == "__main__":
    draw().save(FILE, quality=80, optimize=True)
