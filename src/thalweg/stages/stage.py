"""What a stage of a training is: what is trained in it, on what, and until when."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Literal, TypeAlias

from torch import nn

from thalweg.errors import OptionError, option
from thalweg.run.sampler import OrderOf
from thalweg.settings.tables import MOST, one_of, whole_number
from thalweg.strategies.base import Strategy

__all__ = ["GIVEN", "Build", "Given", "Result", "Stage", "check_stages"]

Build: TypeAlias = Callable[[nn.Module], nn.Module]
"""From the model, as the stages before have left it, to the module that a stage trains."""

Result: TypeAlias = Literal["last", "best"]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 _.+-]{0,59}")


class Given(Enum):
    """The value of a setting that a stage leaves to the training that it belongs to."""

    GIVEN = "as given to fit"

    def __repr__(self) -> str:
        return "GIVEN"


GIVEN = Given.GIVEN
"""A stage takes what the training was given."""


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One stage of a training. Whatever is :data:`GIVEN` is that of the training: ``fit``'s own argument.

    A stage trains ``build(model)``, or the model itself. The module may hold parts of the model, and
    parts of its own beside them, such as a temporary head; those of the model are the same objects, so
    that training them trains the model. When the stage ends, what is the stage's own is dropped.

    Attributes:
        name: of the stage, in messages, in the report and as part of a folder's name; each has another.
        epochs, steps: how long, one of both; neither: as given.
        trains: patterns over names of the model's parameters, parts and buffers (``"head.*"``,
            ``"layer4"``; case counts). What matches none is frozen: no gradient, no state of the optimizer,
            no decay, and evaluation mode, so that batch norms keep their statistics and dropout is off.
            ``None``: what needs a gradient already. Parameters that the module alone has are trained
            where they need a gradient, also with ``[]``, where nothing of the model is.
        build: the module that is trained, where that isn't the model. Random draws in it are decided by
            the seed of the stage.
        begin: changes the model before the stage begins, such as by loading weights; its draws likewise.
        loss, metric, validation_loss, output: the stage's objective, as for ``fit``; ``metric=None`` is no
            metric.
        data, validation: the examples, as for ``fit``.
        order: which examples each step takes: from their number, the seed and the size of a batch to an
            :class:`thalweg.run.sampler.Order`; ``None``: a shuffled order, each example once an epoch.
        optimizer, hyperparameters, schedule, strategies, batch_size, accumulate, evaluations: as for
            ``fit``. Each stage has strategies of its own.
        adds: strategies that this stage has beside those of ``strategies``.
        groups: how parameters differ, as arguments of :func:`thalweg.training.param_groups.parameter_groups`:
            ``{"depth_factor": 0.8}``.
        carries: the optimizer begins with the state that the one of the stage before had, of parameters of
            the model that both train, by name.
        result: what the stage leaves in the model: its ``"last"`` weights, or the ``"best"`` on validation.
        seed: of the stage; ``None``: made of the training's and the stage's name.

    Raises:
        OptionError: a value out of range.

    Source: P1-P8 (N, U, S, K): learning something easier first.

    >>> Stage(name="warm-up", epochs=2, trains=["head"]).loss
    GIVEN
    """

    name: str
    epochs: int | None = None
    steps: int | None = None
    trains: Sequence[str] | None = None
    build: Build | None = None
    begin: Callable[[nn.Module], None] | None = None
    loss: Any = GIVEN
    metric: Any = GIVEN
    validation_loss: Any = GIVEN
    output: Any = GIVEN
    data: Any = GIVEN
    validation: Any = GIVEN
    order: OrderOf | None = None
    optimizer: Any = GIVEN
    hyperparameters: Mapping[str, float] | Given = GIVEN
    schedule: Any = GIVEN
    strategies: Sequence[Strategy] | Mapping[str, Any] | Given = GIVEN
    adds: Sequence[Strategy] = ()
    groups: Mapping[str, Any] | Given = GIVEN
    batch_size: int | Given = GIVEN
    accumulate: int | Given = GIVEN
    evaluations: int | Given = GIVEN
    carries: bool = False
    result: Result = "last"
    seed: int | None = None
    about: Mapping[str, Any] = field(default_factory=dict)
    """What else makes this stage what it is, as plain values: a resume with another is refused."""

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not _NAME.fullmatch(self.name) or self.name.endswith((" ", ".")):
            raise OptionError(
                f"the name of a stage is {self.name!r}; give up to 60 letters, digits, spaces or _ . + -, "
                "a letter or digit first, since a folder is called so"
            )
        mine = f"of the stage {self.name!r}"
        for name in ("epochs", "steps", "batch_size", "accumulate", "evaluations"):
            value = getattr(self, name)
            if value is not None and value is not GIVEN:
                object.__setattr__(self, name, whole_number(f"{name} {mine}", value, most=MOST.get(name)))
        if self.epochs is not None and self.steps is not None:
            raise OptionError(f"epochs and steps {mine} are both given; give one of them")
        if self.seed is not None:
            object.__setattr__(
                self, "seed", whole_number(f"seed {mine}", self.seed, least=0, most=MOST["seed"])
            )
        one_of(f"result {mine}", self.result, ("last", "best"))
        if isinstance(self.trains, str):
            raise OptionError(f"trains {mine} is {self.trains!r}; give a list of patterns, [{self.trains!r}]")


def check_stages(stages: Sequence[Stage]) -> list[Stage]:
    """Return stages as a list, checked as far as they can be without a model.

    Raises:
        OptionError: none at all, something else among them, or a name twice.

    >>> check_stages([Stage(name="a"), Stage(name="a")])
    Traceback (most recent call last):
    thalweg.errors.OptionError: two stages are called 'a'; give each a name of its own
    """
    if isinstance(stages, Stage):
        raise OptionError(f"{option('stages')} is one stage, {stages.name!r}; give a list of them")
    try:
        found = list(stages)
    except TypeError as problem:
        raise OptionError(
            f"{option('stages')} is of type {type(stages).__name__}; give a list of thalweg.stages.Stage"
        ) from problem
    if not found:
        raise OptionError(f"{option('stages')} is empty; give at least one stage, or leave it out")
    for number, stage in enumerate(found, 1):
        if isinstance(stage, (list, tuple)):
            raise OptionError(
                f"stage {number} is a list of stages; join lists by +, as in greedy(...) + [Stage(...)]"
            )
        if not isinstance(stage, Stage):
            raise OptionError(
                f"stage {number} is of type {type(stage).__name__}; give objects of thalweg.stages.Stage"
            )
    # folders are called so, and some disks don't tell cases apart
    seen: dict[str, str] = {}
    for stage in found:
        if stage.name.lower() in seen:
            raise OptionError(f"two stages are called {stage.name!r}; give each a name of its own")
        seen[stage.name.lower()] = stage.name
    if found[0].carries:
        raise OptionError(
            f"the stage {found[0].name!r} carries the state of an optimizer, but no stage comes before it; "
            "leave carries out"
        )
    return found
