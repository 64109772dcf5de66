"""The error of a batch's gradient falls as one over the root of its size."""

from __future__ import annotations

import torch
from torch.func import grad, vmap

from thalweg.claims.claim import Claim, Known, Numbers
from thalweg.claims.picture import Lines
from thalweg.claims.rules import less, near
from thalweg.test_problems import tasks

__all__ = ["CLAIM", "measure"]


def measure(
    seed: int, *, task: str = "mlp-digits", draws: int = 200, most: int = 256, same: bool = False
) -> Numbers:
    """Compare gradients of random batches with that of all; ``same``: a batch is one example again."""
    problem = tasks.get(task, seed=seed)
    points, generator = problem.parameters(), torch.Generator().manual_seed(seed)
    each = vmap(grad(problem.batch_loss), (None, 0))(points, torch.arange(problem.examples)[:, None])
    gradients = torch.cat([g.flatten(1) for g in each], 1)
    whole = gradients.mean(0)
    sizes = [2**power for power in range(most.bit_length())]
    errors = []
    for size in sizes:
        chosen = torch.randint(problem.examples, (draws, 1 if same else size), generator=generator)
        batches = torch.stack([gradients[one].mean(0) for one in chosen])
        errors.append(((batches - whole).square().sum(1).mean().sqrt() / whole.norm()).item())
    ups = torch.tensor(sizes, dtype=torch.float64).log()
    slope = torch.linalg.lstsq(
        torch.stack((ups, torch.ones_like(ups)), 1), torch.tensor(errors).double().log()
    )
    return {
        "slope": slope.solution[0].item(),
        "gain": 2 ** -slope.solution[0].item(),
        "cost": 2.0,
        "errors": errors,
        "sizes": sizes,
    }


CLAIM = Claim(
    title="A batch twice as large isn't twice as accurate",
    topic="noise",
    statement="The error of a minibatch's gradient falls as one over the root of the number of examples, "
    "while the work grows with that number: what larger batches gain flattens.",
    sources=("E2", "X6"),
    places="K",
    setup="At the start of a training, gradients of 200 random batches of each size from 1 to 256 are "
    "compared with that of all examples: the root of the mean squared distance, over the length of the whole "
    "gradient. A line through logarithms of errors and sizes has the slope that counts.",
    against="A slope other than -1/2, or an accuracy that doubles when the size does.",
    about="To halve the error takes four times the work. A batch that is large enough for a steady direction "
    "is therefore soon too large to pay; where this happens is the noise scale of the gradient.",
    measure=measure,
    rule=(
        near("slope", -0.5, within=0.03, said="slope of the error, which is to be -1/2"),
        less("gain", "cost", by=0.3, said="times the work less times the accuracy, for twice the examples"),
    ),
    conditions={
        "logistic regression": {"task": "logistic-breast-cancer"},
        "a net on digits": {"task": "mlp-digits"},
    },
    picture=Lines(
        curves={"errors": "error of the gradient"},
        axis="error over the gradient's length",
        across="examples in a batch",
        x="sizes",
        log=True,
        log_x=True,
    ),
    known=(
        Known(
            verdict="holds",
            why="the variance of a mean of independent draws",
            changes={"draws": 400, "most": 32},
            conditions=("logistic regression",),
            seeds=4,
        ),
        Known(
            verdict="does not hold",
            why="one example again and again says no more than once",
            changes={"same": True, "most": 32},
            conditions=("logistic regression",),
        ),
    ),
)
