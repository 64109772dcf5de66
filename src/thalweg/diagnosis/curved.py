"""What curvature says of a training that went wrong: the rate against its bound, saddles, noise of gradients.

None of it names a cause. The bound explains why a loss blew up; which rate is right comes from trials, since
the best rates of minibatch training lie far below the bound, and some train above it.

Source: INDEX X1, X3, X6, X9.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, TypeAlias

import torch
from torch import Tensor

from thalweg.curvature import GaussNewtonMatrix, Hessian, lanczos, noise_scale, stability
from thalweg.curvature.eigenvalues import ExtremeEigenvalues
from thalweg.curvature.stability import seen_by
from thalweg.diagnosis import changes
from thalweg.diagnosis.computing import computing, learning, starting
from thalweg.diagnosis.facts import Facts
from thalweg.diagnosis.finding import Finding, Remedy, seen_as
from thalweg.diagnosis.setup import Setup
from thalweg.diagnosis.trial import TrialRun, constant
from thalweg.errors import ThalwegError
from thalweg.layers.modes import set_evaluation, set_mode
from thalweg.randomness import streams
from thalweg.randomness.streams import seed32

__all__ = ["curved", "rate_against_bound"]

# Examples of which a curvature is measured, and products that a measurement may take.
_ROWS, _PRODUCTS = 256, 20
# The steepest directions that are looked at, on how many examples each time; how many times less than the
# first another may curve along which so large a share of the loss could be won.
_STEEPEST, _FEW_ROWS, _UNEVEN, _MATTERS = 10, 128, 3000.0, 0.05
_UNSCALED = ("SGD", "LBFGS", "Rprop")
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
    with starting(setup, seed=seed, stream="curved") as (model, optimizer):
        try:
            operator = Hessian(model, setup.loss, setup.batch(rows))
            bound = stability(optimizer, operator, tolerance=0.05, most_products=_PRODUCTS, seed=seed)
        except _CANT:
            # an optimizer without such a bound, or a loss that can't be differentiated twice
            return "", 0.0
    cost = _cost(setup, len(rows), bound.products + 1)
    if not math.isfinite(bound.limit) or not math.isfinite(bound.ratio):
        return "", cost
    above = f"{bound.ratio:.3g} times" if bound.ratio > 1 else f"{100 * bound.ratio:.0f} % of"
    said = f"at the start the rate is {above} the bound of stability, {bound.limit:.2g} ({bound.said})"
    if not bound.converged:
        said += "; the bound may be lower still"
    return said, cost


def curved(facts: Facts, base: TrialRun, *, seed: int, most: float = math.inf) -> tuple[list[Finding], float]:
    """Return what curvature and noise tell, of the set-up as it begins and as it ends, and what that cost.

    Args:
        facts, base: of the set-up, and its trial.
        seed: of what is drawn.
        most: gradients of a batch that may be computed; what would take more isn't looked at.
    """
    found: list[Finding] = []
    cost = 0.0
    for look in (_ends, _noise, _conditioned):
        try:
            for finding, gradients in look(facts, base, seed, most - cost):
                cost += gradients
                found += [] if finding is None else [finding]
        except _CANT:
            continue
    return found, cost


_Looks: TypeAlias = Iterator[tuple[Finding | None, float]]


def _conditioned(facts: Facts, base: TrialRun, seed: int, most: float) -> _Looks:
    """Whether directions at the start are far steeper than the next ones.

    Of the Gauss-Newton matrix as the optimizer sees it: no eigenvalue is below 0, and an adaptive optimizer
    divides by what it sees of each parameter. Examples are drawn twice, by which the ratio's error is seen.
    """
    setup = facts.setup
    if base.training > 0.6 or 2 * _cost(setup, _FEW_ROWS, 2 * _PRODUCTS) > most:
        return
    # what is left once the steepest directions are done with
    end = sorted(base.losses[-10:]) if base.finite and base.losses else [facts.loss]
    left = min(facts.loss, end[len(end) // 2])
    found: list[tuple[float, float]] = []
    # no two looks share an example
    for rows in _rows(facts, 2 * _FEW_ROWS, seed).chunk(2):
        with starting(setup, seed=seed, stream="conditioned") as (model, optimizer):
            learning(model)
            seen = seen_by(optimizer, GaussNewtonMatrix(model, setup.loss, setup.batch(rows)))
            slope = seen.guess()
            ends = lanczos(
                seen, ends="largest", count=_STEEPEST, tolerance=1e-5, most_products=2 * _PRODUCTS, seed=seed
            )
        yield None, _cost(setup, len(rows), ends.products)
        flattest = _flattest(ends, slope, left)
        if flattest is None:
            return
        found.append(flattest)
    (ratio, gain), (again, _) = found
    yield (
        seen_as(
            "ill-conditioned",
            f"as {facts.optimizer} sees it at the start, the steepest direction curves {ratio:,.0f} times "
            f"({again:,.0f} on other examples) as much as one along which the loss could fall by "
            f"{gain:.2g}",
            f"at the largest rate that the steepest one allows, this takes over {min(ratio, again) / 2:,.0f} "
            "steps",
            cause="no single rate fits directions that differ so much",
            remedy=Remedy(
                text="standardize inputs, put norms between layers, or take an optimizer that scales each "
                "parameter by its own gradients",
                change=changes.adam() if facts.optimizer in _UNSCALED else None,
                code="nn.BatchNorm1d(...), or torch.optim.Adam(model.parameters(), lr=0.001)",
            ),
        ),
        0.0,
    )


def _flattest(ends: ExtremeEigenvalues, slope: Any, loss: float) -> tuple[float, float] | None:
    """Return how much less than the steepest a direction curves that matters, and what is to be won along it.

    That is ``(g'v)^2 / (2 lambda)``, and matters from a share of the loss on. An eigenvalue lies no further
    away than its residual, so that both numbers are no larger than the true ones.
    """
    if slope is None or not math.isfinite(loss):
        return None
    steep = ends.largest.value
    for pair in reversed(ends.largest_pairs):
        curvature = pair.value + pair.residual
        along = sum(float((g.double() * v.double()).sum()) for g, v in zip(slope, pair.vector, strict=True))
        gain = along**2 / (2 * max(curvature, 1e-300)) / max(abs(loss), 1e-30)
        if gain >= _MATTERS:
            return (steep / curvature, gain * abs(loss)) if steep >= _UNEVEN * curvature else None
    return None


def _ends(facts: Facts, base: TrialRun, seed: int, most: float) -> _Looks:
    """Both ends of the spectrum where the training stands still: a saddle, or a valley."""
    model, setup = base.model, facts.setup
    if model is None or not base.finite or not _stands(base) or _cost(setup, _ROWS, _PRODUCTS) > most:
        return
    rows = _rows(facts, _ROWS, seed)
    with computing(setup, model, seed=seed, stream="curved"):
        set_evaluation(model)
        operator = Hessian(model, setup.loss, setup.batch(rows))
        with operator.held():
            ends = lanczos(operator, tolerance=0.05, most_products=_PRODUCTS, seed=seed)
    yield None, _cost(setup, len(rows), ends.products)
    low, high = ends.smallest, ends.largest
    sharpest = max(abs(low.value), abs(high.value))
    if low.value + low.error < -0.02 * sharpest:
        yield (
            seen_as(
                "saddle",
                f"the loss stands still, and curves downward along one direction: {low.value:.2g} (residual "
                f"{low.residual:.1g}), where the sharpest is {high.value:.2g}",
            ),
            0.0,
        )


def _stands(base: TrialRun) -> bool:
    """Whether the loss hardly changed in the last third, and little was learnt."""
    losses = base.losses
    third = len(losses) // 3
    if third < 5 or base.training > 0.5:
        return False
    before, after = (torch.tensor(part).double() for part in (losses[-2 * third : -third], losses[-third:]))
    chance = 2 * float(torch.sqrt((before.var() + after.var()) / third))
    return abs(float(before.mean() - after.mean())) < max(0.02 * abs(float(before.mean())), chance)


def _noise(facts: Facts, base: TrialRun, seed: int, most: float) -> _Looks:
    """Whether batches are so small that their gradients are mostly noise."""
    setup, model = facts.setup, base.model
    size = setup.batch_size
    # where a model has learnt what there is, all that is left of its gradient is noise
    if model is None or not base.finite or size > _SMALL or base.training > 0.6:
        return
    if base.training_outputs is not None and constant(base.training_outputs):
        # nothing but biases is left to be learnt, as by dead units
        return
    rows = _rows(facts, _BATCHES * max(size, 4), seed)
    parts = [part for part in torch.split(rows, max(size, 4)) if len(part) == max(size, 4)]
    if len(parts) < 6 or sum(map(len, parts)) / size > most:
        return
    with computing(setup, model, seed=seed, stream="noise"):
        set_mode(model, training=True)
        scale = noise_scale(model, setup.loss, [setup.batch(part) for part in parts])
    yield None, sum(map(len, parts)) / size
    if scale.low > 4 * size and setup.examples > 8 * size:
        interval = f"from {scale.low:.0f}" + ("" if math.isinf(scale.high) else f" to {scale.high:.0f}")
        value = f"at least {scale.low:.0f}" if math.isinf(scale.value) else f"{scale.value:.0f}"
        yield (
            seen_as(
                "gradient-noise",
                f"batches hold {size} examples, and the noise scale of gradients is {value} (95 % interval "
                f"{interval}): with so many a step makes half the progress of one without noise",
            ),
            0.0,
        )


def _cost(setup: Setup, rows: int, products: int) -> float:
    """Return what products with a matrix over so many examples cost, in gradients of a batch."""
    return 2 * products * rows / setup.batch_size


def _rows(facts: Facts, count: int, seed: int) -> Tensor:
    """Draw training examples, without repetition."""
    known = facts.held.rows
    order = streams.order(len(known), seed=seed32(seed, "diagnosis", "curved"), epoch=0)
    return known[torch.from_numpy(order)][:count]
