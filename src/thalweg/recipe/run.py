"""Run a recipe: it is checked before anything is written, trained, and its results are written."""

from __future__ import annotations

import contextlib
import datetime
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor

from thalweg import data, recipe
from thalweg.data.source import Prepared
from thalweg.errors import (
    DataError,
    Interrupted,
    OptionError,
    RunDirectoryError,
    SaidElsewhere,
    ThalwegError,
    UserError,
    option,
    spelled_as_recipe,
)
from thalweg.randomness.generators import undisturbed
from thalweg.recipe.build import BuiltRun, build, lines
from thalweg.recipe.controls import OfControl, controlled, place_of_control, without_controls
from thalweg.recipe.export import export_members, export_run
from thalweg.recipe.members import train_members
from thalweg.recipe.schema import Recipe
from thalweg.run.directory.directory import RunDirectory
from thalweg.run.directory.kinds import default_place, refuse_existing
from thalweg.run.sampler import evaluation_points
from thalweg.run.threads import with_threads
from thalweg.settings import trust
from thalweg.settings.declared import checked
from thalweg.strategies.own import load_own
from thalweg.training.backend import Backend, on_rank_0
from thalweg.training.evaluate import score
from thalweg.training.fit_spec import called
from thalweg.training.loader import in_blocks
from thalweg.training.options import TrainOptions
from thalweg.training.parallel import together
from thalweg.training.predicting import predicting_model
from thalweg.training.results import TrainResults
from thalweg.training.staged import StagedTraining, has_begun
from thalweg.training.thread_count import threads_for
from thalweg.training.trainer import Training
from thalweg.training.training_run import Fitted, TrainingRun, finite, on_one_axis
from thalweg.training.watch import SilentTrainingWatcher, TrainingWatcher

__all__ = ["run_recipe"]

_EVALUATED = 256
# more than any machine has; a stranger's directory may say anything
_MOST_THREADS = 4096


def run_recipe(options: TrainOptions) -> tuple[TrainResults, Path]:
    """Train what a recipe says, or resume it, and write everything but the report.

    Args:
        options: what was asked for.

    Returns:
        The results, and the run directory.

    Raises:
        UserError: something given can't be used; nothing has been written then.
        Interrupted: on Ctrl-C or SIGTERM, after everything was saved.
        ThalwegError: training failed; the directory holds the last good weights.
    """
    options = checked(options)
    with spelled_as_recipe(), together(options.device) as processes:
        results, path, wanted = _run_one(options, processes)
        _run_controls(wanted, path, options, processes)
        return results, path


def _run_controls(wanted: Recipe, path: Path, options: TrainOptions, processes: Backend) -> None:
    """Train the controls that a recipe asks for, or go on with them; each in a directory of its own."""
    watcher = SilentTrainingWatcher() if options.watcher is None or processes.rank else options.watcher
    for name, one in controlled(wanted).items():
        place = place_of_control(path, name)

        def state(place: Path = place) -> tuple[bool, bool]:
            return (place / "results.json").is_file(), place.exists()

        finished, begun = on_rank_0(processes, state)
        if finished:
            continue
        # code that the directory alone names is asked for again, as for the training
        given = None if begun and options.recipe is None else one
        its = replace(
            options, recipe=given, changes=(), out=place, resume=begun, watcher=OfControl(watcher, name)
        )
        try:
            _run_one(its, processes)
        except Interrupted as problem:
            raise Interrupted(
                f"interrupted in the control {name!r}; the training itself is finished, and "
                f"{option('resume', True)} with {option('out', path)} goes on"
            ) from problem
        except UserError as problem:
            raise type(problem)(f"in the control {name!r}: {problem}") from problem
        except SaidElsewhere:
            raise
        except ThalwegError as problem:
            # which is what came of it
            watcher.note(f"the control {name!r} failed: {problem}")


def _run_one(options: TrainOptions, processes: Backend) -> tuple[TrainResults, Path, Recipe]:
    """Train one recipe, and give it back beside what came of it and where that lies."""
    out, device = options.out, options.device
    with ExitStack() as stack, trust.own_code(accepted=options.trust_code) as gate:
        watcher = SilentTrainingWatcher() if options.watcher is None else options.watcher
        told = SilentTrainingWatcher() if processes.rank else watcher
        held: list[RunDirectory] = []

        def hold(directory: RunDirectory) -> tuple[Path, dict[str, Any]]:
            held.append(stack.enter_context(directory))
            return directory.path, directory.config()

        def known() -> tuple[dict[str, dict[str, str]], list[str]]:
            return held[0].code(), sorted(trust.known_code())

        def announced(wanted: Recipe) -> None:
            if (text := data.announcement(wanted.data.spec)) is not None:
                told.note(text)

        wanted = _recipe(options.recipe, options.changes)
        if options.resume:
            stated = wanted is not None
            path, config = on_rank_0(
                processes, lambda: hold(RunDirectory.resume(out, "train", stated=stated))
            )
            # what process 0 knows holds for all, wherever they run
            recorded, remembered = on_rank_0(processes, known)
            gate.carries_on(path, recorded, stated=stated, remembered=remembered)
            wanted = _same(path, config, wanted)
            announced(wanted)
            made = build(wanted, device, processes.world)
            if made.source.fingerprint != config.get("fingerprint"):
                raise DataError(
                    f"{wanted.data.spec} has changed since the training in {out} began; restore it, "
                    f"or start again with another {option('out')}"
                )
            if made.staged is not None and config.get("stages", now := _stages(made.staged)) != now:
                raise OptionError(
                    f"the training in {out} was begun with other stages: a teacher, a difficulty or a "
                    "function that its recipe names gives something else now; restore it, or start again "
                    f"with another {option('out')}"
                )
        else:
            if wanted is None:
                raise OptionError("there is no recipe to run; give the path of one, such as winner.toml")
            if out is not None:
                on_rank_0(processes, lambda: refuse_existing(Path(out)))
            announced(wanted)
            made = build(wanted, device, processes.world)
            begun: dict[str, Any] = {
                "kind": "train",
                "command": options.command,
                "device": device,
                "fingerprint": made.source.fingerprint,
                "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
                "threads": _threads(made, device, processes.world),
                "recipe": wanted.model_dump(exclude_none=True, by_alias=True),
            }
            if made.staged is not None:
                begun["stages"] = _stages(made.staged)
            observing = [name for name in wanted.strategies.own() if load_own(name).observes]
            if observing:
                begun["observing"] = observing
            place = default_place("train", made.source.name) if out is None else out
            path, config = on_rank_0(processes, lambda: hold(RunDirectory.create(place, begun)))
        if len(set(processes.collect(made.source.fingerprint))) > 1:
            raise DataError(
                f"{wanted.data.spec} differs between the {processes.world} processes; give all the same data"
            )
        if held:
            held[0].note_code()
            if controlled(wanted):
                held[0].folder("controls")
        run = _Run(directory=held[0] if held else None, path=path, config=config)
        return _train(made, run, options.checkpoint_seconds, told), path, wanted


@dataclass(frozen=True, kw_only=True)
class _Run:
    """Where a training is laid down; of many processes 0 alone holds the directory."""

    directory: RunDirectory | None
    path: Path
    config: dict[str, Any]


def _stages(staged: StagedTraining) -> str:
    """What stages are, so that others are told apart."""
    return json.dumps(staged.config()["stages"], sort_keys=True, default=called)


def _recipe(given: str | Path | Recipe | None, changes: Sequence[str]) -> Recipe | None:
    if isinstance(given, Recipe):
        return recipe.loads(recipe.dumps(given), changes=changes) if changes else given
    if given is None:
        if changes:
            raise OptionError(f"{option('changes')} is for a recipe; give the recipe too")
        return None
    return recipe.read(given, changes)


def _same(path: Path, config: dict[str, Any], wanted: Recipe | None) -> Recipe:
    """The recipe that a training was begun with, which must be the one that is wanted, if any is."""
    try:
        begun = Recipe.model_validate(config["recipe"])
    except (KeyError, ValidationError) as problem:
        raise RunDirectoryError(
            f"{path / 'config.toml'} is damaged: it holds no valid recipe; "
            f"restore it, or start again with another {option('out')}"
        ) from problem
    if wanted is not None:
        observing = _observing(config, begun, wanted)
        now, before = _without(wanted, observing), _without(begun, observing)
        if now == before:
            return wanted
        table = next(name for name in now if now[name] != before[name])
        raise OptionError(
            f"the training in {path} was begun with another {_differing(table, now, before)}; leave the "
            "recipe out to "
            f"resume with its own, or start again with another {option('out')}"
        )
    return begun


def _differing(table: str, now: dict[str, Any], before: dict[str, Any]) -> str:
    """The first key in which two recipes differ, as TOML spells it."""
    # a table that is optional may be missing on either side
    here, there = now[table] or {}, before[table] or {}
    if isinstance(here, list) or isinstance(there, list):
        one, other = list(here), list(there)
        if len(one) != len(other):
            return f"number of [[{table}]] tables"
        number = next(n for n in range(len(one)) if one[n] != other[n])
        return _differing(
            f"{table}.{number}", {f"{table}.{number}": one[number]}, {f"{table}.{number}": other[number]}
        )
    differing = [key for key in here | there if here.get(key) != there.get(key)]
    key = f'"{differing[0]}"' if ":" in differing[0] else differing[0]
    return f"{table}.{key}"


def _observing(config: dict[str, Any], begun: Recipe, wanted: Recipe) -> set[str]:
    """A person's own strategies that only observe, so that they may join or leave when a training goes on."""
    mine, there = wanted.strategies.own(), begun.strategies.own()
    joining = {name for name, each in mine.items() if each != there.get(name) and load_own(name).observes}
    # what the directory alone names isn't run for this: it says itself who only observed
    said = config.get("observing", [])
    return joining | {name for name in there if name not in mine and name in said}


def _without(one: Recipe, names: set[str]) -> dict[str, Any]:
    values = without_controls(one.model_dump(by_alias=True))
    values["strategies"] = {name: each for name, each in values["strategies"].items() if name not in names}
    return values


def _train(made: BuiltRun, run: _Run, seconds: float, watcher: TrainingWatcher) -> TrainResults:
    if run.directory is not None:
        run.directory.write_text("recipe.toml", recipe.dumps(made.recipe))
    watcher.begun(lines(made))
    if made.recipe.ensemble is not None:
        return _train_members(made, run, seconds, watcher)
    carried = _Carrying(made, run.directory, run.path, seconds, watcher)
    refused: contextlib.AbstractContextManager[None] = contextlib.nullcontext()
    if run.directory is not None:
        refused = run.directory.withdrawn_unless(lambda: carried.begun)
    try:
        with refused, _as_many_threads(run, watcher):
            fitted = carried.run()
    except KeyboardInterrupt as problem:
        raise Interrupted(
            f"interrupted before the step under way was done; {option('resume', True)} resumes from the last "
            f"checkpoint in {run.path}"
        ) from problem
    results = export_run(made, fitted, run.directory, run.config)
    if fitted.failed:
        best = "" if fitted.best_state is None else (
            f", {run.path / 'best.safetensors'} those with the best validation score"
        )  # fmt: skip
        where = f"in the stage {fitted.stages[-1].name!r}: " if fitted.stages else ""
        raise ThalwegError(
            f"{where}{fitted.stopped}; {run.path / 'weights.safetensors'} holds the weights at that point"
            f"{best}"
        )
    return results


def _threads(made: BuiltRun, device: str, world: int) -> int | None:
    """How many threads of torch to train with, where that is ours to choose."""
    if torch.device(device).type != "cpu" or world > 1:
        # which torchrun says for each of its processes
        return None
    size = min(made.recipe.training.batch_size, len(made.prepared.train))
    with undisturbed():
        inputs, _ = made.prepared.train.batch(torch.arange(size))
        return threads_for(made.model, inputs, torch.get_num_threads())


@contextlib.contextmanager
def _as_many_threads(run: _Run, watcher: TrainingWatcher) -> Iterator[None]:
    """Take as many threads as were chosen when the training was begun; as before afterwards."""
    threads, now = run.config.get("threads"), torch.get_num_threads()
    if not isinstance(threads, int) or not 1 <= threads <= _MOST_THREADS or threads == now:
        yield
        return
    if threads < now:
        said = "one thread" if threads == 1 else f"{threads} threads"
        watcher.note(f"training on {said} of {now}: more threads would have too little to do in a step")
    with with_threads(threads):
        yield


class _Carrying:
    """A training without stages or in stages, carried out in a directory."""

    def __init__(
        self,
        made: BuiltRun,
        directory: RunDirectory | None,
        place: Path,
        seconds: float,
        watcher: TrainingWatcher,
    ) -> None:
        self._made, self._directory, self._place = made, directory, place
        self._seconds, self._watcher = seconds, watcher
        self._training_run = None if made.training is None else self._of(made.training)

    def _of(self, training: Training) -> TrainingRun:
        made, wanted = self._made, self._made.recipe
        _, judged, metric = made.problem.functions
        training_run = TrainingRun(
            training,
            evaluation_points(training.total, wanted.training.evaluations),
            loss=judged,
            metric=metric,
            validation=self._batches("validation"),
            tests={"test": self._batches("test")},
            directory=self._directory,
            seconds=self._seconds,
            watcher=self._watcher,
            predictor=lambda model: predicting_model(model, wanted.prediction, made.activation),
        )
        made.say.append(training_run.say)
        return training_run

    def _batches(self, split: str) -> Callable[[], Iterable[tuple[Any, Tensor]]]:
        size = max(self._made.recipe.training.batch_size, _EVALUATED)
        return lambda: in_blocks(getattr(self._made.prepared, split), size)

    @property
    def begun(self) -> bool:
        """Whether there is anything to go on from."""
        return has_begun(self._place) if self._training_run is None else self._training_run.begun

    def run(self) -> Fitted:
        """Train to the end."""
        if self._training_run is not None:
            return self._training_run.run()
        made, wanted = self._made, self._made.recipe
        assert made.staged is not None
        fitted = made.staged.run(self._directory, self._place, seconds=self._seconds, watcher=self._watcher)
        # whatever the last stage has trained, the result is the model
        judged = predicting_model(fitted.model, wanted.prediction, made.activation)
        _, loss, metric = made.problem.functions
        final: dict[str, float | None] = {}
        for split in ("validation", "test"):
            found = score(
                judged, self._batches(split)(), loss, metric, made.backend.forward_context, made.backend
            )
            final[f"{split}_loss"], final[split] = finite(found[0]), finite(found[1])
        return replace(fitted, final=final)


def _train_members(made: BuiltRun, run: _Run, seconds: float, watcher: TrainingWatcher) -> TrainResults:
    directory = run.directory
    assert directory is not None

    def alone(one: Recipe, prepared: Prepared, folder: RunDirectory, told: TrainingWatcher) -> Fitted:
        with _as_many_threads(run, told):
            known = replace(made.read, prepared=prepared)
            built = build(one, made.problem.device, 1, known)
            return on_one_axis(_Carrying(built, folder, folder.path, seconds, told).run())

    kept = train_members(
        made.recipe, made.problem, directory=directory, seconds=seconds, watcher=watcher, alone=alone,
    )  # fmt: skip
    return export_members(made, kept, directory, run.config)
