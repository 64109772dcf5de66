"""``fit_ensemble``: independent models of one kind, trained on one's own data."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn

from thalweg import catalogue
from thalweg.averaging import averaged_probabilities
from thalweg.averaging.predictions import Activation
from thalweg.catalogue import Entry
from thalweg.data.examples import Examples
from thalweg.ensembles.evaluate import EnsembleEvaluation, evaluate_models
from thalweg.ensembles.store import Member, MemberStore
from thalweg.ensembles.train import resampled, runs_of, train
from thalweg.errors import DataError, OptionError
from thalweg.execution.executors import Executor
from thalweg.layers import models
from thalweg.layers.interface import Interface, Output
from thalweg.layers.modes import set_evaluation
from thalweg.objectives import Metric, activations
from thalweg.run import summaries
from thalweg.run.directory.directory import RunDirectory
from thalweg.run.directory.environment import usable_device
from thalweg.run.problem import initial_module
from thalweg.run.problem_data import GivenData
from thalweg.run.spec import Run, Setting, Workload
from thalweg.settings import trust
from thalweg.settings.choices import EngineChoice, EngineKind, words_of
from thalweg.settings.tables import MOST, one_of, whole_number
from thalweg.strategies.base import Strategy, in_order
from thalweg.strategies.table import from_tables
from thalweg.training.fit_spec import FitSpec, called, carried_out, fingerprint
from thalweg.training.loader import examples_of
from thalweg.training.training_run import Fitted
from thalweg.training.watch import SilentTrainingWatcher, TrainingWatcher

__all__ = ["Ensemble", "fit_ensemble"]


@dataclass(frozen=True, kw_only=True)
class Ensemble:
    """Independent models that predict together.

    Attributes:
        models: the members, in evaluation mode.
        trained: seed, curve and what else came of each, those that failed included.
        engine, reason: how they were trained, and why so.
        activation: from outputs to what is averaged.
        evaluation: scores alone and together, disagreement and calibration on validation data;
            ``None`` without these, or without a metric for them.
        output: the part of what the models return that predicts, where that isn't clear by itself.
    """

    models: list[nn.Module] = field(repr=False)
    trained: list[Member] = field(repr=False)
    engine: EngineKind
    reason: str
    activation: Activation
    evaluation: EnsembleEvaluation | None = field(repr=False)
    output: Output = field(default=None, repr=False)

    def __repr__(self) -> str:
        failed = sum(member.failed for member in self.trained)
        together = alone = ""
        if self.evaluation is not None:
            together = summaries.scores(self.evaluation.result)
            separate = [each.result for each in self.evaluation.alone]
            means = {}
            for name in self.evaluation.result:
                known = [value for each in separate if (value := each.get(name)) is not None]
                means[name] = math.fsum(known) / len(known) if known else None
            alone = summaries.scores(means)
        size = f"{len(self.models)} model{'' if len(self.models) == 1 else 's'}"
        return summaries.lines(
            f"Ensemble of {size}, trained as {self.engine}" + (f"; {failed} failed" if failed else ""),
            [
                ("together", together),
                ("alone", f"{alone} (mean)" if alone else ""),
                ("predict", ".predict(inputs) gives the members' mean"),
                ("members", ".models, and in .trained the curve of each"),
            ],
        )

    def predict(self, inputs: Any) -> Tensor:
        """Return the mean of the members' probabilities, or predictions, for a batch."""
        with Interface(self.output).attached(*self.models):
            return averaged_probabilities(self.models, inputs, activation=self.activation)


@trust.runs_own_code
def fit_ensemble(
    model: Any,
    data: Any,
    loss: str | Callable[[Any, Tensor], Tensor],
    optimizer: str | Entry | Callable[..., torch.optim.Optimizer] = "adam",
    schedule: Any = "constant",
    strategies: Sequence[Strategy] | Mapping[str, Mapping[str, Any] | bool] = (),
    *,
    members: int = 8,
    resample: bool = False,
    engine: EngineChoice = "auto",
    validation: Any = None,
    metric: str | Callable[[Tensor, Tensor], Any] | Metric | None = None,
    validation_loss: str | Callable[[Any, Tensor], Tensor] | None = None,
    output: Output = None,
    target: str | None = None,
    epochs: int,
    batch_size: int = 32,
    hyperparameters: Mapping[str, float] | None = None,
    seed: int = 0,
    evaluations: int = 20,
    device: str = "cpu",
    out: str | Path | None = None,
    resume: bool = False,
    checkpoint_seconds: float = 60.0,
    watcher: TrainingWatcher | None = None,
    executor: Executor | None = None,
    trust_code: bool = False,
) -> Ensemble:
    """Train independent models that differ in initial weights, order of examples and every random draw.

    Member k, from 1, is what :func:`thalweg.fit` makes of its initial weights with its seed,
    ``members.member_seed(seed, k)``: to the bit where members are trained one after another, within rounding
    where they are lanes. As lanes all are one program, which is many times faster for small models; that
    takes an optimizer and a schedule given by name, tensors, no strategies, and a model that can be traced.

    Args:
        model: ``"mlp:64"`` or the like, or a function of input shape and number of outputs, a module class,
            or a module that is copied and drawn anew.
        data: ``(inputs, targets)`` as tensors or arrays, or a map-style Dataset.
        loss, optimizer, schedule, strategies: as for :func:`thalweg.fit`; each member has strategies of its
            own, copies of these.
        members: at least 2.
        resample: each member on as many examples drawn with replacement (bagging).
        engine: ``"lanes"``, ``"loop"``, or ``"auto"``: whichever can and is faster.
        validation, metric, validation_loss: as for :func:`thalweg.fit`; they evaluate the members alone and
            together.
        output, target: as for :func:`thalweg.fit`.
        epochs, batch_size, hyperparameters, evaluations: as for :func:`thalweg.fit`.
        seed: the members' seeds are made from it.
        device: where to train.
        out, resume, checkpoint_seconds: as for :func:`thalweg.fit`.
        watcher: told what happens.
        executor: trains lanes elsewhere; by default they are in this process. Other members always are.
        trust_code: as for :func:`thalweg.fit`.

    Raises:
        UserError: something given can't be used, in one sentence.
        Interrupted: Ctrl-C or SIGTERM with ``out``, after everything was saved.
        ThalwegError: every member failed.

    >>> _ = torch.manual_seed(0)
    >>> x = torch.randn(200, 4)
    >>> y = (x.sum(1) > 0).long()
    >>> ensemble = fit_ensemble(
    ...     "mlp:8", (x, y), "cross-entropy", "adam", members=4, epochs=5, hyperparameters={"lr": 0.05},
    ...     validation=(x, y), metric="accuracy",
    ... )
    >>> ensemble.predict(x[:3]).shape, ensemble.evaluation.result["validation"] > 0.95
    (torch.Size([3, 2]), True)

    Source: A2 (S).
    """
    members, epochs = whole_number("members", members, least=2), whole_number("epochs", epochs)
    batch_size, evaluations = whole_number("batch_size", batch_size), whole_number("evaluations", evaluations)
    seed = whole_number("seed", seed, least=0, most=MOST["seed"])
    strategies = in_order(from_tables(strategies))
    one_of("engine", engine, words_of(EngineChoice))
    watcher = SilentTrainingWatcher() if watcher is None else watcher
    place = usable_device(device)
    examples, scored = _examples(data, place, "training data", target), None
    if validation is not None:
        scored = _examples(validation, place, "validation data", target)
    read = GivenData.of(
        examples, scored, loss=loss, metric=metric, validation_loss=validation_loss, output=output,
        device=device,
    )  # fmt: skip
    prepared, objective, factory = read.prepared, read.objective, models.factory(model)
    # what stands in where neither the loss nor a metric says what is predicted is none to be told of
    found_metric = None if metric is None and prepared.task.kind == "custom" else objective.metric
    _, width = read.check(factory, seed=seed, examples=len(prepared.train))
    activation = activations.activation(objective.judging, width)
    activation = activation or activations.activation_of_task(prepared.task, width)
    entry = catalogue.resolve(optimizer) if isinstance(optimizer, (str, Entry)) else None
    why_not = _why_not(strategies, entry, schedule, prepared.train, found_metric)
    if engine == "lanes" and why_not is not None:
        raise OptionError(f"the members can't be lanes: {why_not}; use engine='loop'")
    setting = Setting(
        optimizer="" if entry is None else entry.name,
        hyperparameters=dict(hyperparameters or {}),
        schedule=schedule if isinstance(schedule, str) else "constant",
    )
    runs = runs_of(seed, members, setting)
    directory = None
    if out is not None or resume:
        config = {
            "kind": "fit", "members": members, "resample": resample, "epochs": epochs, "seed": seed,
            "batch_size": batch_size, "evaluations": evaluations, "fingerprint": fingerprint(data),
            "optimizer": setting.optimizer or getattr(optimizer, "__name__", "own"),
            "hyperparameters": dict(hyperparameters or {}), "schedule": setting.schedule,
            "validation_loss": None if objective.judged is None else called(objective.judged),
        }  # fmt: skip
        directory = RunDirectory.begin(out, config, resume=resume)

    chosen: Any = optimizer if entry is None else entry

    def initial(seed: int) -> nn.Module:
        return initial_module(factory, prepared.input_shape, prepared.outputs, seed)

    def alone(run: Run, path: Path | None, told: TrainingWatcher) -> Fitted:
        spec = FitSpec(
            model=initial(run.seed),
            data=resampled(prepared.train, seed=run.seed) if resample else prepared.train,
            loss=objective.loss, optimizer=chosen, schedule=schedule,
            strategies=[copy.deepcopy(each) for each in strategies],
            validation=None if scored is None else prepared.validation,
            metric=None if scored is None else found_metric, validation_loss=objective.judged,
            epochs=epochs, batch_size=batch_size, hyperparameters=hyperparameters, seed=run.seed,
            evaluations=evaluations, device=place, output=output,
        )  # fmt: skip
        return carried_out(
            spec, out=path, resume=path is not None and path.exists(), seconds=checkpoint_seconds,
            watcher=told, within=directory,
        )  # fmt: skip

    problem = read.problem(factory, {} if entry is None else {entry.name: entry})
    workload = Workload(epochs=epochs, batch_size=batch_size, evaluations=evaluations, loss_bound=math.inf)
    with ExitStack() as stack:
        folder = None
        if directory is not None:
            stack.enter_context(directory)
        elif executor is not None:
            # what is trained elsewhere comes back in files
            folder = Path(stack.enter_context(TemporaryDirectory(prefix="thalweg-")))
        store = MemberStore(directory, folder)
        choice = train(
            runs, store, watcher, alone, problem, workload,
            engine=engine, why_not=why_not, resample=resample, seconds=checkpoint_seconds,
            scored=scored is not None, executor=executor,
        )  # fmt: skip
        good = [number for number, member in sorted(store.members.items()) if not member.failed]
        made = []
        for number in good:
            module = initial(store.members[number].seed)
            module.load_state_dict(store.state(number))
            made.append(set_evaluation(module.to(place)))
    evaluation = None
    if scored is not None and found_metric is not None:
        with Interface(output).attached(*made):
            evaluation = evaluate_models(
                made, prepared, loss=read.functions.judged, metric=found_metric, activation=activation,
                splits=("validation",), whole=objective.interface.gives_whole,
            )  # fmt: skip
    return Ensemble(
        models=made, trained=[store.members[n] for n in sorted(store.members)], engine=choice.kind,
        reason=choice.reason, activation=activation, evaluation=evaluation, output=output,
    )  # fmt: skip


def _examples(data: Any, device: torch.device, called: str, target: str | None) -> Examples:
    examples = examples_of(data, device, called=called, target=target)
    if examples is None:
        raise DataError(
            f"the {called} come in batches of their own; give (inputs, targets) or a Dataset, so that each "
            "member can have an order of its own"
        )
    if not len(examples):
        raise DataError(f"the {called} hold no examples; give at least one")
    return examples


def _why_not(
    strategies: Sequence[Strategy], entry: Entry | None, schedule: Any, examples: Examples,
    metric: Metric | None,
) -> str | None:  # fmt: skip
    """Say why members can't be lanes, as far as is known without trying."""
    if strategies:
        return f"strategies ({', '.join(s.name for s in strategies)}) accompany one run at a time"
    if entry is None:
        return "the optimizer isn't given by name"
    if not isinstance(schedule, str):
        return "the schedule isn't given by name"
    if examples.inputs is None:
        return "the examples aren't whole tensors"
    if metric is None:
        return "the loss doesn't say what is predicted, nor does a metric"
    return None
