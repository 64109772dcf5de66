"""One training under way: what a step is, and the loop that all trainings share."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from thalweg.catalogue.entry import Needs
from thalweg.errors import DataError, OptionError, ThalwegError
from thalweg.layers.holding import unreached
from thalweg.layers.modes import Modes, begin_training, end_training, evaluating, said_held, set_modes
from thalweg.layers.passing import SingleEntryError, outputs_of
from thalweg.layers.untouched import untouched
from thalweg.randomness import RunDraws
from thalweg.strategies.base import Strategy, in_order, showing
from thalweg.streams import seed32
from thalweg.training.complaints import understood
from thalweg.training.engine import Engine, OneProcess, rows
from thalweg.training.feed import Batch, Feed, LoaderFeed, examples_in, taken
from thalweg.training.rates import Rates
from thalweg.training.scoring import has_two_points, judged_point, keyed
from thalweg.training.steps import FORWARD_BACKWARD, Surroundings, stepping

__all__ = ["Observer", "Training", "advance", "copied"]

# clocks that add up fractions of batches miss whole numbers by less
_NEARLY = 1e-6
_ENDLESS = 1e18


class Training:
    """A model, its optimizer, its data and its strategies, at some step: what :func:`advance` carries on.

    The clock counts steps of the plan. A step on a usual batch is one, on a batch of twice the size two; with
    ``by_work`` a step that takes more forward and backward passes than one counts as many.

    Args:
        model: already set up by the engine.
        optimizer: over its parameters.
        needs: what the optimizer's step has to be given.
        loss: of outputs and targets, the mean over examples.
        feed: gives the batches.
        rates: sets the hyperparameters of each step.
        total: when the clock stops.
        seed: decides the draws of random layers.
        engine: carries out; by default one process.
        strategies: called in their declared order.
        parts: a batch is computed in so many parts.
        by_work: see above.
        measured: which of ``"loss"`` and ``"metric"`` evaluations score.
        activation: what the loss makes of the outputs, where that is known.
        own: a loss that changes while training, and the names of what changes: parameters that are trained,
            and buffers.
        foreign: parameters that the optimizer holds and neither the model nor the loss has, as far as is
            known; the first batch shows whether they matter.
        say: is told what strategies have to say.
    """

    def __init__(
        self,
        *,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        needs: Needs,
        loss: Callable[[Any, Tensor], Tensor],
        feed: Feed,
        rates: Rates,
        total: int,
        seed: int,
        engine: Engine | None = None,
        strategies: Sequence[Strategy] = (),
        parts: int = 1,
        by_work: bool = True,
        measured: Sequence[str] = (),
        activation: Literal["softmax", "sigmoid", "identity"] | None = None,
        own: tuple[nn.Module, Sequence[str]] | None = None,
        foreign: Sequence[Tensor] = (),
        say: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.model, self.optimizer, self.needs, self.feed = model, optimizer, needs, feed
        self.engine: Engine = OneProcess() if engine is None else engine
        self.strategies = in_order(strategies)
        self.seed, self.total, self.activation = seed, total, activation
        self.clock, self.updates = 0.0, 0
        self.loss: Tensor | None = None
        self._own, self._foreign, self._loss = own, list(foreign), loss
        self.stopped: str | None = None
        self.failed = False
        self.skipped = False
        self.counts_work = by_work and needs != "gradient"
        self._rates, self._measured, self._say = rates, measured, say
        self._modes: Modes | None = None
        self._alone: bool | None = None  # whether the model takes a batch of one example, once that was tried
        self._draws = RunDraws(seed, self.engine.device)
        self._pieces = [RunDraws(seed32(seed, "part", n), self.engine.device) for n in range(1, parts)]
        self._part = 0
        self._keyed = [keyed(model, draws) for draws in (self._draws, *self._pieces)]
        self._parts = parts
        bare = self.engine.surroundings is nullcontext and all(each is nullcontext for each in self._keyed)
        self.surroundings: Surroundings = nullcontext if bare else self._surrounded
        if self.engine.world > 1:
            feed.divide(self.engine.rank, self.engine.world, parts)
        # what nobody does anything in isn't asked: a step's small change is many calls with cold caches
        self._behind = _overriding(self.strategies, "after_backward")
        asked = self._behind or self.engine.scales
        self._take = stepping(
            needs, optimizer, model, loss, self.surroundings,
            engine=self.engine, parts=parts, proceed=self._gradients_there if asked else None,
        )  # fmt: skip
        self.slack = 0.0 if self.counts_work else _NEARLY
        self._changes = _overriding(self.strategies, "batch")
        self._before = _overriding(self.strategies, "before_step")
        self._after = _overriding(self.strategies, "after_step")
        self._rate_factors = _overriding(self.strategies, "rate_factor")
        self._batch_factors = _overriding(self.strategies, "batch_factor")
        if has_two_points(optimizer):
            optimizer.train()  # type: ignore[attr-defined]
        for strategy in self.strategies:
            strategy.attach(self)

    # What is done ------------------------------------------------------------------------------------

    @contextmanager
    def _surrounded(self) -> Iterator[None]:
        """A forward pass with the engine's settings and the run's own random numbers."""
        with self.engine.surroundings(), self._keyed[self._part % self._parts]():
            self._part += 1
            yield

    def begin(self) -> None:
        """Begin a new run."""
        if (said := said_held(self.model)) is not None:
            self.note(said)
        for strategy in self.strategies:
            strategy.before_training(self)

    def train(self) -> Modes:
        """Put the model into training mode, but for the parts that were in evaluation mode at the beginning.

        Returns:
            The modes of its parts.
        """
        if self._modes is None:
            self._modes = begin_training(self.model)
        elif self.model.training is not self._modes[0][1]:
            # somebody's code has put the whole model into another mode, and left it there
            set_modes(self._modes)
        return self._modes

    def step(self) -> float:
        """Take a step on the next batch, up to what :meth:`done` does; return where the clock will be."""
        share, self.skipped, self._part = self.share, False, 0
        times = 1.0
        for batch_factor in self._batch_factors:
            times *= batch_factor(share)
        inputs, targets, weight, keys, whole = self._batch(share, times)
        times = 1.0
        for rate_factor in self._rate_factors:
            times *= rate_factor()
        self._rates.set(int(self.clock + self.slack), times)
        self.train()
        self._draws.step = self.updates
        for draws in self._pieces:
            draws.step = self.updates
        for change in self._changes:
            inputs, targets = change(self, inputs, targets, keys)
        for before in self._before:
            before(self)
        if self._foreign:
            self._look_at_strangers(inputs, targets)
        room = _ENDLESS
        if self.counts_work:
            room = (self.total - self.clock) / weight * FORWARD_BACKWARD
        try:
            self.loss, work = self._take(inputs, targets, room, whole)
        except (ThalwegError, ValueError, RuntimeError) as problem:
            found = understood(problem, whole, self._parts, self.engine.world)
            if found is None:
                raise
            raise found from problem
        self.engine.settle(self.model)
        return self.clock + (work / FORWARD_BACKWARD * weight if self.counts_work else weight)

    def _look_at_strangers(self, inputs: Any, targets: Tensor) -> None:
        def loss() -> Tensor:
            with self.surroundings():
                return self._loss(outputs_of(self.model, inputs), targets)

        foreign, self._foreign = self._foreign, []
        if self.engine.sharded:
            return
        said, self._part = unreached(foreign, self.optimizer, self.model, loss), 0
        if said is not None:
            self.note(said)

    def _batch(self, share: float, times: float) -> Batch:
        """Take the next batch; one of a single example is left out where batch norm can't take it."""
        batch = self.feed.take(share, times)
        if self._alone is True or batch.whole != 1 or not isinstance(self.feed, LoaderFeed):
            return batch
        for _ in range(self.feed.steps_an_epoch()):
            if self._alone is None:
                self._alone = self._takes_one(batch.inputs)
                if not self._alone:
                    self.note("batches of one example are left out: batch norm can't normalize them")
            if self._alone or batch.whole != 1:
                return batch
            batch = self.feed.take(share, times)
        raise DataError(
            "every batch has one example, which batch norm can't normalize by itself; take larger batches"
        )

    def _takes_one(self, inputs: Any) -> bool:
        """Try a batch of one example, without a trace."""
        if not any(isinstance(part, _NormBase) for part in self.model.modules()):
            return True
        with untouched(self.model, parameters=False), torch.no_grad():
            self.train()
            try:
                outputs_of(self.model, inputs)
            except SingleEntryError:
                return False
        return True

    def done(self, clock: float) -> None:
        """Finish a step: the clock goes on, and strategies look at the new point."""
        self.clock, self.updates = clock, self.updates + 1
        if not self.skipped:
            for after in self._after:
                after(self)

    @contextmanager
    def judged(self) -> Iterator[None]:
        """Hold the model at what is to be judged, in evaluation mode."""
        self.train()
        self._draws.step, self._part = self.updates, 0
        with judged_point(self.optimizer), showing(self.strategies, self), evaluating(self.model):
            yield

    def finish(self) -> None:
        """Leave in the model what is the result."""
        if has_two_points(self.optimizer):
            self.optimizer.eval()  # type: ignore[attr-defined]
        for strategy in self.strategies:
            strategy.finished(self)
        end_training(self.model, self.train())

    def _gradients_there(self, loss: Tensor, finite: bool) -> bool:
        self.loss = loss
        if not finite and math.isfinite(float(loss)):
            # what overflowed is the scale, which is lower the next time
            self.skip()
            return False
        for behind in self._behind:
            behind(self)
            if self.skipped:
                return False
        return True

    # What strategies see and ask -----------------------------------------------------------------------

    @property
    def share(self) -> float:
        """Part of the run that is done."""
        return min(1.0, self.clock / self.total)

    @property
    def steps(self) -> int:
        """Steps of the whole run."""
        return self.total

    def measures(self, watched: Literal["metric", "loss"]) -> bool:
        """Say whether evaluations score this on validation data."""
        return watched in self._measured

    def targets(self) -> Tensor | None:
        """Return the training targets, where they are known all at once."""
        return self.feed.targets()

    def inputs(self, count: int | None) -> Iterable[Any]:
        """Return the inputs of training batches, always the same ones, each as a tuple with nothing else.

        Of many processes each is given its share of every batch.
        """
        return ((self._mine(inputs),) for inputs in self.feed.inputs(count))

    def _mine(self, inputs: Any) -> Any:
        engine = self.engine
        if engine.world == 1:
            return inputs
        count = examples_in(inputs)
        # a batch that has too few for all is everybody's
        begin, end = rows(count, engine.rank, engine.world) if count >= engine.world else (0, count)
        return taken(inputs, torch.arange(begin, end))

    def gather(self, value: Tensor) -> list[Tensor]:
        """Return a tensor of each process."""
        return self.engine.gather(value)

    def skip(self) -> None:
        """Leave out this step."""
        self.skipped = True

    def stop(self, why: str, *, failed: bool = False) -> None:
        """End training behind this step or evaluation."""
        if self.stopped is None:
            self.stopped, self.failed = why, failed

    def note(self, text: str) -> None:
        """Tell the person something."""
        self._say(text)

    # State ---------------------------------------------------------------------------------------------

    def capture(self) -> dict[str, Any]:
        """Copy the model, the optimizer, and the strategies that follow the weights."""
        followers = {s.name: s.state_dict() for s in self.strategies if s.follows}
        state: dict[str, Any] = copied(
            {**self.engine.save(self.model, self.optimizer), "strategies": followers, **self._of_loss()}
        )
        return state

    def restore(self, state: Any) -> None:
        """Take everything back to what :meth:`capture` returned."""
        state = copied(state)
        self.engine.load(self.model, self.optimizer, state)
        self._load_loss(state)
        for strategy in self.strategies:
            if strategy.name in state["strategies"]:
                strategy.load_state_dict(state["strategies"][strategy.name])

    def state(self) -> dict[str, Any]:
        """Return everything that changes; its tensors are those in use, not copies."""
        return {
            "step": self.clock,
            "updates": self.updates,
            "batches": self.feed.state(),
            "strategies": {strategy.name: strategy.state_dict() for strategy in self.strategies},
            "stopped": self.stopped,
            "failed": self.failed,
            **self.engine.save(self.model, self.optimizer),
            **self._of_loss(),
        }

    def _of_loss(self) -> dict[str, Any]:
        if self._own is None:
            return {}
        module, names = self._own
        state = module.state_dict()
        return {"loss": {name: state[name] for name in names}}

    def _load_loss(self, state: Mapping[str, Any]) -> None:
        if self._own is not None:
            self._own[0].load_state_dict(state.get("loss", {}), strict=False)

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on where :meth:`state` was taken.

        Raises:
            OptionError: it is that of other strategies.
        """
        names = {strategy.name for strategy in self.strategies}
        if set(state["strategies"]) != names:
            changed = sorted(names ^ set(state["strategies"]))[0]
            raise OptionError(f"the run was begun with other strategies: {changed!r} differs; give the same")
        self.clock, self.updates = state["step"], state["updates"]
        self.stopped, self.failed = state["stopped"], state["failed"]
        self.engine.load(self.model, self.optimizer, state)
        self._load_loss(state)
        self.feed.load(state["batches"])
        for strategy in self.strategies:
            strategy.load_state_dict(state["strategies"][strategy.name])


class Observer(Protocol):
    """What watches a training: scores it at points, and decides whether it goes on."""

    @property
    def evaluated(self) -> int:
        """The last point that was evaluated; -1 before the first."""

    @property
    def going(self) -> bool:
        """Whether training goes on."""

    def begin(self, loss: float) -> None:
        """Take in the loss of the first step, where that passes evaluation points."""

    def evaluate(self, points: Sequence[int]) -> None:
        """Score the model as it is; it stands for all these points."""

    def stepped(self, loss: Tensor, end: int) -> None:
        """Take in the loss of a step that ended by ``end``."""

    def between(self, *, evaluated: bool) -> None:
        """Between two steps: the place to save the state, or to raise."""


def advance(training: Training, points: Sequence[int], observer: Observer) -> None:
    """Carry a training on, step by step, to its end.

    A step that counts as many may pass evaluation points: for these stands what was there before it, and if
    the end is among them the step is taken back.

    Args:
        training: at any step.
        points: of the clock, ascending, the last one the end.
        observer: is told what happens.
    """
    model, total = training.model, training.total
    slack = training.slack
    training.train()
    upcoming = _ahead(points, observer)
    while True:
        here: list[int] = []
        if upcoming and upcoming[0] <= training.clock + slack:
            here = [point for point in upcoming if point <= training.clock + slack]
            observer.evaluate(here)
            upcoming = _ahead(points, observer)
        # where a step was taken back, the end is evaluated but the clock isn't there
        if training.clock + slack >= total or not upcoming or not observer.going:
            break
        observer.between(evaluated=bool(here))

        before = copied(model.state_dict()) if training.counts_work else None
        reached = training.step()
        passed = [p for p in upcoming if p < reached] if before is not None else []
        if passed and before is not None:
            assert training.loss is not None
            if training.updates == 0:
                observer.begin(float(training.loss))
            after = copied(model.state_dict())
            model.load_state_dict(before)
            observer.evaluate(passed)
            upcoming = _ahead(points, observer)
            if reached > total or not observer.going:
                break
            model.load_state_dict(after)
        training.done(reached)
        if not training.skipped:
            assert training.loss is not None
            observer.stepped(training.loss, math.ceil(reached - slack))


def _ahead(points: Sequence[int], observer: Observer) -> list[int]:
    """The points that weren't evaluated yet."""
    return [point for point in points if point > observer.evaluated]


def copied(state: Any) -> Any:
    """Copy a state of tensors, numbers, strings, lists, tuples and dictionaries."""
    if isinstance(state, Tensor):
        return state.detach().clone()
    if isinstance(state, Mapping):
        return {key: copied(value) for key, value in state.items()}
    if isinstance(state, (list, tuple)):
        return type(state)(copied(value) for value in state)
    return copy.deepcopy(state)


def _overriding(strategies: Sequence[Strategy], hook: str) -> list[Callable[..., Any]]:
    """The hooks that do something: a step asks nobody else."""
    return [
        getattr(strategy, hook)
        for strategy in strategies
        if getattr(type(strategy), hook) is not getattr(Strategy, hook)
    ]
