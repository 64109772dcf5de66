"""What a step costs: in forward passes, and in seconds of one run alone."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable

import torch

from thalweg import objectives
from thalweg.layers.modes import begin_training
from thalweg.randomness.generators import undisturbed
from thalweg.run.problem import Problem
from thalweg.run.sampler import Batches
from thalweg.run.spec import Run, Setting, Workload
from thalweg.run.threads import with_threads
from thalweg.training.steps import FORWARD_BACKWARD, make_step

__all__ = ["measured_passes", "now", "step_seconds", "stepper"]


def step_seconds(
    setting: Setting,
    problem: Problem,
    workload: Workload,
    *,
    repeats: int = 5,
    seconds: float = 0.1,
    threads: int = 1,
) -> tuple[float, float, float]:
    """Measure the wall-clock seconds of a step of one run alone: batch, forward, backward, optimizer.

    A step is the plan's: a forward and backward pass over one batch of the workload. Of an optimizer whose
    steps take more, what as much work takes.

    Args:
        setting: optimizer and hyperparameters; the rate is the same at all steps.
        problem, workload: as for :func:`thalweg.execution.loop.run`.
        repeats: measurements, at least 1.
        seconds: length of each, about; at least 3 steps.
        threads: torch threads.

    Returns:
        The lowest, the median and the highest of the measurements.
    """
    step = stepper(setting, problem, workload)
    with with_threads(threads), undisturbed():
        times = _measure(step, repeats, seconds, torch.device(problem.device))
    return min(times), statistics.median(times), max(times)


def measured_passes(
    problem: Problem,
    workload: Workload,
    *,
    repeats: int = 5,
    seconds: float = 0.1,
    threads: int = 1,
) -> float:
    """Measure the work of forward with backward in forward passes, which work counts as 3.

    Returns:
        The ratio of medians; the forward pass is taken without recording for a backward one.
    """
    model, loss, batch = _parts(problem, workload)

    def forward() -> float:
        inputs, targets = batch()
        with torch.no_grad():
            loss(model(inputs), targets)
        return 1.0

    def both() -> float:
        inputs, targets = batch()
        model.zero_grad()
        loss(model(inputs), targets).backward()  # type: ignore[no-untyped-call]
        return 1.0

    place = torch.device(problem.device)
    with with_threads(threads), undisturbed():
        ahead = statistics.median(_measure(forward, repeats, seconds, place))
        return statistics.median(_measure(both, repeats, seconds, place)) / ahead


def _parts(
    problem: Problem, workload: Workload
) -> tuple[torch.nn.Module, objectives.Loss, Callable[[], tuple[object, torch.Tensor]]]:
    train = problem.data.train
    model = problem.model(Run(identity="timed", setting=Setting(optimizer=""), seed=0))
    begin_training(model)
    batches = Batches(len(train), seed=0, size=workload.batch_size)
    return model, problem.functions.trained, lambda: train.batch(batches.take(0.0))


def stepper(setting: Setting, problem: Problem, workload: Workload) -> Callable[[], float]:
    """Return a function that does one step of a run alone, as :func:`step_seconds` measures it.

    It returns how many steps of the plan that was.
    """
    model, loss, _ = _parts(problem, workload)
    entry, train = problem.optimizers[setting.optimizer], problem.data.train
    optimizer = entry.make([p for p in model.parameters() if p.requires_grad], **setting.hyperparameters)
    take_step = make_step(entry.step_kind, optimizer, model, loss)
    factor = entry.of_run(setting.hyperparameters).get("batch_factor", 1.0)
    batches = Batches(len(train), seed=0, size=workload.batch_size, factor=factor)

    def step() -> float:
        indices = batches.take(0.0)
        _, work = take_step(*train.batch(indices), math.inf)
        return work / FORWARD_BACKWARD * len(indices) / workload.batch_size

    return step


def _measure(step: Callable[[], float], repeats: int, seconds: float, device: torch.device) -> list[float]:
    """Seconds a step of the plan, ``repeats`` times over as many as fill ``seconds``, after a few."""
    for _ in range(4):
        began = now(device)
        step()
        lasted = max(now(device) - began, 1e-9)
        if lasted > seconds:
            break
    calls = max(1 if lasted > seconds / 3 else 3, min(10_000, int(seconds / lasted)))
    times = []
    for _ in range(repeats):
        began, done = now(device), 0.0
        for _ in range(calls):
            done += step()
        times.append((now(device) - began) / done)
    return times


def now(device: torch.device) -> float:
    """Return the clock's seconds, once the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
