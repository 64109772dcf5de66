"""Nesterov's look-ahead is equal to its change of variables."""

from __future__ import annotations

from functools import partial
from typing import Any, Literal

import torch
from torch.optim import Optimizer

from thalweg.claims.claim import Claim, Known, Numbers, Size
from thalweg.claims.paths import normal
from thalweg.claims.picture import Lines
from thalweg.claims.rules import always
from thalweg.optim import SGD, Nesterov
from thalweg.test_problems import surfaces

__all__ = ["CLAIM", "measure"]


def measure(
    seed: int,
    *,
    rising: bool = False,
    form: Literal["one momentum", "both momenta", "no look-ahead"] = "one momentum",
    steps: int = 200,
) -> Numbers:
    """Descend Rosenbrock's valley by both, and compare the points where gradients are taken."""
    surface = surfaces.get("rosenbrock")
    start = surface.initial() + 0.1 * normal(2, seed=seed)
    rate = 2e-4
    momenta = [0.5 + 0.4 * k / steps if rising else 0.9 for k in range(steps)]

    def visited(make: Any) -> list[torch.Tensor]:
        x = start.clone().requires_grad_()
        optimizer: Optimizer = make([x])
        points = []

        def closure() -> Any:
            points.append(x.detach().clone())
            optimizer.zero_grad()
            value = surface(x)
            torch.autograd.backward(value)
            return value

        for momentum in momenta:
            optimizer.param_groups[0]["momentum"] = momentum
            optimizer.step(closure)
        return points

    ahead = visited(partial(SGD, lr=rate, momentum=momenta[0], nesterov="lookahead"))
    if form == "both momenta":
        # this one's momentum is for the point it leads to, which is the next one's look-ahead
        momenta = [*momenta[1:], momenta[-1]]
        changed = visited(partial(Nesterov, lr=rate, momentum=momenta[0]))
    else:
        changed = visited(partial(SGD, lr=rate, momentum=momenta[0], nesterov=form == "one momentum"))
    apart = (torch.stack(ahead) - torch.stack(changed)).norm(dim=1)
    return {"equal": apart.max() < 1e-9, "by_step": apart + 1e-17}


CLAIM = Claim(
    title="Look-ahead equals its change of variables",
    topic="momentum",
    statement="Nesterov's method need not move parameters to the look-ahead point and back: with that point "
    "as variable, x' = x + v' + a (v' - v), all gradients are taken at the same points.",
    sources=("O3",),
    places="S 2",
    setup="Rosenbrock's valley from starts around the usual, 200 steps at the rate 2e-4 in float64: with a "
    "real look-ahead, and by the change of variables. Momentum 0.9, or rising from 0.5 to 0.9. The largest "
    "distance between the points at which gradients are taken.",
    against="A distance of more than 1e-9.",
    about="With one momentum for all steps both are one method. Where momentum changes, the form with a "
    "single momentum is wrong, since v' is multiplied by the momentum of the next step and v by that of "
    "this; x' = x + (1 + a') v' - a v is right.",
    measure=measure,
    rule=(always("equal", said="the points are the same to 1e-9"),),
    conditions={
        "constant momentum": {},
        "rising momentum, one in the formula": {"rising": True},
        "rising momentum, both in the formula": {"rising": True, "form": "both momenta"},
    },
    quick=Size(seeds=10),
    picture=Lines(curves={"by_step": "distance"}, axis="distance between points", across="steps", log=True),
    known=(
        Known(
            verdict="holds",
            why="algebra",
            changes={"steps": 50},
            conditions=("constant momentum", "rising momentum, both in the formula"),
        ),
        Known(
            verdict="does not hold",
            why="plain momentum takes its gradients elsewhere",
            changes={"form": "no look-ahead", "steps": 50},
            conditions=("constant momentum",),
        ),
    ),
)
