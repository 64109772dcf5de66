"""How Rprop compares with descent and with second-order methods."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import torch
from torch import Tensor

from thalweg.claims.claim import Claim, Known, Numbers, Size
from thalweg.claims.picture import Dots
from thalweg.claims.rules import more
from thalweg.optim import SGD, Rprop
from thalweg.secondorder.minimizing import minimize
from thalweg.test_problems import tasks

__all__ = ["CLAIM", "measure"]


def measure(seed: int, *, task: str, passes: int = 100, etas: tuple[float, float] = (0.5, 1.2)) -> Numbers:
    """Train in full batches by each method, and return training losses after equal passes, in tenfolds."""
    problem = tasks.get(task, seed=seed)

    def trained(make: Any) -> float:
        parameters = [p.requires_grad_() for p in problem.parameters()]
        optimizer, lowest = make(parameters), math.inf
        for _ in range(passes):
            optimizer.zero_grad()
            value = problem.loss(parameters)
            if not bool(torch.isfinite(value)):
                break
            lowest = min(lowest, value.item())
            torch.autograd.backward(value)
            optimizer.step()
        return lowest

    def searched(method: str) -> float:
        start: list[Tensor] = problem.parameters()
        found = minimize(problem.loss, start, method=method, max_evaluations=passes, tolerance=0.0)
        return float(found.value)

    rates = (3.0, 1.0, 0.3, 0.1)
    losses = {
        "descent": min(trained(partial(SGD, lr=lr, momentum=a)) for lr in rates for a in (0.0, 0.9)),
        "rprop": trained(partial(Rprop, lr=0.01, etas=etas)),
        "second": min(searched(method) for method in ("lbfgs", "cg-pr+")),
    }
    return {name: math.log10(value) for name, value in losses.items()}


CLAIM = Claim(
    title="Rprop against descent and second-order methods",
    topic="momentum",
    statement="Rprop is often much faster than gradient descent, and competitive with more advanced "
    "second-order methods.",
    sources=("O7",),
    places="C s115",
    setup="Full batches: softmax regression, a net with 32 tanh units and an autoencoder, all on 1,077 "
    "digits. Lowest training loss within 100 evaluations of loss and gradient: Rprop as it comes (first "
    "step 0.01, up 1.2, down 0.5), descent at its best of eight settings with and without momentum, and the "
    "better of L-BFGS and conjugate gradients. Competitive is a loss of at most twice the better one's.",
    against="Descent that is as low as Rprop, or a second-order method at less than half of Rprop's loss.",
    about="Rprop needs no rate to be tuned, and the size of the gradient means nothing to it. That is also "
    "why it is for full batches: signs that change from batch to batch make its steps shrink.",
    measure=measure,
    rule=(
        more("descent", "rprop", matters=0.01, said="loss of descent less that of Rprop, in tenfolds"),
        more(
            "second",
            "rprop",
            by=-math.log10(2),
            matters=0.01,
            said="loss of the better second-order method less that of Rprop, in tenfolds",
        ),
    ),
    conditions={
        "softmax regression": {"task": "softmax-digits"},
        "a net": {"task": "mlp-digits"},
        "an autoencoder": {"task": "autoencoder-digits"},
    },
    quick=Size(seeds=4),
    full=Size(seeds=20),
    picture=Dots(
        values={
            "descent": "descent, best of eight",
            "rprop": "Rprop",
            "second": "L-BFGS or conjugate gradients",
        },
        axis="training loss (logarithm to base 10)",
    ),
    known=(
        Known(
            verdict="holds",
            why="in twenty evaluations searches are hardly under way",
            changes={"passes": 20},
            conditions=("a net",),
        ),
        Known(
            verdict="does not hold",
            why="steps that never grow from 0.01, and shrink to a tenth, go nowhere",
            changes={"etas": (0.1, 1.0001), "passes": 20},
            conditions=("softmax regression",),
        ),
    ),
)
