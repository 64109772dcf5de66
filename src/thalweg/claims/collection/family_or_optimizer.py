"""Whether the model family or the optimizer matters more."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from thalweg.claims.claim import Claim, Known, Numbers, Size
from thalweg.claims.picture import Dots
from thalweg.claims.problems import mlp
from thalweg.claims.rules import more
from thalweg.execution.sweep import sweep
from thalweg.layers import insert_batch_norm, insert_skips

__all__ = ["CLAIM", "measure"]

_LAYERS = 6
_FAMILIES = ("sigmoid", "tanh", "relu", "relu, batch norm", "relu, skips")
_UNITS = {"sigmoid": nn.Sigmoid, "tanh": nn.Tanh}


class _Family:
    """Makes nets of one family of six hidden layers."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, input_shape: Sequence[int], outputs: int) -> nn.Module:
        """Return a net, begun by torch's generator."""
        inputs = int(torch.tensor(input_shape).prod())
        seed = int(torch.randint(2**31, ()))
        net = mlp([inputs, *[32] * _LAYERS, outputs], seed, _UNITS.get(self.name, nn.ReLU))
        if self.name == "relu, batch norm":
            insert_batch_norm(net)
        if self.name == "relu, skips":
            insert_skips(net)
        return nn.Sequential(nn.Flatten(), net)


def measure(
    seed: int,
    *,
    families: Sequence[str] = _FAMILIES,
    optimizers: Sequence[str] = ("sgd", "momentum", "rmsprop", "adam"),
    rates: int = 4,
    epochs: int = 6,
) -> Numbers:
    """Tune the rate of each optimizer on each family, and split the variance of the scores."""
    scores = []
    for family in families:
        settings = [
            {"optimizer": name, "lr": (1.0 if name in ("sgd", "momentum") else 0.03) * 10 ** (-k / 1.5)}
            for name in optimizers
            for k in range(rates)
        ]
        found = sweep(
            _Family(family),
            "digits",
            settings,
            seeds=[seed],
            seed=seed,
            epochs=epochs,
            evaluations=1,
            test=True,
        )
        rows = found.final().sort("setting").to_dicts()
        # chosen on validation, judged on test
        groups = [rows[k * rates : (k + 1) * rates] for k in range(len(optimizers))]
        best = [max(group, key=lambda row: row[found.metric] or 0.0) for group in groups]
        scores.append([row["test"] or 0.0 for row in best])
    table = torch.tensor(scores, dtype=torch.float64)
    centred = table - table.mean()
    whole = centred.square().sum().clamp_min(1e-12)
    rows_, columns = (
        centred.mean(1).square().sum() * len(optimizers),
        centred.mean(0).square().sum() * len(families),
    )
    return {
        "family": float(rows_ / whole),
        "optimizer": float(columns / whole),
        "both": float(1 - (rows_ + columns) / whole),
    }


CLAIM = Claim(
    title="A family of models that is easy to optimize matters more than the optimizer",
    topic="choosing",
    statement="In practice it is more important to choose a family of models that is easy to optimize "
    "than a powerful optimization algorithm.",
    sources=("X12", "D1", "D2", "D3"),
    places="N; K",
    setup="All pairs of five families (six hidden layers of 32 sigmoid, tanh or ReLU units, ReLU with "
    "batch norm, ReLU with skips) and four optimizers (SGD, momentum, RMSProp, Adam), on the digits "
    "for six epochs. Each pair is tuned: of four rates the best on validation. The variance of test "
    "accuracies is split into shares of family, of optimizer, and of both together.",
    against="A share of the optimizer that is as large as that of the family.",
    about="Shares depend on what is among the families and the optimizers: with one family that "
    "hardly trains, the family's share is large. Deep sigmoid nets are what practice gave up, so that "
    "they belong here; what remains without them is another question.",
    measure=measure,
    rule=(
        more("family", "optimizer", by=0.0, matters=0.05, said="share of variance, family less optimizer"),
    ),
    conditions={
        "all five": {},
        "without sigmoid": {"families": ["tanh", "relu", "relu, batch norm", "relu, skips"]},
    },
    quick=Size(seeds=6),
    full=Size(seeds=20, changes={"rates": 7, "epochs": 20}),
    picture=Dots(
        values={"family": "family", "optimizer": "optimizer", "both": "both together"},
        axis="share of variance",
    ),
    known=(
        Known(
            verdict="holds",
            why="sigmoids in six layers don't train in two epochs, by whatever optimizer",
            conditions=("all five",),
            changes={
                "families": ["sigmoid", "relu"],
                "optimizers": ["rmsprop", "adam"],
                "rates": 2,
                "epochs": 2,
            },
            seeds=3,
        ),
        Known(
            verdict="does not hold",
            why="there is one family only",
            conditions=("all five",),
            changes={"families": ["relu"], "optimizers": ["sgd", "adam"], "rates": 1, "epochs": 1},
            seeds=2,
        ),
    ),
)
