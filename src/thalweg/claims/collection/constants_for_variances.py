"""Parameters that stand for variances, begun at what the data have."""

from __future__ import annotations

import torch
from torch import nn

from thalweg.claims.claim import Claim, Known, Numbers, Size
from thalweg.claims.picture import Dots
from thalweg.claims.rules import more
from thalweg.initial import set_constants
from thalweg.optim import SGD

__all__ = ["CLAIM", "measure"]


def measure(seed: int, *, spread: float = 30.0, steps: int = 100, lr: float = 0.05) -> Numbers:
    """Fit a line and the variance around it by likelihood, the variance begun at 1 or at that of the data."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(200, 1, generator=generator)
    y = spread * (0.5 * x + torch.randn(200, 1, generator=generator))
    losses = {}
    for name, variance in (("constant", float(y.var())), ("one", 1.0)):
        model = nn.ParameterDict({"slope": torch.zeros(1), "log_variance": torch.zeros(1)})
        set_constants(model, {"log_variance": variance}, activation="exp")
        descent = SGD(model.parameters(), lr=lr)
        loss = torch.zeros(())
        for _ in range(steps):
            descent.zero_grad()
            error = (y - model["slope"] * x).square()
            loss = ((error / model["log_variance"].exp()) + model["log_variance"]).mean() / 2
            torch.autograd.backward(loss)
            nn.utils.clip_grad_norm_(model.parameters(), 10.0)
            descent.step()
        losses[name] = min(float(loss.detach()), 1e6)
    return losses


CLAIM = Claim(
    title="Parameters that stand for variances begin at a constant that fits",
    topic="starting",
    statement="A parameter that stands for a variance can begin at a constant; one that fits the data "
    "gives a better start than any other.",
    sources=("I7",),
    places="U",
    setup="A line through data with a spread of 30, fitted with the logarithm of the variance by 100 "
    "clipped steps of SGD on the Gaussian likelihood. The variance begins at 1 or at that of the "
    "data. Compared is the loss after the steps.",
    against="A loss that isn't lower by more than 0.02.",
    about="Where the variance begins far too small, errors count a thousand times too much, and steps "
    "have to be clipped.",
    measure=measure,
    rule=(more("one", "constant", by=0.02, said="loss, begun at 1 less begun at the data's"),),
    quick=Size(seeds=12),
    full=Size(seeds=60),
    picture=Dots(values={"constant": "the data's", "one": "1"}, axis="negative log likelihood, nats"),
    known=(
        Known(
            verdict="holds",
            why="ten steps are too few to grow a variance a thousandfold",
            changes={"steps": 10},
        ),
        Known(verdict="does not hold", why="the data's variance is about 1", changes={"spread": 0.9}),
    ),
)
