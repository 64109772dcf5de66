"""Whether large nets end at equally good minima, and small ones don't."""

from __future__ import annotations

import torch
from torch import Tensor

from thalweg.claims.claim import Claim, Known, Numbers, Size
from thalweg.claims.paths import normal
from thalweg.claims.picture import Dots
from thalweg.claims.rules import less, more
from thalweg.secondorder.minimizing import minimize

__all__ = ["CLAIM", "measure"]


def measure(
    seed: int,
    *,
    small: int = 3,
    large: int = 60,
    starts: int = 24,
    iterations: int = 300,
    parity: bool = False,
) -> Numbers:
    """Fit a random net of five units by small and large ones from several starts; their final losses."""
    x = normal(200, 4, seed=seed, of="inputs")
    teacher = normal(5, 4, seed=seed, of="teacher"), normal(5, seed=seed, of="outputs")
    y = (x @ teacher[0].T).tanh() @ teacher[1]
    y = (y - y.mean()) / y.std()
    if parity:
        x = x.sign()
        y = x[:, 0] * x[:, 1]
    found = {}
    for name, units in (("small", small), ("large", large)):

        def losses(parameters: list[Tensor]) -> Tensor:
            w, b, v = parameters
            hidden = (torch.einsum("ni,kui->knu", x, w) + b[:, None]).tanh()
            return (torch.einsum("knu,ku->kn", hidden, v) - y).square().mean(1)

        start = [
            normal(starts, units, 4, seed=seed, of="w"),
            normal(starts, units, seed=seed, of="b"),
            normal(starts, units, seed=seed, of="v") / units**0.5,
        ]
        ends = minimize(losses, start, lanes=True, tolerance=1e-6, max_iterations=iterations).value
        assert isinstance(ends, Tensor)
        found[f"{name}_spread"] = float(ends.max() - ends.min())
        found[f"{name}_worst"] = float(ends.max())
    return {**found, "bar": 0.01}


CLAIM = Claim(
    title="Minima of large nets are nearly equivalent",
    topic="landscape",
    statement="Large nets end at minima that are nearly equal, and close to the global one, wherever they "
    "start. Small nets don't.",
    sources=("X2", "X13"),
    places="C s33-34; K",
    setup="Nets with 3 and with 60 tanh units fit 200 examples of a random net with 5 units, whose outputs "
    "have variance 1; 24 starts each, 300 steps of L-BFGS. The difference between the highest and the "
    "lowest final loss, and the highest.",
    against="A spread of large nets of 0.01 or more, or a worst loss of as much; or a spread of small nets "
    "that isn't larger by 0.01.",
    about="The lowest possible loss is zero for a net with five units or more. With many more units than are "
    "needed nearly every start has some that are near what is wanted; with few, a unit that has gone to "
    "the wrong place is missing elsewhere.",
    measure=measure,
    rule=(
        more("small_spread", "large_spread", by=0.01, said="spread of small nets less that of large ones"),
        less("large_worst", "bar", said="0.01 less the worst loss of large nets"),
    ),
    quick=Size(seeds=8),
    picture=Dots(
        values={
            "small_spread": "3 units: spread",
            "large_spread": "60 units: spread",
            "small_worst": "3 units: worst loss",
            "large_worst": "60 units: worst loss",
        },
        axis="final training loss",
    ),
    known=(
        Known(
            verdict="holds",
            why="two units can learn whether two signs are alike, and are known to get stuck at times",
            changes={"small": 2, "large": 20, "iterations": 60, "starts": 12, "parity": True},
            seeds=4,
        ),
        Known(
            verdict="does not hold",
            why="both sides are small",
            changes={"large": 3, "iterations": 50, "starts": 8},
        ),
    ),
)
