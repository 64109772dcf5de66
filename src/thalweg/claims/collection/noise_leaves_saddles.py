"""Whether the noise of minibatches leaves saddles."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from thalweg.claims.claim import Claim, Known, Numbers, Size
from thalweg.claims.paths import normal
from thalweg.claims.picture import Lines
from thalweg.claims.rules import always, more
from thalweg.optim import SGD
from thalweg.randomness import streams

__all__ = ["CLAIM", "measure"]

_EXAMPLES = 256


def measure(
    seed: int,
    *,
    kind: Literal["component", "alike", "zero"],
    batch: int = 8,
    rate: float = 0.02,
    steps: int = 150,
) -> Numbers:
    """Start at a saddle, exactly, and descend with all examples and with a few at a time."""
    spread = torch.tensor([2.0, 1.0, 0.5, 0.5, 0.5], dtype=torch.float64)
    x = normal(_EXAMPLES, 5, seed=seed) * spread
    centred = x - x.mean(0)
    # the second principal direction, of length 1: the gradient of a one-unit autoencoder is zero there
    second = torch.linalg.eigh(centred.T @ centred)[1][:, -2]
    targets = torch.tanh(centred @ normal(5, 3, seed=seed, of="teacher")).sum(1)

    def loss(w: Tensor, chosen: Tensor) -> Tensor:
        if kind == "component":
            errors: Tensor = centred[chosen] - (centred[chosen] @ w)[:, None] * w
            return errors.square().sum() / len(chosen)
        errors = torch.tanh(centred[chosen] @ w[:, :5].T) @ w[:, 5] - targets[chosen]
        return errors.square().sum() / len(chosen)

    def away(w: Tensor) -> Tensor:
        if kind == "component":
            return 1 - torch.square(w @ second) / torch.sum(w * w)
        moved: Tensor = (w[0] - w[1] if kind == "alike" else w).square().sum()
        return moved.sqrt()

    found: dict[str, Tensor] = {}
    for name, size in (("full", _EXAMPLES), ("noisy", batch)):
        if kind == "component":
            w = second.clone()
        else:
            w = torch.zeros(2, 6, dtype=torch.float64)
            w += 0.5 * normal(6, seed=seed, of="unit") if kind == "alike" else 0.0
        w.requires_grad_()
        descent = SGD([w], lr=rate)
        way = []
        for step in range(steps):
            draws = streams.uniform((size,), seed=seed, stream="claims batch", step=step, dtype=torch.float64)
            every = torch.arange(_EXAMPLES)
            chosen = every if size == _EXAMPLES else (draws * _EXAMPLES).long()
            descent.zero_grad()
            torch.autograd.backward(loss(w, chosen))
            descent.step()
            way.append(away(w.detach()))
        found[name] = way[-1]
        found[f"{name}_path"] = torch.stack(way)
    return {"stays": found["full"] < 1e-3, **found}


CLAIM = Claim(
    title="The noise of minibatches leaves saddles",
    topic="momentum",
    statement="At a saddle descent with all the data has no gradient and stays. That of minibatches has one, "
    "since it differs from batch to batch, and leaves.",
    sources=("X3", "X6", "X13", "E2"),
    places="S; K",
    setup="256 examples, from a saddle exactly, 150 steps at one rate with all examples or with 8 at a time. "
    "An autoencoder with one unit that has learnt the second principal direction; a net whose two hidden "
    "units are alike; a net with all weights zero. How far each gets away: one minus the squared cosine "
    "with that direction, the distance between the two units, the length of the weights.",
    against="Minibatches that are no further away than 0.05, or full batches that leave.",
    about="Full batches stay only until rounding errors have grown, which takes some hundreds of steps "
    "where the saddle is steep. Noise helps only where it points out of the saddle. Units that are alike "
    "get equal gradients from every batch, and at weights of zero every example's gradient is zero: of such "
    "saddles, which symmetry makes, noise knows nothing. They are why weights start at random.",
    measure=measure,
    rule=(
        always("stays", said="with all examples it stays"),
        more("noisy", "full", by=0.05, said="how far minibatches get away, less full batches"),
    ),
    conditions={
        "the second principal direction": {"kind": "component"},
        "two units alike": {"kind": "alike"},
        "all weights zero": {"kind": "zero"},
    },
    quick=Size(seeds=8),
    picture=Lines(
        curves={"full_path": "all examples", "noisy_path": "8 at a time"},
        axis="how far from the saddle",
        across="steps",
    ),
    known=(
        Known(
            verdict="holds",
            why="each batch has its own second direction",
            conditions=("the second principal direction",),
        ),
        Known(
            verdict="does not hold",
            why="a batch of all examples has no noise",
            changes={"batch": _EXAMPLES, "steps": 50},
            conditions=("the second principal direction",),
        ),
    ),
)
