"""Sparse initial weights keep the scale of a unit's input whatever the width of the layer below."""

from __future__ import annotations

import torch

from thalweg.claims.claim import Claim, Known, Numbers
from thalweg.claims.nets import drawn
from thalweg.claims.picture import Lines
from thalweg.claims.rules import less, near
from thalweg.initial import draw

__all__ = ["CLAIM", "measure"]

_WIDTHS = (32, 64, 128, 256, 512, 1024)


def measure(seed: int, *, part: float | None = None, most: int = 1024) -> Numbers:
    """Draw layers of each width; ``part``: of the weights aren't zero, in place of 15."""
    widths = [width for width in _WIDTHS if width <= most]
    found: dict[str, list[float]] = {
        "sparse": [],
        "gaussian": [],
        "sparse_weight": [],
        "normalized_weight": [],
    }
    for width in widths:
        inputs = drawn(64, width, seed=seed, of=f"inputs {width}")
        k = 15 if part is None else round(part * width)
        sparse = draw((256, width), "sparse", k=k, seed=seed, dtype=torch.float64)
        gaussian = draw((256, width), "gaussian", scale=0.3, seed=seed, dtype=torch.float64)
        normalized = draw((width, width), "normalized", seed=seed, dtype=torch.float64)
        found["sparse"].append((inputs @ sparse.T).std().item())
        found["gaussian"].append((inputs @ gaussian.T).std().item())
        found["sparse_weight"].append(sparse[sparse != 0].square().mean().sqrt().item())
        found["normalized_weight"].append(normalized.square().mean().sqrt().item())
    across = torch.tensor(widths, dtype=torch.float64).log()
    rows = torch.stack((across, torch.ones_like(across)), 1)
    slopes = {
        f"{name}_slope": torch.linalg.lstsq(rows, torch.tensor(values).double().log()).solution[0].item()
        for name, values in found.items()
    }
    return {**slopes, **found, "widths": widths}


CLAIM = Claim(
    title="Sparse weights don't depend on the width",
    topic="starting",
    statement="With a fixed number of nonzero weights into each unit the scale of its input doesn't depend "
    "on how many there could be, and the weights themselves stay as large, where normalized ones become very "
    "small.",
    sources=("I4",),
    places="K",
    setup="Layers with 32 to 1024 inputs of variance 1, drawn with 15 nonzero weights into each unit, "
    "normally at a fixed scale, and normalized. What counts are exponents of the width, from lines through "
    "logarithms: of the deviation of units' inputs and of the size of nonzero weights.",
    against="Inputs or weights of sparse units that go with a power of the width beyond 0.05, or normalized "
    "weights that don't fall with it.",
    about="The number of terms decides the scale of a sum. Dense schemes make up for many terms by small "
    "weights; this one leaves terms out, so that each unit sees a few inputs well.",
    measure=measure,
    rule=(
        near("sparse_slope", 0.0, within=0.05, said="exponent of sparse units' inputs"),
        near("sparse_weight_slope", 0.0, within=0.05, said="exponent of sparse units' weights"),
        less(
            "normalized_weight_slope",
            "sparse_weight_slope",
            by=0.4,
            said="exponent of sparse less that of normalized weights",
        ),
    ),
    picture=Lines(
        curves={
            "sparse": "input, 15 weights",
            "gaussian": "input, dense at 0.3",
            "sparse_weight": "weights, 15 a unit",
            "normalized_weight": "weights, normalized",
        },
        axis="standard deviation",
        across="inputs of the layer",
        x="widths",
        log=True,
        log_x=True,
    ),
    known=(
        Known(
            verdict="holds", why="a sum of 15 terms has the variance of 15", changes={"most": 512}, seeds=4
        ),
        Known(
            verdict="does not hold",
            why="a part of the weights is more of them in a wider layer",
            changes={"part": 0.25, "most": 512},
        ),
    ),
)
