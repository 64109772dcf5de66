"""Understand what a race was asked for: everything is checked here, before anything is written or trained."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch

from thalweg import catalogue, data, schedules
from thalweg.catalogue import Entry
from thalweg.data.source import Prepared, Source
from thalweg.errors import DataError, OptionError, nearest, option
from thalweg.initial import initialize
from thalweg.layers import models
from thalweg.objectives import Loss, Metric
from thalweg.objectives.given import usable
from thalweg.racing import initializations, pools
from thalweg.racing import plan as planning
from thalweg.racing.options import DEFAULT_SCHEDULES, DEFAULT_TRIALS, Options
from thalweg.racing.results import DataInfo, ModelInfo, PlanInfo
from thalweg.randomness.generators import own_generators
from thalweg.run.directory.environment import usable_device
from thalweg.run.objective import Objective
from thalweg.run.problem import Problem, initial_module
from thalweg.run.sampler import default_batch_size
from thalweg.run.spec import Workload
from thalweg.run.targets import leaves_out, objective_of
from thalweg.run.workers import prepare_workers
from thalweg.settings.declared import checked
from thalweg.settings.tables import check_length
from thalweg.training.steps import too_much_work

__all__ = [
    "ALL",
    "RERUNS",
    "RERUN_SEEDS",
    "Setup",
    "understand",
]

_LEAST_SPREAD, _MOST_SPREAD = 1e-70, 1e70
ALL = "all"
"""In place of names: every optimizer of the catalogue that can take a step within a run."""
RERUNS = 3
RERUN_SEEDS = 3
# Parameters for which a matrix of them all still pays in a race, and for which it can be had at all.
_DENSE_PAYS, _DENSE_MOST = 2_500, 15_000


@dataclass(frozen=True, kw_only=True)
class Setup:
    """Everything a race needs, understood and checked; ``plan`` may still shrink to fit a budget.

    ``loss`` and ``metric`` are those of the first split. ``objective`` has both as they were asked for: every
    split makes its own of them, since the units of a standardized target are its own. ``task`` is what the
    data was read for, where that isn't what the data itself says.
    """

    options: Options
    source: Source
    entries: Mapping[str, Entry]
    factory: Callable[[tuple[int, ...], int], torch.nn.Module]
    loss: Loss
    metric: Metric
    first: Prepared
    data_info: DataInfo
    model_info: ModelInfo
    plan: PlanInfo
    task: str | None
    objective: Objective

    def workload(self, plan: PlanInfo, *, score_test: bool = False) -> Workload:
        """Return how long runs are."""
        return Workload(
            epochs=plan.epochs,
            batch_size=plan.batch_size,
            evaluations=plan.evaluations,
            score_test=score_test,
        )

    def problem(self, replicate: int = 0) -> Problem:
        """Return what the runs of one replicate are trained on."""
        return Problem(
            factory=self.factory,
            data=self.prepared(replicate),
            objective=self.objective,
            optimizers=self.entries,
            device=self.options.device,
        )

    def prepared(self, replicate: int) -> Prepared:
        """Return the data of one replicate, split and preprocessed."""
        if replicate == 0:
            return self.first
        with own_generators(self.options.seed, "data", replicate):
            return data.prepare(
                self.source, seed=self.options.seed, replicate=replicate, device=self.options.device
            )


def understand(options: Options) -> Setup:
    """Check every option against every other, load the data and build the model once.

    Raises:
        UserError: anything that can't be used, one sentence each.
    """
    options = checked(options)
    # a Dataset may draw from anybody's generators while it is read
    with own_generators(options.seed, "data"):
        return _understood(options)


def _understood(options: Options) -> Setup:
    asked = _entries(options.optimizers)
    names = _schedules(options.schedules)
    trials = DEFAULT_TRIALS if options.trials is None else options.trials
    usable_device(options.device)
    spaces = pools.spaces(asked, options.spaces or {})
    begins = pools.initialization_spaces(
        initializations.chosen(options.initializations), asked, options.spaces or {}
    )
    if options.data is None:
        raise OptionError(f"{option('data')} is missing; name a table, a folder or a built-in such as digits")
    asked_loss, asked_metric = (
        usable(value, what) if isinstance(value, type) else value
        for value, what in ((options.loss, "loss"), (options.metric, "metric"))
    )
    source, task = _source(options, asked_loss)
    if task == "custom" and options.task is None:
        asked_loss = "cross-entropy" if asked_loss is None else asked_loss
        asked_metric = "accuracy" if asked_metric is None else asked_metric
    _refuse_extreme(source)
    if options.device == "cpu":
        # they take seconds to import what they need, while data are prepared and steps measured
        prepare_workers()
    first = data.prepare(source, seed=options.seed, replicate=0, device=options.device)
    # the prepared task knows the units that the targets were standardised from
    loss, metric = objective_of(asked_loss, asked_metric, first)
    objective = Objective(
        loss=loss.name if asked_loss is None else asked_loss,
        metric=metric.name if asked_metric is None else asked_metric,
        output=options.output,
    )
    loss, _, metric = objective.on(first)
    if options.goal is not None:
        planning.check_goal(options.goal, metric)
    examples = len(first.train)
    batch_size = options.batch_size
    if batch_size is None:
        batch_size = default_batch_size(examples)
    planning.check_batch_size(batch_size, examples)
    epochs = options.epochs
    if epochs is None:
        epochs = planning.default_epochs(examples, batch_size)
    check_length(epochs, examples // batch_size)
    spec = models.default(first.input_shape) if options.model is None else options.model
    factory = models.factory(spec)
    module = initial_module(factory, first.input_shape, first.outputs, options.seed)
    objective.interface.attach(module)
    models.check(module, first, loss, metric, examples=min(8, batch_size), read=objective.interface.part)
    for name in begins:
        if name != initializations.DEFAULT:
            # refuses a model that can't begin so
            initialize(module, name, seed=options.seed)
    steps = epochs * (examples // batch_size)
    parameters = sum(p.numel() for p in module.parameters() if p.requires_grad)
    entries, left_out = _fitting(asked, options.optimizers, parameters, steps)
    # what the plan takes as it was asked for has the option's name; the rest is decided here
    taken = {
        one.name: getattr(options, one.name) for one in fields(options) if one.name in PlanInfo.model_fields
    }
    decided = {
        "optimizers": list(entries),
        "schedules": list(names),
        "spaces": {name: space for name, space in spaces.items() if name in entries},
        "initializations": begins,
        "trials": trials,
        "epochs": epochs,
        "batch_size": batch_size,
        "loss": loss.name,
        "metric": metric.name,
        "margin": float(f"{metric.default_margin:.2g}") if options.margin is None else options.margin,
    }
    plan = PlanInfo(
        **taken | decided,
        reserve=planning.reserve_size(trials),
        reruns=RERUNS,
        rerun_seeds=RERUN_SEEDS,
        steps=steps,
        evaluations=min(20, steps),
        higher_is_better=metric.higher_is_better,
        goal_source="given" if options.goal is not None else "the best untuned default",
        left_out=left_out,
    )
    return Setup(
        options=options,
        source=source,
        entries=entries,
        factory=factory,
        loss=loss,
        metric=metric,
        first=first,
        data_info=_data_info(source, first),
        model_info=ModelInfo(
            spec=spec if isinstance(spec, str) else getattr(spec, "__name__", type(spec).__name__),
            parameters=parameters,
            text=str(module),
        ),
        plan=plan,
        task=task,
        objective=objective,
    )


def _source(options: Options, loss: Any) -> tuple[Source, str | None]:
    """Load the data; labels of which the loss leaves some out are no classes, and keep their numbers."""

    def load(task: str | None) -> Source:
        return data.load(
            options.data, target=options.target, task=task, missing=options.missing, types=options.types,
            collate=options.collate,
        )  # fmt: skip

    left_out, numbered = leaves_out(loss), None
    try:
        source = load(options.task)
        if options.task is None and str(left_out) in source.task.classes:
            numbered = _numbered(load, left_out)
    except DataError:
        # so few may be left out that they would make no class
        numbered = _numbered(load, left_out) if options.task is None else None
        if numbered is None:
            raise
    return (source, options.task) if numbered is None else (numbered, "custom")


def _numbered(load: Callable[[str | None], Source], left_out: int) -> Source | None:
    """The data with labels as they are, where some are the number that is left out, the others from 0 on."""
    try:
        source = load("custom")
    except DataError:
        return None
    labels = getattr(source, "y", None)
    if source.columns or not isinstance(labels, np.ndarray) or labels.ndim != 1:
        return None
    counted = labels[labels != left_out]
    if labels.dtype.kind not in "iu" or not 0 < len(counted) < len(labels) or (counted < 0).any():
        return None
    source.notes.append(
        f"{len(labels) - len(counted)} of {len(labels)} labels are {left_out}, which the loss leaves out: "
        "they are no class, and count in no metric by name"
    )
    return source


def _entries(given: Sequence[Any] | None) -> dict[str, Entry]:
    if given is None:
        return {name: entry for name in catalogue.names() if (entry := catalogue.get(name)).raced}
    entries: dict[str, Entry] = {}
    named = [spec for spec in given if not isinstance(spec, str) or spec != ALL]
    every = catalogue.names() if len(named) < len(given) else ()
    # what is named beside "all" is named with intent, not twice
    for spec in [*(name for name in every if name not in named), *named]:
        entry = catalogue.resolve(spec)
        if entry.name in entries:
            raise OptionError(f"{option('optimizers')} names {entry.name!r} twice; name each optimizer once")
        entries[entry.name] = entry
    if not entries:
        raise OptionError(f"{option('optimizers')} is empty; name at least one, such as adam")
    return entries


def _fitting(
    entries: Mapping[str, Entry], given: Sequence[Any] | None, parameters: int, steps: int
) -> tuple[dict[str, Entry], dict[str, str]]:
    """Leave out what can't take one step of this model within a run; refuse it where it was named."""
    kept, left_out = dict(entries), {}
    for name, entry in entries.items():
        named = given is None or ALL not in given or name in given
        most = _DENSE_MOST if named else _DENSE_PAYS
        reason = too_much_work(entry, parameters, steps)
        if entry.dense and parameters > most:
            reason = (
                f"it keeps a matrix of the model's {parameters:,} parameters, which pays off up to "
                f"about {most:,}"
            )
        if reason is not None and named:
            raise OptionError(f"{name} can't race here: {reason}; take a smaller model, or leave it out")
        if reason is not None:
            del kept[name]
            left_out[name] = reason
    return kept, left_out


def _schedules(given: Sequence[str] | None) -> tuple[str, ...]:
    names = tuple(DEFAULT_SCHEDULES if given is None else given)
    if not names:
        raise OptionError(f"{option('schedules')} is empty; name at least one, such as constant")
    for name in names:
        if name not in schedules.names():
            raise OptionError(f"there is no schedule {name!r}; {nearest(name, schedules.names())}")
    return tuple(dict.fromkeys(names))


def _refuse_extreme(source: Source) -> None:
    """Refuse a target in whose units the variance of an error's variance isn't a float64 any more."""
    spread = source.task.spread
    if source.task.kind == "regression" and not _LEAST_SPREAD <= spread <= _MOST_SPREAD:
        raise DataError(
            f"the target of {source.spec} has a standard deviation of {spread:.3g}, and a verdict takes "
            "fourth powers of differences, which float64 can't hold then; give the target in another unit"
        )


def _data_info(source: Source, first: Prepared) -> DataInfo:
    task = source.task
    return DataInfo(
        spec=source.spec,
        name=source.name,
        kind=task.kind,
        target=task.target,
        rows=source.rows,
        inputs=source.inputs,
        classes=list(task.classes),
        class_counts=list(source.class_counts),
        split_sizes={"train": len(first.train), "validation": len(first.validation), "test": len(first.test)},
        fixed_test=source.fixed_test,
        fingerprint=source.fingerprint,
        notes=list(dict.fromkeys([*source.notes, *first.notes])),
        warnings=list(source.warnings),
    )
