"""What a recipe is: the choices that make one training run, typed and versioned."""

from __future__ import annotations

from typing import Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictFloat, StrictInt

__all__ = [
    "VERSION",
    "Data",
    "Model",
    "Objective",
    "Optimizer",
    "Recipe",
    "Schedule",
    "Training",
]

VERSION: Literal[1] = 1

Number: TypeAlias = StrictBool | StrictInt | StrictFloat


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Data(_Part):
    """``[data]``: what is learnt from, and which split of it.

    Attributes:
        spec: as for ``--data``.
        target, task, missing, types: as for the options of these names; absent where they weren't given.
        seed, replicate: of the split.
    """

    spec: str
    target: str | None = None
    task: Literal["classification", "regression", "custom"] | None = None
    missing: Literal["drop", "median"] | None = None
    types: dict[str, Literal["number", "category", "ignore"]] = Field(default_factory=dict)
    seed: StrictInt = Field(default=0, ge=0)
    replicate: StrictInt = Field(default=0, ge=0)


class Model(_Part):
    """``[model]``: ``spec`` as for ``--model``."""

    spec: str


class Objective(_Part):
    """``[objective]``: names of the loss and the metric, or ``file.py:function``; absent: the task's own."""

    loss: str | None = None
    metric: str | None = None


class Optimizer(_Part):
    """``[optimizer]``: a name as for ``--optimizers``; its hyperparameters beside it."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, Number] = Field(init=False)

    name: str

    @property
    def hyperparameters(self) -> dict[str, Number]:
        """What stands beside the name; what is absent has its default."""
        return dict(self.__pydantic_extra__)


class Schedule(_Part):
    """``[schedule]``: a name of ``thalweg list schedules``; its options beside it."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, Number | list[StrictInt | StrictFloat]] = Field(init=False)

    name: str = "constant"

    @property
    def options(self) -> dict[str, Number | list[int | float]]:
        """What stands beside the name; what is absent has its default."""
        return dict(self.__pydantic_extra__)


class Training(_Part):
    """``[training]``: how long, and from which seed.

    Attributes:
        batch_size: examples a step.
        epochs: passes over the training split.
        seed: of initial weights, order and every other draw.
        evaluations: how often the validation split is scored, evenly over the run.
    """

    batch_size: StrictInt = Field(ge=1)
    epochs: StrictInt = Field(ge=1)
    seed: StrictInt = Field(default=0, ge=0, lt=2**63)
    evaluations: StrictInt = Field(default=20, ge=1)


class Recipe(_Part):
    """One training run, as ``winner.toml`` holds it.

    >>> recipe = Recipe(
    ...     data=Data(spec="digits"),
    ...     model=Model(spec="mlp:64"),
    ...     optimizer=Optimizer(name="adam", lr=0.01),
    ...     training=Training(batch_size=32, epochs=20),
    ... )
    >>> recipe.optimizer.hyperparameters, recipe.schedule.name
    ({'lr': 0.01}, 'constant')
    """

    version: Literal[1] = VERSION
    data: Data
    model: Model
    objective: Objective = Field(default_factory=Objective)
    optimizer: Optimizer
    schedule: Schedule = Field(default_factory=Schedule)
    training: Training
