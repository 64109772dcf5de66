"""A list of stages, carried out one after another: each a training, with a run directory of its own."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from thalweg.catalogue import Entry
from thalweg.errors import Interrupted, OptionError, option
from thalweg.layers.modes import set_evaluation
from thalweg.randomness.streams import seed32
from thalweg.run.directory.directory import RunDirectory
from thalweg.run.threads import with_threads
from thalweg.stages.freezing import check_patterns
from thalweg.stages.prefixed import Prefixed
from thalweg.stages.stage import GIVEN, Stage, check_stages
from thalweg.strategies.base import Strategy
from thalweg.strategies.initialization import Initialization
from thalweg.strategies.table import as_tables, from_tables
from thalweg.training.backend import Backend, OneProcess, on_rank_0
from thalweg.training.carrying import CarriesState, put_state, state_of_model
from thalweg.training.computed import can_be_computed, with_prefix_computed
from thalweg.training.entering import entered, rehearse
from thalweg.training.fit_spec import FitSpec, called, carried_out, fingerprint, place_of, readied
from thalweg.training.training_run import Fitted, StageRecord
from thalweg.training.watch import Evaluation, SilentTrainingWatcher, TrainingWatcher

__all__ = ["StagedTraining", "fit_in_stages", "has_begun"]

# what a stage may leave to the training
_SETTINGS = (
    "loss", "metric", "validation_loss", "output", "data", "validation", "optimizer", "hyperparameters",
    "schedule", "strategies", "groups", "batch_size", "accumulate", "evaluations",
)  # fmt: skip
_STATE = "stages"


def fit_in_stages(
    spec: FitSpec,
    stages: Sequence[Stage],
    *,
    out: str | Path | None,
    resume: bool,
    seconds: float,
    watcher: TrainingWatcher | None,
) -> Fitted:
    """Carry out stages, or resume them; the arguments are those of :func:`thalweg.fit`.

    Raises:
        UserError: something given can't be used, in one sentence; nothing was trained then.
        Interrupted: Ctrl-C or SIGTERM with ``out``, after everything was saved.
    """
    staged = StagedTraining.of(spec, stages)
    if out is None and not resume:
        return staged.run(None, None, seconds=seconds, watcher=watcher)
    directory: RunDirectory | None = None

    def take_up() -> None:
        nonlocal directory
        directory = RunDirectory.begin(out, staged.config(), resume=resume)

    on_rank_0(staged.backend, take_up)
    place = Path(str(out))
    with ExitStack() as stack:
        if directory is not None:
            stack.enter_context(directory)
            # a stage that is refused before it has begun takes its own back
            stack.enter_context(directory.withdrawn_unless(lambda: has_begun(place)))
        return staged.run(directory, place, seconds=seconds, watcher=watcher)


def has_begun(place: Path) -> bool:
    """Say whether a stage has begun in the run directory at ``place``."""
    folder = place / "stages"
    return folder.is_dir() and any(each.is_dir() for each in folder.iterdir())


@dataclass(frozen=True, kw_only=True)
class StagedTraining:
    """A training in stages that can begin.

    Attributes:
        spec: what the stages leave to the training.
        stages: in order.
        specs: what each is.
        backend: of all.
    """

    spec: FitSpec
    stages: Sequence[Stage]
    specs: Sequence[FitSpec]
    backend: Backend

    @classmethod
    def of(cls, spec: FitSpec, stages: Sequence[Stage]) -> StagedTraining:
        """Check stages, and try each on a few examples.

        Everything is taken back, so that what is wrong in the last one is said before the first begins.

        Raises:
            UserError: something given can't be used, in one sentence.
        """
        listed, model = check_stages(stages), spec.model
        if not isinstance(model, nn.Module):
            raise OptionError(
                f"the model is of type {type(model).__name__}, not a torch.nn.Module; give a module"
            )
        beginning, spec = _beginning(spec)
        specs = [_spec_of(stage, spec, last=stage is listed[-1]) for stage in listed]
        for stage in listed:
            if odd := [each for each in stage.trains or () if not isinstance(each, str)]:
                raise OptionError(
                    f"trains of the stage {stage.name!r} has {odd[0]!r}; give names of parts, or patterns of "
                    "them, as text"
                )
            check_patterns(model, stage.trains or (), f"trains of the stage {stage.name!r}")
        rehearse(model, listed, specs)
        backend: Backend = (
            OneProcess(spec.device or place_of(model)) if spec.backend is None else spec.backend
        )
        return cls(spec=replace(spec, strategies=beginning), stages=listed, specs=specs, backend=backend)

    def config(self) -> dict[str, Any]:
        """Return what it is, for the run directory: a resume with another is refused."""
        return {
            "kind": "fit",
            "seed": self.spec.seed,
            "precision": self.spec.precision,
            "beginning": as_tables(from_tables(self.spec.strategies)),
            "stages": [_described(stage, one) for stage, one in zip(self.stages, self.specs, strict=True)],
            "fingerprint": fingerprint(self.spec.data),
        }

    def run(
        self,
        directory: RunDirectory | None,
        place: Path | None,
        *,
        seconds: float,
        watcher: TrainingWatcher | None,
    ) -> Fitted:
        """Carry the stages out, or go on where the directory was left; between them the model is saved.

        Args:
            directory: where states are kept; of many processes 0 alone has it.
            place: where it lies, in all processes; ``None``: nothing is kept.
            seconds: between two checkpoints.
            watcher: told what happens.
        """
        model, backend = self.spec.model, self.backend
        told = SilentTrainingWatcher() if watcher is None else watcher
        model.to(backend.device)
        carried = _Carried(model=model, records=[], optimizer=None, threads=torch.get_num_threads())
        here = _Place(
            backend=backend,
            directory=directory,
            folder=None if place is None else place / "stages",
            seconds=seconds,
            watcher=told,
        )
        saved = None
        if place is not None:
            saved = on_rank_0(
                backend,
                lambda: None if directory is None else directory.load_checkpoint(_STATE, told.note),
            )
        if saved is None:
            _begin(self.spec, here)
        else:
            carried.load(saved)
        fitted = _carry_out(self.stages, self.specs, carried, here)
        set_evaluation(model)
        return fitted


def _beginning(spec: FitSpec) -> tuple[list[Strategy], FitSpec]:
    """What chooses the weights that the training begins with, and the training without it.

    Of every stage it would undo what the ones before have learnt.
    """
    strategies = from_tables(spec.strategies)
    beginning: list[Strategy] = [each for each in strategies if isinstance(each, Initialization)]
    if not beginning:
        return [], spec
    return beginning, replace(spec, strategies=[each for each in strategies if each not in beginning])


def _begin(spec: FitSpec, here: _Place) -> None:
    """Choose the weights that the training begins with, of the whole model."""
    if not spec.strategies:
        return
    # by what it is judged by in the end: a stage may have another loss
    alone = replace(spec, backend=None, device=here.backend.device, groups=None, calibrate=None)
    with readied(alone) as ready:
        ready.run_of(None, here.seconds, here.watcher)
        for strategy in ready.training.strategies:
            if isinstance(strategy, Initialization):
                strategy.before_training(ready.training)


@dataclass
class _Carried:
    """What goes from stage to stage: the model, what came out so far, and the state of the last optimizer.

    A prefix is computed on as many threads as the training began with: they decide how sums are rounded.
    """

    model: nn.Module
    records: list[StageRecord]
    optimizer: dict[str, dict[str, Any]] | None
    threads: int

    def state(self) -> dict[str, Any]:
        return {
            "model": self.model.state_dict(),
            "records": [asdict(record) for record in self.records],
            "optimizer": self.optimizer,
            "threads": self.threads,
        }

    def load(self, state: dict[str, Any] | None) -> None:
        if state is None:
            return
        self.model.load_state_dict(state["model"])
        self.optimizer, self.threads = state["optimizer"], state["threads"]
        self.records = [_record(values) for values in state["records"]]


@dataclass(frozen=True, kw_only=True)
class _Place:
    """Where stages are trained and kept; of many processes 0 alone has the directory."""

    backend: Backend
    directory: RunDirectory | None
    folder: Path | None
    seconds: float
    watcher: TrainingWatcher

    def append(self, event: dict[str, Any]) -> None:
        if self.directory is not None:
            self.directory.append(event)

    def save(self, carried: _Carried) -> None:
        def write() -> None:
            if self.directory is not None:
                self.directory.save_checkpoint(_STATE, carried.state())

        on_rank_0(self.backend, write)


def _carry_out(stages: Sequence[Stage], specs: Sequence[FitSpec], carried: _Carried, here: _Place) -> Fitted:
    model, done = carried.model, len(carried.records)
    fitted: Fitted | None = None
    if here.folder is not None and not done:
        here.save(carried)
    for number, (stage, spec) in enumerate(zip(stages, specs, strict=True), 1):
        if number <= done:
            continue
        last = number == len(stages)
        if here.folder is not None and number > done + 1:
            here.save(carried)
        began = sum(record.updates for record in carried.records)
        try:
            fitted, trained, state = _one(number, began, stage, spec, carried, here, stages)
        except KeyboardInterrupt as problem:
            if here.folder is None:
                raise
            raise Interrupted(
                f"interrupted in the stage {stage.name!r}; everything before it is saved, and "
                f"{option('resume', True)} goes on"
            ) from problem
        record = StageRecord(
            name=stage.name, began=began, updates=fitted.updates, trained=trained, curve=fitted.curve,
            best=fitted.best, final=fitted.final, stopped=fitted.stopped, failed=fitted.failed,
            notes=fitted.notes, seconds=fitted.seconds,
        )  # fmt: skip
        carried.records.append(record)
        carried.optimizer = state
        ended = {"failed": True, "stopped": fitted.stopped} if fitted.failed else {}
        here.append({"event": "stage finished", "number": number, "updates": fitted.updates, **ended})
        if fitted.failed and not last:
            here.watcher.note(f"the stage {stage.name!r} failed, so that no other follows")
            break
    assert fitted is not None
    records = carried.records
    return replace(
        fitted,
        model=model,
        updates=sum(record.updates for record in records),
        notes=[f"{record.name}: {note}" for record in records for note in record.notes],
        seconds=sum(record.seconds for record in records),
        stages=tuple(records),
    )


def _one(
    number: int,
    began: int,
    stage: Stage,
    spec: FitSpec,
    carried: _Carried,
    here: _Place,
    stages: Sequence[Stage],
) -> tuple[Fitted, int, dict[str, dict[str, Any]] | None]:
    """Carry out one stage; return what came of it, how much it trained, and its optimizer's state by name."""
    model, last = carried.model, number == len(stages)
    following = None if last else stages[number]
    with entered(stage, model, spec.seed) as (module, names):
        parameters = dict(module.named_parameters())
        count = sum(parameters[name].numel() for name in names)
        of_model = {id(p): name for name, p in model.named_parameters()}
        known = {name: of_model[id(p)] for name, p in parameters.items() if id(p) in of_model}
        here.watcher.note(
            f"stage {number} of {len(stages)}, {stage.name}: trains {count:,} of "
            f"{sum(p.numel() for p in parameters.values()):,} parameters"
        )
        path = None if here.folder is None else here.folder / f"{number}-{stage.name}"
        once = _computes_once(number, module, spec, here)
        here.append({"event": "stage", "number": number, "name": stage.name, "began": began, "once": once})
        # sharding makes new parameters, which the model is to have only where it stays sharded
        apart = here.backend.sharded and not (last and module is model)
        trained = copy.deepcopy(module) if apart else module
        if once:
            with with_threads(carried.threads):
                spec = with_prefix_computed(module, spec)
            module = trained = spec.model
            known = {name: of_model[id(p)] for name, p in module.named_parameters() if id(p) in of_model}
        strategies = from_tables(spec.strategies)
        carrier = None
        if stage.carries or (following is not None and following.carries):
            carrier = CarriesState(known, carried.optimizer if stage.carries else None, here.backend)
            strategies = [*strategies, carrier]
        if here.directory is not None:
            here.directory.folder("stages")
        resume = path is not None and on_rank_0(here.backend, path.exists)
        fitted = carried_out(
            replace(spec, model=trained, strategies=strategies),
            out=path, resume=resume, seconds=here.seconds, watcher=here.watcher, within=here.directory,
        )  # fmt: skip
        best = fitted.best_state
        if stage.result == "best" and best is not None:
            trained.load_state_dict(best)
        if apart:
            put_state(trained.state_dict(), module)
        if not last:
            # of this stage alone, which judges by what it learns
            best = None
        elif best is not None and module is not model:
            best = state_of_model(best, trained, module, model)
    return replace(fitted, best_state=best), count, None if carrier is None else carrier.after


def _computes_once(number: int, module: nn.Module, spec: FitSpec, here: _Place) -> bool:
    """Whether a frozen prefix is computed once; a stage that is resumed goes on as it began."""
    if here.backend.sharded:
        return False

    def decided() -> bool:
        if here.directory is not None:
            for event in reversed(here.directory.events()):
                if event.get("event") == "stage" and event.get("number") == number:
                    return bool(event.get("once")) and isinstance(module, Prefixed)
        return can_be_computed(module, spec)

    # each process then computes all: batches are shared out anew in each epoch
    return on_rank_0(here.backend, decided)


def _spec_of(stage: Stage, spec: FitSpec, *, last: bool) -> FitSpec:
    """What a stage is, where it doesn't say so itself as the training is."""
    own = {name: value for name in _SETTINGS if (value := getattr(stage, name)) is not GIVEN}
    if "optimizer" in own and "hyperparameters" not in own:
        # they are another optimizer's
        own["hyperparameters"] = None
    found = replace(
        spec,
        seed=seed32(spec.seed, "stage", stage.name) if stage.seed is None else stage.seed,
        order=spec.order if stage.order is None else stage.order,
        calibrate=spec.calibrate if last else None,
        **own,
    )
    if isinstance(found.optimizer, torch.optim.Optimizer):
        raise OptionError(
            f"the optimizer of the stage {stage.name!r} is made already, but each stage makes its own of "
            "what it trains; give its name, or a function such as torch.optim.Adam"
        )
    if stage.epochs is not None or stage.steps is not None:
        found = replace(found, epochs=stage.epochs, steps=stage.steps)
    if found.validation is None:
        # what a stage would be evaluated by on validation data
        found = replace(
            found,
            metric=None if "metric" in own else found.metric,
            validation_loss=None if "validation_loss" in own else found.validation_loss,
        )
    if stage.adds or not isinstance(found.strategies, Mapping):
        # which have a state
        found = replace(found, strategies=copy.deepcopy([*from_tables(found.strategies), *stage.adds]))
    return found


def _described(stage: Stage, spec: FitSpec) -> dict[str, Any]:
    """What a stage is, as plain values."""
    optimizer = spec.optimizer.name if isinstance(spec.optimizer, Entry) else called(spec.optimizer)
    values = {
        "name": stage.name,
        "epochs": spec.epochs,
        "steps": spec.steps,
        "trains": None if stage.trains is None else list(stage.trains),
        "loss": called(spec.loss),
        "metric": None if spec.metric is None else called(spec.metric),
        "optimizer": optimizer,
        "hyperparameters": dict(spec.hyperparameters or {}),
        "schedule": spec.schedule if isinstance(spec.schedule, str) else None,
        "strategies": as_tables(from_tables(spec.strategies)),
        "batch_size": spec.batch_size,
        "accumulate": spec.accumulate,
        "evaluations": spec.evaluations,
        "carries": stage.carries,
        "result": stage.result,
        "seed": spec.seed,
        "about": dict(stage.about),
    }
    return {name: value for name, value in values.items() if value not in (None, {})}


def _record(values: Mapping[str, Any]) -> StageRecord:
    best = values["best"]
    return StageRecord(
        **{
            **values,
            "curve": [Evaluation(**each) for each in values["curve"]],
            "best": None if best is None else Evaluation(**best),
        }
    )
