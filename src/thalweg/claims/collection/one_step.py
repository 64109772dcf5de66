"""One step of the right length ends at the minimum; two lengths of it are too many."""

from __future__ import annotations

import itertools

import torch

from thalweg.claims.claim import Claim, Known, Numbers
from thalweg.claims.picture import Lines
from thalweg.claims.rules import always, near
from thalweg.optim import SGD

__all__ = ["CLAIM", "measure"]

_STEPS = 12


def measure(seed: int, *, times: float, power: float = 2.0) -> Numbers:
    """Descend ``a |x|^power / power`` at ``times / a`` from 1, by the library's SGD."""
    curvature = 2.0
    x = torch.ones(1, dtype=torch.float64, requires_grad=True)
    descent = SGD([x], lr=times / curvature)
    path = [1.0]
    for _ in range(_STEPS):
        descent.zero_grad()
        loss = curvature * x.abs().pow(power).sum() / power
        torch.autograd.backward(loss)
        descent.step()
        path.append(x.item())
    factors = [after / before for before, after in itertools.pairwise(path) if before]
    return {
        "factor": factors[0],
        "expected": 1 - times,
        "constant": all(abs(each - factors[0]) < 1e-9 for each in factors),
        "path": path,
    }


CLAIM = Claim(
    title="One step to the minimum, and at twice its length none",
    topic="convergence",
    statement="On a quadratic of curvature a, descent at the rate 1/a ends in one step. Below, it approaches "
    "from one side; up to 2/a it oscillates and converges; above 2/a it diverges.",
    sources=("X9", "O1"),
    places="C s40-43",
    setup="Twelve steps on a x^2 / 2 from 1, at 0.5, 1, 1.5 and 2.5 times 1/a. Each step must multiply the "
    "distance by one minus the rate times a: positive and below one, zero, negative and above minus one, or "
    "below minus one.",
    against="A factor other than one minus the rate times a, or one that changes from step to step.",
    about="The factor is a straight line in the rate, so the four behaviours are four parts of one line. "
    "Everything else about the rate of gradient descent follows from it, one direction of the Hessian at a "
    "time.",
    measure=measure,
    rule=(
        near("factor", "expected", within=1e-9, said="factor of a step less one minus the rate times a"),
        always("constant", said="the factor is the same in each step"),
    ),
    conditions={
        "half the rate: monotone": {"times": 0.5},
        "the rate 1/a: one step": {"times": 1.0},
        "1.5 times: oscillates": {"times": 1.5},
        "2.5 times: diverges": {"times": 2.5},
    },
    exact=True,
    picture=Lines(curves={"path": "distance from the minimum"}, axis="x", across="steps", own_scales=True),
    known=(
        Known(verdict="holds", why="the slide's algebra"),
        Known(
            verdict="does not hold",
            why="a quartic has another curvature at every point",
            changes={"power": 4.0},
            conditions=("1.5 times: oscillates",),
        ),
    ),
)
