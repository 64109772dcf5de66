"""The loop that all trainings share: races, ``fit``, recipes and the members of ensembles.

:func:`train_loop` is the loop, :meth:`Training.step` what it does with a batch, :mod:`thalweg.training.steps`
how the optimizer takes its step. The page at the top of :mod:`thalweg.strategies.base` is this loop as
pseudocode, with every place at which strategies are called.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from thalweg.catalogue.entry import StepKind
from thalweg.errors import DataError, OptionError, ThalwegError
from thalweg.layers.holding import unreached
from thalweg.layers.interface import Interface
from thalweg.layers.modes import Modes, astray, begin_training, end_training, evaluating, said_held, set_modes
from thalweg.layers.passing import SingleEntryError, outputs_of
from thalweg.layers.untouched import untouched
from thalweg.objectives import as_loss
from thalweg.randomness.keyed import RunDraws
from thalweg.randomness.streams import seed32
from thalweg.settings.choices import Activation, Watched
from thalweg.stages.progress import following
from thalweg.strategies.base import LossAside, Strategy, at_evaluation_weights, in_order
from thalweg.training.backend import Backend, OneProcess, copied, rows
from thalweg.training.complaints import understood
from thalweg.training.evaluate import evaluation_point, has_two_points, keyed
from thalweg.training.loader import Batch, DataLoaderAdapter, Loader, examples_in, taken
from thalweg.training.rates import Rates
from thalweg.training.recorder import Recorder
from thalweg.training.steps import FORWARD_BACKWARD, ForwardContext, make_step

__all__ = ["Training", "train_loop"]

# clocks that add up fractions of batches miss whole numbers by less
_NEARLY = 1e-6
_ENDLESS = 1e18


def train_loop(training: Training, points: Sequence[int], recorder: Recorder) -> None:
    """Carry a training on, step by step, to its end.

    A first-order step is one step of the clock, or as many as its batch counts. A second-order step may pass
    evaluation points, since it counts as much as its work: they are evaluated at the weights before it. If
    the end is among them the step is undone: there was no work left for it.

    Args:
        training: at any step.
        points: of the clock, ascending, the last one the end.
        recorder: evaluates, saves, and says whether training goes on.
    """
    training.train()
    upcoming = _ahead(points, recorder)
    while True:
        if reached := _reached(upcoming, training.clock + training.slack):
            recorder.evaluate(reached)
            upcoming = _ahead(points, recorder)
        # after an undone step the end is evaluated, but the clock stands before it
        if training.clock + training.slack >= training.total or not upcoming or not recorder.going:
            return
        recorder.between(evaluated=bool(reached))

        # a copy: the step changes the tensors of a state dictionary in place
        before = copied(training.model.state_dict()) if training.counts_work else None
        clock = training.step()
        if before is not None and upcoming[0] < clock:
            assert training.loss is not None
            if training.updates == 0:
                recorder.begin(float(training.loss))
            after = copied(training.model.state_dict())
            training.model.load_state_dict(before)
            recorder.evaluate([point for point in upcoming if point < clock])
            upcoming = _ahead(points, recorder)
            if clock > training.total or not recorder.going:
                return
            training.model.load_state_dict(after)
        training.done(clock)
        if not training.skipped:
            assert training.loss is not None
            recorder.stepped(training.loss, math.ceil(clock - training.slack))


def _reached(upcoming: Sequence[int], clock: float) -> list[int]:
    return [*itertools.takewhile(lambda point: point <= clock, upcoming)]


def _ahead(points: Sequence[int], recorder: Recorder) -> list[int]:
    """The points that weren't evaluated yet."""
    return [point for point in points if point > recorder.evaluated]


class Training:
    """A model, its optimizer, its data and its strategies, at some step: what :func:`train_loop` carries on.

    To strategies it is their :class:`~thalweg.strategies.base.Trainer`.

    The clock counts steps of the plan. A step on a usual batch is one, on a batch of twice the size two; with
    ``by_work`` a step that takes more forward and backward passes than one counts as many.

    Args:
        model: already set up by the backend.
        optimizer: over its parameters.
        step_kind: what the optimizer's step has to be given.
        loss: of outputs and targets, the mean over examples.
        loader: gives the batches.
        rates: sets the hyperparameters of each step.
        total: when the clock stops.
        seed: decides the draws of random layers.
        backend: carries out; by default one process.
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
        interface: how the model is called and read, where that may be more than one tensor.
    """

    def __init__(
        self,
        *,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        step_kind: StepKind,
        loss: Callable[[Any, Tensor], Tensor],
        loader: Loader,
        rates: Rates,
        total: int,
        seed: int,
        backend: Backend | None = None,
        strategies: Sequence[Strategy] = (),
        parts: int = 1,
        by_work: bool = True,
        measured: Sequence[str] = (),
        activation: Activation | None = None,
        own: tuple[nn.Module, Sequence[str]] | None = None,
        foreign: Sequence[Tensor] = (),
        say: Callable[[str], None] = lambda text: None,
        interface: Interface | None = None,
    ) -> None:
        self.model, self.optimizer, self.step_kind, self.loader = model, optimizer, step_kind, loader
        self.backend: Backend = OneProcess() if backend is None else backend
        self.seed, self.total, self.activation = seed, total, activation
        self.clock, self.updates = 0.0, 0
        self.loss: Tensor | None = None
        self._own, self._foreign, self._loss = own, list(foreign), as_loss(loss)
        self.strategies = in_order([*in_order(strategies), *following(model, self._loss.function)])
        self.stopped: str | None = None
        self.failed = self.skipped = False
        self.counts_work = by_work and step_kind != "gradient"
        self._rates, self._measured, self._say, self._interface = rates, measured, say, interface
        self._modes: Modes | None = None
        self._alone: bool | None = None  # whether the model takes a batch of one example, once that was tried
        self._draws = RunDraws(seed, self.backend.device)
        self._pieces = [RunDraws(seed32(seed, "part", n), self.backend.device) for n in range(1, parts)]
        self._part, self._parts = 0, parts
        self._keyed = [keyed(model, draws) for draws in (self._draws, *self._pieces)]
        bare = all(each is nullcontext for each in (self.backend.forward_context, *self._keyed))
        self.forward_context: ForwardContext = nullcontext if bare else self._in_context
        if self.backend.world > 1:
            loader.divide(self.backend.rank, self.backend.world, parts)
        # what nobody does anything in isn't asked: a step's small change is many calls with cold caches
        self._after_backward = _overriding(self.strategies, "after_backward")
        asked = self._after_backward or self.backend.scales
        self._take = make_step(
            step_kind, optimizer, model, self._loss, self.forward_context,
            backend=self.backend, parts=parts, proceed=self._gradients_there if asked else None,
        )  # fmt: skip
        self.slack = 0.0 if self.counts_work else _NEARLY
        self._batch = _overriding(self.strategies, "batch")
        self._before_step = _overriding(self.strategies, "before_step")
        self._after_step = _overriding(self.strategies, "after_step")
        self._rate_factors = _overriding(self.strategies, "rate_factor")
        self._batch_factors = _overriding(self.strategies, "batch_factor")
        # last: a strategy may look at everything, and refuse
        if has_two_points(optimizer):
            optimizer.train()  # type: ignore[attr-defined]
        for strategy in self.strategies:
            strategy.attach(self)

    # The loop's verbs, in their order --------------------------------------------------------------------

    def begin(self) -> None:
        """Begin a new run."""
        if (said := said_held(self.model)) is not None:
            self.note(said)
        for strategy in self.strategies:
            strategy.before_training(self)

    def step(self) -> float:
        """Take a step on the next batch, up to what :meth:`done` does; return where the clock will be."""
        progress, self.skipped, self._part = self.progress, False, 0
        times = math.prod((factor(progress) for factor in self._batch_factors), start=1.0)
        inputs, targets, weight, keys, whole = self._next_batch(progress, times)
        times = math.prod((factor() for factor in self._rate_factors), start=1.0)
        self._rates.set(int(self.clock + self.slack), times)
        self.train()
        # keyed by the step and set anew, so that a resumed run draws what an undisturbed one does
        for draws in (self._draws, *self._pieces):
            draws.step = self.updates
        for batch in self._batch:
            inputs, targets = batch(self, inputs, targets, keys)
        for before_step in self._before_step:
            before_step(self)
        self.train()
        if self._foreign:
            self._look_at_strangers(inputs, targets)
        room = _ENDLESS
        if self.counts_work:
            room = (self.total - self.clock) / weight * FORWARD_BACKWARD
        try:
            # forward, backward, `_gradients_there`, the optimizer's step
            self.loss, work = self._take(inputs, targets, room, whole)
        except (ThalwegError, ValueError, RuntimeError) as problem:
            found = understood(problem, whole, self._parts, self.backend.world)
            if found is None:
                raise
            raise found from problem
        # each process has moved running statistics by its own share; alike again before anybody reads them
        self.backend.sync_buffers(self.model)
        return self.clock + (work / FORWARD_BACKWARD * weight if self.counts_work else weight)

    def _gradients_there(self, loss: Tensor, finite: bool) -> bool:
        """Let strategies look at the gradients; say whether the optimizer is to take its step."""
        self.loss = loss
        if not finite and math.isfinite(float(loss)):
            # what overflowed is the scale, which is lower the next time
            self.skip()
            return False
        for after_backward in self._after_backward:
            after_backward(self)
            if self.skipped:
                return False
        return True

    def done(self, clock: float) -> None:
        """Finish a step: the clock goes on, and strategies look at the new point."""
        # counted first: strategies see the number of the step that was just taken
        self.clock, self.updates = clock, self.updates + 1
        if not self.skipped:
            for after_step in self._after_step:
                after_step(self)

    @contextmanager
    def evaluation(self) -> Iterator[None]:
        """Hold the model in evaluation mode at the weights that are evaluated."""
        self.train()
        self._draws.step, self._part = self.updates, 0
        if self._interface is not None:
            self._interface.attach(self.model)  # a step on plain tensors has taken it off
        weights = at_evaluation_weights(self.strategies, self)
        with evaluation_point(self.optimizer), weights, evaluating(self.model):
            yield

    def finish(self) -> None:
        """Leave in the model what is the result."""
        if has_two_points(self.optimizer):
            self.optimizer.eval()  # type: ignore[attr-defined]
        for strategy in self.strategies:
            strategy.finished(self)
        end_training(self.model, self.train())

    # What a step needs -----------------------------------------------------------------------------------

    def train(self) -> Modes:
        """Put the model into training mode, but for parts that began in evaluation mode; return all modes."""
        if self._modes is None:
            self._modes = begin_training(self.model)
        elif astray(self._modes):
            # somebody's code has put parts into another mode, and left them there
            set_modes(self._modes)
        return self._modes

    @contextmanager
    def _in_context(self) -> Iterator[None]:
        """A forward pass with the backend's settings and the run's own random numbers."""
        # part k of a batch draws by key k, in each of the passes of a closure too
        with self.backend.forward_context(), self._keyed[self._part % self._parts]():
            self._part += 1
            yield

    def _look_at_strangers(self, inputs: Any, targets: Tensor) -> None:
        """Say, once, whether parameters that are neither the model's nor the loss's matter."""
        foreign, self._foreign = self._foreign, []
        if self.backend.sharded:
            return
        said = unreached(foreign, self.optimizer, self.model, lambda: self._loss_aside(inputs, targets))
        # the look has drawn too; the step that follows begins with its first part
        self._part = 0
        if said is not None:
            self.note(said)

    def _next_batch(self, progress: float, times: float) -> Batch:
        """Take the next batch; one of a single example is left out where batch norm can't take it."""
        batch = self.loader.take(progress, times)
        if self._alone is True or batch.whole != 1 or not isinstance(self.loader, DataLoaderAdapter):
            return batch
        for _ in range(self.loader.steps_an_epoch()):
            if self._alone is None:
                self._alone = self._takes_one(batch.inputs)
                if not self._alone:
                    self.note("batches of one example are left out: batch norm can't normalize them")
            if self._alone or batch.whole != 1:
                return batch
            batch = self.loader.take(progress, times)
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

    # What strategies see and ask -----------------------------------------------------------------------

    @property
    def progress(self) -> float:
        """Part of the run that is done."""
        return min(1.0, self.clock / self.total)

    @property
    def steps(self) -> int:
        """Steps of the whole run."""
        return self.total

    def measures(self, watched: Watched) -> bool:
        """Say whether evaluations score this on validation data."""
        return watched in self._measured

    def targets(self) -> Tensor | None:
        """Return the training targets, where they are known all at once."""
        return self.loader.targets()

    def inputs(self, count: int | None) -> Iterable[Any]:
        """Return the inputs of training batches, always the same ones, each as a tuple with nothing else.

        Of many processes each is given its share of every batch.
        """
        return ((self._mine(inputs),) for inputs in self.loader.inputs(count))

    def batches(self, count: int | None) -> Iterable[tuple[Any, Tensor]]:
        """Return ``count`` batches of training examples (``None``: a whole pass), always the same ones.

        Nothing is moved by it: neither the order of training nor a generator.
        """
        pairs = self.loader.batches(count)
        return ((self._mine(inputs), self._mine(targets)) for inputs, targets in pairs)

    @contextmanager
    def aside(self, *, training: bool | None = None, steps: bool = False) -> Iterator[LossAside]:
        """Compute something that leaves no trace in the training; gives the loss, as the protocol says."""
        parts = [each for each in (self._loss.function,) if isinstance(each, nn.Module)]
        part = self._part
        with ExitStack() as stack:
            # the step under way goes on with the part that it was at
            stack.callback(setattr, self, "_part", part)
            stack.enter_context(untouched(self.model, self.optimizer if steps else None, parameters=steps))
            for module in parts:
                stack.enter_context(untouched(module, parameters=steps))
            # gradients of the step under way are kept; what is computed here mustn't add to them
            for module in (self.model, *parts):
                module.zero_grad(set_to_none=True)
            if training is False:
                stack.enter_context(evaluating(self.model))
            elif training:
                self.train()
                if steps and has_two_points(self.optimizer):
                    self.optimizer.train()  # type: ignore[attr-defined]
            yield self._loss_aside

    def _loss_aside(self, inputs: Any, targets: Tensor) -> Tensor:
        self._part = 0
        with self.forward_context():
            return self._loss(outputs_of(self.model, inputs), targets)

    def _mine(self, inputs: Any) -> Any:
        backend = self.backend
        if backend.world == 1:
            return inputs
        count = examples_in(inputs)
        # a batch that has too few for all is everybody's
        begin, end = rows(count, backend.rank, backend.world) if count >= backend.world else (0, count)
        return taken(inputs, torch.arange(begin, end))

    def gather(self, value: Tensor) -> list[Tensor]:
        """Return a tensor of each process."""
        return self.backend.gather(value)

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
            {**self.backend.save(self.model, self.optimizer), "strategies": followers, **self._of_loss()}
        )
        return state

    def restore(self, state: Any) -> None:
        """Take everything back to what :meth:`capture` returned."""
        # loading may keep the tensors it is given, and this state may be needed again
        state = copied(state)
        self.backend.load(self.model, self.optimizer, state)
        self._load_loss(state)
        for strategy in self.strategies:
            if strategy.name in state["strategies"]:
                strategy.load_state_dict(state["strategies"][strategy.name])

    def state(self) -> dict[str, Any]:
        """Return everything that changes; its tensors are those in use, not copies."""
        return {
            "step": self.clock,
            "updates": self.updates,
            "batches": self.loader.state(),
            "strategies": {strategy.name: strategy.state_dict() for strategy in self.strategies},
            "observing": [strategy.name for strategy in self.strategies if strategy.observes],
            "stopped": self.stopped,
            "failed": self.failed,
            **self.backend.save(self.model, self.optimizer),
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
        saved, observing = state["strategies"], state.get("observing", ())
        before = set(saved) - set(observing)
        now = {strategy.name for strategy in self.strategies if not strategy.observes}
        if before != now:
            changed = sorted(now ^ before)[0]
            raise OptionError(f"the run was begun with other strategies: {changed!r} differs; give the same")
        self.clock, self.updates = state["step"], state["updates"]
        self.stopped, self.failed = state["stopped"], state["failed"]
        self.backend.load(self.model, self.optimizer, state)
        self._load_loss(state)
        self.loader.load(state["batches"])
        for strategy in self.strategies:
            if strategy.name in saved:
                strategy.load_state_dict(saved[strategy.name])
            else:
                # it only observes, and joins here
                strategy.before_training(self)


def _overriding(strategies: Sequence[Strategy], hook: str) -> list[Callable[..., Any]]:
    """The hooks that do something: a step asks nobody else."""
    return [
        getattr(strategy, hook)
        for strategy in strategies
        if getattr(type(strategy), hook) is not getattr(Strategy, hook)
    ]
