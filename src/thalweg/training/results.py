"""``results.json`` of a training: what it came to, typed and versioned."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from thalweg.errors import RunDirectoryError

__all__ = ["Point", "Stored", "TrainResults"]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


_R = TypeVar("_R", bound=_Record)


class Point(_Record):
    """One evaluation: ``None`` where there is no number, or none that is finite."""

    step: int
    train_loss: float | None
    validation_loss: float | None
    validation: float | None


class TrainResults(_Record):
    """What a training came to. All but ``timing`` is the same however often it was interrupted.

    Attributes:
        recipe: as it was carried out.
        data: name, rows, sizes of the splits, fingerprint, notes.
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
    """

    version: Literal[1] = 1
    kind: Literal["train"] = "train"
    recipe: dict[str, Any]
    data: dict[str, Any]
    model: dict[str, Any]
    metric: str
    higher_is_better: bool
    curve: list[Point]
    best: Point | None
    result: dict[str, float | None]
    updates: int
    stopped: str | None
    failed: bool
    notes: list[str]
    machine: dict[str, Any]
    timing: dict[str, Any]

    @classmethod
    def read(cls, path: Path) -> TrainResults:
        """Read a file.

        Raises:
            RunDirectoryError: it can't be read, or isn't one.
        """
        return _read(cls, path)


class Stored(_Record):
    """``model.json``: what it takes to rebuild a model and to prepare new data for it.

    Attributes:
        spec, input_shape, outputs: what the model is made from.
        equipment: the parts that are put into it then, as in a recipe's ``[model]``.
        task: what it predicts, ``center`` and ``scale`` included.
        activation: from outputs to probabilities or numbers.
        inputs: how rows become inputs; ``None`` where a person's own code does it.
        snapshots: how many files of snapshots there are.
    """

    version: Literal[1] = 1
    spec: str
    input_shape: list[int]
    outputs: int
    equipment: dict[str, bool | int | float] = Field(default_factory=dict)
    task: dict[str, Any]
    activation: Literal["softmax", "sigmoid", "identity"]
    inputs: dict[str, Any] | None
    snapshots: int

    @classmethod
    def read(cls, path: Path) -> Stored:
        """Read a file.

        Raises:
            RunDirectoryError: it can't be read, or isn't one.
        """
        return _read(cls, path)


def _read(kind: type[_R], path: Path) -> _R:
    try:
        return kind.model_validate_json(path.read_bytes())
    except FileNotFoundError as problem:
        raise RunDirectoryError(
            f"{path} isn't there; give the directory of a finished training, or finish it with --resume"
        ) from problem
    except OSError as problem:
        raise RunDirectoryError(f"{path} can't be read ({problem.strerror})") from problem
    except ValidationError as problem:
        raise RunDirectoryError(
            f"{path} isn't what a training of this thalweg writes ({problem.errors()[0]['msg']})"
        ) from problem
