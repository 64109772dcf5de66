"""``thalweg.sweep``: settings times seeds on one problem, and a tidy table of what came of it."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import polars
from torch import nn

from thalweg import catalogue, schedules
from thalweg.catalogue import Entry
from thalweg.errors import Interrupted, OptionError, option
from thalweg.execution.choose import Choice, choose_once
from thalweg.execution.execution import Execution, Request
from thalweg.execution.executors import Executor
from thalweg.execution.in_stages import StagesOf, TrainsInStages, listed_stages
from thalweg.execution.journal import Journal
from thalweg.initial import initialize
from thalweg.layers import models
from thalweg.layers.interface import Output
from thalweg.objectives import Metric
from thalweg.run.directory.directory import RunDirectory
from thalweg.run.directory.interrupt import Interruption
from thalweg.run.directory.kinds import refuse_existing
from thalweg.run.problem import Problem, initial_module
from thalweg.run.problem_data import ProblemData
from thalweg.run.sampler import default_batch_size, steps_an_epoch
from thalweg.run.spec import Outcome, Run, Setting, Workload
from thalweg.settings import trust
from thalweg.settings.choices import EngineChoice, words_of
from thalweg.settings.tables import MOST, check_length, one_of, plain_numbers, whole_number
from thalweg.training.steps import too_much_work
from thalweg.training.watch import Pace, SilentTrainingWatcher, TrainingWatcher

__all__ = ["Sweep", "sweep"]

# keys of a setting that are no hyperparameters of its optimizer
_OWN = ("optimizer", "schedule", "schedule_options", "initialization")
_MOST_RUNS = 1_000_000


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """What a sweep found.

    Attributes:
        table: a polars frame with a row for each setting, seed and evaluation. ``setting`` is its number,
            from 0, in the order given; ``optimizer``, and a column for each hyperparameter and option that
            any setting names (missing where it has its default); ``seed``; ``step``, in forward and backward
            passes over a batch; ``train_loss``, the mean over the steps since the evaluation before;
            ``validation_loss``; the metric by its name, on the validation split; ``test``, the metric there,
            where it was asked for; ``diverged``. After a run has diverged its values are missing.
        metric: name of the metric.
        higher_is_better: whether it is one of those.
        how: how the runs were carried out, and why.
    """

    table: polars.DataFrame
    metric: str
    higher_is_better: bool
    how: str

    def final(self) -> polars.DataFrame:
        """Return the last evaluation of each run: a row for each setting and seed."""
        return self.table.group_by("setting", "seed", maintain_order=True).last().select(self.table.columns)

    def summary(self) -> polars.DataFrame:
        """Return a row for each setting, with mean, lowest and highest over seeds; the best mean comes first.

        Settings of which fewer runs diverged come before others.
        """
        value = polars.col(self.metric)
        told = {"seed", "step", "train_loss", "validation_loss", self.metric, "test", "diverged"}
        what = [name for name in self.table.columns if name not in told]
        found = self.final().group_by(what, maintain_order=True)
        frame = found.agg(
            value.mean().alias("mean"), value.min().alias("low"), value.max().alias("high"),
            polars.col("diverged").sum().alias("diverged"),
        )  # fmt: skip
        return frame.sort(["diverged", "mean"], descending=[False, self.higher_is_better], nulls_last=True)

    def __repr__(self) -> str:
        runs = len(self.final())
        return f"Sweep of {runs} runs, {self.metric} ({self.how})\n{self.summary()}"


@trust.runs_own_code
def sweep(
    model: Any,
    data: Any,
    settings: Any,
    *,
    seeds: int | Sequence[int] = 3,
    epochs: int,
    batch_size: int | None = None,
    loss: str | Callable[..., Any] | None = None,
    metric: str | Callable[..., Any] | None = None,
    validation_loss: str | Callable[..., Any] | None = None,
    output: Output = None,
    target: str | None = None,
    task: str | None = None,
    missing: str | None = None,
    types: Mapping[str, str] | None = None,
    collate: Callable[[list[Any]], Any] | None = None,
    evaluations: int = 20,
    test: bool = False,
    seed: int = 0,
    device: str = "cpu",
    engine: str = "auto",
    stages: StagesOf | Mapping[str, StagesOf | None] | None = None,
    out: str | Path | None = None,
    resume: bool = False,
    watcher: TrainingWatcher | None = None,
    executor: Executor | None = None,
) -> Sweep:
    """Train each setting with each seed, and return a table of the curves.

    All runs see the same split of the data; a seed decides initial weights, the order of examples and every
    other draw of a run, whatever runs beside it. Runs that can be are computed side by side as lanes.

    Args:
        model: as for :func:`thalweg.race`: ``"mlp:64"``, ``"file.py:factory"``, a factory, a class, a module.
        data, target, task, missing, types, collate, loss, metric, validation_loss, output: likewise.
        settings: one setting or a list of them. A setting is the name of an optimizer, a rule or class of
            one's own, or a mapping: ``{"optimizer": "adam", "lr": 0.01, "schedule": "cosine"}`` with any
            hyperparameter, ``schedule_options`` and ``initialization`` (a scheme's name, or a mapping with
            ``scheme`` and its options). Where a value is a list, each is taken with each of the others:
            ``{"optimizer": ["sgd", "adam"], "lr": [0.1, 0.01]}`` are four settings.
        seeds: how many, from 0, or which.
        epochs: passes over the training split, at least 1.
        batch_size: examples a step; by default a power of two that grows with the data.
        evaluations: how often, evenly over the run, validation is evaluated, and once before the first step.
        test: evaluate the test split too.
        seed: of the split.
        device: ``"cpu"``, ``"cuda"``, ...
        engine: ``"lanes"``, ``"loop"``, or ``"auto"``: a short measurement decides.
        stages: train each run in stages: a function of the model and a batch of inputs that returns them, or
            such functions by name, each taken with each setting; ``None`` among them is a training without.
            ``epochs`` is how long a stage is that doesn't say so itself. The last evaluation of a run is of
            the model itself; those before it are the stages' own.
        out: a run directory, in which ``table.csv`` is left; with it an interrupted sweep can be resumed.
        resume: resume the sweep in ``out``.
        watcher: told how far it is.
        executor: carries the runs out elsewhere; by default they are, here or in processes of this machine.

    Returns:
        The table, and what sums it up.

    Raises:
        UserError: something given can't be used; nothing has been written then.
        Interrupted: Ctrl-C or SIGTERM; with ``out``, ``resume=True`` resumes.

    >>> import thalweg
    >>> found = thalweg.sweep("mlp:8", "iris", {"optimizer": "adam", "lr": [1e-3, 1e-1]}, seeds=2, epochs=5)
    >>> found.table.columns[:4], len(found.final())
    (['setting', 'optimizer', 'lr', 'seed'], 4)
    >>> found.summary()["lr"][0]
    0.1
    """
    by_name = listed_stages(stages)
    asked = [each for each in _settings(settings) for _ in by_name or [None]]
    numbers = _seeds(seeds)
    if len(asked) * len(numbers) > _MOST_RUNS:
        raise OptionError(
            f"{len(asked):,} settings with {len(numbers):,} seeds are more than {_MOST_RUNS:,} runs; "
            "give fewer"
        )
    one_of("engine", engine, words_of(EngineChoice))
    if by_name and engine == "lanes":
        raise OptionError("engine is 'lanes', but a training in stages is for the loop; leave engine out")
    epochs, evaluations = whole_number("epochs", epochs), whole_number("evaluations", evaluations)
    seed = whole_number("seed", seed, least=0, most=MOST["seed"])
    size = None if batch_size is None else whole_number("batch_size", batch_size)
    optimizers = _optimizers([entry for _, entry in asked])
    if out is not None and not resume:
        refuse_existing(Path(out))
    read = ProblemData.read(
        data, loss=loss, metric=metric, validation_loss=validation_loss, output=output, target=target,
        task=task, missing=missing, types=types, collate=collate, seed=seed, device=device,
    )  # fmt: skip
    problem = read.problem(models.factory(model), optimizers)
    examples = len(problem.data.train)
    workload = Workload(
        epochs=epochs,
        batch_size=default_batch_size(examples) if size is None else size,
        evaluations=evaluations,
        score_test=test,
    )
    check_length(workload.epochs, steps_an_epoch(examples, workload.batch_size))
    _check(asked, read, problem, workload)
    runs = [
        Run(identity=f"{number}/{each}", setting=setting, seed=each)
        for number, (setting, _) in enumerate(asked)
        for each in numbers
    ]
    names = [list(by_name)[number % len(by_name)] if by_name else None for number in range(len(asked))]
    alone = None
    if by_name:
        functions = {run.identity: by_name[names[_number(run)]] for run in runs}  # type: ignore[index]
        alone = TrainsInStages(functions)
    config = {
        "kind": "sweep", "settings": json.dumps([asdict(setting) for setting, _ in asked], default=dict),
        "seeds": numbers, "fingerprint": read.source.fingerprint, "loss": problem.functions.trained.name,
        "validation_loss": None if validation_loss is None else problem.functions.judged.name,
        "metric": problem.functions.metric.name, "seed": seed, "device": device, **asdict(workload),
    }  # fmt: skip
    if alone is not None:
        # of each setting once: what is wrong is said before anything is written
        firsts = [run for run in runs if run.seed == numbers[0]]
        made = [alone.made(run, problem, workload).config()["stages"] for run in firsts]
        config["stages"] = json.dumps(
            [[names[_number(run)], each] for run, each in zip(firsts, made, strict=True)]
        )
    directory = None if out is None and not resume else RunDirectory.begin(out, config, resume=resume)
    with nullcontext() if directory is None else directory:
        outcomes, choice = _carried_out(
            runs, problem, workload, engine, directory, watcher or SilentTrainingWatcher(), executor, alone
        )
        table = _table(runs, outcomes, problem, workload, names if by_name else None)
        if directory is not None:
            directory.write_text("table.csv", table.write_csv())
    judged = problem.functions.metric
    return Sweep(
        table=table,
        metric=_column(judged),
        higher_is_better=judged.higher_is_better,
        how="in stages, one run after another" if by_name else choice.reason,
    )


def _carried_out(
    runs: Sequence[Run],
    problem: Problem,
    workload: Workload,
    engine: str,
    directory: RunDirectory | None,
    watcher: TrainingWatcher,
    executor: Executor | None,
    alone: TrainsInStages | None,
) -> tuple[dict[str, Outcome], Choice]:
    journal = Journal(directory)
    steps = problem.steps(workload)
    pace, done = Pace(watcher), 0.0

    def advanced(stage: str, what: str, more: float) -> None:
        nonlocal done
        done += more
        pace.tell(done, steps * len(runs))

    suited = 0 if alone is not None else sum(problem.entry(run).rule is not None for run in runs)
    choice = choose_once(
        journal, runs, problem, workload, engine="loop" if alone is not None else engine, seconds=0.03,
        lane_steps=suited * steps, loop_steps=(len(runs) - suited) * steps,
    )  # fmt: skip
    watcher.note(f"{len(runs)} runs of {steps} steps: {choice.reason}")
    with Interruption() as interruption:
        stop = interruption.asked if directory is None else directory.watched(interruption.asked)
        try:
            with Execution(
                choice, journal, stop=stop, advanced=advanced, predictions=False, elsewhere=executor
            ) as execution:
                asked = Request(
                    key="sweep", runs=runs, problem=problem, workload=workload, stage="sweep", alone=alone
                )
                (found,) = execution.run([asked])
                return found, choice
        except Interrupted as problem_:
            if directory is None:
                raise Interrupted("interrupted; give out to be able to resume later") from problem_
            raise Interrupted(
                f"interrupted; everything up to here is saved, and {option('resume', True)} goes on"
            ) from problem_


def _settings(given: Any) -> list[tuple[Setting, Entry]]:
    """Return each setting with its optimizer's entry; lists within a mapping are multiplied out."""
    several = given if isinstance(given, (list, tuple)) else [given]
    if not several:
        raise OptionError("settings is empty; give at least one, such as 'adam'")
    found: list[tuple[Setting, Entry]] = []
    for one in several:
        if isinstance(one, Setting):
            entry = catalogue.resolve(one.optimizer)
            found.append((one, entry))
            continue
        values = dict(one) if isinstance(one, Mapping) else {"optimizer": one}
        if "optimizer" not in values:
            raise OptionError(f"the setting {one!r} has no optimizer; name one, such as 'adam'")
        axes = [value if isinstance(value, (list, tuple)) else [value] for value in values.values()]
        if (empty := [name for name, axis in zip(values, axes, strict=True) if not len(axis)]) != []:
            raise OptionError(f"{empty[0]} of a setting is an empty list; give at least one value")
        found += [_setting(dict(zip(values, row, strict=True))) for row in itertools.product(*axes)]
    return found


def _setting(values: dict[str, Any]) -> tuple[Setting, Entry]:
    entry = catalogue.resolve(values["optimizer"])
    begins = values.get("initialization") or {}
    if isinstance(begins, str):
        begins = {"scheme": begins}
    if "scheme" not in begins and begins:
        raise OptionError(f"initialization is {begins!r}, but must be a scheme's name, or have a scheme")
    return Setting(
        optimizer=entry.name,
        hyperparameters=plain_numbers({name: value for name, value in values.items() if name not in _OWN}),
        schedule=values.get("schedule", "constant"),
        schedule_options=dict(values.get("schedule_options") or {}),
        initialization=dict(begins),
    ), entry


def _seeds(given: int | Iterable[int]) -> list[int]:
    if isinstance(given, Iterable):
        numbers = [whole_number("seeds", each, least=0, most=MOST["seed"]) for each in given]
    else:
        numbers = list(range(min(whole_number("seeds", given), _MOST_RUNS + 1)))
    if not numbers:
        raise OptionError("seeds is empty; give at least one")
    if len(set(numbers)) < len(numbers):
        raise OptionError("seeds names one twice; give each once")
    return numbers


def _optimizers(entries: Sequence[Entry]) -> dict[str, Entry]:
    optimizers: dict[str, Entry] = {}
    for entry in entries:
        if _made_of(optimizers.setdefault(entry.name, entry)) is not _made_of(entry):
            raise OptionError(f"settings has two optimizers of the name {entry.name!r}; give each its own")
    return optimizers


def _made_of(entry: Entry) -> object:
    """The function or class that an entry stands for."""
    return entry.call.target if entry.rule is None else entry.rule.function


def _check(
    asked: Sequence[tuple[Setting, Entry]], read: ProblemData, problem: Problem, workload: Workload
) -> None:
    """Refuse a model or a setting that can't be, before anything is trained."""

    def module() -> nn.Module:
        return initial_module(problem.factory, problem.data.input_shape, problem.data.outputs, 0)

    model, _ = read.check(problem.factory, seed=0, examples=workload.batch_size)
    parameters = sum(p.numel() for p in model.parameters() if p.requires_grad)
    steps = problem.steps(workload)
    begun: list[Mapping[str, Any]] = []
    for setting, entry in asked:
        entry.of_run(setting.hyperparameters)
        if setting.schedule != "plateau":
            schedules.build(setting.schedule, total=steps, **setting.schedule_options)
        if setting.initialization and setting.initialization not in begun:
            options = dict(setting.initialization)
            initialize(module(), options.pop("scheme"), seed=0, **options)
            begun.append(setting.initialization)
        if (reason := too_much_work(entry, parameters, steps)) is not None:
            raise OptionError(f"{entry.name}: {reason}; take a smaller model, or more epochs")


def _number(run: Run) -> int:
    """The number of a run's setting."""
    return int(run.identity.partition("/")[0])


def _column(metric: Metric) -> str:
    """A metric's name, without the file or module that a person's own one comes from."""
    return metric.name.rpartition(":")[2]


def _table(
    runs: Sequence[Run],
    outcomes: Mapping[str, Outcome],
    problem: Problem,
    workload: Workload,
    stages: Sequence[str | None] | None,
) -> polars.DataFrame:
    settings = [run.setting for run in runs]
    hypers = dict.fromkeys(name for setting in settings for name in setting.hyperparameters)
    options = dict.fromkeys(name for setting in settings for name in setting.schedule_options)
    begins = dict.fromkeys(name for setting in settings for name in setting.initialization)
    scheduled = any(setting.schedule != "constant" for setting in settings)
    metric, rows = _column(problem.functions.metric), []
    for run in runs:
        setting, outcome = run.setting, outcomes[run.identity]
        what: dict[str, Any] = {
            "setting": _number(run),
            **({} if stages is None else {"stages": stages[_number(run)]}),
            "optimizer": setting.optimizer,
            **{name: setting.hyperparameters.get(name) for name in hypers},
            **({"schedule": setting.schedule} if scheduled else {}),
            **{f"schedule.{name}": setting.schedule_options.get(name) for name in options},
            **{f"initialization.{name}": setting.initialization.get(name) for name in begins},
            "seed": run.seed,
        }
        for place, step in enumerate(outcome.steps):
            gone = outcome.diverged_at is not None and step >= outcome.diverged_at
            rows.append(
                {
                    **what,
                    "step": step,
                    "train_loss": outcome.train_loss[place],
                    "validation_loss": outcome.validation_loss[place],
                    metric: outcome.validation[place],
                    **({"test": outcome.test[place]} if workload.score_test else {}),
                    "diverged": gone,
                }
            )
    floats = ("train_loss", "validation_loss", metric, "test")
    schema = {name: polars.Float64 for name in floats if rows and name in rows[0]}
    return polars.DataFrame(rows, schema_overrides=schema, infer_schema_length=None, strict=False)
