"""Learning classes in order of difficulty."""

from __future__ import annotations

import torch

from thalweg.claims.claim import Claim, Known, Numbers, Size
from thalweg.claims.picture import Dots
from thalweg.claims.problems import accuracy, digits, mlp, trained
from thalweg.claims.rules import more
from thalweg.stages import curriculum

__all__ = ["CLAIM", "measure"]


def measure(
    seed: int, *, examples: int, epochs: int = 6, lr: float = 0.01, other_lr: float | None = None
) -> Numbers:
    """Train with classes that come easiest first, hardest first, and all from the beginning."""
    (x, y), test = digits(seed, train=examples, test=700)
    # a class is as hard as a linear model finds it that was trained on other examples
    judge = trained(mlp([64, 10], seed), test, lr=0.01, epochs=3)
    with torch.no_grad():
        losses = torch.nn.functional.cross_entropy(judge(x), y, reduction="none")
    by_class = torch.stack([losses[y == label].mean() for label in range(10)])
    hard = by_class[y]
    found = {}
    for name in ("easiest", "hardest", "all"):
        stages = None
        if name != "all":
            stages = curriculum(
                hard, "deterministic", control="reverse" if name == "hardest" else None, epochs=epochs
            )
        net = mlp([64, 32, 10], seed)
        more_ = {"stages": stages} if stages else {"epochs": epochs}
        rate = lr if name == "easiest" else other_lr or lr
        found[name] = accuracy(trained(net, (x, y), lr=rate, seed=seed, **more_), test)
    return found


CLAIM = Claim(
    title="Learning classes in order of difficulty",
    topic="stages",
    statement="A net learns better where easy classes come first and harder ones later than in the "
    "opposite order, or with all from the beginning.",
    sources=("X12", "P8"),
    places="K; N",
    setup="Digits, sorted by how hard a linear model finds their class. The share that a net of 32 "
    "hidden units is shown grows from the easiest to all of them, or from the hardest; or it is shown "
    "all. The same number of updates, six epochs; test accuracy.",
    against="The order from the easiest that is at most half a point better than either of the others.",
    about="An early end of easy classes is unlearned where only others are shown, so the shares grow "
    "and nothing is taken away. The difficulty is judged by a model that has seen other examples.",
    measure=measure,
    rule=(
        more("easiest", "hardest", matters=0.005, said="accuracy, easiest first less hardest first"),
        more("easiest", "all", matters=0.005, said="accuracy, easiest first less all at once"),
    ),
    conditions={"200 examples": {"examples": 200}, "1,000 examples": {"examples": 1000}},
    quick=Size(seeds=16),
    full=Size(seeds=80, changes={"epochs": 20}),
    picture=Dots(
        values={"easiest": "easiest first", "all": "all at once", "hardest": "hardest first"},
        axis="test accuracy",
    ),
    known=(
        Known(
            verdict="holds",
            why="the others go nowhere at such a rate",
            conditions=("1,000 examples",),
            changes={"other_lr": 1e-9, "epochs": 4},
        ),
        Known(
            verdict="does not hold",
            why="at such a rate nothing is learned",
            changes={"lr": 1e-9, "epochs": 1},
            conditions=("200 examples",),
            seeds=3,
        ),
    ),
)
