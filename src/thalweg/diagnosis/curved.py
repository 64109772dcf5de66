"""What curvature says of a training that went wrong: the rate against its bound, saddles, noise of gradients.

None of it names a cause. The bound explains why a loss blew up; which rate is right comes from trials, since
the best rates of minibatch training lie far below the bound, and some train above it.

Source: INDEX X1, X3, X6, X9.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from thalweg.curvature import Hessian, lanczos, noise_scale, stability
from thalweg.diagnosis.facts import Facts
from thalweg.diagnosis.trial import TrialRun
from thalweg.errors import ThalwegError
from thalweg.layers.modes import set_evaluation, set_mode
from thalweg.randomness import streams
from thalweg.randomness.generators import own_generators
from thalweg.randomness.streams import seed32

__all__ = ["curved", "rate_against_bound"]

# Examples of which a curvature is measured, and products that a measurement may take.
_ROWS, _PRODUCTS = 256, 20
# Batches of which the noise of gradients is measured.
_BATCHES = 32
# Batches that may be too small.
_SMALL = 16
_CANT = (ThalwegError, RuntimeError, ValueError, TypeError, IndexError, NotImplementedError)


def rate_against_bound(facts: Facts, *, seed: int) -> tuple[str, float]:
    """Say where the learning rate lies against the bound of stability at the start; ``""`` where it can't be.

    Returns:
        The sentence, and what it cost in gradients of a batch of the set-up.
    """
    setup = facts.setup
    rows = _rows(facts, _ROWS, seed)
    with own_generators(seed, "diagnosis", "curved"):
        model, optimizer = setup.start(seed)
        try:
            operator = Hessian(model, setup.loss, setup.batch(rows))
            bound = stability(optimizer, operator, tolerance=0.05, most_products=_PRODUCTS, seed=seed)
        except _CANT:
            # an optimizer without such a bound, or a loss that can't be differentiated twice
            return "", 0.0
    cost = 2 * (bound.products + 1) * len(rows) / setup.batch_size
    if not math.isfinite(bound.limit) or not math.isfinite(bound.ratio):
        return "", cost
    above = f"{bound.ratio:.3g} times" if bound.ratio > 1 else f"{100 * bound.ratio:.0f} % of"
    said = f"at the start the rate is {above} the bound of stability, {bound.limit:.2g} ({bound.said})"
    if not bound.converged:
        said += "; the bound may be lower still"
    return said, cost


def curved(facts: Facts, base: TrialRun, *, seed: int) -> tuple[list[tuple[str, str]], float]:
    """Return what curvature and noise tell of the trained model: code and sentence each; and what it cost."""
    if base.model is None or not base.finite:
        return [], 0.0
    found: list[tuple[str, str]] = []
    cost = 0.0
    with own_generators(seed, "diagnosis", "curved"):
        for look in (_ends, _noise):
            try:
                for code, said, gradients in look(facts, base, seed):
                    cost += gradients
                    if said:
                        found.append((code, said))
            except _CANT:
                continue
    return found, cost


def _ends(facts: Facts, base: TrialRun, seed: int) -> Iterator[tuple[str, str, float]]:
    """Both ends of the spectrum where the training stands still: a saddle, or a valley."""
    model, setup = base.model, facts.setup
    assert model is not None
    if not _stands(base):
        return
    set_evaluation(model)
    rows = _rows(facts, _ROWS, seed)
    operator = Hessian(model, setup.loss, setup.batch(rows))
    with operator.held():
        ends = lanczos(operator, tolerance=0.05, most_products=_PRODUCTS, seed=seed)
    cost = 2 * ends.products * len(rows) / setup.batch_size
    low, high = ends.smallest, ends.largest
    sharpest = max(abs(low.value), abs(high.value))
    if low.value + low.error < -0.02 * sharpest:
        said = (
            f"the loss stands still, and curves downward along one direction: {low.value:.2g} (residual "
            f"{low.residual:.1g}), where the sharpest is {high.value:.2g}"
        )
        yield "saddle", said, cost
    else:
        yield "saddle", "", cost


def _stands(base: TrialRun) -> bool:
    """Whether the loss hardly changed in the last third, and little was learnt."""
    losses = base.losses
    third = len(losses) // 3
    if third < 5 or base.training > 0.5:
        return False
    before, after = (torch.tensor(part).double() for part in (losses[-2 * third : -third], losses[-third:]))
    chance = 2 * float(torch.sqrt((before.var() + after.var()) / third))
    return abs(float(before.mean() - after.mean())) < max(0.02 * abs(float(before.mean())), chance)


def _noise(facts: Facts, base: TrialRun, seed: int) -> Iterator[tuple[str, str, float]]:
    """Whether batches are so small that their gradients are mostly noise."""
    setup, model = facts.setup, base.model
    assert model is not None
    size = setup.batch_size
    # where a model has learnt what there is, all that is left of its gradient is noise
    if size > _SMALL or base.training > 0.6:
        return
    rows = _rows(facts, _BATCHES * max(size, 4), seed)
    parts = [part for part in torch.split(rows, max(size, 4)) if len(part) == max(size, 4)]
    if len(parts) < 6:
        return
    set_mode(model, training=True)
    scale = noise_scale(model, setup.loss, [setup.batch(part) for part in parts])
    cost = sum(map(len, parts)) / size
    if scale.low > 4 * size and facts.setup.examples > 8 * size:
        end = "" if math.isinf(scale.high) else f" to {scale.high:.0f}"
        said = (
            f"batches hold {size} examples, and the noise scale of gradients is {scale.value:.0f} (95 % "
            f"interval from {scale.low:.0f}{end}): with so many a step makes half the "
            "progress of one without noise"
        )
        yield "gradient-noise", said, cost
    else:
        yield "gradient-noise", "", cost


def _rows(facts: Facts, count: int, seed: int) -> Tensor:
    """Draw training examples, without repetition."""
    known = facts.held.rows
    order = streams.order(len(known), seed=seed32(seed, "diagnosis", "curved"), epoch=0)
    return known[torch.from_numpy(order)][:count]
