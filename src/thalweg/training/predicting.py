"""Prediction by a model that a training laid down, with the preparation that training used."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import polars as pl
import torch
from torch import Tensor, nn

from thalweg.averaging.predictions import Activation, Averaged, PredictionSettings
from thalweg.calibration.temperature import tempered
from thalweg.data.fresh import new_inputs
from thalweg.errors import ModelError, OptionError, RunDirectoryError, option, shortened
from thalweg.initial import from_saved
from thalweg.layers import models
from thalweg.layers.interface import Interface
from thalweg.layers.modes import set_evaluation
from thalweg.layers.surgery import ModelParts, with_parts
from thalweg.objectives.nests import leaves, mapped
from thalweg.run import summaries
from thalweg.run.directory.output import Unread
from thalweg.run.directory.writing import reason, writable, write_whole
from thalweg.run.problem import initial_module
from thalweg.settings import trust
from thalweg.settings.tables import settle
from thalweg.stages.raw_input import with_raw_input
from thalweg.training.results import Stored

__all__ = ["Predictions", "Weights", "load_model", "predict", "predicting_model"]

Weights = Literal["auto", "result", "best", "snapshots"]
_BLOCK = 1024
# predictions in a line
_SHOWN = 5


@dataclass(frozen=True, kw_only=True)
class Predictions:
    """What a model says of new data.

    Attributes:
        values: a class name or a number for each row, in the target's own units.
        probabilities: of each class, ``[N, C]``; ``None`` where nothing is classified.
        classes: their names.
        target: what is predicted.
        notes: what is worth saying of the data.
        spread: of several models, or several draws of one, for each row how much they differ: the share of
            them that choose another class than all together, or the standard deviation of their numbers (with
            n - 1).
        files: of images, the name of each.
    """

    values: list[str] | npt.NDArray[np.float64]
    probabilities: npt.NDArray[np.float64] | None
    classes: tuple[str, ...]
    target: str
    notes: list[str]
    spread: npt.NDArray[np.float64] | None = None
    files: list[str] | None = None

    def __repr__(self) -> str:
        first = ", ".join(str(value) for value in self.values[:_SHOWN])
        more = ", ..." if len(self.values) > _SHOWN else ""
        rows = f"{len(self.values):,} row{'' if len(self.values) == 1 else 's'}"
        return summaries.lines(
            f"Predictions of {self.target!r} for {rows}",
            [
                ("values", first + more),
                ("classes", shortened(list(self.classes))),
                ("notes", summaries.notes(self.notes, ".notes")),
                ("table", ".frame()" + (", with probabilities" if self.probabilities is not None else "")),
            ],
        )

    def frame(self) -> pl.DataFrame:
        """Return a table: the file of images, the prediction, and the probability of each class."""
        columns: dict[str, Any] = {} if self.files is None else {"file": self.files}
        if isinstance(self.values, np.ndarray) and self.values.ndim == 2:
            columns |= {f"{self.target} {n}": self.values[:, n] for n in range(self.values.shape[1])}
        else:
            columns[self.target] = self.values
        if self.probabilities is not None:
            for number, name in enumerate(self.classes):
                columns[f"probability {name}"] = self.probabilities[:, number]
        if self.spread is not None:
            columns["disagreement" if self.classes else "spread"] = self.spread
        return pl.DataFrame(columns)


def predict(
    directory: str | Path,
    data: Any,
    *,
    out: str | Path | None = None,
    weights: Weights = "auto",
    samples: int | None = None,
    crops: int | None = None,
    device: str = "cpu",
    trust_code: bool = False,
) -> Predictions:
    """Predict for new data.

    Args:
        directory: of a finished training.
        data: a file: a table with the columns that training used, in any order, or for arrays a table of
            numbers or an NPZ archive with an array ``x``, for several inputs one with an array for each; for
            a model of images an image, or a folder with images in it or in folders below it; or a data
            frame, array or tensor, for several inputs a mapping or tuple of them as in training.
        out: a CSV file to write, whole or not at all; a link is followed. What is no file isn't replaced: a
            FIFO that somebody reads, or ``/dev/stdout``, is written to; a folder, socket or disk is refused.
        weights: ``"result"``; ``"best"``: those with the best validation score; ``"snapshots"``: the mean of
            their probabilities; ``"auto"``: snapshots where there are any, else the result. The result of an
            ensemble is the mean over its members.
        samples: draws of everything random in the model to average over; 0: none; by default what the
            recipe says.
        crops: of images, to average over: 5, 10 with their mirror images, 1 for none; by default what the
            recipe says.
        device: where to compute.
        trust_code: run the code that ``directory`` names, though nobody has trained with it here, or it has
            changed since.

    Returns:
        The predictions.

    Raises:
        UserError: in one sentence, what is wrong with the directory, the data or the place to write.
        Unread: whoever read the FIFO or the output that ``out`` is has stopped.
    """
    folder = Path(directory)
    if out is not None:
        try:
            writable(Path(out))
        except OSError as problem:
            raise _unwritable(Path(out), problem) from problem
        _refuse_to_replace(Path(out), folder, data)
    stored = Stored.read(folder / "model.json")
    if stored.inputs is None:
        raise OptionError(
            f"the batches of the model in {folder} were made by code of your own, which prepares new data "
            "too: load weights.safetensors into the model there"
        )
    preparation = stored.inputs
    kept = stored.prediction
    stored = _settled(stored, samples, crops)
    new = new_inputs(data, preparation)
    inputs, notes = new.inputs, new.notes
    recorded = {stored.spec: stored.code} if stored.code else {}
    with trust.Gate(directory=folder, recorded=recorded, accepted=trust_code):
        members = [
            Averaged(
                load_model(folder, stored, name, device),
                **stored.prediction.averages,
                activation=stored.activation,
            )
            for name in _files(folder, stored, weights)
        ]
    means, spreads, drawn, still = [], [], 1, True
    count = len(next(leaves(inputs)))
    for begin in range(0, count, _BLOCK):
        part = mapped(lambda leaf, at=begin: leaf[at : at + _BLOCK].to(device), inputs)
        # as one argument, whatever it is: the model's interface says how it goes in
        each = torch.stack([draw.cpu() for member in members for draw in member.draws((part,))])
        if each.ndim < 3 and stored.task["kind"] != "custom":
            # a model may give one number an example without an axis of its own
            each = each.reshape(len(each), min(_BLOCK, count - begin), -1)
        drawn, still = len(each), still and bool((each[: stored.prediction.samples] == each[0]).all())
        means.append(each.double().mean(0))
        spreads.append(_spread(each.double(), means[-1], stored))
    if stored.prediction.samples is not None and still:
        notes = [*notes, f"all {stored.prediction.samples} samples are alike: nothing in the model is random"]
    spread = torch.cat(spreads).numpy() if drawn > 1 else None
    mean = torch.cat(means)
    value = stored.temperatures.get(_kind(stored, weights))
    if value is not None and stored.prediction == kept:
        mean = tempered(mean, value)
    elif value is not None:
        notes = [
            *notes,
            "the temperature was found for the recipe's own samples and crops: these probabilities are "
            "without it",
        ]
    predictions = replace(_understood(mean.numpy(), stored, notes), spread=spread, files=new.files)
    if out is not None:
        path = Path(out)
        try:
            write_whole(path, predictions.frame().write_csv().encode())
        except BrokenPipeError as problem:
            raise Unread(f"nobody reads the predictions in {path} any more") from problem
        except OSError as problem:
            raise _unwritable(path, problem) from problem
    return predictions


def _unwritable(path: Path, problem: OSError) -> OptionError:
    return OptionError(
        f"the predictions can't be written to {path}: {reason(problem)}; give another {option('out')}"
    )


def _refuse_to_replace(out: Path, folder: Path, data: Any) -> None:
    """Predictions are never written over what they are made of."""
    if not out.is_file():
        return
    if isinstance(data, str | Path) and Path(data).exists() and out.samefile(data):
        what = "the new data itself"
    elif folder.resolve() in out.resolve().parents and out.resolve().suffix != ".csv":
        what = f"a file of the training in {folder}"
    else:
        return
    raise OptionError(f"{out} is {what}, which would be replaced; give another {option('out')}")


def predicting_model(model: nn.Module, settings: PredictionSettings, activation: Activation) -> nn.Module:
    """Return what predicts as these settings want it; the model itself where they want nothing."""
    return Averaged(model, **settings.averages, activation=activation) if settings.on else model


def _settled(stored: Stored, samples: int | None, crops: int | None) -> Stored:
    """What is stored, with what is asked for now in the place of what the recipe said."""
    changed = stored.prediction.model_dump()
    if samples is not None:
        changed["samples"] = samples or None
    if crops is not None:
        changed["crops"] = crops
    settings = settle(PredictionSettings, "prediction", **changed)
    if settings.crops == 10 and not stored.mirrored:
        raise OptionError(
            "10 crops are 5 and their mirror images, which this training never saw; take 5, or train with "
            "strategies.augmentation.flip"
        )
    return stored.model_copy(update={"prediction": settings})


def _spread(each: Tensor, mean: Tensor, stored: Stored) -> Tensor:
    """How much members ``[M, B, *]`` differ, for each of B examples."""
    kind = stored.task["kind"]
    if kind == "classification":
        if mean.shape[1] == 1:
            each, mean = torch.cat([1 - each, each], -1), torch.cat([1 - mean, mean], -1)
        return (each.argmax(-1) != mean.argmax(-1)).double().mean(0)
    scale = stored.task["scale"] if kind == "regression" else 1.0
    if len(each) == 1:
        return torch.zeros(len(mean), dtype=torch.float64)
    # of several numbers the root of their mean variance
    return each.reshape(len(each), len(mean), -1).var(0).mean(1).sqrt() * scale


def _kind(stored: Stored, weights: Weights) -> Literal["result", "best", "snapshots"]:
    """Whose predictions these are."""
    if weights == "auto":
        return "snapshots" if stored.snapshots and not stored.members else "result"
    return weights


def _files(folder: Path, stored: Stored, weights: Weights) -> list[str]:
    if stored.members:
        if weights in ("best", "snapshots"):
            raise OptionError(
                f"{folder} holds an ensemble, whose members have no {weights} weights; use "
                f"{option('weights', 'result')}"
            )
        return [f"member-{number}.safetensors" for number in stored.members]
    if weights == "snapshots" and not stored.snapshots:
        raise OptionError(f"{folder} holds no snapshots; train with strategies.snapshots, or use the result")
    if weights == "snapshots" or (weights == "auto" and stored.snapshots):
        return [f"snapshot-{number}.safetensors" for number in range(1, stored.snapshots + 1)]
    return ["best.safetensors" if weights == "best" else "weights.safetensors"]


def load_model(folder: Path, stored: Stored, name: str, device: str) -> nn.Module:
    """Build a training's model with the weights of one of its files.

    Raises:
        UserError: the file is missing, or isn't of this model.
    """
    if not (folder / name).is_file():
        raise RunDirectoryError(
            f"{folder / name} isn't there; use {option('weights', 'result')}, or train again"
        )
    parts = ModelParts(**stored.parts)  # type: ignore[arg-type]
    factory = with_raw_input(with_parts(models.factory(stored.spec), parts), stored.raw_input)
    model: nn.Module = initial_module(factory, tuple(stored.input_shape), stored.outputs, 0)
    # of a training that diverged too: predictions say so
    taken = from_saved(model, folder / name, finite=False)
    if taken.missing or taken.misfits or taken.unused:
        odd = [*taken.missing, *taken.misfits, *taken.unused][0]
        raise ModelError(f"{folder / name} doesn't fit the model {stored.spec}: {odd!r} differs")
    return Interface(stored.output).attach(set_evaluation(model.to(device)))


def _understood(outputs: npt.NDArray[np.float64], stored: Stored, notes: list[str]) -> Predictions:
    task = stored.task
    target = task.get("target") or "prediction"
    classes = tuple(task["classes"])
    bad = int((~np.isfinite(outputs)).any(axis=tuple(range(1, outputs.ndim))).sum())
    if bad:
        notes = [*notes, f"{bad} of {len(outputs)} predictions aren't finite: the model has diverged"]
    if task["kind"] == "classification":
        if outputs.shape[1] == 1:
            outputs = np.concatenate([1 - outputs, outputs], axis=1)
        values = [classes[number] for number in outputs.argmax(1)]
        return Predictions(values=values, probabilities=outputs, classes=classes, target=target, notes=notes)
    numbers = outputs
    if task["kind"] == "regression":
        numbers = task["center"] + task["scale"] * outputs[:, 0]
        assert math.isfinite(task["scale"])
    return Predictions(values=numbers, probabilities=None, classes=(), target=target, notes=notes)
