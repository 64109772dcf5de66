"""A recipe carried out: understood before anything is written, trained, and laid down for use."""

from __future__ import annotations

import datetime
import uuid
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from thalweg import catalogue, data, models, objectives, recipe, schedules, strategies
from thalweg.catalogue import Entry
from thalweg.data.source import Prepared, Source
from thalweg.data.stored import store
from thalweg.equipment import equipped
from thalweg.errors import DataError, OptionError, RunDirectoryError, ThalwegError, UserError
from thalweg.lanes.course import evaluation_points, initial_module, steps_an_epoch
from thalweg.objectives import Loss, Metric
from thalweg.recipe import Recipe
from thalweg.runs.directory import RunDirectory, refuse_existing
from thalweg.runs.environment import environment
from thalweg.strategies import Plateau, Snapshots, Strategy
from thalweg.training.card import card
from thalweg.training.core import Rates, Training
from thalweg.training.engine import OneProcess
from thalweg.training.feed import ExampleFeed, in_blocks
from thalweg.training.fitting import activation_of, tabulated
from thalweg.training.groups import Pattern, parameter_groups
from thalweg.training.job import Fitted, Job
from thalweg.training.results import Point, Stored, TrainResults
from thalweg.training.steps import Batches
from thalweg.training.watch import Silent, Watcher

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
    watcher = Silent() if watcher is None else watcher
    wanted = _recipe(given, changes)
    if resume:
        if out is None:
            raise RunDirectoryError(
                "--resume needs --out: name the run directory of the training to go on with"
            )
        with RunDirectory.resume(out) as directory:
            wanted = _same(directory, wanted)
            made = _understand(wanted, device)
            if made.source.fingerprint != directory.config()["fingerprint"]:
                raise DataError(
                    f"{wanted.data.spec} has changed since the training in {out} was begun; bring back what "
                    "it was, or begin anew with another --out"
                )
            return _train(made, directory, checkpoint_seconds, watcher, new=False)
    if wanted is None:
        raise OptionError("there is no recipe to carry out; give the path of one, such as winner.toml")
    if out is not None:
        refuse_existing(Path(out))
    made = _understand(wanted, device)
    config = {
        "kind": "train",
        "command": command,
        "device": device,
        "fingerprint": made.source.fingerprint,
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "recipe": wanted.model_dump(exclude_none=True, by_alias=True),
    }
    with RunDirectory.create(_place(out, made.source), config) as directory:
        return _train(made, directory, checkpoint_seconds, watcher, new=True)


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


def _recipe(given: str | Path | Recipe | None, changes: Sequence[str]) -> Recipe | None:
    if isinstance(given, Recipe):
        return recipe.loads(recipe.dumps(given), changes=changes) if changes else given
    if given is None:
        if changes:
            raise OptionError("--set changes a recipe; give the recipe too")
        return None
    return recipe.read(given, changes)


def _same(directory: RunDirectory, wanted: Recipe | None) -> Recipe:
    """The recipe that a training was begun with, which must be the one that is wanted, if any is."""
    config = directory.config()
    if config.get("kind") != "train":
        raise RunDirectoryError(f"{directory.path} holds no training of a recipe; give the directory of one")
    begun = Recipe.model_validate(config["recipe"])
    if wanted is not None and wanted != begun:
        now, before = (each.model_dump(by_alias=True) for each in (wanted, begun))
        table = next(name for name in now if now[name] != before[name])
        differing = [key for key in now[table] if now[table][key] != before[table].get(key)] or list(
            before[table]
        )
        key = f"{table}.{differing[0]}"
        raise OptionError(
            f"the training in {directory.path} was begun with another {key}; leave the recipe out to go on "
            "with its own, or begin anew with another --out"
        )
    return begun


def _place(out: str | Path | None, source: Source) -> Path:
    if out is not None:
        return Path(out)
    stamp = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    return Path("runs") / f"train-{source.name}-{stamp}-{uuid.uuid4().hex[:4]}"


def _understand(wanted: Recipe, device: str) -> _Made:
    made = [strategies.build(name, settings) for name, settings in wanted.strategies.given().items()]
    entry = catalogue.resolve(wanted.optimizer.name)
    hyperparameters = wanted.optimizer.hyperparameters
    of_run = entry.of_run(hyperparameters)
    source = data.load(
        wanted.data.spec, target=wanted.data.target, task=wanted.data.task, missing=wanted.data.missing,
        types=wanted.data.types or None,
    )  # fmt: skip
    place = _device(device)
    prepared = data.prepare(source, seed=wanted.data.seed, replicate=wanted.data.replicate, device=place)
    loss = objectives.loss(wanted.objective.loss, prepared.task)
    metric = objectives.metric(wanted.objective.metric, prepared.task)
    settings = wanted.training
    examples = len(prepared.train)
    total = settings.epochs * steps_an_epoch(examples, settings.batch_size)

    factory = equipped(models.factory(wanted.model.spec), wanted.model.equipment)
    model = initial_module(factory, prepared.input_shape, prepared.outputs, settings.seed)
    models.check(model, prepared, loss, metric)
    if settings.memory_format == "channels_last":
        model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    engine = OneProcess(place, precision=settings.precision)
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
        strategies=made, training=training, say=say,
    )  # fmt: skip


def _device(name: str) -> torch.device:
    try:
        place = torch.device(name)
        float(torch.zeros(1, device=place).sum())
    except (RuntimeError, AssertionError) as problem:
        said = " ".join(str(problem).split())[:100]
        raise OptionError(f"--device {name!r} can't be used on this machine ({said}); use cpu") from problem
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


def _train(
    made: _Made, directory: RunDirectory, seconds: float, watcher: Watcher, *, new: bool
) -> tuple[TrainResults, Path]:
    wanted, prepared, training = made.recipe, made.prepared, made.training
    size = max(wanted.training.batch_size, _EVALUATED)
    directory.write_text("recipe.toml", recipe.dumps(wanted))
    watcher.begun(_lines(made))
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
    )
    made.say.append(job.say)
    try:
        fitted = job.run()
    except UserError:
        if new and not job.begun:
            directory.discard()
        raise
    results = _lay_down(made, fitted, directory)
    if fitted.failed:
        raise ThalwegError(
            f"{fitted.stopped}; {directory.path / 'weights.safetensors'} holds the weights that stood then, "
            f"{directory.path / 'best.safetensors'} those that were best on validation"
        )
    return results, directory.path


def _lay_down(made: _Made, fitted: Fitted, directory: RunDirectory) -> TrainResults:
    prepared, wanted, source = made.prepared, made.recipe, made.source
    _weights(directory, "weights.safetensors", fitted.model.state_dict())
    if fitted.best_state is not None:
        _weights(directory, "best.safetensors", fitted.best_state)
    snapshots = next((s for s in made.strategies if isinstance(s, Snapshots)), None)
    taken = snapshots.states() if snapshots is not None else []
    for number, state in enumerate(taken, 1):
        _weights(directory, f"snapshot-{number}.safetensors", state)
    inputs = store(source, prepared.indices, wanted.data.missing)
    kind = prepared.task.kind
    activation = "identity" if kind != "classification" else "softmax" if prepared.outputs > 1 else "sigmoid"
    stored = Stored(
        spec=wanted.model.spec,
        input_shape=list(prepared.input_shape),
        outputs=prepared.outputs,
        equipment=wanted.model.equipment.given(),
        task=asdict(prepared.task),
        activation=activation,  # type: ignore[arg-type]
        inputs=None if inputs is None else inputs.model_dump(),
        snapshots=len(taken),
    )
    directory.write_text("model.json", stored.model_dump_json(indent=1))
    config = directory.config()
    results = TrainResults(
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
            "parameters": sum(p.numel() for p in fitted.model.parameters()),
            "text": str(fitted.model),
        },
        metric=made.metric.name,
        higher_is_better=made.metric.higher_is_better,
        curve=[Point(**asdict(each)) for each in fitted.curve],
        best=None if fitted.best is None else Point(**asdict(fitted.best)),
        result=fitted.final,
        updates=fitted.updates,
        stopped=fitted.stopped,
        failed=fitted.failed,
        notes=fitted.notes,
        machine=environment(str(made.training.engine.device)),
        timing={"started": config.get("started"), "seconds": fitted.seconds},
    )
    directory.write_text("README.md", card(results, stored))
    # last of all: a directory with results is a finished one
    directory.write_json("results.json", results.model_dump(mode="json"))
    return results


def _weights(directory: RunDirectory, name: str, state: dict[str, Tensor]) -> None:
    whole = {key: value.detach().cpu().contiguous().clone() for key, value in state.items()}
    directory.write_bytes(name, safetensors.torch.save(whole))


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
    if made.strategies:
        lines["recipe"].append(f"with {', '.join(s.name for s in made.training.strategies)}")
    return lines
