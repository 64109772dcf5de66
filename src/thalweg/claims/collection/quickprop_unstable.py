"""Whether Quickprop is fast, and unstable."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import torch

from thalweg.claims.claim import Claim, Known, Numbers, Size
from thalweg.claims.picture import Dots
from thalweg.claims.rules import more
from thalweg.optim import SGD, Quickprop
from thalweg.test_problems import tasks

__all__ = ["CLAIM", "measure"]

_RATES = (1.0, 0.3, 0.1, 0.03)
_UNSTABLE = 10.0


def measure(
    seed: int,
    *,
    safe: bool,
    growth: float = 1.75,
    passes: int = 80,
    rates: tuple[float, ...] = _RATES,
) -> Numbers:
    """Train in full batches at each rate: the lowest loss of all, and how many runs are unstable."""
    problem = tasks.get("mlp-digits", seed=seed)

    def trained(make: Any) -> tuple[float, bool]:
        parameters = [p.requires_grad_() for p in problem.parameters()]
        optimizer = make(parameters)
        lowest, unstable = math.inf, False
        for _ in range(passes):
            optimizer.zero_grad()
            loss = problem.loss(parameters)
            value = loss.item()
            unstable = unstable or not math.isfinite(value) or value > _UNSTABLE * lowest
            if not math.isfinite(value):
                break
            lowest = min(lowest, value)
            torch.autograd.backward(loss)
            optimizer.step()
        return lowest, unstable

    found = {
        "descent": [trained(partial(SGD, lr=lr)) for lr in rates],
        "quickprop": [trained(partial(Quickprop, lr=lr, safe=safe, growth=growth)) for lr in rates],
    }
    losses = {name: math.log10(min(lowest for lowest, _ in runs)) for name, runs in found.items()}
    shares = {f"{name}_unstable": sum(bad for _, bad in runs) / len(rates) for name, runs in found.items()}
    return {**losses, **shares}


CLAIM = Claim(
    title="Quickprop: fast, and unstable",
    topic="momentum",
    statement="Quickprop is among the fastest methods for many problems, but on nonconvex losses it is prone "
    "to instability.",
    sources=("O8",),
    places="C s121",
    setup="A net with 32 tanh units on 1,077 digits in full batches, 80 evaluations at each of four rates "
    "from 0.03 to 1: Quickprop in the bare form of the lecture, and with the usual safeguards, against "
    "descent at the same rates. The lowest loss of each method's four runs, and how many of them are "
    "unstable: a loss that isn't finite, or ten times the lowest before.",
    against="A lowest loss that isn't below that of descent, or no more unstable runs than with descent.",
    about="The two halves may belong to two forms of the method. The bare form divides by the change of a "
    "gradient; where that hardly changes, the step has no bound. Safeguards limit its growth, and keep it "
    "downhill.",
    measure=measure,
    rule=(
        more("descent", "quickprop", matters=0.01, said="loss of descent less Quickprop's, in tenfolds"),
        more(
            "quickprop_unstable",
            "descent_unstable",
            matters=0.01,
            said="share of unstable runs, Quickprop's less descent's",
        ),
    ),
    conditions={"bare": {"safe": False}, "with safeguards": {"safe": True}},
    quick=Size(seeds=8),
    picture=Dots(
        values={
            "descent": "descent: loss",
            "quickprop": "Quickprop: loss",
            "descent_unstable": "descent: share unstable",
            "quickprop_unstable": "Quickprop: share unstable",
        },
        axis="training loss (logarithm to base 10), and share of runs",
    ),
    known=(
        Known(
            verdict="holds",
            why="steps that may grow fivefold at a time are soon too long",
            changes={"growth": 5.0, "passes": 40},
            conditions=("with safeguards",),
            seeds=6,
        ),
        Known(
            verdict="does not hold",
            why="at a rate of zero nothing moves",
            changes={"rates": (0.0,), "passes": 5},
        ),
    ),
)
