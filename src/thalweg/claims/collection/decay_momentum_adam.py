"""Whether a falling rate matters more for momentum than for Adam."""

from __future__ import annotations

import torch

from thalweg.claims.claim import Claim, Known, Numbers, Size
from thalweg.claims.nets import best, drawn, mlp
from thalweg.claims.picture import Dots
from thalweg.claims.rules import more
from thalweg.execution.sweep import sweep
from thalweg.randomness import streams

__all__ = ["CLAIM", "measure"]


def measure(
    seed: int,
    *,
    epochs: int = 8,
    examples: int = 8000,
    momentum: tuple[float, ...] = (3e-3, 1e-2, 3e-2, 0.1, 0.3),
    adam: tuple[float, ...] = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2),
) -> Numbers:
    """Train both with fixed and falling rates, each at the best of as many."""
    inputs = drawn(examples, 20, seed=seed, of="inputs").float()
    with torch.no_grad():
        chances = (3 * mlp(20, 20, 5, seed=10_000 + seed)(inputs)).softmax(-1)
    uniform = streams.uniform((examples, 1), seed=seed, stream="claims/labels")
    targets = (chances.cumsum(-1) < uniform).sum(-1).clamp(max=4)
    settings = [
        {"optimizer": name, "lr": list(rates), "schedule": ["constant", "cosine"]}
        for name, rates in (("momentum", momentum), ("adam", adam))
    ]
    found = sweep(
        "mlp:64",
        (inputs, targets),
        settings,
        seeds=[seed],
        seed=seed,
        epochs=epochs,
        batch_size=16,
        evaluations=1,
        metric="log-loss",
        test=True,
        engine="lanes",
    )
    ends = {
        f"{name}_{schedule}": best(found, optimizer=name, schedule=schedule)["test"]
        for name in ("momentum", "adam")
        for schedule in ("constant", "cosine")
    }
    gains = {
        f"{name}_gain": ends[f"{name}_constant"] - ends[f"{name}_cosine"] for name in ("momentum", "adam")
    }
    return {**ends, **gains}


CLAIM = Claim(
    title="Decay matters more for momentum than for Adam",
    topic="noise",
    statement="A rate that falls is more critical for descent with momentum than for Adam.",
    sources=("X12", "R1", "R2", "R3"),
    places="S",
    setup="A net of 64 ReLU units learns five classes that another net gives at random by its probabilities, "
    "so that no net fits all. Either optimizer trains at five rates in steps of about three, fixed and "
    "falling by half a cosine, and the best by validation loss is taken of each. What counts is by how much "
    "decay lowers the test loss of either.",
    against="A gain of momentum that isn't larger than Adam's by at least 0.002, or that is none.",
    about="Both walk on noisy gradients, and both end as far from the minimum as their last steps are long. "
    "Adam's steps are divided by the size of the noise, which doesn't make them any shorter towards the end.",
    measure=measure,
    rule=(
        more("momentum_gain", by=0.0, matters=0.002, said="test loss that decay saves momentum"),
        more(
            "momentum_gain",
            "adam_gain",
            by=0.0,
            matters=0.002,
            said="what decay saves momentum less what it saves Adam",
        ),
    ),
    quick=Size(seeds=20),
    full=Size(seeds=60),
    picture=Dots(
        values={"momentum_gain": "momentum", "adam_gain": "Adam"}, axis="test loss that decay saves"
    ),
    known=(
        Known(
            verdict="holds",
            why="at so small a rate Adam learns nothing, with decay or without",
            changes={"epochs": 3, "examples": 3000, "momentum": (0.1,), "adam": (1e-12,)},
            seeds=5,
        ),
        Known(
            verdict="does not hold",
            why="at so small a rate momentum learns nothing, with decay or without",
            changes={"epochs": 3, "examples": 3000, "momentum": (1e-12,), "adam": (0.03,)},
        ),
    ),
)
