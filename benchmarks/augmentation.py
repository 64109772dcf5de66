"""Augmenting a batch of 64 images, against a training step of a small convolutional net on it.

    python -m benchmarks.augmentation --json benchmarks/results/augmentation.json

What is timed is ``augment_by`` as the strategy calls it, draws included. In each round every contender takes
one block of calls, in an order drawn anew; the share of a step is computed within a round.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from benchmarks import records
from benchmarks.step_kernels import interleave

from thalweg.data.augmentation import AugmentationSettings, augment_by
from thalweg.layers import models

SHAPES = {"64 of 1x28x28": (64, 1, 28, 28), "64 of 3x32x32": (64, 3, 32, 32)}
WARP: dict[str, Any] = {
    "crop": 0.8, "translate": 0.1, "rotate": 10, "scale": 1.1, "stretch": 1.1, "shear": 5,
}  # fmt: skip
COLOURS: dict[str, Any] = {"brightness": 0.2, "contrast": 0.2}
KINDS: dict[str, dict[str, Any]] = {
    "flip": {"flip": 0.5},
    "warp": WARP,
    "warp and lens": {**WARP, "lens": 0.1},
    "brightness, contrast": COLOURS,
    "erase": {"erase": 0.3},
    "warp, brightness, contrast": {**WARP, **COLOURS},
    "saturation": {"saturation": 0.3},
    "hue": {"hue": 0.05},
}
MODEL = "cnn:16,32"


def contenders(shape: tuple[int, ...]) -> dict[str, Callable[[], None]]:
    """Return the training step, and every kind of change that images of this shape have."""
    torch.manual_seed(0)
    images, indices, targets = torch.rand(shape), torch.arange(shape[0]), torch.arange(shape[0]) % 10
    model = models.build(MODEL, shape[1:], 10)
    optimizer = torch.optim.Adam(model.parameters())

    def step() -> None:
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(images), targets).backward()
        optimizer.step()

    def change(settings: AugmentationSettings) -> None:
        augment_by(settings, images, indices, seed=0, epoch=0)

    kinds = {
        name: partial(change, AugmentationSettings(**settings))
        for name, settings in KINDS.items()
        if shape[1] == 3 or name not in ("saturation", "hue")
    }
    return {"step": step, **kinds}


def main() -> None:
    """Run the comparison and write what was found."""
    parser = records.parser(__doc__)
    parser.add_argument("--rounds", type=int, default=21, help="rounds of interleaved blocks (default 21)")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()

    torch.set_num_threads(arguments.threads)
    results = records.begin("kornia", rounds=arguments.rounds, threads=arguments.threads, model=MODEL)
    results["shapes"] = {}
    for label, shape in SHAPES.items():
        seconds = interleave({}, contenders(shape), 1, arguments.rounds)
        steps = seconds["step"]
        found = {
            name: {
                "milliseconds": records.spread(values, 1e3),
                "share_of_a_step": records.ratio(values, steps),
            }
            for name, values in seconds.items()
        }
        results["shapes"][label] = found
        for name, each in found.items():
            share = records.said(each["share_of_a_step"], ".3f")
            print(
                f"{label} {name:27s} {each['milliseconds']['median']:8.3f} ms, of a step {share}", flush=True
            )
    records.end(results, arguments.json)


if __name__ == "__main__":
    main()
