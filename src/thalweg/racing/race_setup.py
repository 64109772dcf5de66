"""Understand what a race was asked for: everything is checked here, before anything is written or trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from thalweg import catalogue, schedules
from thalweg.catalogue import Entry
from thalweg.data.source import Prepared, Source
from thalweg.errors import DataError, OptionError, nearest, option
from thalweg.initial import initialize
from thalweg.layers import models
from thalweg.layers.models import Factory
from thalweg.objectives import Loss, Metric
from thalweg.racing import initializations, pools
from thalweg.racing import plan as planning
from thalweg.racing.options import DEFAULT_SCHEDULES, DEFAULT_TRIALS, Options
from thalweg.racing.results import DataInfo, ModelInfo, PlanInfo
from thalweg.run.directory.environment import usable_device
from thalweg.run.problem import Problem
from thalweg.run.problem_data import ProblemData
from thalweg.run.sampler import default_batch_size
from thalweg.run.spec import Workload
from thalweg.settings.declared import checked
from thalweg.settings.tables import check_length
from thalweg.training.steps import too_much_work

__all__ = [
    "ALL",
    "RERUNS",
    "RERUN_SEEDS",
    "RaceSetup",
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
class RaceSetup:
    """Everything a race needs, understood and checked; ``plan`` may still shrink to fit a budget.

    ``loss`` and ``metric`` are those of the first split: every split makes its own of what was asked for,
    since the units of a standardized target are its own.
    """

    options: Options
    read: ProblemData
    entries: Mapping[str, Entry]
    factory: Factory
    loss: Loss
    metric: Metric
    data_info: DataInfo
    model_info: ModelInfo
    plan: PlanInfo

    @property
    def source(self) -> Source:
        """The data."""
        return self.read.source

    @property
    def first(self) -> Prepared:
        """The first split."""
        return self.read.prepared

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
        return self.read.problem(self.factory, self.entries, self.read.split(replicate))


def understand(options: Options) -> RaceSetup:
    """Check every option against every other, load the data and build the model once.

    Raises:
        UserError: anything that can't be used, one sentence each.
    """
    options = checked(options)
    asked = _entries(options.optimizers)
    names = _schedules(options.schedules)
    trials = DEFAULT_TRIALS if options.trials is None else options.trials
    usable_device(options.device)
    spaces = pools.spaces(asked, options.spaces or {})
    begins = pools.initialization_spaces(
        initializations.chosen(options.initializations), asked, options.spaces or {}
    )
    read = ProblemData.read(
        options.data, loss=options.loss, metric=options.metric, validation_loss=options.validation_loss,
        output=options.output, target=options.target, task=options.task, missing=options.missing,
        types=options.types, collate=options.collate, seed=options.seed, device=options.device,
        accept=_refuse_extreme,
    )  # fmt: skip
    first, (loss, judged, metric) = read.prepared, read.functions
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
    module, _ = read.check(factory, seed=options.seed, examples=batch_size)
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
        "validation_loss": None if options.validation_loss is None else judged.name,
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
    return RaceSetup(
        options=options,
        read=read,
        entries=entries,
        factory=factory,
        loss=loss,
        metric=metric,
        data_info=_data_info(read.source, first),
        model_info=ModelInfo(
            spec=spec if isinstance(spec, str) else getattr(spec, "__name__", type(spec).__name__),
            parameters=parameters,
            text=str(module),
        ),
        plan=plan,
    )


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
