"""What a race will do, decided before anything is trained, and made to fit a budget."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from thalweg.errors import DataError, OptionError, option
from thalweg.objectives import Metric
from thalweg.racing.results import PlanInfo

__all__ = [
    "KEPT_BACK",
    "Cost",
    "check_batch_size",
    "check_goal",
    "default_epochs",
    "estimate_seconds",
    "fit_minutes",
    "replicate_seconds",
    "reserve_size",
    "run_counts",
    "spoken_seconds",
]

KEPT_BACK = 0.1
"""Part of a budget that no runs get: start-up, verdict and report take time too."""

_TARGET_STEPS = 700
_FEWEST_TRIALS = 6
_FEWEST_SPLITS = 3


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What a run costs on this machine when run as the engine runs it, measured.

    Attributes:
        step_seconds: optimizer to seconds a step and run, batched where the engine batches.
        evaluation_seconds: seconds to evaluate one run on the validation split once.
    """

    step_seconds: Mapping[str, float]
    evaluation_seconds: float


def default_epochs(examples: int, batch_size: int) -> int:
    """Return how many passes make about 700 steps, between 2 and 60."""
    steps = max(1, examples // batch_size)
    return min(60, max(2, math.ceil(_TARGET_STEPS / steps)))


def check_batch_size(batch_size: int, examples: int) -> None:
    """Refuse a batch larger than the training split."""
    if batch_size > examples:
        most = 2 ** int(math.log2(max(1, examples)))
        raise DataError(
            f"the training split has {examples} rows, fewer than one batch of {batch_size}; "
            f"give more rows, or {option('batch_size', most)} or less"
        )


def check_goal(goal: float, metric: Metric) -> None:
    """Refuse a goal that no model can reach, or that every model reaches.

    Raises:
        OptionError: it lies beyond the metric's best value, at its worst, or isn't a finite number.
    """
    better, beyond, worse = ("at most", goal > metric.best, goal <= metric.worst)
    if not metric.higher_is_better:
        better, beyond, worse = ("at least", goal < metric.best, goal >= metric.worst)
    if not math.isfinite(goal):
        raise OptionError(
            f"{option('goal')} is {goal:g}, but must be a value of {metric.name}; give a finite number"
        )
    if beyond:
        raise OptionError(
            f"{option('goal', goal)} can't be reached: {metric.name} is {better} {metric.best:g} by "
            "definition; give a goal on the reachable side of it"
        )
    if worse:
        raise OptionError(
            f"{option('goal', goal)} is reached by every model: {metric.name} is never worse than "
            f"{metric.worst:g}; give a better value"
        )


def run_counts(plan: PlanInfo) -> dict[str, int]:
    """Return how many runs each stage has for one optimizer in one replicate."""
    return {
        "screen": plan.trials,
        "rerun": min(plan.reruns, plan.trials) * plan.rerun_seeds,
        "confirm": plan.confirm,
    }


def reserve_size(trials: int) -> int:
    """Return how many of a pool's settings are held back for the second wave: a quarter."""
    return trials // 4


def replicate_seconds(plan: PlanInfo, cost: Cost) -> dict[str, float]:
    """Return the seconds that each part of one split's procedure will take at this cost.

    Parts: ``first`` and ``second`` wave of the screening, ``rerun``, ``confirm``.
    """
    counts = run_counts(plan)
    evaluation = (plan.evaluations + 1) * cost.evaluation_seconds
    run = sum(plan.steps * cost.step_seconds[name] + evaluation for name in plan.optimizers)
    return {
        "first": (counts["screen"] - plan.reserve) * run,
        "second": plan.reserve * run,
        "rerun": counts["rerun"] * run,
        # these runs evaluate the test split beside the validation split
        "confirm": counts["confirm"] * (run + len(plan.optimizers) * evaluation),
    }


def estimate_seconds(plan: PlanInfo, cost: Cost) -> float:
    """Return the seconds the whole plan will take at this cost."""
    return plan.splits * sum(replicate_seconds(plan, cost).values())


def fit_minutes(plan: PlanInfo, cost: Cost) -> tuple[PlanInfo, list[str]]:
    """Shrink a plan until its estimate fits ``plan.minutes``.

    First fewer trials (down to 6), then fewer splits (down to 3), then fewer epochs (down to one):
    the order in which the verdict suffers least. An estimate that fits is left alone.

    Args:
        plan: the plan as asked for; ``minutes`` may be ``None``.
        cost: measured.

    Returns:
        The plan to follow, and what was changed, a sentence each.
    """
    seconds = estimate_seconds(plan, cost)
    if plan.minutes is None:
        return plan, [f"estimated time of all runs: {spoken_seconds(seconds)}"]
    budget = 60 * plan.minutes * (1 - KEPT_BACK)
    notes = [f"estimated time as asked: {spoken_seconds(seconds)}; the budget is {plan.minutes:g} min"]
    asked = plan
    for name, least in (("trials", _FEWEST_TRIALS), ("splits", _FEWEST_SPLITS), ("epochs", 1)):
        while estimate_seconds(plan, cost) > budget and getattr(plan, name) > least:
            plan = _with(plan, name, getattr(plan, name) - 1)
    # a split or an epoch less may leave room for trials again
    while plan.trials < asked.trials:
        more = _with(plan, "trials", plan.trials + 1)
        if estimate_seconds(more, cost) > budget:
            break
        plan = more
    for name in ("trials", "splits", "epochs"):
        before, now = getattr(asked, name), getattr(plan, name)
        if now != before:
            notes.append(f"{name} reduced from {before} to {now} to fit")
    seconds = estimate_seconds(plan, cost)
    if seconds > budget:
        notes.append(
            f"even the smallest plan takes about {spoken_seconds(seconds)}, more than the budget; "
            "it is run all the same: fewer optimizers or a smaller model would fit"
        )
    elif len(notes) > 1:
        notes.append(f"estimated time now: {spoken_seconds(seconds)}")
    return plan, notes


def _with(plan: PlanInfo, name: str, value: int) -> PlanInfo:
    update: dict[str, object] = {name: value}
    if name == "epochs":
        update["steps"] = plan.steps // plan.epochs * value
    if name == "trials":
        update["reserve"] = reserve_size(value)
    return plan.model_copy(update=update)


def spoken_seconds(seconds: float) -> str:
    """Phrase a duration: ``"40 s"``, ``"3.5 min"``, ``"2.1 h"``."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    if seconds < 5400:
        return f"{seconds / 60:.1f} min"
    return f"{seconds / 3600:.1f} h"
