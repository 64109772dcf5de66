"""What a strategy is: an object with a state, which the training loop calls at named places.

The loop, with every place, where ``strategy`` stands for each strategy in turn. It is carried out by
:func:`thalweg.training.trainer.train_loop` and :meth:`thalweg.training.trainer.Training.step`::

    for strategy in sorted(strategies, key=priority):       # lower first, at every place below too
        strategy.attach(trainer)                            # also when a training is resumed

    if resumed:
        strategy.load_state_dict(state)                     # as state_dict left it
    else:
        strategy.before_training(trainer)                   # before the first evaluation

    while True:
        if an evaluation is due:
            with strategy.evaluation_weights(trainer):      # nested: the first strategy is outermost
                scores = evaluate(trainer.model)
                strategy.at_evaluation(trainer, scores)     # the model holds what was evaluated
        if the run is over or trainer.stop(why) was called:
            break
        if a checkpoint is due:
            state = strategy.state_dict()

        size = batch size * strategy.batch_factor(progress) # factors of strategies are multiplied
        inputs, targets, keys = the next examples, so many
        learning rate = base * schedule * strategy.rate_factor()
        inputs, targets = strategy.batch(trainer, inputs, targets, keys)
        strategy.before_step(trainer)
        loss = forward(inputs, targets)
        backward(loss)
        strategy.after_backward(trainer)                    # trainer.skip(): the step isn't taken
        optimizer.step()
        strategy.after_step(trainer)                        # of steps that were taken

    strategy.finished(trainer)                              # what the model holds then is the result

An optimizer whose step needs a closure computes forward and backward within its step, maybe several times:
there ``after_backward`` isn't called. ``state_dict`` and ``load_state_dict`` carry everything that
changes, so that a resumed run goes on as if nothing had been.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Protocol, TypeAlias, get_type_hints

import torch
from pydantic import BaseModel
from torch import Tensor, nn

from thalweg.errors import OptionError
from thalweg.settings.choices import Activation, Watched
from thalweg.settings.tables import Settings, settle

__all__ = [
    "Keys",
    "LossAside",
    "Scores",
    "Settings",
    "Strategy",
    "Trainer",
    "at_evaluation_weights",
    "in_order",
    "require_measured",
    "settings_of",
    "settle",
]


LossAside: TypeAlias = Callable[[Any, Tensor], Tensor]
"""From inputs and targets to the loss of the model as it is, a scalar."""


class Keys(NamedTuple):
    """Which examples a batch holds: what draws for one of them depends on, and on nothing else.

    Attributes:
        epoch: that they are of.
        indices: int64 ``[B]``: of each in the training data; of data that come in batches, its place in
            the epoch.
    """

    epoch: int
    indices: Tensor


@dataclass(frozen=True, kw_only=True)
class Scores:
    """What an evaluation found on validation data; ``None`` where there are none, or it isn't finite."""

    step: int
    loss: float | None
    metric: float | None
    higher_is_better: bool

    def get(self, watched: Watched) -> tuple[float | None, bool]:
        """Return the watched number, and whether higher is better."""
        return (self.metric, self.higher_is_better) if watched == "metric" else (self.loss, False)


class Trainer(Protocol):
    """What a strategy sees of the training that it belongs to, and may ask of it."""

    @property
    def model(self) -> nn.Module:
        """What is trained."""

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        """What trains it."""

    @property
    def step_kind(self) -> str:
        """What a step has to be given, as :data:`thalweg.catalogue.entry.StepKind` has it."""

    @property
    def seed(self) -> int:
        """Of the run."""

    @property
    def updates(self) -> int:
        """Steps that the optimizer has taken."""

    @property
    def progress(self) -> float:
        """Part of the run that is done, from 0 to 1."""

    @property
    def steps(self) -> int:
        """Steps of the whole run, as planned."""

    @property
    def loss(self) -> Tensor | None:
        """Training loss of the step under way, or of the last one."""

    @property
    def activation(self) -> Activation | None:
        """What the loss makes of the outputs, where that is known."""

    def measures(self, watched: Watched) -> bool:
        """Say whether evaluations score this on validation data."""

    def targets(self) -> Tensor | None:
        """Return the training targets, where they are known all at once."""

    def inputs(self, count: int | None) -> Iterable[Any]:
        """Return the inputs of ``count`` training batches (``None``: of all), always the same ones.

        Of many processes each is given its share of every batch.
        """

    def batches(self, count: int | None) -> Iterable[tuple[Any, Tensor]]:
        """Return inputs and targets of ``count`` usual batches of training examples, always the same ones.

        They are drawn by the seed of the run; ``None`` is a whole pass. The order in which training takes
        examples, and all generators, stay as they are, also where a Dataset draws. Of many processes
        each is given its share of every batch, and all have to ask.
        """

    def aside(
        self, *, training: bool | None = None, steps: bool = False
    ) -> AbstractContextManager[LossAside]:
        """Compute losses and gradients that leave no trace in the training.

        It gives a function of inputs and targets: the loss of the model, under the run's precision and with
        the draws of the step under way. Gradients are ``None`` at the beginning, so that ``.grad`` holds
        what is computed within. Afterwards gradients, buffers, modes, what layers keep beside them, and all
        generators are as before. Of many processes each has the gradients of its own batches; all have
        to do it.

        Args:
            training: put the model into training mode, or out of it; ``None`` leaves the mode.
            steps: parameters and the optimizer may be changed within, too, which takes a copy of them.

        ::

            with trainer.aside(training=True) as loss:
                for inputs, targets in trainer.batches(4):
                    loss(inputs, targets).backward()
                norm = total_norm(p.grad for p in trainer.model.parameters() if p.grad is not None)
        """

    def forward_context(self) -> AbstractContextManager[Any]:
        """Surround a forward pass: with the run's precision and its draws for random layers."""

    def gather(self, value: Tensor) -> list[Tensor]:
        """Return a tensor, of one shape everywhere, of each process."""

    def capture(self) -> Any:
        """Copy the model, the optimizer, and the strategies that follow the weights."""

    def restore(self, state: Any) -> None:
        """Take everything back to what :meth:`capture` returned."""

    def skip(self) -> None:
        """In ``after_backward``: leave out this step."""

    def stop(self, why: str, *, failed: bool = False) -> None:
        """End training behind this step or evaluation; a sentence says why."""

    def note(self, text: str) -> None:
        """Tell the person something."""


class Strategy:
    """Does nothing at any place; a strategy overrides those it needs.

    A strategy of one's own that annotates its settings, ``settings: MySettings``, needs no ``__init__``: its
    keyword arguments are the fields of this model.

    Attributes:
        name: in messages, and in checkpoints, where each has to be another; by default that of the class.
        priority: where it stands among strategies: lower ones are called first. Those of thalweg have 10 to
            80.
        follows: whether its state goes back with the weights when training returns to an earlier point.
        observes: whether it only looks, so that training goes the same way without it: it may join, or leave,
            when a training is resumed.
        settings: what it is set to.

    Raises:
        OptionError: a setting that it doesn't have, or a value out of range.

    >>> class FreezeSettings(Settings):
    ...     layers: int = 1
    >>> class Freeze(Strategy):
    ...     settings: FreezeSettings
    ...     def after_step(self, trainer):
    ...         "..."
    >>> Freeze(layers=2).settings, Freeze.name
    (FreezeSettings(layers=2), 'Freeze')
    """

    name: ClassVar[str]
    priority: ClassVar[int] = 100
    follows: ClassVar[bool] = False
    observes: ClassVar[bool] = False
    settings: Settings = Settings()

    def __init__(self, **settings: Any) -> None:
        self.settings = settle(settings_of(type(self)), self.name, **settings)

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if not hasattr(cls, "name"):
            cls.name = cls.__name__

    def attach(self, trainer: Trainer) -> None:
        """Meet the training; refuse what doesn't go together."""

    def before_training(self, trainer: Trainer) -> None:
        """A new run begins."""

    def batch_factor(self, progress: float) -> float:
        """Return how many times the usual batch the next one is."""
        return 1.0

    def rate_factor(self) -> float:
        """Return what multiplies the scheduled learning rate."""
        return 1.0

    def batch(self, trainer: Trainer, inputs: Any, targets: Tensor, keys: Keys) -> tuple[Any, Tensor]:
        """Return the batch that the step is to be taken on; what is given must stay unchanged."""
        return inputs, targets

    def before_step(self, trainer: Trainer) -> None:
        """A step is about to begin."""

    def after_backward(self, trainer: Trainer) -> None:
        """Gradients are there; of optimizers that take nothing but gradients."""

    def after_step(self, trainer: Trainer) -> None:
        """A step was taken."""

    def evaluation_weights(self, trainer: Trainer) -> AbstractContextManager[Any]:
        """Let the model hold the weights that are to be evaluated."""
        return nullcontext()

    def at_evaluation(self, trainer: Trainer, scores: Scores) -> None:
        """An evaluation was made; the model holds what was evaluated."""

    def finished(self, trainer: Trainer) -> None:
        """The last step is done; leave in the model what is to be the result."""

    def state_dict(self) -> dict[str, Any]:
        """Return everything that changes: tensors, numbers, strings, lists and dictionaries."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where :meth:`state_dict` was taken."""


def in_order(strategies: Sequence[Strategy]) -> list[Strategy]:
    """Return strategies in the order in which they are called.

    Raises:
        OptionError: a name twice, of which only one could keep its state.

    >>> from thalweg.strategies import Averaging, Clipping
    >>> [each.name for each in in_order([Averaging(), Clipping(norm=1.0)])]
    ['clipping', 'averaging']
    """
    if isinstance(strategies, Strategy):
        raise OptionError(f"strategies is one strategy, {strategies.name!r}; give a list of them")
    for strategy in strategies:
        if not isinstance(strategy, Strategy):
            raise OptionError(
                f"the strategy {strategy!r} isn't an object of a class of thalweg.strategies; give such as "
                "thalweg.strategies.EarlyStopping()"
            )
    names = [strategy.name for strategy in strategies]
    for name in names:
        if names.count(name) > 1:
            raise OptionError(f"the strategy {name!r} is given twice; give each once")
    for strategy in strategies:
        if not isinstance(strategy.settings, BaseModel):
            raise OptionError(
                f"the settings of the strategy {strategy.name!r} are of type "
                f"{type(strategy.settings).__name__}; make them a thalweg.strategies.Settings"
            )
        if strategy.observes:
            _refuse_changes(strategy)
    return sorted(strategies, key=lambda strategy: strategy.priority)


def settings_of(kind: type[Strategy]) -> type[Settings]:
    """Return the model of a strategy's settings: what its ``settings`` are annotated with.

    >>> from thalweg.strategies import Strategy
    >>> settings_of(Strategy).__name__
    'Settings'
    """
    for each in kind.__mro__:
        annotation = inspect.get_annotations(each).get("settings")
        if annotation is None:
            continue
        # alone, since other annotations may name what isn't there when the code runs
        body = {"__annotations__": {"settings": annotation}, "__module__": each.__module__}
        try:
            found = get_type_hints(type(each.__name__, (), body), localns=_around(each))["settings"]
        except NameError as problem:
            raise OptionError(
                f"the settings of the strategy {kind.__name__} are a {annotation}, which isn't found "
                f"({problem}); define this class beside the strategy, outside of functions"
            ) from problem
        if isinstance(found, type) and issubclass(found, Settings):
            return found
    return Settings


def _around(kind: type) -> dict[str, Any]:
    """The names that are known where a class is defined."""
    functions = [each for each in vars(kind).values() if inspect.isfunction(each)]
    return {**(functions[0].__globals__ if functions else {}), **vars(kind)}


def _refuse_changes(strategy: Strategy) -> None:
    for hook in ("batch_factor", "rate_factor", "batch", "evaluation_weights"):
        if getattr(type(strategy), hook) is not getattr(Strategy, hook):
            raise OptionError(
                f"the strategy {strategy.name!r} says that it only observes, but has {hook}, which changes "
                "training; leave one of them out"
            )


def require_measured(name: str, trainer: Trainer, watched: Watched) -> None:
    """Refuse to watch what nobody measures.

    Raises:
        OptionError: there are no validation data, or no metric.
    """
    if not trainer.measures(watched):
        raise OptionError(
            f"{name} watches the validation {watched}, which nobody measures here; give validation data"
            f"{' and a metric' if watched == 'metric' else ''}, or leave {name} out"
        )


@contextmanager
def at_evaluation_weights(strategies: Sequence[Strategy], trainer: Trainer) -> Iterator[None]:
    """Hold the model at the weights that the strategies want evaluated."""
    with ExitStack() as stack:
        for strategy in strategies:
            stack.enter_context(strategy.evaluation_weights(trainer))
        yield
