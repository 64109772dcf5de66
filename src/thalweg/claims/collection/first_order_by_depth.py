"""How far the first-order prediction of a step is off when all layers change at once, by depth."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from thalweg.claims.claim import Claim, Known, Numbers, Size
from thalweg.claims.nets import drawn, mlp
from thalweg.claims.picture import Lines
from thalweg.claims.rules import more
from thalweg.curvature import step_prediction
from thalweg.optim.suggested_rates import first_order_rate

__all__ = ["CLAIM", "measure"]

_DEPTHS = (1, 2, 3, 5, 8, 13, 20, 30, 45, 60)


def measure(
    seed: int, *, kind: str, weight: float = 1.0, share: float | None = 0.1, deepest: int = 60
) -> Numbers:
    """Take the suggested step at each depth: for this share of the output or loss, or for 0.1 itself."""
    depths = [depth for depth in _DEPTHS if depth <= deepest]
    ratios = []
    for depth in depths:
        net = _chain(depth, weight, seed) if kind == "chain" else _net(depth, kind, seed)
        size = 1 if kind == "chain" else 16
        inputs = torch.ones(1, 1).double() if kind == "chain" else drawn(64, size, seed=seed, of="inputs")
        targets = drawn(64, 1, seed=seed, of="targets")

        def loss(outputs: Tensor, wanted: Tensor) -> Tensor:
            return outputs.mean() if kind == "chain" else (outputs - wanted).square().mean()

        value = loss(net(inputs), targets[: len(inputs)])
        gradients = torch.autograd.grad(value, list(net.parameters()))
        decrease = 0.1 if share is None else share * value.item()
        rate = first_order_rate(gradients, decrease)
        step = [-rate * gradient for gradient in gradients]
        seen = step_prediction(net, loss, (inputs, targets[: len(inputs)]), step, layers=False).whole
        ratios.append(seen.actual / seen.first)
    misses = [min(abs(1 - each), 1.0) for each in ratios]
    return {
        "miss": misses[-1],
        "shallow": misses[0],
        "ratios": [min(max(each, -2.0), 3.0) for each in ratios],
        "depths": depths,
    }


def _chain(depth: int, weight: float, seed: int) -> nn.Module:
    """Units of one weight each, a tenth apart."""
    units = [nn.Linear(1, 1, bias=False, dtype=torch.float64) for _ in range(depth)]
    with torch.no_grad():
        for unit, draw in zip(units, drawn(depth, seed=seed, of="chain"), strict=True):
            unit.weight.fill_(weight * (1 + 0.1 * draw.clamp(-3, 3).item()))
    return nn.Sequential(*units)


def _net(depth: int, kind: str, seed: int) -> nn.Module:
    activation = {"linear": nn.Identity, "tanh": nn.Tanh, "relu": nn.ReLU}[kind]
    scheme = "he" if kind == "relu" else "normalized"
    return mlp(*[16] * depth, 1, seed=seed, scheme=scheme, activation=activation).double()


CLAIM = Claim(
    title="First order misleads where many layers change at once",
    topic="depth",
    statement="In a deep net the rate by which the gradient promises a small decrease misses it, since all "
    "layers change at once and the promise is made for each with the others as they were.",
    sources=("X8", "R8"),
    places="N 8.34; U",
    setup="One step at the rate of the first-order prediction, for a decrease of the output (chains of "
    "single units) or of the squared loss (nets of width 16 on random data) by a tenth of itself; and of "
    "chains for a decrease by 0.1, as the texts have it. Depths from 1 to 60. What counts is how far the "
    "decrease at depth 60 is from the predicted one, as a share of that and at most all of it.",
    against="A decrease within a tenth of the predicted one at depth 60, or one layer that misses it by as "
    "much.",
    about="For a tenth of what is there, changes of the layers of a chain sum to a tenth whatever its depth, "
    "so that orders above the first stay small. For a decrease that is fixed beforehand they don't: where "
    "weights below 1 have made the output small, the promise is for more than there is. In nets the loss "
    "bends with every direction of the data, which a single chain hasn't.",
    measure=measure,
    rule=(
        more("miss", by=0.1, said="distance of actual over predicted from 1, at depth 60"),
        more("miss", "shallow", by=0.0, matters=0.05, said="that at depth 60 less that of one layer"),
    ),
    conditions={
        "chain for a tenth of the output": {"kind": "chain"},
        "chain of 0.9 for a decrease by 0.1": {"kind": "chain", "weight": 0.9, "share": None},
        "chain of 1.1 for a decrease by 0.1": {"kind": "chain", "weight": 1.1, "share": None},
        "linear net for a tenth of the loss": {"kind": "linear"},
        "tanh net for a tenth of the loss": {"kind": "tanh"},
        "ReLU net for a tenth of the loss": {"kind": "relu"},
    },
    quick=Size(seeds=16),
    picture=Lines(
        curves={"ratios": "actual over predicted"},
        axis="actual over predicted decrease",
        across="layers",
        x="depths",
        log_x=True,
    ),
    known=(
        Known(
            verdict="holds",
            why="0.9^45 is 0.009, of which 0.1 can't be taken",
            changes={"deepest": 45},
            conditions=("chain of 0.9 for a decrease by 0.1",),
        ),
        Known(
            verdict="does not hold",
            why="one linear unit has no second order",
            changes={"deepest": 1},
            conditions=("chain for a tenth of the output", "chain of 1.1 for a decrease by 0.1"),
        ),
    ),
)
