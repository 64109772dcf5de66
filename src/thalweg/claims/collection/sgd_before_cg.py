"""Whether conjugate gradients gain from some steps of stochastic descent before them."""

from __future__ import annotations

import torch
from torch import Tensor

from thalweg.claims.claim import Claim, Known, Numbers, Size
from thalweg.claims.picture import Dots
from thalweg.claims.rules import more
from thalweg.optim import SGD
from thalweg.randomness import streams
from thalweg.secondorder.minimizing import minimize
from thalweg.test_problems import tasks

__all__ = ["CLAIM", "measure"]

_BATCH = 32


def measure(
    seed: int, *, passes: int, task: str = "mlp-digits", first: int = 2, rate: float = 0.3
) -> Numbers:
    """Train by conjugate gradients, from the start or after so many passes of minibatches; equal passes."""
    problem = tasks.get(task, seed=seed)

    def descended() -> list[Tensor]:
        parameters = [p.requires_grad_() for p in problem.parameters()]
        descent = SGD(parameters, lr=rate)
        for epoch in range(first):
            order = torch.from_numpy(streams.order(problem.examples, seed=seed, epoch=epoch))
            for batch in torch.split(order, _BATCH):
                descent.zero_grad()
                torch.autograd.backward(problem.batch_loss(parameters, batch))
                descent.step()
        return [p.detach() for p in parameters]

    found = {}
    for name, start, left in (
        ("plain", problem.parameters(), passes),
        ("after", descended(), passes - first),
    ):
        end = minimize(problem.loss, start, method="cg-pr+", max_evaluations=left, tolerance=1e-9)
        found[name] = torch.log10(torch.tensor(float(end.value)))
    return {**found}


CLAIM = Claim(
    title="A few steps of SGD before conjugate gradients",
    topic="second-order",
    statement="Conjugate gradients gain from a few passes of stochastic gradient descent before they begin: "
    "after as many passes over the data in all, the training loss is lower.",
    sources=("O11", "X13"),
    places="N",
    setup="A net with 32 tanh units on 1,077 handwritten digits, full-batch conjugate gradients (Polak and "
    "Ribiere), from the usual start or after two passes of minibatches of 32 at the rate 0.3. The training "
    "loss after 10, 50 and 200 passes in all, where each evaluation of loss and gradient is one.",
    against="No lower loss after stochastic steps.",
    about="Two passes of minibatches are 68 steps for the price of two evaluations. How long that advantage "
    "lasts depends on how far one goes on.",
    measure=measure,
    rule=(
        more(
            "plain",
            "after",
            matters=0.01,
            said="training loss of conjugate gradients alone less that after SGD, in tenfolds",
        ),
    ),
    conditions={
        "10 passes": {"passes": 10},
        "50 passes": {"passes": 50},
        "200 passes": {"passes": 200},
    },
    quick=Size(seeds=10),
    picture=Dots(
        values={"plain": "conjugate gradients", "after": "after two passes of SGD"},
        axis="training loss (logarithm to base 10)",
    ),
    known=(
        Known(
            verdict="holds",
            why="in six passes conjugate gradients take three steps or fewer, SGD 68",
            changes={"passes": 6},
            conditions=("10 passes",),
        ),
        Known(
            verdict="does not hold",
            why="at a rate of zero two passes are lost",
            changes={"rate": 0.0},
            seeds=8,
            conditions=("10 passes",),
        ),
    ),
)
