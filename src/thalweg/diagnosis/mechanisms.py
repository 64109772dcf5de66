"""What was seen in a training that went wrong: evidence beside its cause, never named before it.

Source: INDEX X1-X8, R7; K.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import Any

from torch import Tensor

from thalweg.diagnosis import changes
from thalweg.diagnosis.computing import computing
from thalweg.diagnosis.facts import Facts
from thalweg.diagnosis.finding import Finding, Remedy, seen_as
from thalweg.diagnosis.signals import Signal, copied_units, fresh_weights
from thalweg.diagnosis.trace import recording
from thalweg.diagnosis.trial import TrialRun, constant

__all__ = ["mechanisms"]

# A gradient of so many times the median of those before is a cliff, if the loss rose behind it by this share
# of where it began; looked for from so many steps on.
_CLIFF, _FALL, _BEFORE = 20.0, 0.5, 10
# Of what was seen before a cliff, the share that clipping leaves as it is.
_KEPT = 0.9


def mechanisms(facts: Facts, base: TrialRun, signal: Signal | None) -> list[Finding]:
    """Return what was seen of a set-up, its trial and its first pass, each with its numbers."""
    return [
        *_copies(facts, signal),
        *_at_the_start(signal),
        *_on_the_way(base),
        *_cliff(base),
        *_at_the_end(facts, base),
    ]


def _copies(facts: Facts, signal: Signal | None) -> Iterator[Finding]:
    found = [] if signal is None else copied_units(facts, signal)
    several = [f"{units} of {of} of {name}" for name, units, of in found if units >= max(2, of / 8)]
    if several:
        yield seen_as(
            "symmetric-units",
            f"units whose weights and gradients equal another's at the start: {', '.join(several[:3])}",
            "their gradients agree to 1e-4, so that they stay copies of each other",
            cause="units that begin equal learn the same, and a layer counts for less than its width",
            remedy=fresh_weights(signal) if signal is not None else None,
        )


def _at_the_start(signal: Signal | None) -> Iterator[Finding]:
    if signal is not None and signal.vanishing:
        yield seen_as(
            "vanishing-gradient",
            f"the gradient of the first layer ({signal.layers[0]}) is {signal.ratio:.1g} times that of the "
            "last one",
        )


def _on_the_way(base: TrialRun) -> Iterator[Finding]:
    if base.failed.startswith("the loss became"):
        yield seen_as("nonfinite-loss", base.failed)
    finite = [n for n in base.norms if math.isfinite(n)]
    middle = sorted(finite)[len(finite) // 2] if finite else 0.0
    # a loss that is infinite at once comes from its numbers, not from steps
    if finite and max(finite) > 100 * middle:
        yield seen_as(
            "exploding-gradient",
            f"norms of the gradient up to {max(finite):.3g}, where the median is {middle:.3g}",
        )
    losses = base.losses
    half = losses[len(losses) // 2 :]
    if len(half) >= 20:
        net, way = abs(half[-1] - half[0]), sum(abs(b - a) for a, b in itertools.pairwise(half))
        high, low = max(half), min(half)
        if high - low > 0.5 * abs(losses[0]) and way > 10 * max(net, 1e-12):
            yield seen_as(
                "oscillating-loss",
                f"in the second half the loss goes up and down between {low:.3g} and {high:.3g}",
            )
    points = base.points
    if base.finite and points:
        mine, theirs = points[-1].training, points[-1].validation
        if mine < 0.3:
            yield seen_as("underfitting", f"skill on the training data is {mine:.2f}")
        elif not math.isnan(theirs) and mine - theirs > 0.4:
            yield seen_as("overfitting", f"skill on the training data is {mine:.2f}, on others {theirs:.2f}")
        grown = points[-1].training - points[-3].training if len(points) > 2 else 0.0
        if grown > 0.05:
            yield seen_as(
                "slow-convergence", f"skill on the training data grew by {grown:.2f} in the last third"
            )


def _cliff(base: TrialRun) -> Iterator[Finding]:
    """A single gradient far above those before, and a loss that is much worse behind it."""
    norms, losses = base.norms, base.losses
    for step in range(_BEFORE, min(len(norms), len(losses) - 1)):
        before = sorted(norms[:step])
        middle, usual = before[step // 2], before[min(step - 1, int(_KEPT * step))]
        if not math.isfinite(usual) or not norms[step] > _CLIFF * max(middle, 1e-30):
            continue
        # of several batches, since any two differ
        was = sorted(losses[step - _BEFORE : step])[_BEFORE // 2]
        after = sorted(losses[step + 1 : step + 6])
        if after[len(after) // 2] - was <= _FALL * abs(losses[0]):
            continue
        yield seen_as(
            "cliff",
            f"at step {step} the gradient has a norm of {norms[step]:.3g}, {norms[step] / middle:.3g} times "
            f"the median of those before; {100 * _KEPT:.0f} % of them are below {usual:.3g}",
            f"the loss goes from {was:.3g} before it to {after[len(after) // 2]:.3g} behind it (medians of "
            f"{_BEFORE} and {len(after)} steps)",
            cause="the loss has a cliff, and one step from there undoes many",
            remedy=Remedy(
                text=f"clip the norm of the gradient at {usual:.2g}, which leaves {100 * _KEPT:.0f} % of the "
                "gradients before the cliff as they are",
                change=changes.clipped(usual),
                code=f"torch.nn.utils.clip_grad_norm_(model.parameters(), {usual:.2g})",
            ),
        )
        return


def _at_the_end(facts: Facts, base: TrialRun) -> Iterator[Finding]:
    if not base.finite:
        return
    outputs = base.training_outputs
    if constant(outputs):
        flat = outputs.reshape(len(outputs), -1).double()
        yield seen_as(
            "constant-output",
            f"outputs differ by {float(flat.std(0, correction=0).max()):.1g} from example to example",
        )
    model: Any = base.model
    if model is None:
        return
    inputs, _ = facts.held.training
    count = min(256, len(inputs)) if isinstance(inputs, Tensor) else 0
    if not count:
        return
    with computing(facts.setup, model, seed=0, stream="end", gradients=False):
        part = inputs[:count]
        with recording(model, count) as noted:
            noted.mark(part, -1)
            model(part)
    seen = [op.statistics for op in noted.operations if op.kind == "activation" and op.statistics is not None]
    dead, still = max((s.dead for s in seen), default=0.0), max((s.flat for s in seen), default=0.0)
    if dead > 0.5:
        yield seen_as(
            "dying-relu",
            f"{100 * dead:.0f} % of the units of a layer give zero for every example at the end",
        )
    if still > 0.5:
        yield seen_as(
            "saturation",
            f"{100 * still:.0f} % of a layer's values lie where its function is flat, at the end",
        )
