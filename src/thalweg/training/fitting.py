"""``thalweg.fit``: any module on any data, by any optimizer, with any strategies."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from thalweg.layers.interface import Output
from thalweg.objectives import Metric
from thalweg.run.sampler import OrderOf
from thalweg.schedules.driver import Factor
from thalweg.settings import trust
from thalweg.stages.stage import Stage
from thalweg.strategies.base import Strategy
from thalweg.training.backend import Backend, Precision
from thalweg.training.fit_spec import FitSpec, carried_out
from thalweg.training.staged import fit_in_stages
from thalweg.training.training_run import Fitted
from thalweg.training.watch import TrainingWatcher

__all__ = ["fit"]


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
    stages: Sequence[Stage] | None = None,
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
            Targets may be several too, or a list with a dictionary for each example; a loss of your own
            compares them.
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
        stages: train in stages, one after another (:class:`thalweg.stages.Stage`). What a stage doesn't say
            itself is as given here; each begins with a fresh optimizer, and has a schedule, strategies and
            checkpoints of its own.
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
    spec = FitSpec(
        model=model, data=data, loss=loss, optimizer=optimizer, schedule=schedule, strategies=strategies,
        validation=validation, metric=metric, validation_loss=validation_loss, output=output, epochs=epochs,
        steps=steps, batch_size=batch_size, hyperparameters=hyperparameters, seed=seed,
        evaluations=evaluations, calibrate=calibrate, accumulate=accumulate, precision=precision,
        device=device, collate=collate, target=target, order=order, groups=groups, backend=backend,
    )  # fmt: skip
    if stages is not None:
        return fit_in_stages(
            spec, stages, out=out, resume=resume, seconds=checkpoint_seconds, watcher=watcher
        )
    return carried_out(spec, out=out, resume=resume, seconds=checkpoint_seconds, watcher=watcher)
