"""The ordinary training loop: one run, top to bottom, in plain PyTorch."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

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
from thalweg.lanes.course import Factors, History, evaluation_points, initial_module, orders, steps_an_epoch
from thalweg.models import Factory
from thalweg.randomness import Keyed, RunDraws
from thalweg.streams import seed32

__all__ = ["run"]

Surroundings = Callable[[], AbstractContextManager[Any]]


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
    epoch_steps = steps_an_epoch(len(prepared.train), size)
    total = epoch_steps * workload.epochs
    points = set(evaluation_points(total, workload.evaluations))

    model = initial_module(factory, prepared.input_shape, prepared.outputs, run.seed).to(place)
    entry = catalogue_entries[run.setting.optimizer]
    trainable = [p for p in model.parameters() if p.requires_grad]
    optimizer = entry.make(trainable, **run.setting.hyperparameters)
    if _averages(optimizer):
        optimizer.train()  # type: ignore[attr-defined]
    rates = [group["lr"] for group in optimizer.param_groups]
    factors = Factors([run.setting.schedule], total)
    draws = RunDraws(run.seed, place)
    history = History.start(run, workload)
    losses: list[Tensor] = []
    keyed = _keyed(model, draws)
    saved, step, since = time.monotonic(), 0, 0
    epoch = -1

    with _own_generator(run.seed):
        state = None if checkpoint is None else checkpoint.load(run.identity)
        if state is not None:
            history = History.restore(run, workload, state["history"])
            if state["model"] is None:
                return history.outcome()
            step, losses = state["step"], list(state["losses"])
            since = history.steps[-1]
            model.load_state_dict(state["model"])
            optimizer.load_state_dict(state["optimizer"])
            factors.load(state["plateaus"], step)
            torch.set_rng_state(state["generator"])
        table = factors.at([0])

        def save(finished: bool = False) -> None:
            if checkpoint is not None:
                checkpoint.save(
                    run.identity,
                    {
                        "step": step,
                        "history": history.state(),
                        "losses": losses,
                        "plateaus": factors.state(),
                        "model": None if finished else model.state_dict(),
                        "optimizer": None if finished else optimizer.state_dict(),
                        "generator": torch.get_rng_state(),
                    },
                )

        def tell(validation: Mapping[str, float | None], finished: Sequence[Outcome] = ()) -> None:
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

        while True:
            if step in points and (not history.steps or step > history.steps[-1]):
                if step > 0:
                    history.train(torch.stack(losses).double().cpu().numpy(), since)
                draws.step = step
                test, reduced = None, None
                with _shown(optimizer):
                    mean, score, _ = _score(model, prepared.validation, loss, metric, keyed, size)
                    if workload.score_test:
                        _, test, reduced = _score(model, prepared.test, loss, metric, keyed, size)
                history.evaluate(step, mean, score, test)
                if step == total and history.active and reduced is not None and metric.per_example:
                    history.test_predictions = reduced.double().tolist()
                if factors.observe(0, step, history.validation_loss[-1]):
                    table = factors.at([0])
                since, losses = step, []
                tell({run.identity: history.validation[-1]})
                if step == total or not history.active:
                    break
                if time.monotonic() - saved >= checkpoint_seconds:
                    save()
                    saved = time.monotonic()
            if stop is not None and stop():
                save()
                raise Interrupted("stopped on request; everything up to the last step is saved")

            if step // epoch_steps != epoch:
                epoch = step // epoch_steps
                order = orders(len(prepared.train), [run.seed], epoch)[0]
            position = step % epoch_steps
            inputs, targets = prepared.train.batch(order[position * size : (position + 1) * size])
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * float(table[step, 0])
            model.train()
            optimizer.zero_grad()
            draws.step = step
            with keyed():
                value = loss(model(inputs), targets)
            value.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            losses.append(value.detach())
            step += 1

        for point in sorted(points):
            if point > step:
                history.skip(point)
        save(finished=True)
    outcome = history.outcome()
    tell({}, [outcome])
    return outcome


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
