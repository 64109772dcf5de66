"""What came of an ensemble's members, and where they are kept: in a run directory, or in memory."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import Tensor

from thalweg.errors import RunDirectoryError, option
from thalweg.execution.choose import Choice
from thalweg.execution.journal import Journal
from thalweg.run.directory.directory import RunDirectory
from thalweg.run.directory.writing import reason, write_whole
from thalweg.run.spec import Outcome, Run
from thalweg.training.backend import copied, cpu_copy
from thalweg.training.watch import Evaluation

__all__ = ["Member", "MemberStore", "Weights"]


@dataclass(frozen=True, kw_only=True)
class Member:
    """What came of a member; its weights are kept apart.

    Attributes:
        number, seed: from 1, and see :func:`thalweg.ensembles.train.member_seed`.
        curve: every evaluation.
        updates: steps that its optimizer took.
        stopped, failed: why training ended before its time, and whether that was a failure.
        notes: what strategies had to say.
    """

    number: int
    seed: int
    curve: list[Evaluation] = field(repr=False)
    updates: int
    stopped: str | None = None
    failed: bool = False
    notes: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, run: Run, outcome: Outcome, *, scored: bool) -> Member:
        """Return what an outcome says of a member.

        Args:
            run: its identity is the member's number.
            outcome: of the run.
            scored: whether there are validation data, or something only stood in for them.
        """
        diverged, stopped = outcome.diverged_at, outcome.stopped
        if stopped is None and diverged is not None:
            stopped = f"the loss was no longer finite at step {diverged}"
            if diverged == 0:
                stopped = "the loss isn't finite before the first step"
        unknown = [None] * len(outcome.steps)
        scores = (outcome.validation_loss, outcome.validation) if scored else (unknown, unknown)
        updates = outcome.steps[-1] if diverged is None else diverged
        return cls(
            number=int(run.identity),
            seed=run.seed,
            curve=[
                Evaluation(step=step, train_loss=train, validation_loss=loss, validation=score)
                for step, train, loss, score in zip(outcome.steps, outcome.train_loss, *scores, strict=True)
            ],
            updates=updates if outcome.updates is None else outcome.updates,
            stopped=stopped,
            failed=diverged is not None,
            notes=outcome.notes,
        )


class Weights:
    """Keeps members' weights, as files or in memory; as files also from other processes.

    Args:
        folder: ``None`` for memory.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._states: dict[str, dict[str, Tensor]] = {}

    def __call__(self, outcome: Outcome, state: Mapping[str, Tensor]) -> None:
        """Keep a member's weights in place of earlier ones.

        Raises:
            RunDirectoryError: they can't be written.
        """
        if self._folder is None:
            self._states[outcome.identity] = copied(dict(state))
            return
        whole = {name: cpu_copy(value) for name, value in state.items()}
        try:
            write_whole(self._file(outcome.identity), safetensors.torch.save(whole))
        except OSError as problem:
            raise RunDirectoryError(
                f"{self._file(outcome.identity)} can't be written ({reason(problem)}): free some space and "
                f"run again with {option('resume', True)}"
            ) from problem

    def of(self, number: int) -> dict[str, Tensor]:
        """Return the weights of a member."""
        if self._folder is None:
            return self._states[str(number)]
        return safetensors.torch.load_file(self._file(str(number)))

    def __reduce__(self) -> tuple[Any, ...]:
        if self._folder is None:
            raise TypeError("weights in memory stay in this process")
        return Weights, (self._folder,)

    def _file(self, identity: str) -> Path:
        assert self._folder is not None
        return self._folder / f"member-{identity}.safetensors"


class MemberStore:
    """Where members are kept: in a run directory, or in memory.

    Args:
        directory: ``None`` for memory.
        folder: where weights lie without a directory; ``None`` for memory.

    Attributes:
        journal: of the members as runs.
        weights: of the members.
        members: those that are trained, by number.
        plan: how they are trained, once that was chosen.
        seconds: of training.
    """

    def __init__(self, directory: RunDirectory | None = None, folder: Path | None = None) -> None:
        self.directory, self.journal = directory, Journal(directory)
        self.weights = Weights(folder if directory is None else directory.path)
        self.members: dict[int, Member] = {}
        self.plan: Choice | None = None
        self.seconds = 0.0
        for event in [] if directory is None else directory.events():
            if event["event"] == "spent":
                self.seconds += event["seconds"]
            # as earlier versions wrote members down
            elif event["event"] == "member":
                values = {**event["member"], "curve": [Evaluation(**e) for e in event["member"]["curve"]]}
                self.members[values["number"]] = Member(**values)
            elif event["event"] == "engine":
                self._chosen_earlier(event["how"])

    def _chosen_earlier(self, how: Mapping[str, Any]) -> None:
        self.plan = Choice(
            kind=how["engine"],
            forward="module" if how["engine"] == "loop" else "batched",
            reason=how["reason"],
            chunk=how["chunk"],
            processes=1,
            threads=how["threads"],
            loop_threads=how["threads"],
        )

    def state(self, number: int) -> dict[str, Tensor]:
        """Return the weights of a member."""
        return self.weights.of(number)

    def spent(self, seconds: float) -> None:
        """Note how long training went on."""
        self.seconds += seconds
        if self.directory is not None:
            self.directory.append({"event": "spent", "seconds": seconds})

    def tidy(self) -> None:
        """Drop what was kept for a resume alone."""
        if self.directory is not None:
            shutil.rmtree(self.directory.path / "members", ignore_errors=True)
