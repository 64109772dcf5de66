"""Whether batches of a power of two are quicker than their neighbours."""

from __future__ import annotations

import statistics
from collections.abc import Callable

import torch

from thalweg.claims.claim import Claim, Known, Numbers, Size
from thalweg.claims.nets import mlp, seconds_of_steps
from thalweg.claims.picture import Dots
from thalweg.claims.rules import more

__all__ = ["CLAIM", "measure"]


def measure(seed: int, *, size: int, seconds: Callable[..., list[float]] = seconds_of_steps) -> Numbers:
    """Time training steps at a power of two and one and two examples beside it."""
    sizes = [size, size - 2, size - 1, size + 1, size + 2]
    took = seconds(mlp(64, 128, 128, 10, seed=seed), [torch.randn(each, 64) for each in sizes])
    power, *others = [1e6 * each / many for each, many in zip(took, sizes, strict=True)]
    return {"power": power, "others": statistics.fmean(others), "saved": 1 - power / statistics.fmean(others)}


CLAIM = Claim(
    title="Powers of two suit hardware",
    topic="noise",
    statement="A batch of a power of two costs less time for an example than one of nearly as many.",
    sources=("E2", "X13"),
    places="K",
    setup="Gradients of a net 64-128-128-10 on one core, at a power of two and at one and two examples more "
    "and less, sizes in turn, the shortest of many rounds. What counts is the time for an example.",
    against="A saving below two in a hundred.",
    about="Vector units and blocks of matrix products are as wide as powers of two, and what doesn't fill "
    "them is padded. How much of a step this is depends on the hardware: on a processor's core it is a "
    "single row of many, on units that multiply whole blocks at once it can be a full block.",
    measure=measure,
    rule=(more("saved", by=0.0, matters=0.02, said="share of the time saved"),),
    conditions={f"{size} examples": {"size": size} for size in (16, 64, 256)},
    quick=Size(seeds=24),
    picture=Dots(values={"power": "power of two", "others": "beside it"}, axis="microseconds an example"),
    known=(
        Known(
            verdict="holds",
            why="a made-up clock by which batches are padded to whole blocks of 16",
            changes={"seconds": lambda net, batches: [float(-(-len(one) // 16)) for one in batches]},
        ),
        Known(
            verdict="does not hold",
            why="a made-up clock by which each example takes one second",
            changes={"seconds": lambda net, batches: [1.0 * len(one) for one in batches]},
        ),
    ),
)
