"""A list of stages, carried out one after another: each a training, with a run directory of its own."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from thalweg.errors import Interrupted, OptionError, UserError, option
from thalweg.layers.modes import set_evaluation
from thalweg.layers.untouched import untouched
from thalweg.randomness.generators import own_generators
from thalweg.randomness.streams import seed32
from thalweg.run.directory.directory import RunDirectory
from thalweg.run.threads import with_threads
from thalweg.stages.freezing import check_patterns, frozen
from thalweg.stages.prefixed import Prefixed
from thalweg.stages.stage import GIVEN, Stage, check_stages
from thalweg.strategies.base import Strategy, Trainer
from thalweg.strategies.table import as_tables, from_tables
from thalweg.training.backend import Backend, OneProcess, copied, on_rank_0
from thalweg.training.computed import can_be_computed, with_prefix_computed
from thalweg.training.fit_spec import FitSpec, called, carried_out, fingerprint, place_of, readied
from thalweg.training.loader import DataLoaderAdapter
from thalweg.training.training_run import Fitted, StageRecord
from thalweg.training.watch import Evaluation, SilentTrainingWatcher, TrainingWatcher

__all__ = ["fit_in_stages"]

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

    All stages are tried on a few examples first, and everything is taken back, so that what is wrong in the
    last one is said before the first begins. Between stages the whole model is saved.

    Raises:
        UserError: something given can't be used, in one sentence; nothing was trained then.
        Interrupted: Ctrl-C or SIGTERM with ``out``, after everything was saved.
    """
    listed = check_stages(stages)
    model, told = spec.model, SilentTrainingWatcher() if watcher is None else watcher
    if not isinstance(model, nn.Module):
        raise OptionError(
            f"the model is of type {type(model).__name__}, not a torch.nn.Module; give a module"
        )
    specs = [_spec_of(stage, spec, last=stage is listed[-1]) for stage in listed]
    for stage in listed:
        check_patterns(model, stage.trains or (), f"trains of the stage {stage.name!r}")
    _rehearse(model, listed, specs)
    backend: Backend = OneProcess(spec.device or place_of(model)) if spec.backend is None else spec.backend
    model.to(backend.device)
    directory: RunDirectory | None = None
    saved: dict[str, Any] | None = None

    def take_up() -> bool:
        nonlocal directory, saved
        if out is None and not resume:
            return False
        config = {
            "kind": "fit",
            "seed": spec.seed,
            "precision": spec.precision,
            "stages": [_described(stage, one) for stage, one in zip(listed, specs, strict=True)],
            "fingerprint": fingerprint(spec.data),
        }
        directory = RunDirectory.begin(out, config, resume=resume)
        saved = directory.load_checkpoint(_STATE, told.note) if resume else None
        return True

    kept = on_rank_0(backend, take_up)
    folder = Path(out) / "stages" if kept and out is not None else None
    with ExitStack() as stack:
        if directory is not None:
            stack.enter_context(directory)
            # a stage that is refused before it has begun takes its own back
            stack.enter_context(
                directory.withdrawn_unless(lambda: folder is not None and _holds_runs(folder))
            )
        carried = _Carried(model=model, records=[], optimizer=None, threads=torch.get_num_threads())
        if kept and resume:
            carried.load(backend.broadcast(saved))
        here = _Place(
            backend=backend,
            directory=directory,
            folder=folder,
            seconds=seconds,
            watcher=told,
        )
        fitted = _carry_out(listed, specs, carried, here)
    set_evaluation(model)
    return fitted


def _holds_runs(folder: Path) -> bool:
    return folder.is_dir() and any(each.is_dir() for each in folder.iterdir())


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
    for number, (stage, spec) in enumerate(zip(stages, specs, strict=True), 1):
        if number <= done:
            continue
        last = number == len(stages)
        if here.folder is not None and (number > done + 1 or number == 1):
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
        here.append({"event": "stage finished", "number": number, "updates": fitted.updates})
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
    with _entered(stage, model, spec.seed) as (module, names):
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
            carrier = _CarriesState(known, carried.optimizer if stage.carries else None, here.backend)
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
            _put(trained.state_dict(), module)
        if last and best is not None and module is not model:
            best = _of_model(best, trained, module, model)
    return replace(fitted, best_state=best), count, None if carrier is None else carrier.after


def _computes_once(number: int, module: nn.Module, spec: FitSpec, here: _Place) -> bool:
    """Whether a frozen prefix is computed once; a stage that is resumed goes on as it began."""
    if here.backend.world > 1:
        return False
    if here.directory is not None:
        for event in reversed(here.directory.events()):
            if event.get("event") == "stage" and event.get("number") == number:
                return bool(event.get("once")) and isinstance(module, Prefixed)
    return can_be_computed(module, spec)


@contextmanager
def _entered(stage: Stage, model: nn.Module, seed: int) -> Iterator[tuple[nn.Module, list[str]]]:
    """Begin a stage: the module that is trained, frozen as it is to be, and the names of what is trained."""
    with own_generators(seed, "stage"):
        torch.manual_seed(seed32(seed, "stage"))
        if stage.begin is not None:
            stage.begin(model)
        module = model if stage.build is None else stage.build(model)
    if not isinstance(module, nn.Module):
        raise OptionError(f"build gives {type(module).__name__}, not a torch.nn.Module; let it return one")
    try:
        module.to(place_of(model))
        with frozen(module, trains=stage.trains, of=model) as names:
            yield module, names
    finally:
        close = getattr(module, "close", None)
        if module is not model and callable(close):
            close()


def _rehearse(model: nn.Module, stages: Sequence[Stage], specs: Sequence[FitSpec]) -> None:
    """Try every stage: make what it needs, and compute its loss on a batch. Nothing stays changed."""
    place = place_of(model)
    with untouched(model):
        for stage, spec in zip(stages, specs, strict=True):
            try:
                with _entered(stage, model, spec.seed) as (module, _):
                    strategies = copy.deepcopy(from_tables(spec.strategies))
                    tried = replace(spec, model=module, strategies=strategies, device=place, backend=None)
                    with readied(tried) as ready:
                        ready.run_of(None, 60.0, None)
                        training = ready.training
                        if isinstance(training.loader, DataLoaderAdapter):
                            continue
                        with training.aside(training=True) as loss, torch.no_grad():
                            for inputs, targets in training.batches(1):
                                loss(inputs, targets)
            except UserError as problem:
                raise type(problem)(f"in the stage {stage.name!r}: {problem}") from problem


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
        # what a stage would be judged by on validation data
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
    optimizer = spec.optimizer if isinstance(spec.optimizer, str) else called(spec.optimizer)
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


class _CarriesState(Strategy):
    """Gives an optimizer the state that another had, and takes its own at the end, by names of the model."""

    name: ClassVar[str] = "carried-state"
    priority: ClassVar[int] = 0

    def __init__(
        self, names: Mapping[str, str], before: dict[str, dict[str, Any]] | None, backend: Backend
    ) -> None:
        super().__init__()
        self._names, self._before, self._backend = names, before, backend
        self.after: dict[str, dict[str, Any]] | None = None

    def before_training(self, trainer: Trainer) -> None:
        """Begin with the state of before."""
        if self._before is None:
            return
        optimizer, backend = trainer.optimizer, self._backend
        state = optimizer.state_dict()
        places = self._places(trainer)
        found = {place: self._before[name] for place, name in places.items() if name in self._before}
        if trainer.step_kind != "gradient" and len(found) < len(places):
            trainer.note(
                "the optimizer begins anew: its state is of all parameters together, and others are trained "
                "now"
            )
            return
        kept = backend.save(trainer.model, optimizer)
        state["state"] = {**state["state"], **found}
        backend.load(trainer.model, optimizer, copied({**kept, "optimizer": state}))

    def finished(self, trainer: Trainer) -> None:
        """Take the state."""
        state = trainer.optimizer.state_dict()["state"]
        places = self._places(trainer)
        self.after = {places[place]: _whole(each) for place, each in state.items() if place in places}

    def _places(self, trainer: Trainer) -> dict[int, str]:
        """Of each parameter that is the model's, its number in the optimizer."""
        held = [p for group in trainer.optimizer.param_groups for p in group["params"]]
        number = {id(p): place for place, p in enumerate(held)}
        return {
            number[id(p)]: self._names[name]
            for name, p in trainer.model.named_parameters()
            if name in self._names and id(p) in number
        }


def _whole(value: Any) -> Any:
    if isinstance(value, DTensor):
        value = value.full_tensor()
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, Mapping):
        return {name: _whole(each) for name, each in value.items()}
    return copied(value)


def _put(state: Mapping[str, Tensor], module: nn.Module) -> None:
    """Give a module the values that a sharded copy of it has; all processes come to the same."""
    with torch.no_grad():
        for name, tensor in module.state_dict().items():
            tensor.copy_(_whole(state[name]))


def _of_model(
    best: Mapping[str, Any], trained: nn.Module, module: nn.Module, model: nn.Module
) -> dict[str, Any]:
    """The state of the model within a state of the module that a stage has trained."""
    now = copied({name: _whole(value) for name, value in module.state_dict().items()})
    try:
        if trained is module:
            module.load_state_dict(best)
        else:
            _put(best, module)
        found: dict[str, Any] = copied(model.state_dict())
        return found
    finally:
        module.load_state_dict(now)


def _record(values: Mapping[str, Any]) -> StageRecord:
    best = values["best"]
    return StageRecord(
        **{
            **values,
            "curve": [Evaluation(**each) for each in values["curve"]],
            "best": None if best is None else Evaluation(**best),
        }
    )
