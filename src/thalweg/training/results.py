"""``results.json`` of a training: what it came to, typed and versioned."""

from __future__ import annotations

import math
import stat
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, TypeAdapter, ValidationError

from thalweg.averaging.predictions import PredictionSettings
from thalweg.data.files import kind_of
from thalweg.data.stored import Preparation
from thalweg.errors import RunDirectoryError, call
from thalweg.layers.surgery import ModelParts
from thalweg.objectives import Task
from thalweg.run import summaries
from thalweg.run.directory.kinds import held, how_to_go_on, kind_at
from thalweg.settings import trust
from thalweg.settings.choices import Activation, EngineKind
from thalweg.settings.tables import MOST

__all__ = [
    "CalibrationRecord",
    "CurvePoint",
    "EnsembleRecord",
    "MemberRecord",
    "SquaredRecord",
    "StageResult",
    "Stored",
    "TemperatureRecord",
    "TrainResults",
]


class _TrainingRecord(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


_R = TypeVar("_R", bound=_TrainingRecord)


class CurvePoint(_TrainingRecord):
    """One evaluation: ``None`` where there is no number, or none that is finite."""

    step: int
    train_loss: float | None
    validation_loss: float | None
    validation: float | None


class CalibrationRecord(_TrainingRecord):
    """Whether probabilities on the test split mean what they say (:mod:`thalweg.calibration.assessment`).

    Attributes:
        bins: mean confidence, share that was right, and number of predictions, of each bin that holds any.
        error: expected calibration error.
        overconfidence: mean confidence less the share that was right.
        brier: score; the four parts below add up to it, ``resolution`` taken off.
        reliability, resolution, uncertainty, within: its parts.
    """

    bins: list[tuple[float, float, int]]
    error: float
    overconfidence: float
    brier: float
    reliability: float
    resolution: float
    uncertainty: float
    within: float


class TemperatureRecord(_TrainingRecord):
    """The temperature of a result, found on the validation split (:mod:`thalweg.calibration.temperature`).

    Attributes:
        value: T; ``predict`` gives probabilities at it.
        examples: of the validation split.
        nll: of each split, the mean negative log-likelihood (natural) without and with it.
        error: likewise, the expected calibration error.
        calibration: on the test split, with it.
    """

    value: float
    examples: int
    nll: dict[str, tuple[float, float]]
    error: dict[str, tuple[float, float]]
    calibration: CalibrationRecord


class SquaredRecord(_TrainingRecord):
    """``ensemble = member - ambiguity`` on the test split (:func:`thalweg.averaging.ambiguity`).

    Attributes:
        of: ``"brier"``: of probabilities; ``"error"``: of predictions, in the target's own units, squared.
    """

    of: Literal["brier", "error"]
    member: float
    ambiguity: float
    ensemble: float


class MemberRecord(_TrainingRecord):
    """A member of an ensemble.

    Attributes:
        number: from 1, as in the names of files; of snapshots in the order of steps.
        seed: a training of the recipe with this seed gives this member; ``None`` of snapshots.
        result: its scores alone.
        updates: steps that its optimizer took.
        stopped, failed: as for a training; a failed member is left out of the ensemble.
        error, brier: its own calibration error and Brier score.
        curve: its evaluations.
    """

    number: int
    seed: int | None = None
    result: dict[str, float | None] = {}
    updates: int | None = None
    stopped: str | None = None
    failed: bool = False
    error: float | None = None
    brier: float | None = None
    curve: list[CurvePoint] = []


class EnsembleRecord(_TrainingRecord):
    """What several models predict together.

    Attributes:
        kind: independent models, or snapshots of one training.
        engine: how the members were trained.
        resample: whether each had a resample of its own.
        members: the members.
        result: scores of their averaged probabilities (for regression, predictions).
        growing: test metric of the first 1, 2, ... members together.
        disagreement: share of test examples that each pair predicts differently; of classification.
        squared: mean squared error of members and ensemble, and what lies between.
        pooled: calibration of the members' predictions, as of so many single models.
    """

    kind: Literal["members", "snapshots"]
    engine: EngineKind | None = None
    resample: bool = False
    members: list[MemberRecord]
    result: dict[str, float | None]
    growing: list[float | None]
    disagreement: list[list[float]] | None = None
    squared: SquaredRecord | None = None
    pooled: CalibrationRecord | None = None


class StageResult(_TrainingRecord):
    """What came out of one stage.

    Attributes:
        name: of the stage.
        began: steps that the optimizers of the stages before took.
        updates: steps that its own took.
        trained: how many numbers it trained, parts of its own included.
        result: scores of what it trained, by its own objective.
        stopped: why it ended before its time.
    """

    name: str
    began: int
    updates: int
    trained: int
    result: dict[str, float | None]
    stopped: str | None


class TrainResults(_TrainingRecord):
    """What a training came to. All but ``timing`` is the same however often it was interrupted.

    Attributes:
        recipe: as it was carried out.
        data: name, rows, sizes of the splits, fingerprint, notes, warnings.
        model: spec, the parts that were put into it, number of parameters.
        metric, higher_is_better: what validation and test are scored by.
        curve: every evaluation.
        best: the one with the best validation metric; ``best.safetensors`` holds its weights.
        result: scores of ``weights.safetensors``.
        updates: steps the optimizer took.
        stopped: why training ended before its time.
        failed: whether that was a failure.
        notes: what strategies had to say.
        machine: and versions.
        timing: begin (ISO 8601, UTC) and seconds of training.
        calibration: of the result's probabilities on the test split; ``None`` where nothing is classified.
        temperature: of the result, or of the snapshots where there are any; ``None`` where none was asked
            for, or none is best. ``result`` and ``calibration`` are without it.
        ensemble: of several models; ``result`` is then theirs together, ``curve`` the mean over them and
            ``updates`` the sum.
        stages: of a training in stages; ``curve`` is then that of all, one after another, and ``best`` of the
            last one.
    """

    version: Literal[1] = 1
    kind: Literal["train"] = "train"
    recipe: dict[str, Any]
    data: dict[str, Any]
    model: dict[str, Any]
    metric: str
    higher_is_better: bool
    curve: list[CurvePoint]
    best: CurvePoint | None
    result: dict[str, float | None]
    updates: int
    stopped: str | None
    failed: bool
    notes: list[str]
    machine: dict[str, Any]
    timing: dict[str, Any]
    calibration: CalibrationRecord | None = None
    temperature: TemperatureRecord | None = None
    ensemble: EnsembleRecord | None = None
    stages: list[StageResult] = []
    _directory: Path | None = PrivateAttr(None)

    @classmethod
    def read(cls, path: Path) -> TrainResults:
        """Read a file.

        Raises:
            RunDirectoryError: it can't be read, or isn't one.
        """
        return _read(cls, path).lies_in(path.parent)

    def lies_in(self, directory: Path) -> TrainResults:
        """Note where the rest of the training lies, to be shown; returns these results."""
        self._directory = directory.resolve()
        return self

    @property
    def controls(self) -> dict[str, TrainResults]:
        """What the controls of a curriculum came to that were trained beside it, by name."""
        folder = None if self._directory is None else self._directory / "controls"
        if folder is None or not folder.is_dir():
            return {}
        there = [each for each in sorted(folder.iterdir()) if (each / "results.json").is_file()]
        return {each.name: TrainResults.read(each / "results.json") for each in there}

    def __repr__(self) -> str:
        many = self.ensemble
        of = (
            ""
            if many is None or many.kind == "snapshots"
            else f"an ensemble of {len(many.members)} members of "
        )
        failed = ", which failed" if self.failed else ""
        best = "" if self.best is None else f"validation {summaries.number(self.best.validation)}"
        return summaries.lines(
            f"Training of {of}{self.model.get('spec')} on {self.data.get('name')}{failed}",
            [
                (summaries.metric_label(self.metric), summaries.scores(self.result)),
                ("stages", ", ".join(f"{each.name} ({each.updates:,} steps)" for each in self.stages)),
                (
                    "controls",
                    ", ".join(
                        f"{name}: {summaries.scores(each.result)}" for name, each in self.controls.items()
                    ),
                ),
                ("best", f"{best} at step {self.best.step:,}" if self.best is not None else ""),
                ("ended", self.stopped or f"after {self.updates:,} steps"),
                ("notes", summaries.notes([*self.data.get("warnings", ()), *self.notes], ".notes")),
                ("lies in", "" if self._directory is None else f"{self._directory} (weights, report.html)"),
                (
                    "go on",
                    ""
                    if self._directory is None
                    else call("predict", self._directory, data="FILE", out="FILE"),
                ),
            ],
        )

    __str__ = __repr__


class Stored(_TrainingRecord):
    """``model.json``: what it takes to rebuild a model and to prepare new data for it.

    Attributes:
        spec, input_shape, outputs: what the model is made from.
        parts: the parts that are put into it then, as in a recipe's ``[model]``.
        raw_input: whether each block after the first is given the raw input too, likewise.
        output: the part of what it returns that predicts, likewise; ``None``: what is clear by itself.
        task: what it predicts, ``center`` and ``scale`` included.
        activation: from outputs to probabilities or numbers.
        inputs: how rows become inputs; ``None`` where a person's own code does it.
        snapshots: how many files of snapshots there are.
        members: numbers of an ensemble's files.
        prediction: over what predictions are averaged.
        mirrored: whether training saw mirror images too.
        temperatures: of ``"result"``, ``"best"`` and ``"snapshots"``, for ``prediction`` as it stands here.
        code: of a model of one's own, the SHA-256 of each file that it was loaded from.
    """

    version: Literal[1] = 1
    spec: str
    input_shape: list[int]
    outputs: int
    parts: dict[str, bool | int | float] = Field(default_factory=dict)
    raw_input: bool = False
    output: str | None = None
    task: dict[str, Any]
    activation: Activation
    inputs: Annotated[Preparation, Field(discriminator="kind")] | None
    snapshots: int
    members: list[int] = []
    prediction: PredictionSettings = PredictionSettings()
    mirrored: bool = False
    temperatures: dict[Literal["result", "best", "snapshots"], float] = {}
    code: dict[str, str] = {}

    @classmethod
    def read(cls, path: Path) -> Stored:
        """Read a file.

        Raises:
            RunDirectoryError: it can't be read, or isn't one.
        """
        stored = _read(cls, path)
        try:
            stored.check()
        except ValueError as problem:
            raise RunDirectoryError(
                f"{path} is damaged: {problem}; copy it again, or train again"
            ) from problem
        return stored

    def check(self) -> None:
        """Refuse what can't have come from a training.

        Raises:
            ValueError: in a few words, what is wrong.
        """
        try:
            task = _TASK.validate_python(self.task)
            ModelParts(**self.parts)  # type: ignore[arg-type]
        except ValidationError as problem:
            raise ValueError(_said(problem)) from None
        if not (math.isfinite(task.center) and math.isfinite(task.scale) and task.scale > 0):
            raise ValueError("task.center and task.scale aren't finite, or scale isn't above 0")
        if any(length < 1 for length in self.input_shape) or self.outputs < 0:
            raise ValueError("input_shape or outputs are below what they can be")
        if not 0 <= self.snapshots <= MOST["cycles"]:
            raise ValueError(f"snapshots is {self.snapshots}, but can be 0 to {MOST['cycles']}")
        outputs = {"classification": {len(task.classes)}, "regression": {1}}.get(task.kind, {self.outputs})
        if len(task.classes) == 2:
            outputs.add(1)
        if self.outputs not in outputs:
            raise ValueError(f"outputs is {self.outputs}, which doesn't fit the {task.kind}")
        if len(set(self.members)) < len(self.members) or any(number < 1 for number in self.members):
            raise ValueError("members are no numbers from 1, each once")
        if any(not 0 < value < math.inf for value in self.temperatures.values()):
            raise ValueError(f"temperatures are {dict(self.temperatures)}, but must be above 0 and finite")
        if self.temperatures and task.kind != "classification":
            raise ValueError(f"temperatures are for classes, not for the {task.kind}")
        if self.inputs is not None:
            self.inputs.check()
            if tuple(self.input_shape) != self.inputs.features:
                raise ValueError(f"input_shape is {self.input_shape}, but inputs make {self.inputs.features}")


_TASK = TypeAdapter(Task)


def _lacks(path: Path) -> str:
    """Say why a file that a finished training of a recipe leaves isn't there, and what to do."""
    folder = path.parent
    if not folder.is_dir():
        return f"there is no run directory {folder}; give that of a finished training"
    config, winner = kind_at(folder), folder / "winner.toml"
    what, how = held(config), how_to_go_on(folder, config)
    if winner.is_file():
        return f"{folder} holds a race, not a training; train its winner first: {call('train', winner)}"
    finished = (folder / "results.json").is_file()
    if config.get("kind") == "race" and finished:
        return (
            f"{folder} holds a race of Python objects, for which there is no winner.toml to train by; "
            "train with the winning setting in its report by thalweg.fit"
        )
    if config.get("kind") == "race":
        return (
            f"{folder} holds a race that isn't finished; finish it by: {how}, then train its winner by: "
            f"{call('train', winner)}"
        )
    if config.get("kind") == "fit":
        return (
            f"{folder} holds {what}, which keeps no preparation of data; have its model by: {how}, and call "
            "it on what you prepare yourself"
        )
    if config.get("kind") == "sweep":
        return f"{folder} holds {what}, which keeps no weights; train with its best setting"
    if what is not None and not finished:
        return f"{folder} holds {what} that isn't finished; finish it by: {how}"
    return f"{path} isn't there; give the directory of a finished training"


def _said(problem: ValidationError) -> str:
    details = problem.errors()[0]
    return f"{'.'.join(map(str, details['loc'])) or 'all of it'}: {details['msg']}"


def _read(kind: type[_R], path: Path) -> _R:
    try:
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode):
            raise RunDirectoryError(
                f"{path} is {kind_of(mode)}, not a file; give the directory of a finished training"
            )
        found = kind.model_validate_json(path.read_bytes())
        trust.note_specs(path.parent, found.model_dump())
        return found
    except FileNotFoundError as problem:
        raise RunDirectoryError(_lacks(path)) from problem
    except OSError as problem:
        raise RunDirectoryError(f"{path} can't be read ({problem.strerror})") from problem
    except ValidationError as problem:
        raise RunDirectoryError(
            f"{path} isn't what a training of this thalweg writes ({_said(problem)}); "
            "copy it again, or train again"
        ) from problem
