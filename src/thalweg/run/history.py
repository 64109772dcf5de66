"""What one run has left behind so far, and when it has diverged."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from thalweg.run.spec import Outcome, Workload

__all__ = ["History"]


@dataclass
class History:
    """What one run has left behind so far; the divergence rule lives here.

    A run diverges at the first step whose training loss isn't finite or exceeds ``loss_bound`` times its
    loss at the first step, or at an evaluation whose loss isn't finite. From then on it holds ``None``.
    """

    loss_bound: float = math.inf
    score_test: bool = False
    steps: list[int] = field(default_factory=list)
    train_loss: list[float | None] = field(default_factory=list)
    validation_loss: list[float | None] = field(default_factory=list)
    validation: list[float | None] = field(default_factory=list)
    test: list[float | None] = field(default_factory=list)
    test_predictions: list[float] = field(default_factory=list)
    initial_loss: float | None = None
    diverged_at: int | None = None
    stopped_at: int | None = None
    updates: int | None = None
    unmoved: bool = False

    @property
    def active(self) -> bool:
        """Whether the run goes on."""
        return self.diverged_at is None and self.stopped_at is None

    def begin(self, loss: float) -> None:
        """Take in the training loss at the first step, before it; later calls do nothing."""
        if self.initial_loss is None:
            self.initial_loss = loss
            if math.isfinite(loss):
                self.train_loss[0] = loss

    def train(self, losses: npt.NDArray[np.float64], ends: Sequence[int]) -> None:
        """Take in the training losses ``[n]`` of the steps that ended at ``ends``.

        Without any (a long step is still under way) the last mean stands.
        """
        if not self.active:
            return
        if not len(losses):
            self.train_loss.append(self.train_loss[-1])
            return
        first = self.initial_loss is None
        self.begin(float(losses[0]))
        assert self.initial_loss is not None
        with np.errstate(invalid="ignore"):
            good = np.isfinite(losses) & (losses <= self.loss_bound * abs(self.initial_loss))
        good[0] |= first and math.isfinite(self.initial_loss)
        if not good.all():
            self.diverged_at = int(ends[int(np.argmin(good))])
            self.train_loss.append(None)
        else:
            # fsum rounds once: the mean doesn't depend on how many lanes' losses lie side by side.
            self.train_loss.append(math.fsum(losses.tolist()) / len(losses))

    def evaluate(self, step: int, loss: float, score: float, test: float | None) -> None:
        """Take in an evaluation after ``step`` steps; :meth:`train` has had the steps before it."""
        if self.active and not math.isfinite(loss):
            self.diverged_at = step
        self.steps.append(step)
        if step == 0:
            self.train_loss.append(None)
        going = self.active
        self.validation_loss.append(loss if going else None)
        self.validation.append(score if going and math.isfinite(score) else None)
        if self.score_test:
            self.test.append(test if going and test is not None and math.isfinite(test) else None)

    def skip(self, step: int) -> None:
        """Note an evaluation point that the run didn't reach."""
        self.steps.append(step)
        for values in (self.train_loss, self.validation_loss, self.validation):
            values.append(None)
        if self.score_test:
            self.test.append(None)

    def outcome(self, identity: str) -> Outcome:
        """Return what :mod:`thalweg.run.spec` asks for, of the run of this identity."""
        return Outcome(
            identity=identity,
            steps=list(self.steps),
            train_loss=list(self.train_loss),
            validation_loss=list(self.validation_loss),
            validation=list(self.validation),
            test=list(self.test),
            diverged_at=self.diverged_at,
            test_predictions=list(self.test_predictions),
            updates=self.updates,
            unmoved=self.unmoved,
        )

    def state(self) -> dict[str, Any]:
        """Return what has been written down, as plain values."""
        names = (*_LISTS, "initial_loss", "diverged_at", "stopped_at", "updates", "unmoved")
        return {name: getattr(self, name) for name in names}

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from what :meth:`state` returned."""
        for name, value in state.items():
            setattr(self, name, list(value) if name in _LISTS else value)

    @classmethod
    def start(cls, workload: Workload, state: Mapping[str, Any] | None = None) -> History:
        """Begin the history of a run, or go on with one that has a state."""
        history = cls(loss_bound=workload.loss_bound, score_test=workload.score_test)
        if state is not None:
            history.load(state)
        return history


_LISTS = ("steps", "train_loss", "validation_loss", "validation", "test", "test_predictions")
