"""Where L-BFGS is good, and where it isn't."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from thalweg.claims.claim import Claim, Known, Numbers, Size
from thalweg.claims.picture import Dots
from thalweg.claims.rules import more
from thalweg.optim import LBFGS, Adam
from thalweg.randomness import streams
from thalweg.test_problems import tasks

__all__ = ["CLAIM", "measure"]


def measure(
    seed: int, *, task: str = "mlp-digits", small: int = 32, full_passes: int = 60, small_passes: int = 5
) -> Numbers:
    """Train by both in full batches and in small ones, each with its best of three settings."""
    problem = tasks.get(task, seed=seed, dtype=torch.float32)

    def trained(make: Callable[[list[Tensor]], Optimizer], batch: int, passes: int) -> float:
        parameters = [p.requires_grad_() for p in problem.parameters()]
        optimizer, spent = make(parameters), 0
        # an evaluation of a batch is a step at least, so that there are never more epochs than passes
        orders = (
            torch.from_numpy(streams.order(problem.examples, seed=seed, epoch=e)) for e in range(passes)
        )
        for chosen in itertools.chain.from_iterable(torch.split(order, batch) for order in orders):
            if spent >= passes * problem.examples:
                break

            def closure(chosen: Tensor = chosen) -> Any:
                nonlocal spent
                spent += len(chosen)
                optimizer.zero_grad()
                value = problem.batch_loss(parameters, chosen)
                torch.autograd.backward(value)
                return value

            optimizer.step(closure)
        value = float(problem.loss([p.detach() for p in parameters]))
        # a loss that isn't finite, or larger than ten thousand, counts as that
        return math.log10(min(value, 1e4)) if math.isfinite(value) else 4.0

    found = {}
    for size, batch, passes in (("full", problem.examples, full_passes), ("small", small, small_passes)):
        found[f"lbfgs_{size}"] = min(
            trained(
                partial(LBFGS, line_search_fn="strong_wolfe", max_iter=most, history_size=10), batch, passes
            )
            for most in (1, 5, 20)
        )
        found[f"adam_{size}"] = min(
            trained(partial(Adam, lr=lr), batch, passes) for lr in (0.03, 0.01, 0.003)
        )
    return {**found}


CLAIM = Claim(
    title="L-BFGS in full batches and in small ones",
    topic="second-order",
    statement="L-BFGS works very well where each step sees all the data, and poorly in minibatches: it is "
    "better than Adam in the one case and worse in the other.",
    sources=("O12", "X12"),
    places="S",
    setup="A net with 32 tanh units on 1,077 handwritten digits, and logistic regression on 341 tumours. "
    "Training loss over all examples after 60 passes over them in full batches, and after 5 in batches of "
    "32, where each evaluation counts. L-BFGS searches along its lines, as is usual, with at most 1, 5 or "
    "20 iterations a batch; Adam has the rates 0.03, 0.01 and 0.003. Of each the best of the three.",
    against="L-BFGS above Adam in full batches, or below in small ones.",
    about="Pairs of a step and a change of gradient tell of curvature only if both gradients are of the "
    "same examples; with another batch at each step most of the change is noise, which the inverse "
    "multiplies.",
    measure=measure,
    rule=(
        more(
            "adam_full",
            "lbfgs_full",
            matters=0.02,
            said="full batches: loss of Adam less that of L-BFGS, in tenfolds",
        ),
        more(
            "lbfgs_small",
            "adam_small",
            matters=0.02,
            said="minibatches: loss of L-BFGS less that of Adam, in tenfolds",
        ),
    ),
    conditions={
        "a net on digits": {"task": "mlp-digits"},
        "logistic regression": {"task": "logistic-breast-cancer"},
    },
    quick=Size(seeds=6),
    full=Size(seeds=30),
    picture=Dots(
        values={
            "lbfgs_full": "L-BFGS, full batches",
            "adam_full": "Adam, full batches",
            "lbfgs_small": "L-BFGS, minibatches",
            "adam_small": "Adam, minibatches",
        },
        axis="training loss (logarithm to base 10)",
    ),
    known=(
        Known(
            verdict="holds",
            why="eight examples say little about curvature in thirty dimensions",
            changes={"small": 8, "full_passes": 20, "small_passes": 1},
            seeds=6,
            conditions=("logistic regression",),
        ),
        Known(
            verdict="does not hold",
            why="batches of all examples aren't small",
            changes={"small": 341, "small_passes": 30, "full_passes": 30},
            conditions=("logistic regression",),
        ),
    ),
)
