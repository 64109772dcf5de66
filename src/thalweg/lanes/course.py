"""What every run goes through, in lanes as alone: weights, order, factors, evaluation points, divergence."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from thalweg import schedules
from thalweg.entries import Outcome, Run, Workload
from thalweg.errors import DataError, ModelError
from thalweg.generators import own_generators
from thalweg.initial import initialize
from thalweg.models import Factory
from thalweg.streams import order, seed32

__all__ = [
    "Factors",
    "History",
    "evaluation_points",
    "initial_module",
    "orders",
    "steps_an_epoch",
]


def steps_an_epoch(examples: int, batch_size: int) -> int:
    """Return how many whole batches an epoch has; the ragged rest is dropped.

    Raises:
        DataError: there is not one whole batch.

    >>> steps_an_epoch(100, 32)
    3
    """
    if not examples:
        raise DataError("the training data hold no examples; give at least one")
    if examples < batch_size:
        raise DataError(
            f"the training split has {examples} examples, fewer than one batch of {batch_size}; "
            f"give a batch size of at most {examples}"
        )
    return examples // batch_size


def evaluation_points(total: int, evaluations: int) -> list[int]:
    """Return the numbers of finished steps at which the splits are evaluated.

    ``0``, then ``round(total * i / evaluations)`` for i in 1 .. evaluations, each once.

    >>> evaluation_points(10, 4)
    [0, 2, 5, 8, 10]
    >>> evaluation_points(2, 20)
    [0, 1, 2]
    """
    if evaluations >= total:
        return list(range(total + 1))
    return sorted({round(total * i / evaluations) for i in range(evaluations + 1)} | {0, total})


def initial_module(
    factory: Factory,
    input_shape: tuple[int, ...],
    outputs: int,
    seed: int,
    initialization: Mapping[str, Any] | None = None,
) -> nn.Module:
    """Build the module of a run: its initial weights are a pure function of the run's seed.

    ``torch.manual_seed(seed32(seed, "initial"))``, then the factory; then, where a setting has one, its
    initialization. NumPy's and Python's generators are seeded likewise, and all are as before afterwards.

    Raises:
        ModelError: what the factory returns isn't a module, or can't be initialized so.
    """
    with own_generators(seed, "initial"):
        torch.manual_seed(seed32(seed, "initial"))
        module = factory(input_shape, outputs)
    if not isinstance(module, nn.Module):
        raise ModelError(
            f"the model factory returned {type(module).__name__}, not a torch.nn.Module; return the module"
        )
    if initialization:
        options = dict(initialization)
        initialize(module, options.pop("scheme"), seed=seed, **options)
    return module


def orders(examples: int, seeds: Sequence[int], epoch: int) -> torch.Tensor:
    """Return the orders of one epoch as int64 ``[len(seeds), examples]``."""
    return torch.from_numpy(np.stack([order(examples, seed=seed, epoch=epoch) for seed in seeds]))


class Factors:
    """What the schedules of several runs multiply their learning rates by, step by step.

    Closed forms are tabulated once. ``plateau`` has a row of its own for each run: it is told the validation
    loss at every evaluation but the first, and after more than two that brought nothing better it multiplies
    by 0.1 until the next time.

    Args:
        names: the schedule of each run.
        total: number of steps.
        options: of each schedule, where any has some.
    """

    def __init__(
        self, names: Sequence[str], total: int, options: Sequence[Mapping[str, Any]] | None = None
    ) -> None:
        tables: list[npt.NDArray[np.float64]] = []
        rows: dict[str, int] = {}
        self._row: list[int] = []
        self._plateaus: dict[int, schedules.Plateau] = {}
        for run, name in enumerate(names):
            if name == "plateau":
                self._plateaus[run] = schedules.Plateau(higher_is_better=False, patience=2)
                self._row.append(len(tables))
                tables.append(np.ones(total))
                continue
            given = {} if options is None else dict(options[run])
            key = f"{name} {sorted(given.items())}"
            if key not in rows:
                rows[key] = len(tables)
                tables.append(schedules.build(name, total=total, **given)(np.arange(total)))
            self._row.append(rows[key])
        self._table = np.stack(tables)

    def at(self, runs: Sequence[int]) -> npt.NDArray[np.float64]:
        """Return the factors of these runs as ``[total, len(runs)]``; a plateau's later ones may change."""
        return np.ascontiguousarray(self._table[[self._row[run] for run in runs]].T)

    def observe(self, run: int, step: int, loss: float | None) -> bool:
        """Tell a run's plateau its validation loss after ``step`` steps; return whether it has one."""
        plateau = self._plateaus.get(run)
        if plateau is None or step == 0:
            return False
        if loss is not None:
            plateau.observe(loss)
        self._table[self._row[run], step:] = float(plateau(step))
        return True

    def state(self) -> list[Any]:
        """Return what the plateaus have seen, as plain values."""
        return [[run, plateau.state_dict()] for run, plateau in self._plateaus.items()]

    def load(self, state: Sequence[Any], step: int) -> None:
        """Take over what :meth:`state` returned after ``step`` steps."""
        for run, values in state:
            plateau = self._plateaus[run]
            plateau.load_state_dict(values)
            self._table[self._row[run], step:] = float(plateau(step))


@dataclass
class History:
    """What one run has left behind so far; the divergence rule lives here.

    A run diverges at the first step whose training loss isn't finite or exceeds ``loss_bound`` times its
    loss at the first step, or at an evaluation whose loss isn't finite. From then on it holds ``None``.
    """

    run: Run
    loss_bound: float
    score_test: bool
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

    def outcome(self) -> Outcome:
        """Return what :mod:`thalweg.entries` asks for."""
        return Outcome(
            identity=self.run.identity,
            steps=list(self.steps),
            train_loss=list(self.train_loss),
            validation_loss=list(self.validation_loss),
            validation=list(self.validation),
            test=list(self.test),
            diverged_at=self.diverged_at,
            test_predictions=list(self.test_predictions),
            updates=self.updates,
        )

    def state(self) -> dict[str, Any]:
        """Return everything but the run, as plain values."""
        names = (*_LISTS, "initial_loss", "diverged_at", "stopped_at", "updates")
        return {name: getattr(self, name) for name in names}

    @classmethod
    def restore(cls, run: Run, workload: Workload, state: dict[str, Any]) -> History:
        """Read what :meth:`state` wrote."""
        values: dict[str, Any] = {
            name: list(value) if name in _LISTS else value for name, value in state.items()
        }
        return cls(run=run, loss_bound=workload.loss_bound, score_test=workload.score_test, **values)

    @classmethod
    def start(cls, run: Run, workload: Workload) -> History:
        """Begin the history of a run."""
        return cls(run=run, loss_bound=workload.loss_bound, score_test=workload.score_test)


_LISTS = ("steps", "train_loss", "validation_loss", "validation", "test", "test_predictions")
