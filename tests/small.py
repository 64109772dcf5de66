"""Small data, runs and workloads that the tests of lanes and of the loop share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from thalweg import catalogue, execution
from thalweg.catalogue import Entry
from thalweg.data.examples import TensorExamples
from thalweg.data.source import Prepared
from thalweg.layers.models import Factory
from thalweg.objectives import Task
from thalweg.run.objective import Objective
from thalweg.run.problem import Problem
from thalweg.run.spec import Outcome, Run, Setting, Workload


def entries() -> dict[str, Entry]:
    return {name: entry for name in catalogue.names() if (entry := catalogue.get(name)).rule}


def prepared(kind: str = "classes", dtype: torch.dtype = torch.float32, rows: int = 150) -> Prepared:
    """Three classes, two classes or a number from 16 inputs in a 4x4 square, with some noise."""
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(rows + 70, 1, 4, 4, generator=generator, dtype=torch.float64)
    signal = x.flatten(1) @ torch.randn(16, 3, generator=generator, dtype=torch.float64)
    signal = signal + 0.5 * torch.randn(signal.shape, generator=generator, dtype=torch.float64)
    y = {
        "classes": signal.argmax(1),
        "two": (signal[:, 0] > 0).long(),
        "number": (signal[:, 0] / 4).to(dtype),
    }[kind]
    task = {
        "classes": Task(kind="classification", classes=("a", "b", "c")),
        "two": Task(kind="classification", classes=("a", "b")),
        "number": Task(kind="regression", scale=2.0, center=1.0),
    }[kind]

    def part(begin: int, end: int) -> TensorExamples:
        return TensorExamples(x[begin:end].to(dtype), y[begin:end])

    return Prepared(
        train=part(0, rows),
        validation=part(rows, rows + 37),
        test=part(rows + 37, rows + 70),
        input_shape=(1, 4, 4),
        outputs={"classes": 3, "two": 1, "number": 1}[kind],
        task=task,
        indices={},
    )


def problem(
    factory: Factory,
    data: Prepared,
    kind: str = "classes",
    *,
    loss: Any = None,
    metric: Any = None,
    optimizers: Mapping[str, Entry] | None = None,
    device: str = "cpu",
) -> Problem:
    """The loss and metric of the kind unless others are given; every optimizer that has a rule."""
    losses = {"classes": "cross-entropy", "two": "bce", "number": "huber"}
    metrics = {"classes": "log-loss", "two": "log-loss", "number": "rmse"}
    return Problem(
        factory=factory,
        data=data,
        objective=Objective(
            loss=losses[kind] if loss is None else loss,
            metric=metrics[kind] if metric is None else metric,
        ),
        optimizers=entries() if optimizers is None else optimizers,
        device=device,
    )


def workload(*, epochs: int = 3, batch_size: int = 12, **more: object) -> Workload:
    values: dict[str, Any] = {"evaluations": 5, "score_test": True, **more}
    return Workload(epochs=epochs, batch_size=batch_size, **values)


def runs(
    count: int,
    *,
    names: Sequence[str] = ("momentum", "adam", "sgd"),
    rates: Sequence[float] = (0.01, 0.1),
    seeds: Sequence[int] = (1,),
    schedules: Sequence[str] = ("constant", "cosine", "plateau"),
) -> list[Run]:
    """``count`` runs of each optimizer, turning through rates, seeds and schedules."""
    return [
        Run(
            identity=f"{name}/{number}",
            setting=Setting(
                optimizer=name,
                hyperparameters={"lr": rates[number % len(rates)]},
                schedule=schedules[number % len(schedules)],
            ),
            seed=seeds[number % len(seeds)],
        )
        for name in names
        for number in range(count)
    ]


def count_threads(
    runs: Sequence[Run], asked: execution.RunList, *, stop: Any, advanced: Any
) -> list[Outcome]:
    """Train nothing; each run's outcome has torch's threads for its number of updates."""
    unknown = Outcome(identity="", steps=[0], train_loss=[None], validation_loss=[None], validation=[None])
    return [replace(unknown, identity=run.identity, updates=torch.get_num_threads()) for run in runs]
