"""Repeated multiplication by a matrix vanishes or explodes as its eigenvalues have it."""

from __future__ import annotations

import math

import torch

from thalweg.claims.claim import Claim, Known, Numbers
from thalweg.claims.nets import drawn
from thalweg.claims.picture import Lines
from thalweg.claims.rules import near

__all__ = ["CLAIM", "measure"]


def measure(seed: int, *, radius: float, size: int = 20, steps: int = 300, bent: bool = False) -> Numbers:
    """Apply a random matrix again and again, and go back with the gradient; ``bent``: with tanh between."""
    matrix = drawn(size, size, seed=seed, of="matrix")
    matrix = matrix * radius / torch.linalg.eigvals(matrix).abs().max()
    start = drawn(size, seed=seed, of="state").requires_grad_()
    state, lengths = start, [1.0]
    for _ in range(steps):
        state = matrix @ state
        state = torch.tanh(state) if bent else state
        lengths.append((state.norm() / start.norm()).item())
    (back,) = torch.autograd.grad(state @ drawn(size, seed=seed, of="upstream"), start)
    half = steps // 2
    return {
        "forward": (math.log(lengths[-1]) - math.log(lengths[half])) / (steps - half),
        "backward": math.log(back.norm()) / steps,
        "radius": math.log(radius),
        "lengths": lengths,
    }


CLAIM = Claim(
    title="Powers of a matrix vanish or explode",
    topic="noise",
    statement="What is multiplied t times by one matrix grows or shrinks as the t-th power of its "
    "eigenvalues, and so do gradients through it: only absolute values near 1 last.",
    sources=("X5",),
    places="K",
    setup="Random matrices of 20 rows, scaled to a largest eigenvalue of 0.9, 1 or 1.1, applied 300 times to "
    "a random state. Compared are the logarithm of that eigenvalue, that of the state's growth a step over "
    "the second half, and that of the gradient's length over all steps.",
    against="A growth a step that is more than 0.01 from the logarithm of the largest eigenvalue.",
    about="The largest eigenvalue takes over, whatever the state was. Between 0.9 and 1.1 lie 26 powers of "
    "ten after 300 steps, so that no learning rate serves both ends of a long sequence.",
    measure=measure,
    rule=(
        near("forward", "radius", within=0.01, said="growth of the state a step less the eigenvalue's"),
        near("backward", "radius", within=0.02, said="growth of the gradient a step less the eigenvalue's"),
    ),
    conditions={f"largest eigenvalue {radius:g}": {"radius": radius} for radius in (0.9, 1.0, 1.1)},
    picture=Lines(
        curves={"lengths": "length of the state"},
        axis="length over that at the start",
        across="multiplications",
        log=True,
    ),
    known=(
        Known(verdict="holds", why="the eigendecomposition", seeds=5),
        Known(
            verdict="does not hold",
            why="tanh bounds the state, so that it can't grow with the eigenvalue",
            changes={"bent": True},
            conditions=("largest eigenvalue 1.1",),
        ),
    ),
)
