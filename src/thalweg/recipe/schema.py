"""What a recipe is: the choices that make one training run, typed and versioned."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias, TypeVar

from pydantic import (
    AfterValidator,
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
from thalweg.strategies.own import OwnSettings, plain_value
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
    "StageTable",
    "StrategiesTable",
    "TrainingTable",
    "mirrors",
    "why_not_lanes",
]

VERSION: Literal[1] = 1

Number: TypeAlias = StrictBool | StrictInt | StrictFloat
Length: TypeAlias = Annotated[StrictInt, Field(ge=1, le=MOST["steps"])]
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
        examples: so many of the training split are learnt from, classes in their shares; absent: all.
    """

    spec: str
    target: str | None = None
    task: TaskKind | None = None
    missing: Missing | None = None
    types: dict[str, ColumnType] = Field(default_factory=dict)
    seed: StrictInt = Field(default=0, ge=0, le=MOST["seed"])
    replicate: StrictInt = Field(default=0, ge=0, le=MOST["splits"])
    examples: StrictInt | None = Field(default=None, ge=1)


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
        raw_input: each block after the first is given the raw input too, as
            :func:`thalweg.stages.join_raw_input` has it.
    """

    spec: str
    output: str | None = None
    batch_norm: StrictBool = False
    dropout: Rate = 0.0
    maxout: Pieces = 1
    skip: StrictBool = False
    stochastic_depth: Rate = 0.0
    raw_input: StrictBool = False

    @property
    def parts(self) -> ModelParts:
        """What is put into the model that the spec names."""
        return ModelParts(**self.model_dump(exclude={"spec", "output", "raw_input"}))

    def __str__(self) -> str:
        parts = [str(self.parts)] * bool(self.parts) + ["raw input"] * self.raw_input
        return f"{self.spec} with {', '.join(parts)}" if parts else self.spec


class ObjectiveTable(_Table):
    """``[objective]``: names of losses and metric, or ``file.py:function``.

    Attributes:
        loss: what training lowers; absent: the task's own.
        metric: what validation is evaluated by, likewise.
        validation_loss: the loss that validation and test are evaluated by; absent: the one that is trained.
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


class StageTable(_Table):
    """``[[stage]]``: one stage, or a way of learning that writes several.

    Without a method it is one stage. With a method its other keys are the arguments of that function, and
    what follows here is what each of its stages has where it says nothing itself.

    Attributes:
        method: a name of ``thalweg list stages``, or ``file.py:function`` that returns stages.
        name: of the stage, in messages, in the report and as the name of a folder; each has another.
        epochs, steps: how long, one of both; absent: ``training.epochs``. Some methods take a list.
        trains: patterns over names of the model's parameters and parts; what matches none is frozen.
        carries: the optimizer begins with the state that the one of the stage before had.
        result: what the stage leaves in the model: its ``"last"`` weights, or the ``"best"`` on validation.
        seed: of the stage; absent: made of ``training.seed`` and the name.
        examples: so many of the training split, as in ``[data]``.
        batch_size, accumulate, evaluations: as in ``[training]``.
        objective, optimizer, schedule, strategies, groups: as the tables of these names.
    """

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, Annotated[Any, AfterValidator(plain_value)]] = Field(init=False)

    method: str | None = None
    name: str | None = None
    epochs: Length | list[Length] | None = None
    steps: Length | list[Length] | None = None
    trains: list[str] | None = None
    carries: StrictBool | None = None
    result: Literal["last", "best"] | None = None
    seed: StrictInt | None = Field(default=None, ge=0, le=MOST["seed"])
    examples: StrictInt | None = Field(default=None, ge=1)
    batch_size: StrictInt | None = Field(default=None, ge=1, le=MOST["batch_size"])
    accumulate: StrictInt | None = Field(default=None, ge=1)
    evaluations: StrictInt | None = Field(default=None, ge=1, le=MOST["evaluations"])
    objective: ObjectiveTable | None = None
    optimizer: OptimizerTable | None = None
    schedule: ScheduleTable | None = None
    strategies: StrategiesTable | None = None
    groups: GroupsTable | None = None

    @property
    def arguments(self) -> dict[str, Any]:
        """What stands beside these keys: arguments of the method."""
        return dict(self.__pydantic_extra__)

    def written(self) -> dict[str, Any]:
        """Return the table as TOML has it, without what is absent."""
        return self.model_dump(exclude_none=True, exclude_unset=True, by_alias=True)


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
    stage: list[StageTable] = Field(default_factory=list)


def mirrors(recipe: Recipe) -> bool:
    """Say whether training sees mirror images too."""
    changes = recipe.strategies.of(AugmentationSettings)
    return changes is not None and changes.flip > 0


def why_not_lanes(recipe: Recipe) -> str | None:
    """Say why an ensemble's members can't be lanes, as far as a recipe tells; ``None`` where they can."""
    if recipe.stage:
        return "a training in stages is for the loop"
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
