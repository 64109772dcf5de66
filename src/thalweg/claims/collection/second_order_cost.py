"""Ill-conditioning: the second-order cost of a step against its first-order gain."""

from __future__ import annotations

import math

import torch

from thalweg.claims.claim import Claim, Known, Numbers, Size
from thalweg.claims.picture import Lines
from thalweg.claims.rules import always

__all__ = ["CLAIM", "measure"]


def measure(
    seed: int, *, condition: float = 100.0, times: float = 1.2, n: int = 10, quartic: float = 0.0
) -> Numbers:
    """Descend a quadratic just above its bound, and compare each change of the loss with both terms."""
    generator = torch.Generator().manual_seed(seed)
    turned = torch.linalg.qr(torch.randn(n, n, generator=generator).double()).Q
    matrix = turned @ torch.logspace(0, math.log10(condition), n).double().diag() @ turned.T
    rate = times * 2 / condition
    # a start at which the gradient is as large along every axis
    x = torch.linalg.solve(matrix, torch.randn(n, generator=generator).double())

    def loss(at: torch.Tensor) -> torch.Tensor:
        value: torch.Tensor = 0.5 * at @ matrix @ at + quartic * at.pow(4).sum()
        return value

    costs, losses, right = [], [float(loss(x))], []
    for _ in range(30):
        slope = matrix @ x + 4 * quartic * x.pow(3)
        gain, cost = rate * float(slope @ slope), 0.5 * rate**2 * float(slope @ matrix @ slope)
        x = x - rate * slope
        losses.append(float(loss(x)))
        costs.append(cost / gain)
        change = losses[-1] - losses[-2]
        # where the two terms are equal within rounding, either way is right
        right.append((change > 0) == (cost > gain) or abs(cost / gain - 1) < 1e-9)
    return {
        "right": all(right),
        "seen": len({cost > 1 for cost in costs}) == 2,
        "cost": costs,
        "loss": losses,
    }


CLAIM = Claim(
    title="The loss rises where a step's second-order cost outgrows its first-order gain",
    topic="landscape",
    statement="A step -e g changes the loss by -e g'g + e^2 g'Hg / 2. Where the second term is the "
    "larger one, the loss rises although the step goes down the gradient: the sign of "
    "ill-conditioning.",
    sources=("X1",),
    places="K",
    setup="Thirty steps on quadratics of ten dimensions with a condition number of 100, at 1.2 times "
    "the stability bound: at first the loss falls along flat directions, then it rises along the "
    "steepest one. In each step the sign of the change is compared with that of the two terms.",
    against="One step whose change has another sign, or a run in which only one of the two kinds of "
    "steps is seen.",
    about="On a quadratic there is no third term, so that this is algebra. On other functions the two "
    "terms tell for short steps only.",
    measure=measure,
    rule=(
        always("right", said="the two terms tell the sign in every step"),
        always("seen", said="steps of both kinds are seen"),
    ),
    quick=Size(seeds=10),
    full=Size(seeds=100),
    picture=Lines(
        curves={"cost": "cost over gain"}, axis="second-order cost / first-order gain", across="steps"
    ),
    known=(
        Known(verdict="holds", why="there is no third term"),
        Known(
            verdict="does not hold",
            why="below the bound every step goes down",
            changes={"times": 0.5},
        ),
        Known(
            verdict="does not hold",
            why="a quartic has terms of higher order",
            changes={"quartic": 30.0, "times": 0.3},
        ),
    ),
)
