"""What the recorded curve of a run tells by itself, where its model can't be had, or beside what that says.

Source: INDEX R7: a curve is read as too low a rate, too high, oscillating.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from thalweg.diagnosis.finding import MECHANISMS, Finding, Remedy
from thalweg.run.directory.directory import RunDirectory
from thalweg.training.results import TrainResults

__all__ = ["RecordedRun", "read_recorded", "recorded_findings"]

# Evaluations below which a curve has no shape.
_FEWEST = 4
# A loss that has settled moves by less than this share of its whole way in the last fifth of the steps.
_STILL = 0.1
# An evaluation's loss that jumps by this share of the way, up and down by turns, isn't noise of a batch: it
# is the mean over all steps since the evaluation before.
_JUMP = 0.2
# Validation loss this much above its lowest point, while the training loss goes on falling.
_RISE = 1.15


@dataclass(frozen=True, kw_only=True)
class RecordedRun:
    """What a run directory tells of its course.

    Attributes:
        steps: done at each evaluation.
        training, validation: losses there; ``None`` where there is none, or it isn't finite.
        failed: whether it ended by a failure.
        stopped: why it ended before its time.
    """

    steps: Sequence[int]
    training: Sequence[float | None]
    validation: Sequence[float | None]
    failed: bool = False
    stopped: str = ""


def read_recorded(directory: Path) -> RecordedRun:
    """Read the curve of a training's directory, finished or not; no code is run.

    Raises:
        RunDirectoryError: it is damaged.
    """
    if (directory / "results.json").is_file():
        results = TrainResults.read(directory / "results.json")
        points: list[Mapping[str, Any]] = [point.model_dump() for point in results.curve]
        failed, stopped = results.failed, results.stopped
    else:
        events = RunDirectory.read(directory).events()
        by_step = {each["step"]: each for each in events if each.get("event") == "evaluation"}
        points = [by_step[step] for step in sorted(by_step)]
        ends = [each for each in events if each.get("event") == "finished"]
        failed = bool(ends and ends[-1].get("failed"))
        stopped = ends[-1].get("stopped") if ends else None
    return RecordedRun(
        steps=[int(point["step"]) for point in points],
        training=[point.get("train_loss") for point in points],
        validation=[point.get("validation_loss") for point in points],
        failed=failed,
        stopped=stopped or "",
    )


def recorded_findings(
    run: RecordedRun, *, rate: float | None = None, epochs: int | None = None
) -> list[Finding]:
    """Return what a curve shows, worst first.

    Args:
        run: what was recorded.
        rate: the learning rate, where it is known, so that the remedy can name another.
        epochs: likewise how long it was trained.

    >>> falling = RecordedRun(
    ...     steps=[0, 5, 10, 15, 20], training=[2.0, 1.6, 1.2, 0.8, 0.4], validation=[None] * 5
    ... )
    >>> [finding.code for finding in recorded_findings(falling)]
    ['slow-convergence']
    """
    found = [*_nonfinite(run, rate)] or [*_oscillating(run, rate), *_slow(run, epochs), *_overfitting(run)]
    order = {"error": 0, "risk": 1, "advice": 2}
    return sorted(found, key=lambda finding: order[finding.severity])


def _rate_remedy(rate: float | None) -> Remedy:
    if rate is None:
        return Remedy(text="lower the learning rate to a tenth")
    lower = float(f"{rate / 10:.4g}")
    return Remedy(
        text=f"lower the learning rate from {rate:g} to {lower:g}",
        code=f"lr={lower:g}",
        settings={"optimizer.lr": lower},
    )


def _nonfinite(run: RecordedRun, rate: float | None) -> Iterator[Finding]:
    last = [step for step, loss in zip(run.steps, run.training, strict=True) if loss is not None]
    gone = bool(run.steps) and run.training[-1] is None
    if not gone and not run.failed:
        return
    evidence = [f"the last finite loss was recorded at step {last[-1]:,}"] if last else []
    if run.stopped:
        evidence.insert(0, run.stopped)
    yield Finding(
        code="nonfinite-loss",
        severity="error",
        title=MECHANISMS["nonfinite-loss"] if gone or not run.stopped else "the training ended by a failure",
        evidence=tuple(evidence),
        cause="most often the learning rate is too high; else data or the loss aren't finite",
        remedy=_rate_remedy(rate),
        confidence=0.9,
    )


def _oscillating(run: RecordedRun, rate: float | None) -> Iterator[Finding]:
    losses = _finite(run.training)
    if len(losses) < 2 * _FEWEST:
        return
    half = losses[len(losses) // 2 :]
    # where hardly anything was learnt, noise is large against the way
    way = max(losses[0] - min(losses), 0.25 * abs(losses[0]), 1e-30)
    moves = [b - a for a, b in pairwise(half)]
    turns = sum(a * b < 0 for a, b in pairwise(moves))
    jump = sorted(map(abs, moves))[len(moves) // 2] / way
    if turns < max(2, len(moves) // 2) or jump < _JUMP:
        return
    yield Finding(
        code="oscillating-loss",
        severity="risk",
        title=MECHANISMS["oscillating-loss"],
        evidence=(
            f"in the second half the training loss turned {turns} times in {len(half)} evaluations, each "
            f"time by {jump * way:.3g} (median); it began at {losses[0]:.3g}",
        ),
        cause="most often the learning rate is too high",
        remedy=_rate_remedy(rate),
        confidence=0.7,
    )


def _slow(run: RecordedRun, epochs: int | None) -> Iterator[Finding]:
    known = [(s, v) for s, v in zip(run.steps, run.training, strict=True) if v is not None]
    if len(known) < _FEWEST or not math.isfinite(known[0][1]):
        return
    (first, start), (last, end) = known[0], known[-1]
    edge = last - 0.2 * (last - first)
    before = next((loss for step, loss in reversed(known) if step <= edge), start)
    way = start - end
    if way <= 0 or before - end < _STILL * way:
        return
    yield Finding(
        code="slow-convergence",
        severity="risk",
        title=MECHANISMS["slow-convergence"],
        evidence=(
            f"{100 * (before - end) / way:.0f} % of what the training loss fell, from {start:.4g} to "
            f"{end:.4g}, it fell in the last fifth of the steps",
        ),
        cause="too few steps, too large batches and too small a rate are often one thing: the way is too "
        "short",
        remedy=Remedy(
            text="train longer"
            + ("" if epochs is None else f", {3 * epochs} epochs")
            + ", or at a higher rate",
            settings={} if epochs is None else {"training.epochs": 3 * epochs},
        ),
        confidence=0.8,
    )


def _overfitting(run: RecordedRun) -> Iterator[Finding]:
    known = [
        (s, t, v)
        for s, t, v in zip(run.steps, run.training, run.validation, strict=True)
        if t is not None and v is not None
    ]
    if len(known) < _FEWEST:
        return
    step, training, lowest = min(known, key=lambda each: each[2])
    _, end, now = known[-1]
    if now <= _RISE * lowest or end >= training or lowest <= 0:
        return
    yield Finding(
        code="overfitting",
        severity="advice",
        title=MECHANISMS["overfitting"],
        evidence=(
            f"the validation loss was lowest at step {step:,}, {lowest:.4g}, and ended at {now:.4g}, while "
            f"the training loss fell from {training:.4g} to {end:.4g}",
        ),
        cause="there are few examples for a model of this size, or it is trained for very long",
        remedy=Remedy(
            text="keep the weights of the best evaluation, or stop there",
            code="[strategies.early-stopping]",
            settings={"strategies.early-stopping": {"patience": 5}},
        ),
        confidence=0.8,
    )


def _finite(values: Sequence[float | None]) -> list[float]:
    return [value for value in values if value is not None and math.isfinite(value)]
