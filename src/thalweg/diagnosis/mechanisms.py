"""What was seen in a training that went wrong: evidence beside its cause, never named before it.

Source: INDEX X1-X8, R7; K.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from thalweg.diagnosis.facts import Facts
from thalweg.diagnosis.finding import MECHANISMS, Finding
from thalweg.diagnosis.signals import Signal
from thalweg.diagnosis.trace import recording
from thalweg.diagnosis.trial import TrialRun
from thalweg.layers.interface import Interface
from thalweg.layers.modes import set_evaluation
from thalweg.randomness.generators import own_generators

__all__ = ["mechanisms"]


def mechanisms(
    facts: Facts, base: TrialRun, signal: Signal | None, curved: Sequence[tuple[str, str]] = ()
) -> list[Finding]:
    """Return what was seen, each with its numbers.

    Args:
        facts, base, signal: of the set-up, its trial, its first pass.
        curved: what curvature says, a code and a sentence each.
    """
    return [
        Finding(
            code=code,
            severity="advice",
            title=MECHANISMS[code],
            evidence=(said,),
            cause="see the findings before this one",
            confidence=0.9,
        )
        for code, said in (*_seen(facts, base, signal), *curved)
    ]


def _seen(facts: Facts, base: TrialRun, signal: Signal | None) -> Iterator[tuple[str, str]]:
    if base.failed.startswith("the loss became"):
        yield "nonfinite-loss", base.failed
    if signal is not None and signal.vanishing:
        yield (
            "vanishing-gradient",
            (
                f"the gradient of the first layer ({signal.layers[0]}) is {signal.ratio:.1g} times that "
                "of the last one"
            ),
        )
    finite = [n for n in base.norms if math.isfinite(n)]
    if finite and (len(finite) < len(base.norms) or max(finite) > 100 * sorted(finite)[len(finite) // 2]):
        yield (
            "exploding-gradient",
            (
                f"norms of the gradient up to {max(finite):.3g}, where the median is "
                f"{sorted(finite)[len(finite) // 2]:.3g}"
            ),
        )
    if base.finite:
        yield from _at_the_end(facts, base)
    losses = base.losses
    half = losses[len(losses) // 2 :]
    if len(half) >= 20:
        steps = [b - a for a, b in itertools.pairwise(half)]
        net, way = abs(half[-1] - half[0]), sum(abs(s) for s in steps)
        high, low = max(half), min(half)
        if high - low > 0.5 * abs(losses[0]) and way > 10 * max(net, 1e-12):
            yield (
                "oscillating-loss",
                f"in the second half the loss goes up and down between {low:.3g} and {high:.3g}",
            )
    points = base.points
    if base.finite and points:
        mine, theirs = points[-1].training, points[-1].validation
        if mine < 0.3:
            yield "underfitting", f"skill on the training data is {mine:.2f}"
        elif not math.isnan(theirs) and mine - theirs > 0.4:
            yield "overfitting", f"skill on the training data is {mine:.2f}, on others {theirs:.2f}"
        grown = points[-1].training - points[-3].training if len(points) > 2 else 0.0
        if grown > 0.05:
            yield "slow-convergence", f"skill on the training data grew by {grown:.2f} in the last third"


def _at_the_end(facts: Facts, base: TrialRun) -> Iterator[tuple[str, str]]:
    outputs = base.training_outputs
    if isinstance(outputs, Tensor) and len(outputs) > 1:
        flat = outputs.reshape(len(outputs), -1).double()
        spread = float(flat.std(0, correction=0).max())
        if spread <= 1e-4 * max(1e-8, float(flat.abs().max())):
            yield "constant-output", f"outputs differ by {spread:.1g} from example to example"
    model: Any = base.model
    if model is None:
        return
    inputs, _ = facts.held.training
    count = min(256, len(inputs)) if isinstance(inputs, Tensor) else 0
    if not count:
        return
    set_evaluation(model)
    with own_generators(0, "diagnosis", "end"), torch.no_grad(), Interface().attached(model):
        part = inputs[:count]
        with recording(model, count) as noted:
            noted.mark(part, -1)
            model(part)
    seen = [op.statistics for op in noted.operations if op.kind == "activation" and op.statistics is not None]
    dead, still = max((s.dead for s in seen), default=0.0), max((s.flat for s in seen), default=0.0)
    if dead > 0.5:
        yield (
            "dying-relu",
            f"{100 * dead:.0f} % of the units of a layer give zero for every example at the end",
        )
    if still > 0.5:
        yield (
            "saturation",
            f"{100 * still:.0f} % of a layer's values lie where its function is flat, at the end",
        )
