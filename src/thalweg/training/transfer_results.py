"""``results.json`` of a transfer: what was measured, and what it came to, typed and versioned."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, PrivateAttr, ValidationError

from thalweg.errors import RunDirectoryError, call
from thalweg.run import summaries
from thalweg.settings import trust
from thalweg.stages.linear_probes import Estimate

__all__ = ["BlockRecord", "Numbers", "PartRecord", "TransferResults", "TrialRecord"]

Numbers: TypeAlias = tuple[float, float, float]
"""A number and the ends of its 95 % interval."""


class _TransferRecord(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class BlockRecord(_TransferRecord):
    """What a linear map makes of the features of a block.

    Attributes:
        name: of the block.
        features: how many it gives.
        penalty: that was best on validation.
        score: accuracy or R^2 on validation, with its 95 % interval.
        train: on the training examples.
        random: the same score for nets with random weights, one a seed.
        error: of telling the source's data from these by the features, with its interval; ``None``: not
            measured.
    """

    name: str
    features: int
    penalty: float
    score: Numbers
    train: float
    random: list[Numbers]
    error: Numbers | None = None


class PartRecord(_TransferRecord):
    """A point of the learning curve: so many examples, draws of so many, score with its interval."""

    examples: int
    draws: int
    score: Numbers


class TrialRecord(_TransferRecord):
    """The trial of tuning.

    Attributes:
        updates: of each way, with each seed.
        seeds: how many.
        frozen, tuned: scores on validation, means over seeds.
        saved: the part of the errors that tuning saves.
        seconds: that it took.
    """

    updates: int
    seeds: int
    frozen: float
    tuned: float
    saved: Numbers
    seconds: float


class TransferResults(_TransferRecord):
    """``results.json`` of a transfer: what was measured, and what it came to.

    Attributes:
        source: the directory or file.
        data: name, spec, sizes, classes with how many training examples each has.
        model: spec and parts.
        metric: of all scores.
        blocks: of the source's net, from the inputs on.
        best, tied: the block whose features do best, from 1; those that aren't told apart from it.
        parts: the learning curve on the best block's features.
        row: what the table of the lecture says.
        little, similar: its row and column.
        sure: whether the measurements settle row and column.
        saved, gain, lost_at_top: as :class:`thalweg.stages.TransferAdvice` has them.
        trial: of tuning against frozen blocks; ``None``: there was none.
        evidence: in sentences.
        notes: what couldn't be measured, and why.
        recipe: the text of ``transfer.toml``.
        machine: and versions.
        seconds: that it took.
    """

    version: Literal[1] = 1
    kind: Literal["transfer"] = "transfer"
    source: str
    data: dict[str, Any]
    model: dict[str, Any]
    metric: str
    blocks: list[BlockRecord]
    best: int
    tied: list[int]
    parts: list[PartRecord]
    row: str
    little: bool
    similar: bool
    sure: tuple[bool, bool]
    saved: Numbers
    gain: Numbers
    lost_at_top: Numbers
    trial: TrialRecord | None = None
    evidence: list[str]
    notes: list[str]
    recipe: str
    command: str | None = None
    machine: dict[str, Any]
    seconds: float
    _directory: Path | None = PrivateAttr(None)

    @classmethod
    def read(cls, path: Path) -> TransferResults:
        """Read a file.

        Raises:
            RunDirectoryError: it can't be read, or isn't one.
        """
        try:
            found = cls.model_validate_json(path.read_bytes())
        except OSError as problem:
            raise RunDirectoryError(f"{path} can't be read ({problem.strerror})") from problem
        except ValidationError as problem:
            raise RunDirectoryError(
                f"{path} isn't what thalweg writes of a transfer; copy it again, or measure again"
            ) from problem
        trust.note_specs(path.parent, found.model_dump())
        return found.lies_in(path.parent)

    def lies_in(self, directory: Path) -> TransferResults:
        """Note where the recipe lies, to be shown; returns these results."""
        self._directory = directory.resolve()
        return self

    def __repr__(self) -> str:
        best = self.blocks[self.best - 1]
        place = None if self._directory is None else self._directory / "transfer.toml"
        return summaries.lines(
            f"Transfer from {self.source} to {self.data.get('name')}",
            [
                ("row", self.row),
                ("best block", f"{self.best} of {len(self.blocks)}, {self.metric} {Estimate(*best.score)!r}"),
                ("because", "; ".join(self.evidence)),
                ("notes", summaries.notes(self.notes, ".notes")),
                ("go on", "" if place is None else call("train", place)),
            ],
        )

    __str__ = __repr__
