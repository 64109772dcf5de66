"""``thalweg.fit``: any module on any data, by any optimizer, with any strategies."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
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
from thalweg.settings import trust
from thalweg.settings.tables import MOST, whole_number
from thalweg.strategies.base import Strategy
from thalweg.strategies.table import as_tables, from_tables
from thalweg.training.backend import Backend, OneProcess, Precision, on_rank_0
from thalweg.training.loader import DataLoaderAdapter, examples_of, in_blocks, loader_of
from thalweg.training.param_groups import groups_for, parameter_groups
from thalweg.training.rates import rates_of
from thalweg.training.tempering import activation_of, check_calibration
from thalweg.training.trainer import Training
from thalweg.training.training_run import Data, Fitted, TrainingRun
from thalweg.training.watch import TrainingWatcher

__all__ = ["fingerprint", "fit", "step_kind_of"]


@trust.runs_own_code
def fit(
    model: nn.Module,
    data: Any,
    loss: str | Callable[[Any, Tensor], Tensor],
    optimizer: torch.optim.Optimizer | str | Callable[..., torch.optim.Optimizer],
    schedule: str | Factor | Mapping[str, Factor] = "constant",
    strategies: Sequence[Strategy] | Mapping[str, Mapping[str, Any] | bool] = (),
    *,
    validation: Any = None,
    metric: str | Callable[[Any, Tensor], Any] | Metric | None = None,
    validation_loss: str | Callable[[Any, Tensor], Tensor] | None = None,
    output: Output = None,
    epochs: int | None = None,
    steps: int | None = None,
    batch_size: int = 32,
    hyperparameters: Mapping[str, float] | None = None,
    seed: int = 0,
    evaluations: int = 20,
    calibrate: Literal["temperature"] | None = None,
    accumulate: int = 1,
    precision: Precision = "float32",
    device: torch.device | str | None = None,
    collate: Callable[[list[Any]], Any] | None = None,
    target: str | None = None,
    order: OrderOf | None = None,
    groups: Mapping[str, Any] | None = None,
    backend: Backend | None = None,
    out: str | Path | None = None,
    resume: bool = False,
    checkpoint_seconds: float = 60.0,
    watcher: TrainingWatcher | None = None,
    trust_code: bool = False,
) -> Fitted:
    """Train a module; it holds the result afterwards.

    Everything random is drawn from ``seed``: the order of examples, dropout and its relatives
    (:class:`thalweg.randomness.keyed.Keyed`), and what a module or Dataset draws from torch's, NumPy's or
    Python's generators, which are as before afterwards. An epoch's ragged rest is dropped.

    Args:
        model: any module; trained where it is, from the weights that it has. Parts that are in evaluation
            mode, beside others that aren't, stay so: frozen batch norms keep their statistics.
        data: ``(inputs, targets)`` as tensors or arrays, a map-style Dataset, a DataLoader, or an iterable of
            batches that can be begun again and again. Inputs may be several, as a dictionary or tuple; data,
            an item or a batch may be one dictionary with the targets in it, under ``labels``, ``label``,
            ``targets``, ``target`` or ``y``. Inputs by name go to the model by name where its ``forward``
            takes these names, and as one dictionary where it doesn't (:mod:`thalweg.layers.interface`).
        loss: a name, or a function of outputs and targets: the mean over examples, what one of torch's losses
            makes of them (``ignore_index``, ``weight``, ``reduction="sum"`` included), or any other number
            that is computed of a batch at once. Shapes that differ by a last axis of one are brought
            together.
        optimizer: made over the model's parameters; or the name of a row of the catalogue; or a function of
            the parameters, such as ``torch.optim.Adam``.
        schedule: a name, a function from the number of a step to what the learning rate is multiplied by, or
            such functions by hyperparameter (``{"lr": ..., "betas.0": ...}``).
        strategies: what belongs to this training, in any order; or, as the tables of a recipe are, settings
            by name: ``{"averaging": {"decay": 0.98}, "mine.py:Freeze": {"layers": 2}}``.
        validation: as ``data``; scored evenly over the run.
        metric: a name, or a function of outputs and targets; of validation.
        validation_loss: what validation is scored by in place of ``loss``, likewise.
        output: the part of what the model returns that is compared with targets, where that isn't clear by
            itself: a name or dotted path (``"logits"``), a position, or a function of what the model returns.
            By itself it is that of a well-known name (:data:`thalweg.layers.interface.NAMES`), else the only
            tensor of fractions, else the first entry of a tuple. A loss or metric of your own is given all
            that the model returns if it can compute with that.
        epochs, steps: how long, one of both; steps count batches.
        batch_size: of data that don't come in batches.
        hyperparameters: of an optimizer that is given by name or function.
        seed: see above.
        evaluations: how often the validation data are scored, besides once before the first step.
        calibrate: ``"temperature"``: find on validation data, at the end, the temperature of the result's
            probabilities (:func:`thalweg.calibration.temperature.fit_temperature`).
        accumulate: each batch is computed in so many parts, which saves memory.
        precision: ``"bfloat16"``, or ``"float16"`` with scaled gradients: forward passes under autocast.
        device: where to train; by default where the model is.
        collate: from a list of a Dataset's items to a batch.
        target: name of the targets in batches, items or data that are dictionaries, where it isn't one of
            :data:`thalweg.data.labelled.TARGETS`.
        order: which examples each step takes: from their number, the seed and the size of a batch to an
            :class:`thalweg.run.sampler.Order`; by default shuffled, each example once an epoch.
        groups: how parameters differ, as arguments of
            :func:`thalweg.training.param_groups.parameter_groups`, for an optimizer that is given by name or
            function: ``{"depth_factor": 0.8, "decay_all": False}``.
        backend: what lies beneath; by default one process on the device. Under torchrun
            :class:`thalweg.training.DistributedDataParallel` or
            :class:`thalweg.training.FullyShardedDataParallel`, which have device and precision of their own.
        out: a run directory, to be made: checkpoints and events are kept there.
        resume: resume the training in ``out``, from its last checkpoint.
        checkpoint_seconds: between two checkpoints, which are written beside training.
        watcher: told what happens.
        trust_code: with ``resume``, go on though code of your own that is given by name has changed.

    Returns:
        The curve, the best evaluation and its weights, the scores of the result.

    Raises:
        UserError: something given can't be used, in one sentence.
        Interrupted: Ctrl-C or SIGTERM with ``out``, after everything was saved.

    >>> import thalweg
    >>> from thalweg.strategies import Averaging, EarlyStopping
    >>> _ = torch.manual_seed(0)
    >>> x = torch.randn(200, 4)
    >>> y = (x.sum(1) > 0).long()
    >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    >>> fitted = thalweg.fit(
    ...     model, (x, y), "cross-entropy", "adam", "cosine", [Averaging(), EarlyStopping(patience=8)],
    ...     validation=(x, y), metric="accuracy", epochs=5, hyperparameters={"lr": 0.05},
    ... )
    >>> fitted.final["validation"] > 0.95
    True
    """
    if isinstance(backend, str):
        raise OptionError(
            f"backend is {backend!r}, but fit takes a backend as an object, such as "
            "thalweg.training.DistributedDataParallel() or FullyShardedDataParallel(); leave it out for one "
            "process"
        )
    if not isinstance(model, nn.Module):
        raise OptionError(
            f"the model is of type {type(model).__name__}, not a torch.nn.Module; give a module"
        )
    place = torch.device(device) if device is not None else _place(model)
    backend = OneProcess(place, precision=precision) if backend is None else backend
    batch_size, evaluations = whole_number("batch_size", batch_size), whole_number("evaluations", evaluations)
    accumulate = whole_number("accumulate", accumulate)
    seed = whole_number("seed", seed, least=0, most=MOST["seed"])
    if isinstance(loss, type):
        loss = usable(loss, "loss")
    data, validation = _in_precision_of(model, data), _in_precision_of(model, validation)
    if (epochs is None) == (steps is None):
        raise OptionError("how long to train isn't clear; give epochs or steps, but not both")
    loader = loader_of(
        data,
        batch_size=batch_size,
        seed=seed,
        device=backend.device,
        collate=collate,
        steps=steps,
        target=target,
        order=order,
    )
    if epochs is not None:
        total = whole_number("epochs", epochs) * loader.steps_an_epoch()
    else:
        assert steps is not None
        loader.steps_an_epoch()
        total = whole_number("steps", steps)
    scored, scored_targets = _batches(validation, batch_size, backend.device, collate, target)
    known = {"training": loader.targets(), "validation": scored_targets}
    unseen = loader.targets() is None or validation_loss is not None
    if scored is not None and unseen and scored_targets is None and isinstance(metric, str):
        known["validation"] = torch.cat([part for _, part in scored()])
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
    check_calibration(calibrate, judged_by, known["training"], scored)
    objective = Objective(loss=loss, metric=found_metric, judged=validation_loss, output=output)
    reading = objective.reading(loss_function, found_metric, validation_function)
    # before processes put their own hooks around the model
    with objective.interface.attached(model):
        model = backend.set_up(model)
        made = _optimizer(optimizer, model, dict(hyperparameters or {}), backend, dict(groups or {}))
        own = _parameters_of(loss)
        held = _held(own, made, backend)
        rates = rates_of(made, schedule, total)
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
            strategies=from_tables(strategies),
            parts=accumulate,
            by_work=False,
            measured=[*(["loss"] if scored else []), *(["metric"] if found_metric else [])],
            activation=activation_of(loss, known["training"]),
            own=_changing(loss, held),
            foreign=strangers(made, model, *([loss] if isinstance(loss, nn.Module) else [])),
            say=lambda text: said[0](text),
            interface=objective.interface,
        )
        directory: RunDirectory | None = None
        if out is not None or resume:
            config = {
                "kind": "fit",
                "loss": _called(loss),
                "optimizer": type(made).__name__,
                "steps": total,
                "batch_size": batch_size,
                "seed": seed,
                "evaluations": evaluations,
                "accumulate": accumulate,
                "precision": precision,
                "strategies": as_tables(training.strategies),
                "fingerprint": fingerprint(data),
                "output": output if isinstance(output, (str, int)) else None,
                "validation_loss": None if validation_loss is None else _called(validation_loss),
            }

            def take_up() -> None:
                nonlocal directory
                directory = RunDirectory.begin(out, config, resume=resume)

            on_rank_0(backend, take_up)
        training_run = TrainingRun(
            training,
            evaluation_points(total, evaluations),
            loss=reading.judged,
            metric=reading.metric,
            validation=scored,
            directory=directory,
            seconds=checkpoint_seconds,
            watcher=watcher if backend.rank == 0 else None,
            calibrate=None if calibrate is None else ignored_by(judged_by),
            read=objective.interface.part,
        )
        said.append(training_run.say)
        if left := [name for name in own if name not in held]:
            training.note(
                f"the loss has parameters of its own ({', '.join(left[:3])}), which the optimizer doesn't "
                "hold: they stay as they are; to train them too, make it over [*model.parameters(), "
                "*loss.parameters()]"
            )
        if directory is None:
            return training_run.run()
        with directory, directory.withdrawn_unless(lambda: training_run.begun):
            return training_run.run()


def step_kind_of(optimizer: torch.optim.Optimizer) -> StepKind:
    """Return what an optimizer's step has to be given."""
    for name in catalogue.names():
        entry = catalogue.get(name)
        if entry.call.target is type(optimizer) and entry.step_kind != "gradient":
            return entry.step_kind
    if isinstance(optimizer, ClosureOptimizer):
        return "closure" if optimizer.calls_backward else "graph"
    return "closure" if isinstance(optimizer, torch.optim.LBFGS) else "gradient"


def _called(loss: Any) -> str:
    return loss if isinstance(loss, str) else str(getattr(loss, "__name__", type(loss).__name__))


def _place(model: nn.Module) -> torch.device:
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


def _optimizer(
    given: Any,
    model: nn.Module,
    hyperparameters: dict[str, Any],
    backend: Backend,
    groups: dict[str, Any],
) -> torch.optim.Optimizer:
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
    return f"{len(data)} items" if hasattr(data, "__len__") else None
