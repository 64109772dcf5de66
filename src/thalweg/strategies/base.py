"""What a strategy is: an object with state that a training loop calls at named places, in a declared order.

::

    attach                     once, before anything; also when a run is taken up again
    before_training            a new run, before its first evaluation
      batch_factor             how many times the batch of this step is the usual one
      rate_factor              what multiplies the scheduled learning rate of this step
      batch                    the examples of this step, to be taken as they are or changed
      before_step              the model is about to be trained on a batch
      after_backward           the gradients are there, the step isn't taken
      after_step               the step is taken
      shown                    around an evaluation: the weights that are to be judged
        at_evaluation          the scores are known; the model holds what was judged
    finished                   the last step is done; what the model holds then is the result

At each place strategies are called in the order of :attr:`Strategy.place`, those with the same place in the
order in which they were given; ``shown`` nests in that order. Factors are multiplied. ``state_dict`` and
``load_state_dict`` carry everything that changes, so that a run taken up again goes on as if nothing
had been.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from thalweg.errors import OptionError
from thalweg.settings import Settings, settle

__all__ = [
    "Keys",
    "Scene",
    "Scores",
    "Settings",
    "Strategy",
    "in_order",
    "require_measured",
    "settle",
    "showing",
]


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

    def get(self, watched: Literal["metric", "loss"]) -> tuple[float | None, bool]:
        """Return the watched number, and whether higher is better."""
        return (self.metric, self.higher_is_better) if watched == "metric" else (self.loss, False)


class Scene(Protocol):
    """What a strategy sees of the training that it accompanies, and may ask of it."""

    @property
    def model(self) -> nn.Module:
        """What is trained."""

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        """What trains it."""

    @property
    def needs(self) -> str:
        """What a step has to be given, as :data:`thalweg.catalogue.entry.Needs` has it."""

    @property
    def seed(self) -> int:
        """Of the run."""

    @property
    def updates(self) -> int:
        """Steps that the optimizer has taken."""

    @property
    def share(self) -> float:
        """Part of the run that is done, from 0 to 1."""

    @property
    def steps(self) -> int:
        """Steps of the whole run, as planned."""

    @property
    def loss(self) -> Tensor | None:
        """Training loss of the step under way, or of the last one."""

    @property
    def activation(self) -> Literal["softmax", "sigmoid", "identity"] | None:
        """What the loss makes of the outputs, where that is known."""

    def measures(self, watched: Literal["metric", "loss"]) -> bool:
        """Say whether evaluations score this on validation data."""

    def targets(self) -> Tensor | None:
        """Return the training targets, where they are known all at once."""

    def inputs(self, count: int | None) -> Iterable[Any]:
        """Return the inputs of ``count`` training batches (``None``: of all), always the same ones.

        Of many processes each is given its share of every batch.
        """

    def surroundings(self) -> AbstractContextManager[Any]:
        """Surround a forward pass."""

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

    Attributes:
        name: in recipes and messages.
        place: where it stands among strategies; lower ones are called first.
        follows: whether its state goes back with the weights when training returns to an earlier point.
        settings: what it is set to.
    """

    name: ClassVar[str]
    place: ClassVar[int]
    follows: ClassVar[bool] = False
    settings: Settings

    def attach(self, scene: Scene) -> None:
        """Meet the training; refuse what doesn't go together."""

    def before_training(self, scene: Scene) -> None:
        """A new run begins."""

    def batch_factor(self, share: float) -> float:
        """Return how many times the usual batch the next one is."""
        return 1.0

    def rate_factor(self) -> float:
        """Return what multiplies the scheduled learning rate."""
        return 1.0

    def batch(self, scene: Scene, inputs: Any, targets: Tensor, keys: Keys) -> tuple[Any, Tensor]:
        """Return the batch that the step is to be taken on; what is given must stay unchanged."""
        return inputs, targets

    def before_step(self, scene: Scene) -> None:
        """A step is about to begin."""

    def after_backward(self, scene: Scene) -> None:
        """Gradients are there; of optimizers that take nothing but gradients."""

    def after_step(self, scene: Scene) -> None:
        """A step was taken."""

    def shown(self, scene: Scene) -> AbstractContextManager[Any]:
        """Let the model hold what is to be judged."""
        return nullcontext()

    def at_evaluation(self, scene: Scene, scores: Scores) -> None:
        """An evaluation was made; the model holds what was judged."""

    def finished(self, scene: Scene) -> None:
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
    return sorted(strategies, key=lambda strategy: strategy.place)


def require_measured(name: str, scene: Scene, watched: Literal["metric", "loss"]) -> None:
    """Refuse to watch what nobody measures.

    Raises:
        OptionError: there are no validation data, or no metric.
    """
    if not scene.measures(watched):
        raise OptionError(
            f"{name} watches the validation {watched}, which nobody measures here; give validation data"
            f"{' and a metric' if watched == 'metric' else ''}, or leave {name} out"
        )


@contextmanager
def showing(strategies: Sequence[Strategy], scene: Scene) -> Iterator[None]:
    """Hold the model at what the strategies want judged."""
    with ExitStack() as stack:
        for strategy in strategies:
            stack.enter_context(strategy.shown(scene))
        yield
