"""The ordinary training loop: one run, top to bottom, in plain PyTorch."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd

from thalweg import objectives
from thalweg.catalogue import Entry
from thalweg.data.examples import Examples
from thalweg.data.source import Prepared
from thalweg.entries import Outcome, Run, Workload
from thalweg.errors import Interrupted
from thalweg.lanes.chunks import Keeper, Progress
from thalweg.lanes.course import Factors, History, evaluation_points, initial_module, steps_an_epoch
from thalweg.models import Factory
from thalweg.randomness import Keyed, RunDraws
from thalweg.streams import seed32
from thalweg.training.steps import FORWARD_BACKWARD, Batches, Surroundings, stepping

__all__ = ["run"]


def run(
    run: Run,
    *,
    factory: Factory,
    prepared: Prepared,
    workload: Workload,
    catalogue_entries: Mapping[str, Entry],
    device: str = "cpu",
    watch: Callable[[Progress], None] | None = None,
    checkpoint: Keeper | None = None,
    checkpoint_seconds: float = 30.0,
    stop: Callable[[], bool] | None = None,
) -> Outcome:
    """Train one run.

    The clock counts work, in steps of the plan: forward and backward over ``workload.batch_size`` examples.
    A first-order step is one; a second-order step takes what it takes, and has no say beyond the end: at an
    evaluation, and after the last, stands what had been reached within the work up to there.

    Args:
        run: setting and seed.
        factory: input shape and number of outputs to the model.
        prepared: the data, as whole tensors or as a Dataset with its collate function.
        workload: epochs, batch size, loss, metric, evaluations.
        catalogue_entries: entry of the optimizer's name.
        device: where the model lies.
        watch: told of every evaluation, and of the end.
        checkpoint: keeps the state; a run that it holds is taken up where it was.
        checkpoint_seconds: at least this long between two states, which are kept at evaluations.
        stop: asked before every step; ``True`` saves and raises.

    Returns:
        The outcome: that of the same run in a lane, within rounding.

    Raises:
        ModelError: the factory returns no module.
        DataError: the training split has fewer examples than a batch.
        Interrupted: ``stop`` returned ``True``.
    """
    place = torch.device(device)
    loss = objectives.loss(workload.loss, prepared.task)
    metric = objectives.metric(workload.metric, prepared.task)
    size = workload.batch_size
    total = steps_an_epoch(len(prepared.train), size) * workload.epochs
    points = evaluation_points(total, workload.evaluations)

    model = initial_module(factory, prepared.input_shape, prepared.outputs, run.seed).to(place)
    entry = catalogue_entries[run.setting.optimizer]
    trainable = [p for p in model.parameters() if p.requires_grad]
    optimizer = entry.make(trainable, **run.setting.hyperparameters)
    if _averages(optimizer):
        optimizer.train()  # type: ignore[attr-defined]
    rates = [group.get("lr") for group in optimizer.param_groups]
    factors = Factors([run.setting.schedule], total)
    draws = RunDraws(run.seed, place)
    keyed = _keyed(model, draws)
    take_step = stepping(entry, optimizer, model, loss, keyed)
    of_run = entry.of_run(run.setting.hyperparameters)
    batches = Batches(
        len(prepared.train),
        seed=run.seed,
        size=size,
        factor=of_run.get("batch_factor", 1.0),
        growth=of_run.get("batch_growth", 1.0),
    )
    history = History.start(run, workload)
    losses: list[Tensor] = []
    ends: list[int] = []
    saved, clock, updates = time.monotonic(), 0.0, 0

    with _own_generator(run.seed):
        state = None if checkpoint is None else checkpoint.load(run.identity)
        if state is not None:
            history = History.restore(run, workload, state["history"])
            if state["model"] is None:
                return history.outcome()
            clock, updates = state["step"], state["updates"]
            losses, ends = list(state["losses"]), list(state["ends"])
            batches.load(state["batches"])
            model.load_state_dict(state["model"])
            optimizer.load_state_dict(state["optimizer"])
            factors.load(state["plateaus"], history.steps[-1])
            torch.set_rng_state(state["generator"])
        table = factors.at([0])

        def save(finished: bool = False) -> None:
            if checkpoint is not None:
                checkpoint.save(
                    run.identity,
                    {
                        "step": clock,
                        "updates": updates,
                        "history": history.state(),
                        "losses": losses,
                        "ends": ends,
                        "batches": batches.state(),
                        "plateaus": factors.state(),
                        "model": None if finished else model.state_dict(),
                        "optimizer": None if finished else optimizer.state_dict(),
                        "generator": torch.get_rng_state(),
                    },
                )

        def tell(step: int, validation: Mapping[str, float | None], finished: Sequence[Outcome] = ()) -> None:
            if watch is not None:
                going = int(history.active and not finished)
                watch(
                    Progress(
                        chunk=0,
                        chunks=1,
                        step=step,
                        steps=total,
                        going=going,
                        validation=validation,
                        finished=finished,
                    )
                )

        def evaluate(passed: Sequence[int]) -> None:
            """Score the model as it is; it stands for all these points."""
            nonlocal table
            draws.step = updates
            test, reduced = None, None
            with _shown(optimizer):
                mean, score, _ = _score(model, prepared.validation, loss, metric, keyed, size)
                if workload.score_test:
                    _, test, reduced = _score(model, prepared.test, loss, metric, keyed, size)
            for point in passed:
                if point > 0:
                    history.train(torch.stack(losses).double().cpu().numpy() if losses else _NONE, ends)
                    losses.clear()
                    ends.clear()
                history.evaluate(point, mean, score, test)
                if point == total and history.active and reduced is not None and metric.per_example:
                    history.test_predictions = reduced.double().tolist()
                if factors.observe(0, point, history.validation_loss[-1]):
                    table = factors.at([0])
                tell(point, {run.identity: history.validation[-1]})
                if not history.active:
                    break

        while True:
            # what a step costs isn't known beforehand: a point may have been passed, or just been reached
            here = [point for point in points if point == clock and point not in history.steps[-1:]]
            if here:
                evaluate(here)
                if clock == total or not history.active:
                    break
                if time.monotonic() - saved >= checkpoint_seconds:
                    save()
                    saved = time.monotonic()
            if stop is not None and stop():
                save()
                raise Interrupted("stopped on request; everything up to the last step is saved")

            indices = batches.take(clock / total)
            inputs, targets = prepared.train.batch(indices)
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                if rate is not None:
                    group["lr"] = rate * float(table[int(clock), 0])
            model.train()
            draws.step = updates
            before = None if entry.needs == "gradient" else _copied(model.state_dict())
            value, work = take_step(inputs, targets)
            reached = clock + work / FORWARD_BACKWARD * (len(indices) / size)
            passed = [point for point in points if clock < point < reached]
            if passed and before is not None:
                if updates == 0:
                    history.begin(float(value))
                after = _copied(model.state_dict())
                model.load_state_dict(before)
                evaluate(passed)
                if reached > total or not history.active:
                    break
                model.load_state_dict(after)
            losses.append(value)
            ends.append(math.ceil(reached))
            clock, updates = reached, updates + 1

        for point in points:
            if point > history.steps[-1]:
                history.skip(point)
        history.updates = None if entry.needs == "gradient" else updates
        save(finished=True)
    outcome = history.outcome()
    tell(total, {}, [outcome])
    return outcome


_NONE = np.empty(0)


def _copied(state: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value.clone() if isinstance(value, Tensor) else value for name, value in state.items()}


def _keyed(model: nn.Module, draws: RunDraws) -> Surroundings:
    """Make the surroundings of a forward pass; torch's own layers without randomness need none."""
    for module in model.modules():
        plain = type(module).__module__.startswith("torch.nn.modules")
        if not plain or isinstance(module, (_DropoutNd, nn.RReLU)) or getattr(module, "dropout", False):
            return lambda: Keyed(draws)
    return nullcontext


def _averages(optimizer: torch.optim.Optimizer) -> bool:
    return hasattr(optimizer, "train") and hasattr(optimizer, "eval")


@contextmanager
def _shown(optimizer: torch.optim.Optimizer) -> Iterator[None]:
    """Hold the model at what its optimizer wants evaluated: some train at another point."""
    if not _averages(optimizer):
        yield
        return
    optimizer.eval()  # type: ignore[attr-defined]
    try:
        yield
    finally:
        optimizer.train()  # type: ignore[attr-defined]


@contextmanager
def _own_generator(seed: int) -> Iterator[None]:
    """What still draws from torch's generator draws from the run's own."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed32(seed, "torch"))
        yield


@torch.no_grad()
def _score(
    model: nn.Module,
    examples: Examples,
    loss: objectives.Loss,
    metric: objectives.Metric,
    keyed: Surroundings,
    size: int,
) -> tuple[float, float, Tensor]:
    """Loss and metric of a split in evaluation mode, and what the metric needs of each example."""
    model.eval()
    block = max(size, 256)
    total, reduced, goals = 0.0, [], []
    for begin in range(0, len(examples), block):
        inputs, targets = examples.batch(torch.arange(begin, min(begin + block, len(examples))))
        with keyed():
            outputs = model(inputs)
        total += float(loss(outputs, targets)) * len(targets)
        reduced.append(metric.reduce(outputs, targets))
        goals.append(targets)
    together = torch.cat(reduced)
    return total / len(examples), float(metric.score(together, torch.cat(goals))), together
