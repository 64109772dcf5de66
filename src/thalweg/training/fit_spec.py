"""What ``fit`` is given, checked, and made into a training that is ready to begin."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from thalweg import catalogue, objectives
from thalweg.catalogue.entry import StepKind
from thalweg.data.labelled import exact
from thalweg.data.source import fingerprint_of
from thalweg.errors import DataError, OptionError
from thalweg.layers.holding import check_held, strangers
from thalweg.layers.interface import Output
from thalweg.objectives import Metric
from thalweg.objectives.given import usable
from thalweg.objectives.nests import bottom
from thalweg.run.directory.directory import RunDirectory
from thalweg.run.objective import Objective
from thalweg.run.sampler import OrderOf, evaluation_points
from thalweg.run.targets import check_pairing, ignored_by, suited_loss, suited_metric, tasks_of
from thalweg.schedules.driver import Factor
from thalweg.secondorder.closures import ClosureOptimizer
from thalweg.settings.tables import MOST, whole_number
from thalweg.strategies.base import Strategy
from thalweg.strategies.table import as_tables, from_tables
from thalweg.training.backend import Backend, OneProcess, Precision, on_rank_0
from thalweg.training.evaluate import score
from thalweg.training.loader import DataLoaderAdapter, examples_of, in_blocks, loader_of
from thalweg.training.param_groups import groups_for, parameter_groups
from thalweg.training.rates import ScheduleOf, rates_of
from thalweg.training.tempering import activation_of, check_calibration
from thalweg.training.trainer import Training
from thalweg.training.training_run import Data, Fitted, TrainingRun
from thalweg.training.watch import TrainingWatcher

__all__ = [
    "FitSpec",
    "ReadyFit",
    "called",
    "carried_out",
    "fingerprint",
    "place_of",
    "readied",
    "step_kind_of",
]


@dataclass(frozen=True, kw_only=True)
class FitSpec:
    """What a training by :func:`thalweg.fit` is: its arguments, which are explained there."""

    model: nn.Module
    data: Any
    loss: str | Callable[[Any, Tensor], Tensor]
    optimizer: torch.optim.Optimizer | str | catalogue.Entry | Callable[..., torch.optim.Optimizer]
    schedule: str | ScheduleOf | Factor | Mapping[str, Factor] = "constant"
    strategies: Sequence[Strategy] | Mapping[str, Mapping[str, Any] | bool] = ()
    validation: Any = None
    metric: str | Callable[[Any, Tensor], Any] | Metric | None = None
    validation_loss: str | Callable[[Any, Tensor], Tensor] | None = None
    output: Output = None
    epochs: int | None = None
    steps: int | None = None
    batch_size: int = 32
    hyperparameters: Mapping[str, float] | None = None
    seed: int = 0
    evaluations: int = 20
    calibrate: Literal["temperature"] | None = None
    accumulate: int = 1
    precision: Precision = "float32"
    device: torch.device | str | None = None
    collate: Callable[[list[Any]], Any] | None = None
    target: str | None = None
    order: OrderOf | None = None
    groups: Mapping[str, Any] | None = None
    backend: Backend | None = None


@dataclass(frozen=True, kw_only=True)
class ReadyFit:
    """A training that can begin.

    Attributes:
        training: at its beginning.
        config: gives what it is, for the run directory: a resume with another is refused.
        run_of: from the directory, the seconds between checkpoints and a watcher to the run.
        try_scores: scores a batch of validation data, or all of them where one alone can't be scored.
    """

    training: Training
    config: Callable[[], dict[str, Any]]
    run_of: Callable[[RunDirectory | None, float, TrainingWatcher | None], TrainingRun]
    try_scores: Callable[[], None]


@contextmanager
def readied(spec: FitSpec) -> Iterator[ReadyFit]:
    """Check what was given, and make the training; within, its model is read as its outputs ask.

    Raises:
        UserError: something given can't be used, in one sentence.
    """
    model, loss, metric, validation_loss = spec.model, spec.loss, spec.metric, spec.validation_loss
    precision, epochs, steps = spec.precision, spec.epochs, spec.steps
    if isinstance(spec.backend, str):
        raise OptionError(
            f"backend is {spec.backend!r}, but fit takes a backend as an object, such as "
            "thalweg.training.DistributedDataParallel() or FullyShardedDataParallel(); leave it out for one "
            "process"
        )
    if not isinstance(model, nn.Module):
        raise OptionError(
            f"the model is of type {type(model).__name__}, not a torch.nn.Module; give a module"
        )
    place = torch.device(spec.device) if spec.device is not None else place_of(model)
    backend = OneProcess(place, precision=precision) if spec.backend is None else spec.backend
    batch_size, evaluations = (
        whole_number("batch_size", spec.batch_size),
        whole_number("evaluations", spec.evaluations),
    )
    accumulate = whole_number("accumulate", spec.accumulate)
    seed = whole_number("seed", spec.seed, least=0, most=MOST["seed"])
    if isinstance(loss, type):
        loss = usable(loss, "loss")
    data, validation = _in_precision_of(model, spec.data), _in_precision_of(model, spec.validation)
    if (epochs is None) == (steps is None):
        raise OptionError("how long to train isn't clear; give epochs or steps, but not both")
    loader = loader_of(
        data,
        batch_size=batch_size,
        seed=seed,
        device=backend.device,
        collate=spec.collate,
        steps=steps,
        target=spec.target,
        order=spec.order,
    )
    if epochs is not None:
        total = whole_number("epochs", epochs) * loader.steps_an_epoch()
    else:
        assert steps is not None
        loader.steps_an_epoch()
        total = whole_number("steps", steps)
    scored, scored_targets = _batches(validation, batch_size, backend.device, spec.collate, spec.target)
    known = {"training": loader.targets(), "validation": scored_targets}
    unseen = loader.targets() is None or validation_loss is not None
    if scored is not None and unseen and scored_targets is None and isinstance(metric, str):
        parts = [part for _, part in scored()]
        # several targets are refused where they are compared
        known["validation"] = torch.cat(parts) if isinstance(parts[0], Tensor) else None
    judged_by = loss if validation_loss is None else validation_loss
    if validation_loss is not None and scored is None:
        raise OptionError("validation_loss is of validation data; give these, or leave it out")
    check_pairing(judged_by, metric)
    seen = list(known.values()) if validation_loss is None else [known["validation"]]
    _, metric_task = tasks_of(judged_by, metric, seen)
    loss_function = suited_loss(loss, {**known, "validation": None} if validation_loss else known, metric)
    validation_function = None
    if validation_loss is not None:
        validation_function = suited_loss(judged_by, {"validation": known["validation"]}, metric)
    found_metric = None
    if metric is not None:
        if scored is None:
            raise OptionError("a metric is of validation data; give these, or leave the metric out")
        found_metric = suited_metric(
            objectives.metric(metric, metric_task), metric_task, ignored=ignored_by(judged_by)
        )
    check_calibration(spec.calibrate, judged_by, known["training"], scored)
    objective = Objective(loss=loss, metric=found_metric, judged=validation_loss, output=spec.output)
    reading = objective.reading(loss_function, found_metric, validation_function)
    # before processes put their own hooks around the model
    with objective.interface.attached(model):
        model = backend.set_up(model)
        made = _optimizer(spec, model, backend)
        own = _parameters_of(loss)
        held = _held(own, made, backend)
        rates = rates_of(made, spec.schedule, total)
        said: list[Callable[[str], None]] = []
        training = Training(
            model=model,
            optimizer=made,
            step_kind=step_kind_of(made),
            loss=reading.trained,
            loader=loader,
            rates=rates,
            total=total,
            seed=seed,
            backend=backend,
            strategies=from_tables(spec.strategies),
            parts=accumulate,
            by_work=False,
            measured=[*(["loss"] if scored else []), *(["metric"] if found_metric else [])],
            activation=activation_of(loss, known["training"]),
            own=_changing(loss, held),
            foreign=strangers(made, model, *([loss] if isinstance(loss, nn.Module) else [])),
            say=lambda text: said[0](text),
            interface=objective.interface,
        )

        def config() -> dict[str, Any]:
            return {
                "kind": "fit",
                "loss": called(loss),
                "optimizer": type(made).__name__,
                "steps": total,
                "batch_size": batch_size,
                "seed": seed,
                "evaluations": evaluations,
                "accumulate": accumulate,
                "precision": precision,
                "strategies": as_tables(training.strategies),
                "fingerprint": fingerprint(data),
                "output": spec.output if isinstance(spec.output, (str, int)) else None,
                "validation_loss": None if validation_loss is None else called(validation_loss),
            }

        def run_of(
            directory: RunDirectory | None, seconds: float, watcher: TrainingWatcher | None
        ) -> TrainingRun:
            training_run = TrainingRun(
                training,
                evaluation_points(total, evaluations),
                loss=reading.judged,
                metric=reading.metric,
                validation=scored,
                directory=directory,
                seconds=seconds,
                watcher=watcher if backend.rank == 0 else None,
                calibrate=None if spec.calibrate is None else ignored_by(judged_by),
                read=objective.interface.part,
            )
            said.append(training_run.say)
            if left := [name for name in own if name not in held]:
                training.note(
                    f"the loss has parameters of its own ({', '.join(left[:3])}), which the optimizer "
                    "doesn't hold: they stay as they are; to train them too, make it over "
                    "[*model.parameters(), *loss.parameters()]"
                )
            return training_run

        def try_scores() -> None:
            if scored is None:
                return
            by = reading.judged, reading.metric, training.forward_context
            try:
                score(model, itertools.islice(scored(), 1), *by)
            except Exception:
                # a metric may need more than a batch has, such as examples of every class
                score(model, scored(), *by)

        yield ReadyFit(training=training, config=config, run_of=run_of, try_scores=try_scores)


def step_kind_of(optimizer: torch.optim.Optimizer) -> StepKind:
    """Return what an optimizer's step has to be given."""
    for name in catalogue.names():
        entry = catalogue.get(name)
        if entry.call.target is type(optimizer) and entry.step_kind != "gradient":
            return entry.step_kind
    if isinstance(optimizer, ClosureOptimizer):
        return "closure" if optimizer.calls_backward else "graph"
    return "closure" if isinstance(optimizer, torch.optim.LBFGS) else "gradient"


def called(given: Any) -> str:
    """Return the name of a function or an object; a name stays what it is."""
    return given if isinstance(given, str) else str(getattr(given, "__name__", type(given).__name__))


def place_of(model: nn.Module) -> torch.device:
    """Return the device of a model's first parameter."""
    first = next(iter(model.parameters()), None)
    return torch.device("cpu") if first is None else first.device


def _in_precision_of(model: nn.Module, data: Any) -> Any:
    """Arrays of float64 stay what they are for a model in float64; for others they become float32."""
    first = next((p for p in model.parameters() if p.is_floating_point()), None)
    if first is None or first.dtype != torch.float64:
        return data
    return exact(data) if isinstance(data, (tuple, list, dict)) else data


def _parameters_of(loss: Any) -> dict[str, nn.Parameter]:
    """The parameters of a loss that need a gradient."""
    if not isinstance(loss, nn.Module):
        return {}
    return {name: p for name, p in loss.named_parameters() if p.requires_grad}


def _held(own: dict[str, nn.Parameter], optimizer: torch.optim.Optimizer, backend: Backend) -> list[str]:
    """Names of those parameters of a loss that the optimizer trains.

    Raises:
        OptionError: processes would each train them for themselves.
    """
    there = {id(p) for group in optimizer.param_groups for p in group["params"]}
    held = [name for name, p in own.items() if id(p) in there]
    if held and backend.world > 1:
        raise OptionError(
            f"the loss has parameters of its own ({', '.join(held[:3])}), whose gradients aren't averaged "
            f"over {backend.world} processes; make them parameters of the model, which "
            "gives the loss what it needs"
        )
    return held


def _changing(loss: Any, held: list[str]) -> tuple[nn.Module, list[str]] | None:
    """What changes in a loss while training: buffers, and parameters that are trained."""
    if not isinstance(loss, nn.Module):
        return None
    fixed = {name for name, _ in loss.named_parameters()} - set(held)
    names = [name for name in loss.state_dict() if name not in fixed]
    return (loss, names) if names else None


def _optimizer(spec: FitSpec, model: nn.Module, backend: Backend) -> torch.optim.Optimizer:
    given = spec.optimizer
    hyperparameters, groups = dict(spec.hyperparameters or {}), dict(spec.groups or {})
    if isinstance(given, torch.optim.Optimizer):
        for name, value in (("hyperparameters", hyperparameters), ("groups", groups)):
            if value:
                raise OptionError(f"the optimizer is made already; give its {name} where it is made")
        try:
            check_held(given, model)
        except OptionError as problem:
            if not backend.sharded:
                raise
            raise OptionError(
                "sharding has made new parameters, which the optimizer doesn't hold; give it by name or as a "
                "function of the parameters"
            ) from problem
        return given
    trainable: list[Any] = [p for p in model.parameters() if p.requires_grad]
    if not trainable:
        raise OptionError("the model has no parameter that needs a gradient; there is nothing to train")
    if isinstance(given, (str, catalogue.Entry)):
        entry = catalogue.resolve(given)
        if groups:
            trainable = groups_for(entry, model, hyperparameters, **groups)
        return entry.make(trainable, **hyperparameters)
    if groups:
        trainable = parameter_groups(model, lr=hyperparameters.get("lr"), **groups)
    if not callable(given):
        raise OptionError(
            f"the optimizer is {given!r}; give an optimizer, a name such as adam, or a function"
        )
    try:
        made = given(trainable, **hyperparameters)
    except (TypeError, ValueError) as problem:
        called = getattr(given, "__name__", type(given).__name__)
        with_what = "".join(f", {name}={value!r}" for name, value in hyperparameters.items())
        raise OptionError(
            f"{called}(parameters{with_what}) raises {type(problem).__name__}: {problem}; correct "
            "hyperparameters, or make the optimizer yourself"
        ) from problem
    if not isinstance(made, torch.optim.Optimizer):
        raise OptionError(f"the optimizer's function gave {type(made).__name__}, not a torch optimizer")
    check_held(made, model)
    return made


def _batches(
    data: Any,
    batch_size: int,
    device: torch.device,
    collate: Callable[[list[Any]], Any] | None,
    target: str | None,
) -> tuple[Data | None, Tensor | None]:
    """The validation batches, and all their targets where these are known."""
    if data is None:
        return None, None
    examples = examples_of(data, device, collate, called="validation data", target=target)
    if examples is not None:
        if not len(examples):
            raise DataError("the validation data hold no examples; give at least one, or leave them out")
        return lambda: in_blocks(examples, max(batch_size, 256)), examples.targets
    return DataLoaderAdapter(data, seed=0, device=device, steps=1, target=target).pairs, None


def fingerprint(data: Any) -> str | None:
    """Say which data these are, as far as can be said."""
    if isinstance(data, (tuple, dict)) or (isinstance(data, list) and len(data) == 2):
        parts = list(bottom(data))
        if parts and all(isinstance(part, (Tensor, np.ndarray)) for part in parts):
            names = [str(name) for name in data] if isinstance(data, dict) else []
            return fingerprint_of([*parts, *names])
    try:
        return f"{len(data)} items"
    except TypeError:
        # a DataLoader has a length that raises where its Dataset has none
        return None


def carried_out(
    spec: FitSpec,
    *,
    out: str | Path | None,
    resume: bool,
    seconds: float,
    watcher: TrainingWatcher | None,
    within: RunDirectory | None = None,
) -> Fitted:
    """Train, in a run directory where one is given; its arguments are those of :func:`thalweg.fit`.

    ``within`` is the directory of the run that this training is a part of.

    Raises:
        UserError: something given can't be used, in one sentence.
        Interrupted: Ctrl-C or SIGTERM with ``out``, after everything was saved.
    """
    with readied(spec) as ready:
        directory: RunDirectory | None = None

        def take_up() -> None:
            nonlocal directory
            directory = RunDirectory.begin(out, ready.config(), resume=resume, within=within)

        if out is not None or resume:
            on_rank_0(ready.training.backend, take_up)
        training_run = ready.run_of(directory, seconds, watcher)
        if directory is None:
            return training_run.run()
        with directory, directory.withdrawn_unless(lambda: training_run.begun):
            return training_run.run()
