"""What a step costs: in forward passes, and in seconds of one run alone."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch

from thalweg import objectives
from thalweg.catalogue import Entry
from thalweg.data.source import Prepared
from thalweg.entries import Workload
from thalweg.lanes.course import initial_module, orders, steps_an_epoch
from thalweg.models import Factory

__all__ = ["FORWARD", "FORWARD_BACKWARD", "measured_passes", "step_seconds", "stepper", "with_threads"]

FORWARD = 1.0
"""Work of a forward pass over a batch: the unit."""

FORWARD_BACKWARD = 3.0
"""Work of a forward with a backward pass: two matrix products more for each one forward."""


def step_seconds(
    entry: Entry,
    hyperparameters: Mapping[str, float | bool],
    *,
    factory: Factory,
    prepared: Prepared,
    workload: Workload,
    device: str = "cpu",
    repeats: int = 5,
    seconds: float = 0.1,
    threads: int = 1,
) -> tuple[float, float, float]:
    """Measure the wall-clock seconds of a step of one run alone: batch, forward, backward, optimizer.

    Args:
        entry: the optimizer.
        hyperparameters: by flat name.
        factory, prepared, workload, device: as for :func:`thalweg.training.loop.run`.
        repeats: measurements, at least 1.
        seconds: length of each, about; at least 3 steps.
        threads: torch threads.

    Returns:
        The lowest, the median and the highest of the measurements.
    """
    step = stepper(entry, hyperparameters, factory, prepared, workload, device)
    with with_threads(threads):
        times = _measure(step, repeats, seconds, torch.device(device))
    return min(times), statistics.median(times), max(times)


def measured_passes(
    *,
    factory: Factory,
    prepared: Prepared,
    workload: Workload,
    device: str = "cpu",
    repeats: int = 5,
    seconds: float = 0.1,
    threads: int = 1,
) -> float:
    """Measure the work of forward with backward in forward passes, which :data:`FORWARD_BACKWARD` supposes.

    Returns:
        The ratio of medians; the forward pass is taken without recording for a backward one.
    """
    model, loss, batch = _parts(factory, prepared, workload, device)

    def forward() -> None:
        inputs, targets = batch()
        with torch.no_grad():
            loss(model(inputs), targets)

    def both() -> None:
        inputs, targets = batch()
        model.zero_grad()
        loss(model(inputs), targets).backward()  # type: ignore[no-untyped-call]

    place = torch.device(device)
    with with_threads(threads):
        ahead = statistics.median(_measure(forward, repeats, seconds, place))
        return statistics.median(_measure(both, repeats, seconds, place)) / ahead


def _parts(
    factory: Factory, prepared: Prepared, workload: Workload, device: str
) -> tuple[torch.nn.Module, objectives.Loss, Callable[[], tuple[object, torch.Tensor]]]:
    model = initial_module(factory, prepared.input_shape, prepared.outputs, 0).to(device).train()
    loss = objectives.loss(workload.loss, prepared.task)
    size = workload.batch_size
    order = orders(len(prepared.train), [0], 0)[0]
    batches = steps_an_epoch(len(prepared.train), size)
    position = 0

    def batch() -> tuple[object, torch.Tensor]:
        nonlocal position
        begin = position % batches * size
        position += 1
        return prepared.train.batch(order[begin : begin + size])

    return model, loss, batch


def stepper(
    entry: Entry,
    hyperparameters: Mapping[str, float | bool],
    factory: Factory,
    prepared: Prepared,
    workload: Workload,
    device: str,
) -> Callable[[], None]:
    """Return a function that does one step of a run alone, as :func:`step_seconds` measures it."""
    model, loss, batch = _parts(factory, prepared, workload, device)
    optimizer = entry.make([p for p in model.parameters() if p.requires_grad], **hyperparameters)

    def step() -> None:
        inputs, targets = batch()
        optimizer.zero_grad()
        loss(model(inputs), targets).backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return step


def _measure(step: Callable[[], None], repeats: int, seconds: float, device: torch.device) -> list[float]:
    """Seconds a call, ``repeats`` times over as many calls as fill ``seconds``, after a few for warmth."""
    with torch.random.fork_rng(devices=[]):
        for _ in range(3):
            step()
        began = _now(device)
        step()
        calls = max(3, min(10_000, int(seconds / max(_now(device) - began, 1e-9))))
        times = []
        for _ in range(repeats):
            began = _now(device)
            for _ in range(calls):
                step()
            times.append((_now(device) - began) / calls)
    return times


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


@contextmanager
def with_threads(count: int) -> Iterator[None]:
    """Set torch's threads for a while."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
