"""What a run leaves behind while it is under way: one recorder, for races, trainings and ensembles."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from thalweg.randomness.generators import generator_states, seed_generators, set_generator_states
from thalweg.run.history import History
from thalweg.training.backend import Backend
from thalweg.training.watch import Evaluation

__all__ = ["Recorder"]

_NONE = np.empty(0)


class Recorder(ABC):
    """Writes down a run: its curve, its notes, and the state of everything that the loop doesn't hold itself.

    The loop (:func:`thalweg.training.trainer.train_loop`) tells it what happens, and asks it to evaluate, to
    save, and whether to go on. The run of a race (:mod:`thalweg.execution.loop`) and a training
    (:mod:`thalweg.training.training_run`), which a member of an ensemble is too, extend it.

    Args:
        backend: whose processes these are.
        history: the curve, with the rule of when the run has diverged.

    Attributes:
        history: see above.
        notes: sentences for the person.
        begun: whether a step is behind it.
    """

    def __init__(self, backend: Backend, history: History) -> None:
        self._backend, self.history = backend, history
        self.notes: list[str] = []
        self.begun = False
        # of the steps since the last evaluation; losses stay on the device until then
        self._losses: list[Tensor] = []
        self._ends: list[int] = []

    # What the loop asks --------------------------------------------------------------------------------

    @property
    @abstractmethod
    def going(self) -> bool:
        """Whether training goes on."""

    @abstractmethod
    def evaluate(self, points: Sequence[int]) -> None:
        """Score the model as it is; that stands for all these points of the clock."""

    @abstractmethod
    def between(self, *, evaluated: bool) -> None:
        """Between two steps: the place to save the state, or to raise."""

    @property
    def evaluated(self) -> int:
        """The last point that was evaluated; -1 before the first."""
        return self.history.steps[-1] if self.history.steps else -1

    def begin(self, loss: float) -> None:
        """Take in the loss of the first step, where that passes evaluation points."""
        self.history.begin(loss)

    def stepped(self, loss: Tensor, end: int) -> None:
        """Take in the loss of a step that ended by ``end``."""
        self.begun = True
        self._losses.append(loss)
        self._ends.append(end)

    # The curve -----------------------------------------------------------------------------------------

    def record(
        self, point: int, loss: float | None, score: float | None, test: float | None = None
    ) -> Evaluation:
        """Write an evaluation down, with the mean loss of the steps before it.

        Args:
            point: of the clock.
            loss: on validation data; ``None``: there are none.
            score: the metric there.
            test: the metric on test data.
        """
        if point > 0:
            losses = torch.stack(self._losses).double().cpu().numpy() if self._losses else _NONE
            self.history.train(losses, self._ends)
            self._losses, self._ends = [], []
        # a loss that nobody computes is no divergence
        self.history.evaluate(
            point, 0.0 if loss is None else loss, math.nan if score is None else score, test
        )
        if loss is None:
            self.history.validation_loss[-1] = None
        return self.curve(-1)[0]

    def curve(self, begin: int = 0) -> list[Evaluation]:
        """Return the evaluations from one on."""
        history = self.history
        return [
            Evaluation(step=step, train_loss=train, validation_loss=loss, validation=score)
            for step, train, loss, score in zip(
                history.steps[begin:], history.train_loss[begin:], history.validation_loss[begin:],
                history.validation[begin:], strict=True,
            )
        ]  # fmt: skip

    # The state -----------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """Return what to go on from: the curve, the notes, and the generators of every process.

        All processes have to ask.
        """
        return {
            "history": self.history.state(),
            "losses": self._losses,
            "ends": self._ends,
            "notes": self.notes,
            "generators": self._backend.collect(generator_states(self._backend.device)),
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on with the curve and the notes of :meth:`state`."""
        self.history.load(state["history"])
        self._losses, self._ends = list(state["losses"]), list(state["ends"])
        self.notes = list(state.get("notes", []))

    def load_generators(self, state: Mapping[str, Any], seed: int, updates: int) -> str | None:
        """Go on with the generators of :meth:`state`, after everything else that might draw.

        Args:
            state: as saved; of another number of processes those too many are seeded.
            seed: of the run.
            updates: steps that were taken.

        Returns:
            A sentence, where another number of processes goes on.
        """
        backend, states = self._backend, state["generators"]
        # races of earlier versions kept those of their one process bare
        states = [states] if isinstance(states, Mapping) else states
        before, now = len(states), backend.world
        if backend.rank < before:
            set_generator_states(states[backend.rank], backend.device)
        else:
            seed_generators(seed, "from", updates, backend.rank)
        if before == now:
            return None
        return (
            f"the checkpoint is of {_processes(before)} and goes on in {_processes(now)}: sums over "
            "examples are rounded in another order, batch norms that aren't synchronized measure other "
            "shares, and what draws from torch's, NumPy's or Python's generators draws other numbers; the "
            "rest is exact"
        )


def _processes(count: int) -> str:
    return "one process" if count == 1 else f"{count} processes"
