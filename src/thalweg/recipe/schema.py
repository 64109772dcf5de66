"""What a recipe is: the choices that make one training run, typed and versioned."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias, TypeVar

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StrictBool,
    StrictFloat,
    StrictInt,
    create_model,
    model_validator,
)
from pydantic_core import PydanticKnownError

from thalweg.averaging.predictions import PredictionSettings
from thalweg.data.augmentation.bounds import AugmentationSettings
from thalweg.layers.surgery import ModelParts, Pieces, Rate
from thalweg.settings.choices import ColumnType, EngineChoice, Missing, Precision, TaskKind
from thalweg.settings.tables import MOST, plain_numbers
from thalweg.strategies.base import Settings
from thalweg.strategies.initialization import InitializationSettings
from thalweg.strategies.own import OwnSettings
from thalweg.strategies.table import STRATEGIES

__all__ = [
    "VERSION",
    "DataTable",
    "EnsembleTable",
    "GroupTable",
    "GroupsTable",
    "ModelTable",
    "ObjectiveTable",
    "OptimizerTable",
    "Recipe",
    "ScheduleTable",
    "StrategiesTable",
    "TrainingTable",
    "mirrors",
    "why_not_lanes",
]

VERSION: Literal[1] = 1

Number: TypeAlias = StrictBool | StrictInt | StrictFloat
_S = TypeVar("_S", bound=Settings)


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _of_any_library(cls, values: Any) -> Any:
        return plain_numbers(values)


class DataTable(_Table):
    """``[data]``: what is learnt from, and which split of it.

    Attributes:
        spec: as for ``--data``.
        target, task, missing, types: as for the options of these names; absent where they weren't given.
        seed, replicate: of the split.
    """

    spec: str
    target: str | None = None
    task: TaskKind | None = None
    missing: Missing | None = None
    types: dict[str, ColumnType] = Field(default_factory=dict)
    seed: StrictInt = Field(default=0, ge=0, le=MOST["seed"])
    replicate: StrictInt = Field(default=0, ge=0, le=MOST["splits"])


class ModelTable(_Table):
    """``[model]``: what is trained.

    Attributes:
        spec: as for ``--model``.
        output: the part of what the model returns that is compared with targets, where that isn't clear by
            itself: a name, or several with dots between them.
        batch_norm: put between each linear layer or convolution and its activation.
        dropout: rate for hidden units on their way into linear layers.
        maxout: linear pieces of each hidden unit, instead of its activation; 1 leaves the activation.
        skip: connections around blocks of layer and activation that give as much as they take.
        stochastic_depth: chance that a training step leaves out the last residual block, falling linearly
            towards the first.
    """

    spec: str
    output: str | None = None
    batch_norm: StrictBool = False
    dropout: Rate = 0.0
    maxout: Pieces = 1
    skip: StrictBool = False
    stochastic_depth: Rate = 0.0

    @property
    def parts(self) -> ModelParts:
        """What is put into the model that the spec names."""
        return ModelParts(**self.model_dump(exclude={"spec", "output"}))

    def __str__(self) -> str:
        return f"{self.spec} with {self.parts}" if self.parts else self.spec


class ObjectiveTable(_Table):
    """``[objective]``: names of losses and metric, or ``file.py:function``.

    Attributes:
        loss: what training lowers; absent: the task's own.
        metric: what validation is judged by, likewise.
        validation_loss: the loss that validation and test are scored by; absent: the one that is trained.
    """

    loss: str | None = None
    metric: str | None = None
    validation_loss: str | None = None


class OptimizerTable(_Table):
    """``[optimizer]``: a name as for ``--optimizers``; its hyperparameters beside it."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, Number] = Field(init=False)

    name: str

    @property
    def hyperparameters(self) -> dict[str, Number]:
        """What stands beside the name; what is absent has its default."""
        return dict(self.__pydantic_extra__)


class ScheduleTable(_Table):
    """``[schedule]``: a name of ``thalweg list schedules``; its options beside it."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, Number | list[StrictInt | StrictFloat]] = Field(init=False)

    name: str = "constant"

    @property
    def options(self) -> dict[str, Number | list[int | float]]:
        """What stands beside the name; what is absent has its default."""
        return dict(self.__pydantic_extra__)


class TrainingTable(_Table):
    """``[training]``: how long, and from which seed.

    Attributes:
        batch_size: examples a step.
        epochs: passes over the training split.
        seed: of initial weights, order and every other draw.
        evaluations: how often the validation split is scored, evenly over the run.
        accumulate: each batch is computed in so many parts, which saves memory.
        precision: ``"bfloat16"``, or ``"float16"`` with scaled gradients: forward passes under autocast.
        parallel: how many processes that torchrun starts train one model: ``"ddp"`` or ``"fsdp2"``.
        sync_batch_norm: batch norms normalize by the whole batch, not by the share of each process.
        memory_format: ``"channels_last"`` lays images out pixel by pixel, with which convolutional networks
            often train faster, on CPUs too; the result is the same within rounding.
    """

    batch_size: StrictInt = Field(ge=1, le=MOST["batch_size"])
    epochs: StrictInt = Field(ge=1, le=MOST["epochs"])
    seed: StrictInt = Field(default=0, ge=0, le=MOST["seed"])
    evaluations: StrictInt = Field(default=20, ge=1, le=MOST["evaluations"])
    accumulate: StrictInt = Field(default=1, ge=1)
    precision: Precision = "float32"
    memory_format: Literal["contiguous", "channels_last"] = "contiguous"
    parallel: Literal["ddp", "fsdp2"] = "ddp"
    sync_batch_norm: StrictBool = False


class GroupTable(_Table):
    """``[[groups.patterns]]``: parameters whose names match: how fast they learn, and whether they decay."""

    match: str
    rate: float = Field(default=1.0, ge=0)
    decay: StrictBool | None = None


class GroupsTable(_Table):
    """``[groups]``: how parameters differ.

    Attributes:
        decay: ``"weights"``: biases, scales and shifts don't decay.
        depth_factor: what the rate of a layer is multiplied by, against that of the layer above it.
        patterns: by name.
    """

    decay: Literal["all", "weights"] = "all"
    depth_factor: float = Field(default=1.0, gt=0, le=1)
    patterns: list[GroupTable] = Field(default_factory=list)


class EnsembleTable(_Table):
    """``[ensemble]``: several independent models instead of one; its predictions are their average.

    Attributes:
        members: how many; each has a seed of its own, made from ``training.seed``.
        resample: whether each is trained on a resample of the training split of its own (bagging).
        engine: ``"lanes"`` trains them as one program, ``"loop"`` one after another; ``"auto"``: whichever
            can and is faster.
    """

    members: StrictInt = Field(ge=2, le=10_000)
    resample: StrictBool = False
    engine: EngineChoice = "auto"


class _Nameless:
    """The value of a key that names no strategy."""

    def __init__(self, value: Any) -> None:
        self.value = value


def _named(value: Any) -> Any:
    if isinstance(value, _Nameless):
        raise PydanticKnownError("extra_forbidden")
    return value


class _Strategies(_Table):
    """``[strategies.NAME]``: what belongs to a training; a table, even an empty one, turns it on.

    ``NAME = false`` instead of a table leaves it out, which ``--set strategies.NAME=false`` needs, and
    ``NAME = true`` stands for its defaults. A strategy of one's own is ``[strategies."file.py:Class"]``.
    Every strategy of ``strategies/table.py`` is a field.
    """

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, Annotated[OwnSettings, BeforeValidator(_named)]] = Field(init=False)

    @model_validator(mode="before")
    @classmethod
    def _switched(cls, values: Any) -> Any:
        """Tables for true, nothing for false; what isn't the name of a strategy is marked, to be refused."""
        if not isinstance(values, dict):
            return values
        made = {}
        for name, value in values.items():
            if name not in STRATEGIES and ":" not in name:
                made[name] = _Nameless(value)
            elif value is not False:
                made[name] = {} if value is True else value
        return made

    def own(self) -> dict[str, OwnSettings]:
        """Return the settings of a person's own strategies, by ``file.py:Class``."""
        return dict(self.__pydantic_extra__)

    def given(self) -> dict[str, Settings]:
        """Return the settings of those that are on, by name."""
        values = {name: getattr(self, name) for name in STRATEGIES} | self.own()
        return {name: value for name, value in values.items() if value is not None}

    def of(self, kind: type[_S]) -> _S | None:
        """Return the settings of a kind; ``None`` where that strategy is off."""
        return next((value for value in self.given().values() if isinstance(value, kind)), None)


if TYPE_CHECKING:
    StrategiesTable: TypeAlias = _Strategies
else:
    StrategiesTable = create_model(
        "StrategiesTable",
        __base__=_Strategies,
        __doc__=_Strategies.__doc__,
        **{name: (settings | None, None) for name, (_, settings) in STRATEGIES.items()},
    )


class Recipe(_Table):
    """One training run, as ``winner.toml`` holds it.

    >>> recipe = Recipe(
    ...     data=DataTable(spec="digits"),
    ...     model=ModelTable(spec="mlp:64"),
    ...     optimizer=OptimizerTable(name="adam", lr=0.01),
    ...     training=TrainingTable(batch_size=32, epochs=20),
    ... )
    >>> recipe.optimizer.hyperparameters, recipe.schedule.name
    ({'lr': 0.01}, 'constant')
    """

    version: Literal[1] = VERSION
    data: DataTable
    model: ModelTable
    objective: ObjectiveTable = Field(default_factory=ObjectiveTable)
    optimizer: OptimizerTable
    schedule: ScheduleTable = Field(default_factory=ScheduleTable)
    training: TrainingTable
    groups: GroupsTable = Field(default_factory=GroupsTable)
    strategies: StrategiesTable = Field(default_factory=StrategiesTable)
    ensemble: EnsembleTable | None = None
    prediction: PredictionSettings = Field(default_factory=PredictionSettings)


def mirrors(recipe: Recipe) -> bool:
    """Say whether training sees mirror images too."""
    changes = recipe.strategies.of(AugmentationSettings)
    return changes is not None and changes.flip > 0


def why_not_lanes(recipe: Recipe) -> str | None:
    """Say why an ensemble's members can't be lanes, as far as a recipe tells; ``None`` where they can."""
    strategies = list(recipe.strategies.given())
    begins = recipe.strategies.of(InitializationSettings)
    if begins is not None and begins.by_scheme_alone() is not None:
        strategies.remove("initialization")
    if strategies:
        return f"strategies ({', '.join(strategies)}) accompany one run at a time"
    if recipe.groups != GroupsTable():
        return "groups of parameters have settings of their own"
    if recipe.training.accumulate > 1:
        return "batches are computed in parts"
    if recipe.training.precision != "float32":
        return f"{recipe.training.precision} is for the loop"
    if recipe.training.memory_format != "contiguous":
        return f"{recipe.training.memory_format} is for the loop"
    return None
