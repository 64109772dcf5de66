"""How steps are taken: learning rate, optimizer, size of batches, how long. Only trials can judge these.

Source: INDEX X6, X9, R7. The stability bound explains divergence, and says little of which rate is right:
with minibatches the best rates lie far below it, and full batches train at it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from thalweg.diagnosis import changes
from thalweg.diagnosis.facts import Facts
from thalweg.diagnosis.finding import Remedy
from thalweg.diagnosis.suspicion import Suspicion
from thalweg.diagnosis.trial import TrialRun

__all__ = ["rate_remedy", "suspect_pace"]

_USUAL_BATCH = 32
# A training that moves its parameters by less than this share of their size hasn't left its start; usual ones
# move them by about so much in a few dozen steps.
_STILL, _USUAL_WAY = 2e-3, 0.05
_OF_WHOLE = ("Rprop", "LBFGS", "BFGS", "NonlinearCG", "Newton", "GaussNewton", "LevenbergMarquardt")
_TOO_SHORT = "too few steps, too large batches and too small a rate are often one thing: the way is too short"


def rate_remedy(facts: Facts, factor: float) -> Remedy:
    """Return the remedy of another learning rate."""
    rate = float(f"{facts.rate * factor:.4g}")
    return Remedy(
        text=f"{'raise' if factor > 1 else 'lower'} the learning rate from {facts.rate:g} to {rate:.2g}",
        change=changes.faster(factor),
        code=f"lr={rate:.2g}",
        settings={"optimizer.lr": rate},
    )


def suspect_pace(facts: Facts, base: TrialRun) -> Iterator[Suspicion]:
    """Go through what may be wrong with the steps.

    Args:
        facts: of the set-up.
        base: its trial, which tells where to look.
    """
    setup = facts.setup
    if math.isfinite(facts.rate) and facts.rate > 0:
        broken = not base.finite
        jumps = _jumps(base)
        for factor in (0.1, 0.01, 0.001) if broken else (0.1, 0.01):
            yield Suspicion(
                code="learning-rate-high",
                weight=0.85 if broken or jumps > 0.35 else 0.7,
                title="the learning rate is too high",
                evidence=(
                    f"{facts.optimizer} with a rate of {facts.rate:g}",
                    *((base.failed,) if broken else ()),
                    *(
                        (f"{100 * jumps:.0f} % of the steps in the second half made the loss much larger",)
                        if jumps > 0.35
                        else ()
                    ),
                ),
                cause="steps overshoot, along the steepest directions first",
                remedy=rate_remedy(facts, factor),
                factor=factor,
            )
        if not broken:
            moved = max(base.moved.values(), default=0.0)
            still = moved < _STILL
            # a step is about as long as the rate is large: from there the way to usual steps is known
            guess = 10.0 ** max(1, round(math.log10(_USUAL_WAY / max(moved, 1e-12)))) if still else 10.0
            for factor in (guess, 10 * guess):
                yield Suspicion(
                    code="learning-rate-low",
                    weight=0.92 if still else 0.8,
                    title="the learning rate is too low",
                    evidence=(
                        f"{facts.optimizer} with a rate of {facts.rate:g}",
                        *((f"no parameter moved by more than {moved:.1g} of its size",) if still else ()),
                    ),
                    cause="steps are so short that the training hardly leaves its start",
                    remedy=rate_remedy(facts, factor),
                    factor=factor,
                )
    if facts.optimizer.lower() not in ("adam", "adamw", "nadam", "radam"):
        # made for the whole gradient: the noise of a batch is taken for curvature, or turns every sign
        whole = facts.optimizer in _OF_WHOLE and 2 * setup.batch_size < setup.examples
        yield Suspicion(
            code="optimizer",
            weight=0.9 if whole else 0.55,
            severity="risk",
            title="another optimizer gets much further",
            evidence=(f"{facts.optimizer} with a rate of {facts.rate:g}",),
            cause="one rate for all parameters fits none where their gradients differ in size",
            remedy=Remedy(
                text="use Adam with a rate of 0.001",
                change=changes.adam(1e-3),
                code="torch.optim.Adam(model.parameters(), lr=0.001)",
                settings={"optimizer": {"name": "adam", "lr": 1e-3}},
            ),
        )
    yield from _batches(facts)
    steps = setup.steps
    rising = _rising(base)
    yield Suspicion(
        code="epochs-few",
        weight=0.85 if rising and steps < 1500 else 0.4,
        cost=5.0,
        title="training ends before it has got far",
        evidence=(
            f"{steps:,} steps in {setup.epochs} {'epoch' if setup.epochs == 1 else 'epochs'}",
            *(("it was still getting better at the end",) if rising else ()),
        ),
        cause=_TOO_SHORT,
        remedy=Remedy(
            text=f"train five times as long, {5 * setup.epochs} epochs",
            change=lambda given: given.with_(epochs=5 * given.epochs),
            code=f"epochs = {5 * setup.epochs}",
            settings={"training.epochs": 5 * setup.epochs},
        ),
    )
    norms = [n for n in base.norms if math.isfinite(n)]
    if norms:
        middle = sorted(norms)[len(norms) // 2]
        spikes = max(norms) / max(middle, 1e-30)
        recurrent = facts.traced is not None and any(op.kind == "recurrent" for op in facts.traced.model)
        if spikes > 20 or (recurrent and (not base.finite or spikes > 8)):
            first = sorted(norms[: max(3, len(norms) // 10)])
            bound = max(first[len(first) // 2], 1e-8)
            yield Suspicion(
                code="exploding-gradient",
                weight=0.85 if recurrent else 0.5,
                severity="risk",
                title="single gradients are far larger than all others",
                evidence=(f"the largest norm is {spikes:.3g} times the median of {middle:.3g}",),
                cause="the loss has cliffs: one step from there undoes many",
                remedy=Remedy(
                    text=f"clip the norm of the gradient at {bound:.2g}",
                    change=changes.clipped(bound),
                    code=f"torch.nn.utils.clip_grad_norm_(model.parameters(), {bound:.2g})",
                    settings={"strategies.clipping.norm": bound},
                ),
            )


def _batches(facts: Facts) -> Iterator[Suspicion]:
    setup = facts.setup
    size, count = setup.batch_size, setup.examples
    steps_an_epoch = max(1, math.ceil(count / size))
    if size > 2 * _USUAL_BATCH and (steps_an_epoch <= 8 or size >= 512):
        yield Suspicion(
            code="batch-large",
            weight=0.88 if steps_an_epoch <= 3 else 0.7,
            title="batches are so large that there are few steps",
            evidence=(
                f"batches of {size} of {count} examples: {steps_an_epoch} "
                f"{'step' if steps_an_epoch == 1 else 'steps'} an epoch, {setup.steps:,} in all",
            ),
            cause=_TOO_SHORT,
            remedy=Remedy(
                text=f"use batches of {_USUAL_BATCH}",
                change=changes.of_batch(_USUAL_BATCH),
                code=f"batch_size={_USUAL_BATCH}",
                settings={"training.batch_size": _USUAL_BATCH},
            ),
        )
    if size <= 4 and count >= 4 * _USUAL_BATCH:
        yield Suspicion(
            code="batch-small",
            weight=0.75,
            title="batches are so small that noise hides the gradient",
            evidence=(f"batches of {size}",),
            cause="the noise of a gradient falls with the square root of the batch",
            remedy=Remedy(
                text=f"use batches of {_USUAL_BATCH}",
                change=changes.of_batch(_USUAL_BATCH),
                code=f"batch_size={_USUAL_BATCH}",
                settings={"training.batch_size": _USUAL_BATCH},
            ),
        )


def _jumps(base: TrialRun) -> float:
    """Share of steps in the second half whose loss is much larger than the median of that half."""
    half = base.losses[len(base.losses) // 2 :]
    if len(half) < 10:
        return 0.0
    middle = sorted(half)[len(half) // 2]
    first = abs(base.losses[0]) + 1e-12
    return sum(value > middle + 0.5 * first for value in half) / len(half)


def _rising(base: TrialRun) -> bool:
    """Whether skill was still growing at the end, by more than a tenth of what was reached."""
    if len(base.points) < 3 or not base.finite:
        return False
    last, before = base.points[-1], base.points[-3]
    grown = last.training - before.training
    losses = base.losses
    tenth = max(1, len(losses) // 8)
    early, late = sum(losses[-4 * tenth : -3 * tenth]), sum(losses[-tenth:])
    falling = early - late > 0.05 * abs(early)
    return grown > max(0.03, 0.1 * abs(last.training)) or falling
