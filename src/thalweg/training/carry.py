"""A recipe carried out: understood before anything is written, trained, and laid down for use."""

from __future__ import annotations

import datetime
import uuid
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from pydantic import ValidationError
from torch import nn

from thalweg import catalogue, data, models, objectives, recipe, schedules, strategies
from thalweg.averaging.testing import Activation
from thalweg.catalogue import Entry
from thalweg.data.source import Prepared, Source
from thalweg.data.stored import store
from thalweg.equipment import equipped
from thalweg.errors import DataError, Interrupted, OptionError, RunDirectoryError, ThalwegError, UserError
from thalweg.lanes.course import evaluation_points, initial_module, steps_an_epoch
from thalweg.objectives import Loss, Metric
from thalweg.recipe import Recipe
from thalweg.runs.directory import RunDirectory, refuse_existing
from thalweg.runs.environment import environment
from thalweg.strategies import Plateau, Snapshots, Strategy
from thalweg.training.card import card
from thalweg.training.core import Rates, Training
from thalweg.training.engine import Engine, OneProcess, from_first
from thalweg.training.ensemble import mean_curve, recorded, train_members
from thalweg.training.feed import ExampleFeed, in_blocks
from thalweg.training.fitting import activation_of, tabulated
from thalweg.training.groups import Pattern, parameter_groups
from thalweg.training.job import Fitted, Job
from thalweg.training.judging import Judged, judge
from thalweg.training.parallel import (
    DistributedDataParallel,
    FullyShardedDataParallel,
    local_device,
    together,
)
from thalweg.training.predicting import load_model, predicting_model
from thalweg.training.results import CalibrationRecord, EnsembleRecord, Point, Stored, TrainResults
from thalweg.training.steps import Batches
from thalweg.training.watch import Evaluation, Silent, Watcher

__all__ = ["carry_out"]

_EVALUATED = 256


def carry_out(
    given: str | Path | Recipe | None,
    *,
    changes: Sequence[str] = (),
    out: str | Path | None = None,
    resume: bool = False,
    device: str = "cpu",
    checkpoint_seconds: float = 60.0,
    watcher: Watcher | None = None,
    command: str | None = None,
) -> tuple[TrainResults, Path]:
    """Train what a recipe says, or go on with it, and write everything but the report.

    Args:
        given: a recipe, or the path of one; may be left out with ``resume``.
        changes: keys to set over what the file says, such as ``"optimizer.lr=0.01"``.
        out: the run directory; ``None`` for ``runs/train-<data>-<time>``.
        resume: go on with the training in ``out``.
        device: where to train.
        checkpoint_seconds: between two checkpoints.
        watcher: told what happens.
        command: how to make this training again.

    Returns:
        The results, and the run directory.

    Raises:
        UserError: something given can't be used; nothing has been written then.
        Interrupted: on Ctrl-C or SIGTERM, after everything was saved.
        ThalwegError: training failed; the directory holds the last good weights.
    """
    with together(device) as processes, ExitStack() as stack:
        told = Silent() if watcher is None or processes.rank else watcher
        held: list[RunDirectory] = []

        def hold(directory: RunDirectory) -> tuple[Path, dict[str, Any]]:
            held.append(stack.enter_context(directory))
            return directory.path, directory.config()

        wanted = _recipe(given, changes)
        if resume:
            if out is None:
                raise RunDirectoryError(
                    "--resume needs --out: name the run directory of the training to go on with"
                )
            path, config = from_first(processes, lambda: hold(RunDirectory.resume(out)))
            wanted = _same(path, config, wanted)
            made = _understand(wanted, device, processes.world)
            if made.source.fingerprint != config.get("fingerprint"):
                raise DataError(
                    f"{wanted.data.spec} has changed since the training in {out} was begun; bring back what "
                    "it was, or begin anew with another --out"
                )
        else:
            if wanted is None:
                raise OptionError(
                    "there is no recipe to carry out; give the path of one, such as winner.toml"
                )
            if out is not None:
                from_first(processes, lambda: refuse_existing(Path(out)))
            made = _understand(wanted, device, processes.world)
            begun = {
                "kind": "train",
                "command": command,
                "device": device,
                "fingerprint": made.source.fingerprint,
                "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
                "recipe": wanted.model_dump(exclude_none=True, by_alias=True),
            }
            place = _place(out, made.source)
            path, config = from_first(processes, lambda: hold(RunDirectory.create(place, begun)))
        if len(set(processes.collect(made.source.fingerprint))) > 1:
            raise DataError(
                f"{wanted.data.spec} isn't the same for all {processes.world} processes; give all one"
            )
        run = _Run(directory=held[0] if held else None, path=path, config=config)
        return _train(made, run, checkpoint_seconds, told, new=not resume), path


@dataclass(frozen=True, kw_only=True)
class _Run:
    """Where a training is laid down; of many processes 0 alone holds the directory."""

    directory: RunDirectory | None
    path: Path
    config: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class _Made:
    """Everything a training needs, understood and checked."""

    recipe: Recipe
    source: Source
    prepared: Prepared
    loss: Loss
    metric: Metric
    entry: Entry
    strategies: list[Strategy]
    training: Training
    say: list[Callable[[str], None]]
    text: str


def _recipe(given: str | Path | Recipe | None, changes: Sequence[str]) -> Recipe | None:
    if isinstance(given, Recipe):
        return recipe.loads(recipe.dumps(given), changes=changes) if changes else given
    if given is None:
        if changes:
            raise OptionError("--set changes a recipe; give the recipe too")
        return None
    return recipe.read(given, changes)


def _same(path: Path, config: dict[str, Any], wanted: Recipe | None) -> Recipe:
    """The recipe that a training was begun with, which must be the one that is wanted, if any is."""
    if config.get("kind") != "train":
        raise RunDirectoryError(f"{path} holds no training of a recipe; give the directory of one")
    try:
        begun = Recipe.model_validate(config["recipe"])
    except (KeyError, ValidationError) as problem:
        raise RunDirectoryError(
            f"{path / 'config.toml'} is damaged: it holds no recipe that could be carried out; "
            "bring it back, or begin anew with another --out"
        ) from problem
    if wanted is not None and wanted != begun:
        now, before = (each.model_dump(by_alias=True) for each in (wanted, begun))
        table = next(name for name in now if now[name] != before[name])
        # a table that is optional may be missing on either side
        here, there = now[table] or {}, before[table] or {}
        differing = [key for key in here if here[key] != there.get(key)] or list(there)
        key = f"{table}.{differing[0]}"
        raise OptionError(
            f"the training in {path} was begun with another {key}; leave the recipe out to go on "
            "with its own, or begin anew with another --out"
        )
    return begun


def _place(out: str | Path | None, source: Source) -> Path:
    if out is not None:
        return Path(out)
    stamp = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    return Path("runs") / f"train-{source.name}-{stamp}-{uuid.uuid4().hex[:4]}"


def _understand(
    wanted: Recipe, device: str, world: int, known: tuple[Source, Prepared] | None = None
) -> _Made:
    """Make everything; the data may be known already."""
    made = [strategies.build(name, settings) for name, settings in wanted.strategies.given().items()]
    entry = catalogue.resolve(wanted.optimizer.name)
    hyperparameters = wanted.optimizer.hyperparameters
    of_run = entry.of_run(hyperparameters)
    settings = wanted.training
    if world > 1:
        _check_shares(wanted, entry, world)
    place = _device(device if world == 1 else str(local_device(device)), device)
    if known is None:
        source = data.load(
            wanted.data.spec, target=wanted.data.target, task=wanted.data.task, missing=wanted.data.missing,
            types=wanted.data.types or None,
        )  # fmt: skip
        seed, replicate = wanted.data.seed, wanted.data.replicate
        known = source, data.prepare(source, seed=seed, replicate=replicate, device=place)
    source, prepared = known
    if wanted.prediction.crops > 1 and len(prepared.input_shape) != 3:
        raise OptionError(
            f"prediction.crops is {wanted.prediction.crops}, but inputs of shape "
            f"{list(prepared.input_shape)} are no images; leave crops out"
        )
    loss = objectives.loss(wanted.objective.loss, prepared.task)
    metric = objectives.metric(wanted.objective.metric, prepared.task)
    examples = len(prepared.train)
    total = settings.epochs * steps_an_epoch(examples, settings.batch_size)

    factory = equipped(models.factory(wanted.model.spec), wanted.model.equipment)
    model = initial_module(factory, prepared.input_shape, prepared.outputs, settings.seed)
    models.check(model, prepared, loss, metric)
    text = str(model)
    if settings.memory_format == "channels_last":
        model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    engine = _engine(settings, place, world)
    model = engine.set_up(model)
    optimizer = entry.make(_parameters(model, wanted, entry), **hyperparameters)
    if wanted.schedule.name == "plateau":
        made.append(Plateau(patience=2))
        factor: Callable[[int], float] = lambda step: 1.0  # noqa: E731
    else:
        factor = tabulated(
            schedules.build(wanted.schedule.name, total=total, **wanted.schedule.options), total
        )
    say: list[Callable[[str], None]] = []
    batches = Batches(
        examples,
        seed=settings.seed,
        size=settings.batch_size,
        factor=of_run.get("batch_factor", 1.0),
        growth=of_run.get("batch_growth", 1.0),
    )
    training = Training(
        model=model,
        optimizer=optimizer,
        needs=entry.needs,
        loss=loss,
        feed=ExampleFeed(prepared.train, batches, settings.batch_size),
        rates=Rates(optimizer, factor),
        total=total,
        seed=settings.seed,
        engine=engine,
        strategies=made,
        parts=settings.accumulate,
        measured=("loss", "metric"),
        activation=activation_of(loss.name),
        say=lambda text: say[0](text),
    )
    return _Made(
        recipe=wanted, source=source, prepared=prepared, loss=loss, metric=metric, entry=entry,
        strategies=made, training=training, say=say, text=text,
    )  # fmt: skip


def _check_shares(wanted: Recipe, entry: Entry, world: int) -> None:
    """Refuse what can't be divided among processes."""
    settings = wanted.training
    if entry.needs in ("graph", "outputs"):
        raise OptionError(
            f"{entry.name} needs the graph of a whole batch, of which each of {world} processes has a part; "
            "train without torchrun, or by an optimizer that needs gradients alone, such as lbfgs"
        )
    if settings.batch_size < world * settings.accumulate:
        raise OptionError(
            f"training.batch_size is {settings.batch_size}, less than one example for each of {world} "
            "processes and each part of a batch; take a larger one, or fewer processes"
        )
    if wanted.ensemble is not None:
        raise OptionError(
            f"the members of an ensemble are trained in one process, not in {world}; leave torchrun out, or "
            "give each member a recipe of its own"
        )


def _engine(settings: recipe.Training, place: torch.device, world: int) -> Engine:
    if world == 1:
        return OneProcess(place, precision=settings.precision)
    kind = FullyShardedDataParallel if settings.parallel == "fsdp2" else DistributedDataParallel
    return kind(place, precision=settings.precision, sync_batch_norm=settings.sync_batch_norm)


def _device(name: str, given: str) -> torch.device:
    try:
        place = torch.device(name)
        float(torch.zeros(1, device=place).sum())
    except (RuntimeError, AssertionError) as problem:
        said = " ".join(str(problem).split())[:100]
        raise OptionError(f"--device {given!r} can't be used on this machine ({said}); use cpu") from problem
    return place


def _parameters(model: nn.Module, wanted: Recipe, entry: Entry) -> list[Any]:
    groups = wanted.groups
    if groups == recipe.Groups():
        return [p for p in model.parameters() if p.requires_grad]
    defaults = {hyper.name: hyper.default for hyper in entry.hyperparameters}
    lr = wanted.optimizer.hyperparameters.get("lr", defaults.get("lr"))
    made = parameter_groups(
        model,
        lr=None if lr is None else float(lr),
        decay_all=groups.decay == "all",
        depth_factor=groups.depth_factor,
        patterns=[Pattern(match=p.match, rate=p.rate, decay=p.decay) for p in groups.patterns],
    )
    if "weight_decay" not in defaults:
        for group in made:
            group.pop("weight_decay", None)
    return made


def _train(made: _Made, run: _Run, seconds: float, watcher: Watcher, *, new: bool) -> TrainResults:
    if run.directory is not None:
        run.directory.write_text("recipe.toml", recipe.dumps(made.recipe))
    watcher.begun(_lines(made))
    if made.recipe.ensemble is not None:
        return _train_members(made, run, seconds, watcher, new=new)
    job = _job(made, run.directory, seconds, watcher)
    try:
        fitted = job.run()
    except UserError:
        if new and not job.begun and run.directory is not None:
            run.directory.discard()
        raise
    except KeyboardInterrupt as problem:
        raise Interrupted(
            f"interrupted before a step was ended; --resume goes on from what {run.path} holds"
        ) from problem
    results = _lay_down(made, fitted, run)
    if fitted.failed:
        raise ThalwegError(
            f"{fitted.stopped}; {run.path / 'weights.safetensors'} holds the weights that stood then, "
            f"{run.path / 'best.safetensors'} those that were best on validation"
        )
    return results


def _job(made: _Made, directory: RunDirectory | None, seconds: float, watcher: Watcher) -> Job:
    wanted, prepared, training = made.recipe, made.prepared, made.training
    size = max(wanted.training.batch_size, _EVALUATED)
    job = Job(
        training,
        evaluation_points(training.total, wanted.training.evaluations),
        loss=made.loss,
        metric=made.metric,
        validation=lambda: in_blocks(prepared.validation, size),
        tests={"test": lambda: in_blocks(prepared.test, size)},
        directory=directory,
        seconds=seconds,
        watcher=watcher,
        predictor=lambda model: predicting_model(model, wanted.prediction, _activation(prepared)),
    )
    made.say.append(job.say)
    return job


def _train_members(made: _Made, run: _Run, seconds: float, watcher: Watcher, *, new: bool) -> TrainResults:
    device, directory = str(made.training.engine.device), run.directory
    assert directory is not None

    def alone(one: Recipe, prepared: Prepared, folder: RunDirectory, told: Watcher) -> Fitted:
        return _job(_understand(one, device, 1, (made.source, prepared)), folder, seconds, told).run()

    kept = train_members(
        made.recipe, made.prepared, made.entry, made.loss, made.metric, directory=directory, device=device,
        seconds=seconds, watcher=watcher, new=new, alone=alone,
    )  # fmt: skip
    assert made.recipe.ensemble is not None
    assert kept.how is not None
    good = [number for number, member in sorted(kept.members.items()) if not member.failed]
    stored = _stored(made, members=good)
    judged = _judge(made, stored, [f"member-{number}.safetensors" for number in good], directory)
    record = recorded(judged, kept, resample=made.recipe.ensemble.resample)
    members = [kept.members[number] for number in good]
    notes = [
        f"member {each.number} is left out: {each.stopped}" if each.failed
        else f"member {each.number}: {text}"
        for each in kept.members.values()
        for text in (each.notes or [""] if each.failed else each.notes)
    ]  # fmt: skip
    results = _results(
        made, run.config,
        curve=mean_curve(members), result=judged.result, updates=sum(each.updates for each in members),
        notes=notes, seconds=kept.seconds, calibration=judged.calibration, ensemble=record,
        engine=kept.how.reason,
    )  # fmt: skip
    _conclude(results, stored, directory)
    return results


def _judge(made: _Made, stored: Stored, names: list[str], directory: RunDirectory) -> Judged:
    """Judge weights as they lie in files: what predictions will be made by."""
    device = str(made.training.engine.device)
    return judge(
        (
            predicting_model(
                load_model(directory.path, stored, name, device), stored.prediction, stored.activation
            )
            for name in names
        ),
        made.prepared,
        loss=made.loss,
        metric=made.metric,
        activation=stored.activation,
    )


def _lay_down(made: _Made, fitted: Fitted, run: _Run) -> TrainResults:
    directory, engine = run.directory, made.training.engine
    snapshots = next((s for s in made.strategies if isinstance(s, Snapshots)), None)
    taken = snapshots.states() if snapshots is not None else []
    states = {"weights": fitted.model.state_dict()}
    if fitted.best_state is not None:
        states["best"] = fitted.best_state
    states |= {f"snapshot-{number}": state for number, state in enumerate(taken, 1)}
    for name, state in states.items():
        whole = engine.whole(state)
        if directory is not None:
            directory.write_bytes(f"{name}.safetensors", safetensors.torch.save(whole))
    stored = _stored(made, snapshots=len(taken))
    calibration, ensemble = None, None
    if directory is not None and made.prepared.task.kind == "classification":
        calibration = _judge(made, stored, ["weights.safetensors"], directory).calibration
    if directory is not None and len(taken) > 1:
        files = [f"snapshot-{number}.safetensors" for number in range(1, len(taken) + 1)]
        ensemble = recorded(_judge(made, stored, files, directory), None)
    results = _results(
        made, run.config,
        curve=fitted.curve, result=fitted.final, updates=fitted.updates, notes=fitted.notes,
        seconds=fitted.seconds, best=fitted.best, stopped=fitted.stopped, failed=fitted.failed,
        calibration=calibration, ensemble=ensemble,
    )  # fmt: skip
    if directory is not None:
        _conclude(results, stored, directory)
    return results


def _stored(made: _Made, *, snapshots: int = 0, members: Sequence[int] = ()) -> Stored:
    prepared, wanted = made.prepared, made.recipe
    inputs = store(made.source, prepared.indices, wanted.data.missing)
    return Stored(
        spec=wanted.model.spec,
        input_shape=list(prepared.input_shape),
        outputs=prepared.outputs,
        equipment=wanted.model.equipment.given(),
        task=asdict(prepared.task),
        activation=_activation(prepared),
        inputs=None if inputs is None else inputs.model_dump(),
        snapshots=snapshots,
        members=list(members),
        prediction=wanted.prediction,
        mirrored=recipe.mirrors(wanted),
    )


def _activation(prepared: Prepared) -> Activation:
    if prepared.task.kind != "classification":
        return "identity"
    return "softmax" if prepared.outputs > 1 else "sigmoid"


def _results(
    made: _Made,
    config: dict[str, Any],
    *,
    curve: Sequence[Evaluation],
    result: dict[str, float | None],
    updates: int,
    notes: list[str],
    seconds: float,
    best: Evaluation | None = None,
    stopped: str | None = None,
    failed: bool = False,
    calibration: CalibrationRecord | None = None,
    ensemble: EnsembleRecord | None = None,
    engine: str | None = None,
) -> TrainResults:
    prepared, wanted, source = made.prepared, made.recipe, made.source
    timing: dict[str, Any] = {"started": config.get("started"), "seconds": seconds}
    if engine is not None:
        timing["engine"] = engine
    return TrainResults(
        recipe=wanted.model_dump(exclude_none=True, by_alias=True),
        data={
            "name": source.name,
            "rows": source.rows,
            "inputs": source.inputs,
            "classes": list(source.task.classes),
            "splits": {part: len(getattr(prepared, part)) for part in ("train", "validation", "test")},
            "fingerprint": source.fingerprint,
            "notes": list(dict.fromkeys([*source.notes, *prepared.notes])),
        },
        model={
            "spec": wanted.model.spec,
            "equipment": wanted.model.equipment.given(),
            "parameters": sum(p.numel() for p in made.training.model.parameters()),
            "text": made.text,
        },
        metric=made.metric.name,
        higher_is_better=made.metric.higher_is_better,
        curve=[Point(**asdict(each)) for each in curve],
        best=None if best is None else Point(**asdict(best)),
        result=result,
        updates=updates,
        stopped=stopped,
        failed=failed,
        notes=notes,
        machine=environment(str(made.training.engine.device)),
        timing=timing,
        calibration=calibration,
        ensemble=ensemble,
    )


def _conclude(results: TrainResults, stored: Stored, directory: RunDirectory) -> None:
    directory.write_text("model.json", stored.model_dump_json(indent=1))
    directory.write_text("README.md", card(results, stored))
    # last of all: a directory with results is a finished one
    directory.write_json("results.json", results.model_dump(mode="json"))


def _lines(made: _Made) -> dict[str, list[str]]:
    wanted, prepared = made.recipe, made.prepared
    sizes = ", ".join(f"{len(getattr(prepared, part)):,} {part}" for part in ("train", "validation", "test"))
    hyper = ", ".join(f"{name} {value:.4g}" for name, value in wanted.optimizer.hyperparameters.items())
    parameters = sum(p.numel() for p in made.training.model.parameters())
    training = wanted.training
    lines = {
        "data": [made.source.summary(), sizes, *made.source.notes],
        "model": [f"{wanted.model}, {parameters:,} parameters"],
        "recipe": [
            f"{wanted.optimizer.name}{f' ({hyper})' if hyper else ''}, schedule {wanted.schedule.name}",
            f"{training.epochs} epochs of batches of {training.batch_size}: {made.training.total:,} steps; "
            f"{made.loss.name} trained, {made.metric.name} judged",
        ],
    }
    if wanted.ensemble is not None:
        kind = ", each on a resample of its own" if wanted.ensemble.resample else ""
        lines["recipe"].append(f"an ensemble of {wanted.ensemble.members} independent models{kind}")
    engine = made.training.engine
    if engine.world > 1:
        how = "FSDP2" if engine.sharded else "DDP"
        lines["recipe"].append(f"on {engine.world} processes by {how}, each with its share of every batch")
    if made.strategies:
        lines["recipe"].append(f"with {', '.join(s.name for s in made.training.strategies)}")
    return lines
