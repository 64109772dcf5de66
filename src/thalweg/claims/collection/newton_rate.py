"""Whether one over the curvature is the right learning rate for any convex function."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from thalweg.claims.claim import Claim, Known, Numbers
from thalweg.claims.paths import minimizing
from thalweg.claims.picture import Lines
from thalweg.claims.rules import always
from thalweg.secondorder import Fixed, NewtonDirection

__all__ = ["CLAIM", "measure"]

_FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "root": lambda x: torch.sqrt(1 + x.square()).sum(),
    "cosh": lambda x: torch.cosh(x).sum(),
    "log cosh": lambda x: torch.log(torch.cosh(x)).sum(),
}


def measure(seed: int, *, function: str, start: float) -> Numbers:
    """Take Newton's steps of one variable, at most thirty."""
    path = minimizing(
        _FUNCTIONS[function],
        torch.tensor(start, dtype=torch.float64),
        method=NewtonDirection(),
        search=Fixed(),
        tolerance=1e-12,
        max_iterations=30,
    )
    return {
        "arrives": path[-1].abs() < 1e-6,
        "distance": path.abs().clamp(max=1e6),
    }


CLAIM = Claim(
    title="The rate 1/f'' for any convex function",
    topic="convergence",
    statement="One over the second derivative at the present point is the right learning rate for any "
    "convex function. Corrected: it is right near the minimum; how near that has to be depends on the "
    "function.",
    sources=("X10", "O9"),
    places="C s44",
    setup="Newton's whole steps on three convex functions of one variable: sqrt(1 + x^2) from 0.8 and 1.2, "
    "cosh x from 3, log cosh x from 0.8 and 1.2. At most 30 steps; arrived is within a millionth of the "
    "minimum.",
    against="A start from which it doesn't arrive.",
    about="Where curvature falls away from the minimum, a step of 1/f'' overshoots. On sqrt(1 + x^2) a step "
    "leads from x to -x^3: it arrives from within 1 and diverges from beyond. Where curvature grows "
    "outwards, as with cosh x, steps are too short at first and nothing goes wrong. A line search mends it.",
    measure=measure,
    rule=(always("arrives", said="within a millionth of the minimum after 30 steps"),),
    conditions={
        "sqrt(1 + x^2) from 0.8": {"function": "root", "start": 0.8},
        "sqrt(1 + x^2) from 1.2": {"function": "root", "start": 1.2},
        "cosh x from 3": {"function": "cosh", "start": 3.0},
        "log cosh x from 0.8": {"function": "log cosh", "start": 0.8},
        "log cosh x from 1.2": {"function": "log cosh", "start": 1.2},
    },
    exact=True,
    picture=Lines(curves={"distance": "Newton's steps"}, axis="|x|", across="steps", log=True),
    known=(
        Known(
            verdict="holds",
            why="a step leads to -x^3",
            conditions=("sqrt(1 + x^2) from 0.8",),
        ),
        Known(
            verdict="does not hold",
            why="a step leads to -x^3",
            changes={"start": 1.01},
            conditions=("sqrt(1 + x^2) from 0.8",),
        ),
    ),
)
