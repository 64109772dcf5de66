"""Larger batches take more examples a second through a net."""

from __future__ import annotations

from collections.abc import Callable

import torch

from thalweg.claims.claim import Claim, Known, Numbers, Size
from thalweg.claims.nets import mlp, seconds_of_steps
from thalweg.claims.picture import Dots
from thalweg.claims.rules import more

__all__ = ["CLAIM", "measure"]

_SIZES = (1, 4, 16, 64, 256, 1024)


def measure(
    seed: int, *, small: int, large: int, seconds: Callable[..., list[float]] = seconds_of_steps
) -> Numbers:
    """Time training steps at each size; ``seconds`` of one each."""
    net = mlp(64, 128, 128, 10, seed=seed)
    took = seconds(net, [torch.randn(size, 64) for size in _SIZES])
    pace = {size: size / each for size, each in zip(_SIZES, took, strict=True)}
    return {
        "doublings": (
            torch.tensor(pace[large] / pace[small]).log2() / torch.tensor(large / small).log2()
        ).item(),
    }


CLAIM = Claim(
    title="Throughput grows with the batch",
    topic="noise",
    statement="Hardware takes more examples a second through a net in larger batches.",
    sources=("E2", "X13"),
    places="K",
    setup="Gradients of a net 64-128-128-10 at batches of 1 to 1024 on one core, sizes in turn, the shortest "
    "of many rounds. What counts is by which power of two throughput grows when the batch doubles: 1 where a "
    "step takes the same time whatever its batch, 0 where time grows with the batch. It is judged from 1 to "
    "16, from 16 to 64, and on to 1024.",
    against="A throughput that doesn't grow by at least a twentieth of a doubling.",
    about="A step has costs that don't depend on its batch: calls, and reading the weights. Once the "
    "arithmetic itself takes longer than these, more examples save nothing. On one core that is soon; an "
    "accelerator with thousands of units is full much later.",
    measure=measure,
    rule=(more("doublings", by=0.05, said="doublings of throughput for each doubling of the batch"),),
    conditions={
        "from 1 to 16 examples": {"small": 1, "large": 16},
        "from 16 to 64": {"small": 16, "large": 64},
        "from 64 to 1024": {"small": 64, "large": 1024},
    },
    quick=Size(seeds=8),
    picture=Dots(
        values={"doublings": "for each doubling of the batch"}, axis="doublings of throughput", mark=0.0
    ),
    known=(
        Known(
            verdict="holds",
            why="a made-up clock: a step takes one second, and a hundredth more for each example",
            changes={"seconds": lambda net, batches: [1 + len(one) / 100 for one in batches]},
            conditions=("from 1 to 16 examples",),
        ),
        Known(
            verdict="does not hold",
            why="a made-up clock by which each example takes one second",
            changes={"seconds": lambda net, batches: [1.0 * len(one) for one in batches]},
        ),
    ),
)
